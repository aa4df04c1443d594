//! `ttdust debug bundle`: one archive of what whoever looks into a fault wants to see: settings, the machine, the log, the files,
//! and what a running server tells of itself. No secret and no record is in it. What cannot be had is told in its `notes.txt`. Broken
//! off by a signal, it ends at once and leaves nothing: reading a log of many GB takes long.

mod process;
mod ustar;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    calendar::{now_unix_micros, rfc3339},
    config::{self, Loaded},
    data_dir,
    doctor::{self, DoctorError},
    wal,
};
use ustar::Ustar;

/// More files than these are not listed.
const LISTED_MAX: usize = 100_000;

/// A file of the bundle.
#[derive(Debug)]
pub struct Part {
    /// Its name, with slashes.
    pub name: String,
    /// What is in it, or why there is none.
    pub content: Result<String, String>,
}

impl Part {
    fn new(name: &str, content: impl Into<String>) -> Self {
        Self { name: name.to_owned(), content: Ok(content.into()) }
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let it begin.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// By a signal.
    #[error("broken off: no bundle was made")]
    BrokenOff,
}

/// A file that goes again, unless it is kept.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Half of an archive is of no use; the first error is the one to tell.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes the bundle for a server of these settings to `out`, which must not exist, or to a new file here. `told` is what a
/// running server says of itself. Returns where it is, and how many parts it lacks. Blocking.
///
/// # Errors
/// The file cannot be written, or a signal broke it off.
pub fn write(loaded: &Loaded, told: Vec<Part>, out: Option<PathBuf>) -> Result<(PathBuf, usize), BundleError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let loaded = loaded.clone();
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let now = now_unix_micros();
        let stamp: String = rfc3339(now).chars().take(19).filter(char::is_ascii_alphanumeric).collect();
        let name = format!("ttdust-debug-{stamp}");
        let path = out.unwrap_or_else(|| format!("{name}.tar.gz").into());
        let failed = |source| BundleError::File { path: path.clone(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let unfinished = Unfinished(Some(path.clone()));
        // It looks out for signals itself, and takes away what it has made before it ends.
        let settings = loaded.clone();
        let doctor = tokio::task::spawn_blocking(move || doctor::examine(settings)).await.map_err(io::Error::other)?;
        if matches!(doctor, Err(DoctorError::BrokenOff)) {
            return Err(BundleError::BrokenOff);
        }
        let doctor = doctor.map(|report| report.json()).map_err(|error| error.to_string());
        let (done, made) = oneshot::channel();
        // Broken off, it is left to itself: it only reads, and what it writes is gone with its name.
        thread::spawn(move || {
            let mut parts = own(&loaded, doctor);
            parts.extend(told);
            let missing = parts.iter().filter(|part| part.content.is_err()).count();
            parts.push(notes(&parts));
            let _ = done.send(pack(file, &name, &parts, now).map(|()| missing));
        });
        let missing = tokio::select! {
            made = made => made.map_err(io::Error::other).flatten().map_err(failed)?,
            _ = interrupt.recv() => return Err(BundleError::BrokenOff),
            _ = terminate.recv() => return Err(BundleError::BrokenOff),
        };
        unfinished.keep();
        Ok((path, missing))
    })
}

fn pack(file: File, folder: &str, parts: &[Part], unix_micros: i64) -> io::Result<()> {
    let seconds = u64::try_from(unix_micros / 1_000_000).unwrap_or(0);
    let mut archive = Ustar::new(GzEncoder::new(file, Compression::default()), seconds);
    for part in parts {
        if let Ok(content) = &part.content {
            archive.file(&format!("{folder}/{}", part.name), content.as_bytes())?;
        }
    }
    archive.finish()?.finish()?.flush()
}

/// What can be seen without asking a server, with what the doctor says.
fn own(loaded: &Loaded, doctor: Result<String, String>) -> Vec<Part> {
    let settings = &loaded.settings;
    let wal_dir = settings.wal_dir();
    let mut parts = vec![
        Part::new("version.txt", version()),
        Part::new("config.toml", config::show(loaded)),
        Part { name: "doctor.json".into(), content: doctor },
        Part { name: "data/wal.txt".into(), content: wal::summary(&wal_dir).map_err(|error| error.to_string()) },
        Part { name: "data/files.txt".into(), content: listing(&[&settings.data_dir, &wal_dir]) },
    ];
    match data_dir::holder(&settings.data_dir) {
        Some(pid) => parts.extend(process::parts(pid)),
        None => parts.push(Part {
            name: "process".into(),
            content: Err(format!("no server runs on {}", settings.data_dir.display())),
        }),
    }
    parts
}

fn version() -> String {
    let system = rustix::system::uname();
    format!(
        "ttdust {}\nbuild {}\ntarget {}-{}\nkernel {} {}\n",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        std::env::consts::ARCH,
        std::env::consts::OS,
        system.release().to_string_lossy(),
        system.version().to_string_lossy()
    )
}

/// Bytes, time of the last change and path of all files under these directories, each once.
fn listing(dirs: &[&Path]) -> Result<String, String> {
    let mut waiting: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()));
        match dir {
            Ok(dir) if waiting.iter().any(|other| dir.starts_with(other)) => {}
            Ok(dir) => waiting.push(dir),
            // The second may not be there while the first is.
            Err(reason) if waiting.is_empty() => return Err(reason),
            Err(_) => {}
        }
    }
    let (mut lines, mut complete) = (Vec::new(), true);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok) {
            // Those that are gone meanwhile are not there.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if lines.len() < LISTED_MAX {
                let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                let changed = rfc3339(changed.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0)));
                lines.push((entry.path(), format!("{}\t{changed}", metadata.len())));
            } else {
                complete = false;
            }
        }
    }
    lines.sort();
    let mut text: String = lines.iter().map(|(path, facts)| format!("{facts}\t{}\n", path.display())).collect();
    if !complete {
        text.push_str(&format!("only {LISTED_MAX} files are listed\n"));
    }
    Ok(text)
}

/// What the bundle lacks, and why.
fn notes(parts: &[Part]) -> Part {
    let lacking = |part: &Part| Some(format!("{}: {}\n", part.name, part.content.as_ref().err()?.trim()));
    let lacking: String = parts.iter().filter_map(lacking).collect();
    let said = if lacking.is_empty() { "nothing is missing\n".to_owned() } else { format!("missing:\n{lacking}") };
    Part::new("notes.txt", said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_once_with_their_sizes() {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = dir.path().join("wal");
        fs::create_dir(&wal).expect("a folder");
        fs::write(wal.join("b"), "12345").expect("written");
        fs::write(dir.path().join("a"), "").expect("written");
        let text = listing(&[dir.path(), &wal, &dir.path().join("none")]).expect("a listing");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].ends_with("/a") && lines[1].ends_with("/wal/b"), "{text}");
        assert!(lines[0].starts_with("0\t20") && lines[1].starts_with("5\t20"), "{text}");
        assert!(listing(&[&dir.path().join("none")]).is_err());
    }

    #[test]
    fn the_notes_say_what_is_missing() {
        let there = Part::new("a", "x");
        assert_eq!(notes(std::slice::from_ref(&there)).content.expect("notes"), "nothing is missing\n");
        let lost = Part { name: "b".into(), content: Err("gone\n".into()) };
        assert_eq!(notes(&[there, lost]).content.expect("notes"), "missing:\nb: gone\n");
    }
}

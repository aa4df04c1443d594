//! What the system tells of a running server: `/proc`, and the end of its log. Not its command line nor its environment: they may
//! hold secrets.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    process::Command,
};

use rustix::process::Pid;
use ttdust_shards::access::KEY_PREFIX;

use super::Part;

/// Files of `/proc/PID` that are taken as they are.
const FILES: &[&str] = &["status", "limits", "sched"];
/// The most that is taken of a log, from its end.
const LOG_BYTES: u64 = 1 << 20;
/// The same of the journal, in lines.
const LOG_LINES: &str = "5000";

pub(super) fn parts(pid: Pid) -> Vec<Part> {
    let file = |name: &&str| Part {
        name: format!("process/{name}"),
        content: fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|error| error.to_string()),
    };
    let mut parts: Vec<_> = FILES.iter().map(file).collect();
    for (name, content) in [("threads.txt", threads(pid)), ("stacks.txt", stacks(pid)), ("log.txt", log(pid))] {
        parts.push(Part { name: format!("process/{name}"), content: content.map_err(|error| error.to_string()) });
    }
    parts
}

/// Each thread's id, name and what it waits for in the kernel, a line each.
fn threads(pid: Pid) -> io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        // A thread may end meanwhile, and where it waits may be nobody's business.
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_else(|_| "?".to_owned());
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.push(format!("{id}\t{}\t{}\n", read("comm").trim(), read("wchan").trim()));
    }
    lines.sort();
    Ok(format!("thread\tname\twaits in\n{}", lines.concat()))
}

/// Where each thread is in the kernel, call by call. One that is at work in the program itself is nowhere there.
fn stacks(pid: Pid) -> io::Result<String> {
    let mut shown = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let stack = match fs::read_to_string(path.join("stack")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // A thread may end meanwhile.
            Err(_) => continue,
            Ok(stack) => stack,
        };
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        shown.push(format!("{id} {}\n{stack}\n", name.trim()));
    }
    if shown.is_empty() {
        return Err(io::Error::other("this kernel tells of no stacks"));
    }
    shown.sort();
    Ok(shown.concat())
}

/// The end of what the server has logged, where that is a file or the journal.
fn log(pid: Pid) -> io::Result<String> {
    let stderr = format!("/proc/{pid}/fd/2");
    let lines = if fs::metadata(&stderr)?.is_file() { end_of(File::open(&stderr)?, LOG_BYTES)? } else { journal(pid)? };
    Ok(without_keys(&lines))
}

/// Whole lines from the last `limit` bytes of a file.
fn end_of(mut file: File, limit: u64) -> io::Result<String> {
    let begin = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    // It grows meanwhile.
    file.take(limit).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = if begin == 0 { 0 } else { text.find('\n').map_or(text.len(), |end| end + 1) };
    Ok(text[cut..].to_owned())
}

fn journal(pid: Pid) -> io::Result<String> {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--boot", "--output=cat", "--lines", LOG_LINES]).arg(format!("_PID={pid}"));
    let found = command.output().ok().filter(|output| output.status.success() && !output.stdout.is_empty());
    let found = found.ok_or_else(|| {
        io::Error::other("the server logs neither to a file nor to a journal that may be read: add its log by hand")
    })?;
    Ok(String::from_utf8_lossy(&found.stdout).into_owned())
}

/// The key that a first start prints stands among the lines of the log.
fn without_keys(text: &str) -> String {
    let mut parts = text.split(KEY_PREFIX);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)).unwrap_or(part.len());
        kept.push_str(KEY_PREFIX);
        kept.push_str("***");
        kept.push_str(&part[end..]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_whole_lines_are_taken_from_its_end_and_no_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "one\ntwo\nthree\n").expect("written");
        let end = |limit| end_of(File::open(&path).expect("a file"), limit).expect("read");
        assert_eq!([end(100), end(14), end(10), end(3)], ["one\ntwo\nthree\n", "one\ntwo\nthree\n", "three\n", ""]);
        assert_eq!(without_keys("ttd_live_A-b_9: a ttd_live_\n"), "ttd_live_***: a ttd_live_***\n");
        assert_eq!(without_keys("none"), "none");
    }

    #[test]
    fn what_is_no_file_of_a_process_is_told_of() {
        // A process that never was.
        let nobody = Pid::from_raw(i32::MAX).expect("no zero");
        assert!(log(nobody).is_err() && stacks(nobody).is_err() && journal(nobody).is_err());
    }

    #[test]
    fn a_process_s_threads_are_listed_by_name() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let run = move || {
            begun.send(()).expect("it is waited for");
            wait.recv()
        };
        let thread = std::thread::Builder::new().name("of-a-test".into()).spawn(run).expect("a thread");
        // A thread takes its name by itself, first of all.
        has_begun.recv().expect("it runs");
        let shown = threads(rustix::process::getpid()).expect("our own");
        assert!(shown.lines().any(|line| line.split('\t').nth(1) == Some("of-a-test")), "{shown}");
        drop(end);
        assert!(thread.join().expect("joined").is_err());
    }
}

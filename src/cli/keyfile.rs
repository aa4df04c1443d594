//! A key from a file or from whoever sits at the terminal: it stands in no list of processes and on no screen.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::failure::Failure;
use crate::config::{SECRET_BYTES_MAX, read_secret};

/// The key in the file, or, for `-`, from standard input.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") { from_stdin() } else { read_secret(path) };
    let text = text.map_err(|error| Failure::file(path, &error))?;
    let key = text.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        let place = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
        return Err(Failure::usage(format!("{place} should hold a key alone, such as ttd_live_…")));
    }
    Ok(key.to_owned())
}

fn from_stdin() -> io::Result<String> {
    let stdin = io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        let _silent = Silent::new();
        // The answer is what counts; a prompt that nobody sees is no reason to stop.
        let _ = write!(io::stderr(), "API key: ");
        stdin.read_line(&mut text)?;
        let _ = writeln!(io::stderr());
    } else {
        stdin.lock().take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(Option<Termios>);

impl Silent {
    fn new() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // One that cannot be told so shows it, as every terminal once did.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_holds_a_key_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        fs::write(&path, "ttd_live_1\n").expect("written");
        assert_eq!(read(&path).expect("a key"), "ttd_live_1");
        for text in ["", "\n", "one two", "one\ntwo\n"] {
            fs::write(&path, text).expect("written");
            assert!(read(&path).is_err_and(|failure| failure.told().contains("a key alone")), "{text:?}");
        }
        assert!(read(&dir.path().join("none")).is_err());
    }
}

//! The terminal while it is drawn on, and as it was before.

use std::{
    io::{self, Stdout, Write as _},
    os::fd::AsFd as _,
    panic,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::cli::failure::{Failure, Outcome};

/// Another page, without a cursor.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
/// The page from before, with one.
const LEAVE: &str = "\u{1b}[0m\u{1b}[?25h\u{1b}[?1049l";

/// How the terminal was, until that is put back.
type Before = Arc<Mutex<Option<Termios>>>;
type Hook = dyn Fn(&panic::PanicHookInfo<'_>) + Send + Sync;

/// A terminal that is drawn on. It is put back as it was when this goes, and before a panic is told of.
pub(super) struct Screen {
    stdout: Stdout,
    before: Before,
    /// Who tells of panics otherwise.
    hook: Arc<Hook>,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Bold,
    Reverse,
    Alert,
}

/// A line of the screen, no longer than that is wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) look: Look,
}

impl Screen {
    /// Takes the terminal of standard input and output.
    pub(super) fn enter() -> Result<Self, Failure> {
        let cannot = |error: rustix::io::Errno| Failure::usage(format!("cannot use the terminal: {error}"));
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(cannot)?;
        let mut raw = before.clone();
        raw.make_raw();
        let before: Before = Arc::new(Mutex::new(Some(before)));
        // From here on it is put back, whatever happens.
        let hook: Arc<Hook> = panic::take_hook().into();
        let (hook_before, hook_next) = (Arc::clone(&before), Arc::clone(&hook));
        panic::set_hook(Box::new(move |info| {
            put_back(&hook_before);
            hook_next(info);
        }));
        let mut screen = Self { stdout: io::stdout(), before, hook };
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).map_err(cannot)?;
        screen.write(ENTER)?;
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(self.stdout.as_fd()).ok();
        // Some say 0 of what they do not know.
        let or = |told: Option<u16>, usual| told.filter(|&told| told > 0).map_or(usual, usize::from);
        (or(size.map(|size| size.ws_col), 80), or(size.map(|size| size.ws_row), 24))
    }

    /// Shows these lines, and nothing else.
    pub(super) fn draw(&mut self, lines: &[Line], color: bool) -> Outcome {
        self.write(&painted(lines, color))
    }

    fn write(&mut self, text: &str) -> Outcome {
        let mut out = self.stdout.lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put_back(&self.before);
        // In a panic the hook cannot be changed, and need not be.
        if !std::thread::panicking() {
            let hook = Arc::clone(&self.hook);
            panic::set_hook(Box::new(move |info| hook(info)));
        }
    }
}

/// Once; a terminal that is gone cannot be helped.
fn put_back(before: &Before) {
    let Some(before) = before.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    // Past the buffer, which is empty, and may be in use by whoever panics.
    let _ = rustix::io::write(io::stdout().as_fd(), LEAVE.as_bytes());
    // What was typed and not read is not for the shell.
    let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, &before);
}

/// The lines from the upper left corner on, what is left of each line and below them cleared.
fn painted(lines: &[Line], color: bool) -> String {
    let mut text = String::from("\u{1b}[H");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            text.push_str("\r\n");
        }
        let code = match line.look {
            Look::Plain => "",
            Look::Bold => "\u{1b}[1m",
            Look::Reverse => "\u{1b}[7m",
            Look::Alert if color => "\u{1b}[1;31m",
            Look::Alert => "\u{1b}[1m",
        };
        text.push_str(code);
        text.push_str(&line.text);
        text.push_str(if code.is_empty() { "\u{1b}[K" } else { "\u{1b}[0m\u{1b}[K" });
    }
    text.push_str("\u{1b}[J");
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_line_is_cleared_to_its_end_and_all_below() {
        let line = |text: &str, look| Line { text: text.to_owned(), look };
        let lines = [line("a", Look::Bold), line("b", Look::Plain), line("c", Look::Alert)];
        assert_eq!(
            painted(&lines, true),
            "\u{1b}[H\u{1b}[1ma\u{1b}[0m\u{1b}[K\r\nb\u{1b}[K\r\n\u{1b}[1;31mc\u{1b}[0m\u{1b}[K\u{1b}[J"
        );
        assert!(!painted(&lines, false).contains("31m"));
    }

    /// For the test below, which runs it on a terminal of its own.
    #[test]
    #[ignore = "it panics: the test below runs it"]
    fn panics_on_the_screen() {
        let _screen = Screen::enter().expect("a terminal");
        panic!("something is very wrong");
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_is_seen() {
        let test = std::env::current_exe().expect("this test");
        let name = "cli::top::screen::tests::panics_on_the_screen";
        let inside = format!(
            "stty sane; stty -g; '{}' --exact {name} --ignored --nocapture; echo \"status $?\"; stty -g",
            test.display()
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &inside, "/dev/null"]).env("SHELL", "/bin/sh");
        let output = script.stdin(std::process::Stdio::null()).output().expect("util-linux's script");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let lines: Vec<_> = text.lines().collect();
        let settings: Vec<_> =
            lines.iter().filter(|line| line.matches(':').count() > 10 && !line.contains(' ')).collect();
        assert!(settings.len() == 2 && settings[0] == settings[1], "{text}");
        assert!(text.contains("status 101"), "{text}");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what:?} in {text:?}"));
        assert!(at(ENTER) < at(LEAVE) && at(LEAVE) < at("something is very wrong"), "{text:?}");
        assert_eq!(text.matches(LEAVE).count(), 1, "{text:?}");
    }
}

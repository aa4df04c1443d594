//! Why a command did not do what it was asked for, what to do about it, and the status that the process ends with.

use std::{io, process::ExitCode};

use serde::Deserialize;

use super::text::plain;

/// What a command comes to.
pub(super) type Outcome = Result<(), Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line, the profile or a local file is at fault.
    Usage(String),
    /// No answer came: the server is not there, or it is no server of this kind.
    Unreachable {
        /// What happened.
        what: String,
        /// What to look at.
        remedy: String,
    },
    /// The server answered that it will not.
    Refused(Box<Problem>),
    /// A part of what was asked for was not done, and all there is to say was said.
    Partly,
    /// The user broke it off.
    Interrupted,
    /// Whoever read the output is gone, as after `| head`.
    OutputClosed,
}

/// A problem+json of the server.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) trace_id: String,
    pub(super) errors: Vec<FieldProblem>,
    /// What to do, where the client knows more of it than the server.
    #[serde(skip)]
    pub(super) remedy: String,
    /// From the `Retry-After` header, in seconds.
    #[serde(skip)]
    pub(super) retry_after_seconds: Option<u32>,
}

/// A member that is at fault.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct FieldProblem {
    pub(super) pointer: String,
    pub(super) detail: String,
}

impl Problem {
    /// Whether the same may be taken later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502 | 503 | 504)
    }
}

/// The statuses of the process, as `ttdust help` and the README tell them.
const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;
const NOT_FOR_CALLER: u8 = 4;
const LATER: u8 = 5;
/// As shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

impl Failure {
    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::Usage(what.into())
    }

    /// Of a local file.
    pub(super) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }

    /// What is not there, as the client found out by itself.
    pub(super) fn not_found(what: impl Into<String>, remedy: &str) -> Self {
        Self::of_client(404, "NOT_FOUND", what.into(), remedy)
    }

    /// What is not so yet, and will be.
    pub(super) fn later(what: impl Into<String>, remedy: &str) -> Self {
        Self::of_client(503, "UNAVAILABLE", what.into(), remedy)
    }

    fn of_client(status: u16, code: &str, detail: String, remedy: &str) -> Self {
        let (code, remedy) = (code.to_owned(), remedy.to_owned());
        Self::Refused(Box::new(Problem { status, code, detail, remedy, ..Problem::default() }))
    }

    /// Of standard output.
    pub(super) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Usage(format!("cannot write the output: {error}")),
        }
    }

    /// The status of the process.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Partly => REFUSED,
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => UNREACHABLE,
            Self::Refused(problem) if matches!(problem.status, 401 | 403 | 404) => NOT_FOR_CALLER,
            Self::Refused(problem) if problem.is_passing() => LATER,
            Self::Refused(_) => REFUSED,
            Self::Interrupted => INTERRUPTED,
        })
    }

    /// What went wrong, in a line: without the program's name, and without what to do.
    pub(super) fn first_line(&self) -> String {
        self.told().lines().next().unwrap_or_default().trim_start_matches("ttdust: ").to_owned()
    }

    /// What is told on standard error; empty: nothing.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Partly | Self::OutputClosed => String::new(),
            Self::Interrupted => "ttdust: interrupted\n".to_owned(),
            Self::Usage(what) => format!("ttdust: {what}\n"),
            Self::Unreachable { what, remedy } => format!("ttdust: {what}\n  {remedy}\n"),
            Self::Refused(problem) => problem.told(),
        }
    }
}

impl Problem {
    /// Everything that it says, a line each: what, where, what to do.
    pub(super) fn told(&self) -> String {
        let mut text = format!("ttdust: {} ({})\n", plain(&self.detail), plain(&self.code));
        for error in self.errors.iter().filter(|error| error.detail != self.detail || !error.pointer.is_empty()) {
            text.push_str(&format!("  {}: {}\n", plain(&error.pointer), plain(&error.detail)));
        }
        if let Some(seconds) = self.retry_after_seconds {
            text.push_str(&format!("  try again in {seconds} s\n"));
        }
        if !self.remedy.is_empty() {
            text.push_str(&format!("  {}\n", self.remedy));
        }
        // With it an operator finds the request in the server's log, which only failures of its own are worth.
        if self.status >= 500 && !self.trace_id.is_empty() {
            text.push_str(&format!("  the server's log has more, under {}\n", plain(&self.trace_id)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> Failure {
        Failure::Refused(Box::new(Problem { status, ..Problem::default() }))
    }

    #[test]
    fn each_kind_of_failure_has_its_status() {
        let of = |failure: Failure| format!("{:?}", failure.exit_code());
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        for status in [400, 405, 409, 412, 413, 415, 422, 501] {
            assert_eq!(of(refused(status)), is(1), "{status}");
        }
        for status in [401, 403, 404] {
            assert_eq!(of(refused(status)), is(4), "{status}");
        }
        for status in [408, 429, 500, 503, 504] {
            assert_eq!(of(refused(status)), is(5), "{status}");
        }
        assert_eq!(of(Failure::usage("x")), is(2));
        assert_eq!(of(Failure::output(io::ErrorKind::BrokenPipe.into())), is(0), "`| head` is no failure");
        assert_eq!(of(Failure::output(io::ErrorKind::StorageFull.into())), is(2));
    }

    #[test]
    fn a_problem_tells_what_where_and_what_to_do() {
        let body = r#"{"status": 503, "code": "UNAVAILABLE", "detail": "Postgres\u001b[31m", "trace_id": "t-1",
            "errors": [{"pointer": "/name", "detail": "too long"}]}"#;
        let mut problem: Problem = serde_json::from_str(body).expect("a problem");
        problem.retry_after_seconds = Some(2);
        problem.remedy = "look at `ttdust health`".into();
        let told = problem.told();
        for part in ["UNAVAILABLE", "/name: too long", "in 2 s", "ttdust health", "t-1", "\\u{1b}[31m"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains('\u{1b}'), "nothing reaches the terminal as a command");
    }
}

//! The program as its user runs it, with settings of its own.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// A user, with a home.
pub struct Client {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Client {
    /// A user of the server at this endpoint.
    pub fn new(endpoint: &str) -> Self {
        let mut client = Self { home: tempfile::tempdir().expect("a directory"), variables: Vec::new() };
        client.variable("TTDUST_ENDPOINT", endpoint);
        client
    }

    /// The same user, who says no more where the server is.
    pub fn without_endpoint(mut self) -> Self {
        self.clear_variables();
        self
    }

    pub fn variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn clear_variables(&mut self) {
        self.variables.clear();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TTDUST_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.home.path()).envs(self.variables.iter().cloned());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().expect("it starts").into()
    }

    /// The same, with this on standard input.
    #[track_caller]
    pub fn with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A command that refuses its arguments reads nothing.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("its end");
        writer.join().expect("written");
        output.into()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Self { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Ended {
    /// What it printed, if it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// How it failed, if with this status, and told so.
    #[track_caller]
    pub fn fails(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{}{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// The JSON that it printed.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }

    /// The JSON that it printed, an object a line.
    #[track_caller]
    pub fn json_lines(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

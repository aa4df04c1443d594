//! Python programs of `tests/python`, run with the interpreter that `make test` prepares.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The interpreter, with the packages of `tests/python/requirements.txt`.
pub fn interpreter() -> PathBuf {
    let python = root().join("target/venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make test`, which installs it", python.display());
    python
}

/// The path of a program of `tests/python`.
pub fn script(name: &str) -> PathBuf {
    root().join("tests/python").join(name)
}

/// A program, to be started with further arguments.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(interpreter());
    // The sources stay as they are: no `__pycache__` beside them.
    command.arg("-B").arg(script(name));
    command
}

/// Runs a program to its end.
pub fn run(name: &str, arguments: &[&Path]) -> Output {
    command(name).args(arguments).output().expect("the interpreter starts")
}

/// What the program said, for a failed test.
pub fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}

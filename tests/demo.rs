//! `ttdust demo`: what it says is so, and it leaves nothing behind but its directory.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttdust"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TTDUST_")) {
        command.env_remove(name);
    }
    command.arg("demo").args(arguments).stdin(Stdio::null()).output().expect("it starts")
}

/// Every Parquet file below `dir`.
fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut waiting = vec![dir.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("a listing").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    files
}

/// Rows of a file, from its name: first and last sequence number.
fn rows(file: &Path) -> i64 {
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    let (first, rest) = name.split_once('-').expect("first-last");
    let last = rest.split('.').next().expect("a number");
    last.parse::<i64>().expect("a number") - first.parse::<i64>().expect("a number") + 1
}

#[test]
fn the_demo_ingests_reads_back_and_leaves_parquet_and_no_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = demo(&["--dir", dir.path().to_str().expect("UTF-8"), "--records", "20000"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("20000 records validated, synced and acked"), "{out}");
    let median = out.split("ack p50 ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the median");
    assert!(median.parse::<f64>().expect("milliseconds") > 0.0, "a synced write takes some time: {out}");
    for sequence in ["#1 ", "#2 ", "#3 "] {
        assert!(out.contains(sequence), "three records are read back: {out}");
    }

    let files = parquet_files(&dir.path().join("objects"));
    assert_eq!(files.iter().map(|file| rows(file)).sum::<i64>(), 20_000, "{files:?}");
    let shown = files.iter().filter(|file| out.contains(file.to_str().expect("UTF-8"))).count();
    assert_eq!(shown, files.len().min(3), "it shows where the files lie: {out}");

    let ports = std::fs::read(dir.path().join("demo-ports.json")).expect("the port file");
    let ports: Value = serde_json::from_slice(&ports).expect("JSON");
    for service in ["http", "grpc"] {
        let address = ports[service].as_str().expect("an address");
        assert!(TcpStream::connect(address).is_err(), "{service} is still served on {address}");
    }
}

#[test]
fn a_demo_that_cannot_work_says_why_and_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").expect("written");
    let output = demo(&["--dir", file.to_str().expect("UTF-8"), "--records", "1"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.status.code().is_some(), "{}", output.status);
    assert!(err.contains(file.to_str().expect("UTF-8")) && !err.contains("panicked"), "{err}");
}

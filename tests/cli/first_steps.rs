//! The README's first steps, as a newcomer types them: every command in them works.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::process::{DEADLINE, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The shell blocks under a heading of the README.
fn blocks(heading: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a README");
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).expect("the heading");
    let section = section.split("\n## ").next().expect("its text");
    let block = |text: &str| text.split("```").next().expect("its end").to_owned();
    section.split("```sh\n").skip(1).map(block).collect()
}

/// A folder to work in, where the program is on the path and what the steps name is at hand.
struct Desk {
    dir: tempfile::TempDir,
    port: u16,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        symlink(Path::new(ROOT).join("tests"), dir.path().join("tests")).expect("a link");
        let programs = dir.path().join("bin");
        fs::create_dir(&programs).expect("a directory");
        symlink(env!("CARGO_BIN_EXE_ttdust"), programs.join("ttdust")).expect("a link");
        // DuckDB's own program is not among what tests install; its Python package runs the same SQL.
        let python = Path::new(ROOT).join("target/venv/bin/python");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = -c ] || exit 2\nexec '{}' -c 'import duckdb, sys; duckdb.sql(sys.argv[1]).show()' \"$2\"\n",
            python.display()
        );
        let duckdb = programs.join("duckdb");
        fs::write(&duckdb, script).expect("written");
        fs::set_permissions(&duckdb, fs::Permissions::from_mode(0o755)).expect("set");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        Self { dir, port }
    }

    /// A shell that runs `text`, on ports of this test's own.
    fn shell(&self, text: &str) -> Command {
        let text = text
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", self.port))
            .replace("localhost:8080", &format!("127.0.0.1:{}", self.port))
            .replace("127.0.0.1:50051", "127.0.0.1:0");
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TTDUST_")) {
            command.env_remove(name);
        }
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").expect("a path"));
        command.env("PATH", path).env("XDG_CONFIG_HOME", self.dir.path().join("config"));
        command.env("TTDUST_ENDPOINT", format!("127.0.0.1:{}", self.port));
        command.args(["-euo", "pipefail", "-c", &text]).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.shell(line).output().expect("bash")
    }
}

fn log(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn every_command_of_the_first_steps_works() {
    let [serve, create, read] = <[String; 3]>::try_from(blocks("First steps")).expect("three blocks");
    let desk = Desk::new();
    let server_log = desk.dir.path().join("server.log");
    // What builds the program was run before; and what is not waited for here is the age at which rows become files.
    assert!(serve.starts_with("cargo build --release"), "{serve}");
    let lines: String =
        serve.lines().filter(|line| !line.starts_with("cargo ")).map(|line| format!("{line}\n")).collect();
    let lines = lines
        .replace("ttdust serve", "exec ttdust serve --set buffer.flush_interval_ms=100 --set wal.quota_bytes=256MiB");
    let stderr = fs::File::create(&server_log).expect("a file");
    let mut server = desk.shell(&lines).stdout(Stdio::null()).stderr(stderr).spawn().expect("bash");
    wait_for("the server", || {
        assert_eq!(server.try_wait().expect("a status"), None, "{}", log(&server_log));
        desk.run("ttdust health").status.success().then_some(())
    });

    let commands: Vec<_> = create.lines().collect();
    assert_eq!(commands.iter().filter(|line| line.starts_with("ttdust ")).count(), 5, "{create}");
    for line in commands {
        let output = desk.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8_lossy(&output.stdout);
        match line.split(' ').nth(1) {
            Some("query") => assert_eq!(printed.lines().count(), 4, "titles and three records: {printed}"),
            Some("lookup") => assert!(printed.contains("UA1545-20130101-EWR"), "{printed}"),
            Some("produce") => {
                assert!(String::from_utf8_lossy(&output.stderr).contains("20,000 records in"), "{printed}")
            }
            _ => {}
        }
    }

    let [curl, duckdb] = <[&str; 2]>::try_from(read.lines().collect::<Vec<_>>()).expect("two commands");
    let output = desk.run(curl);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["records"].as_array().map(Vec::len), Some(3), "{answer}");
    // Until the first flush there is no file, which the text says.
    wait_for("the Parquet", || {
        let output = desk.run(duckdb);
        let printed = String::from_utf8_lossy(&output.stdout);
        (output.status.success() && printed.contains("UA")).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    let status = wait_for("the end of the server", || server.try_wait().expect("a status"));
    assert!(status.success(), "{} within {DEADLINE:?}", log(&server_log));
}

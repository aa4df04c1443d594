//! A real server process in a directory of its own, on free ports, for tests. Killed when it is dropped.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Ends a test that would hang; no test depends on how long anything takes.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server.
pub struct Server {
    child: Child,
    /// Where REST is served.
    pub http: String,
    /// Where gRPC is served.
    pub grpc: String,
    dir: PathBuf,
}

impl Server {
    /// A server that is starting: `settings` are keys and values as `--set` takes them.
    pub fn spawn(dir: &Path, settings: &[(&str, &str)]) -> Self {
        Self::spawn_under(&[], dir, settings)
    }

    /// The same, started by the command line `wrapper`.
    pub fn spawn_under(wrapper: &[&str], dir: &Path, settings: &[(&str, &str)]) -> Self {
        // A file of an earlier run is not ours.
        let _ = fs::remove_file(dir.join("ports.json"));
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log")).expect("a log file");
        let program = env!("CARGO_BIN_EXE_ttdust");
        let mut command = match wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TTDUST_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--bind-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--data-dir"]);
        command.arg(dir.join("data")).arg("--port-file").arg(dir.join("ports.json"));
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the server's process");
        Self { child, http: String::new(), grpc: String::new(), dir: dir.to_owned() }
    }

    /// A server that is ready.
    pub fn start(dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut server = Self::spawn(dir, settings);
        server.wait_until_ready();
        server
    }

    /// Waits until the server has told where it listens.
    pub fn wait_until_ready(&mut self) {
        let ports = wait_for("the port file", || {
            if let Some(status) = self.child.try_wait().expect("a status") {
                panic!("the server ended with {status}: {}", self.log());
            }
            let text = fs::read(self.dir.join("ports.json")).ok()?;
            serde_json::from_slice::<serde_json::Value>(&text).ok()
        });
        self.http = ports["http"].as_str().expect("an address").to_owned();
        self.grpc = ports["grpc"].as_str().expect("an address").to_owned();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory now and at its highest, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of /proc/PID/status");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// What it has logged, over all runs in this directory.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// The admin's key that its first start in this directory made, where it wants credentials.
    pub fn admin_key(&self) -> String {
        let log = self.log();
        log.split_whitespace().find(|word| word.starts_with("ttd_live_")).expect("a bootstrap key").to_owned()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("a status");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("sent");
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// The same from within a runtime, which goes on meanwhile: a server waits for clients that do not say that they are gone.
    pub async fn stop_meanwhile(self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.stop()).await.expect("a status")
    }

    /// How it ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the server", || self.child.try_wait().expect("a status"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a clean stop there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

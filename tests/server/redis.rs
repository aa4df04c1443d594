//! Redis for tests: the one that `TESTS_REDIS` names, and ones of a test's own, to stop and kill.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::wait_for;

/// The URL of a database of the Redis that all tests share; each test has a database of its own.
pub fn shared(database: u8) -> String {
    let address = std::env::var("TESTS_REDIS").unwrap_or_else(|_| {
        panic!("TESTS_REDIS is not set: start a redis-server and set it to its host:port, as .ci/run does")
    });
    format!("redis://{address}/{database}")
}

/// A Redis of a test's own. Killed when it is dropped.
pub struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// One that listens on a free port.
    pub fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        Self::start_on(free.port())
    }

    fn start_on(port: u16) -> Self {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server does not start: {error}; install Debian's redis-server"));
        wait_for("Redis", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// It hangs from now on.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
    }

    /// SIGKILL, and another in its place.
    pub fn kill(mut self) -> impl FnOnce() -> Self {
        let port = self.port;
        self.child.kill().expect("killed");
        self.child.wait().expect("a status");
        move || Self::start_on(port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A place to type the pages' commands in: a folder of its own, the program on the path, a server on ports of its own.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use crate::{
    pages::{Block, root},
    process::wait_for,
    python,
};

/// A folder to work in.
pub struct Desk {
    dir: tempfile::TempDir,
    http: u16,
    grpc: u16,
    /// The shell that runs `ttdust serve`.
    server: Option<Child>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // After a clean stop there is nothing left to kill.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

impl Desk {
    /// With the tree's files at hand.
    pub fn new() -> Self {
        let desk =
            Self { dir: tempfile::tempdir().expect("a directory"), http: free_port(), grpc: free_port(), server: None };
        for folder in ["tests", "proto", "deploy", "src"] {
            symlink(root().join(folder), desk.path(folder)).expect("a link");
        }
        fs::create_dir(desk.path("bin")).expect("a directory");
        symlink(env!("CARGO_BIN_EXE_ttdust"), desk.path("bin/ttdust")).expect("a link");
        let python = python::interpreter();
        let python = python.display();
        let interpreter = format!("exec '{python}' \"$@\"");
        // DuckDB's own program is not among what tests install; its Python package runs the same SQL.
        let duckdb = format!(
            "[ \"$1\" = -c ] || exit 2\nexec '{python}' -c 'import duckdb, sys; duckdb.sql(sys.argv[1]).show()' \"$2\""
        );
        // An answer that is no success fails the command, and a stream that is read for some seconds ends well.
        let curl = "status=0; \"$REAL_CURL\" --fail-with-body \"$@\" || status=$?\n\
                    case \" $* \" in *' --max-time '*) [ $status != 28 ] || status=0;; esac; exit $status";
        // The server was built before; the example that is run is built where tests/clients.rs builds it.
        let (root, cargo) = (root().display(), env!("CARGO"));
        let cargo = format!(
            "[ \"$1\" = build ] && exit\n[ \"$1\" = run ] && cd '{root}' || exit 2\n\
             CARGO_TARGET_DIR=target/examples exec '{cargo}' \"$@\""
        );
        for (name, script) in [("python", &*interpreter), ("duckdb", &*duckdb), ("curl", curl), ("cargo", &*cargo)] {
            desk.program(name, script);
        }
        // What is asked for a key at the terminal.
        fs::write(desk.path("key"), "ttd_live_of_nobody\n").expect("written");
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    }

    /// Puts this desk's own addresses and folders in the place of those that the pages name.
    fn localized(&self, text: &str) -> String {
        let http = format!("127.0.0.1:{}", self.http);
        text.replace("https://dust.example:8080", &format!("http://{http}"))
            .replace("https://localhost:8080", &format!("https://{http}"))
            .replace("localhost:8080", &http)
            .replace("127.0.0.1:8080", &http)
            .replace("localhost:50051", &format!("127.0.0.1:{}", self.grpc))
            .replace("127.0.0.1:50051", &format!("127.0.0.1:{}", self.grpc))
            .replace("ttd_live_...", &self.admin_key())
    }

    /// The key that a server with authentication printed at its first start.
    fn admin_key(&self) -> String {
        let log = self.server_log();
        log.split_whitespace().find(|word| word.starts_with("ttd_live_")).unwrap_or("ttd_live_...").to_owned()
    }

    /// A shell that runs `text`.
    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TTDUST_")) {
            command.env_remove(name);
        }
        let path = std::env::var("PATH").expect("a path");
        let curl = std::env::split_paths(&path).map(|folder| folder.join("curl")).find(|file| file.exists());
        command.env("REAL_CURL", curl.expect("curl is installed")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.env("XDG_CONFIG_HOME", self.path("config")).env("TMPDIR", self.dir.path());
        command.env("TTDUST_ENDPOINT", format!("127.0.0.1:{}", self.http));
        command.args(["-euo", "pipefail", "-c", &self.localized(text)]).current_dir(self.dir.path());
        command.stdin(fs::File::open(self.path("key")).expect("a file"));
        command
    }

    fn server_log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    /// Runs a block that ends by starting a server, which goes on.
    pub fn serve(&mut self, block: &str) {
        self.stop();
        let ports = self.path("ports.json");
        let _ = fs::remove_file(&ports);
        let text = block.replace("ttdust serve", "exec ttdust serve --port-file ports.json");
        let log = fs::File::create(self.path("server.log")).expect("a file");
        let mut command = self.shell(&text);
        // Small, soon flushed, and on this desk's ports, where the page does not say so itself.
        for (name, value) in [
            ("BIND_ADDRESS", format!("127.0.0.1:{}", self.http)),
            ("GRPC_ADDRESS", format!("127.0.0.1:{}", self.grpc)),
            ("WAL_QUOTA_BYTES", "256MiB".to_owned()),
            ("BUFFER_FLUSH_INTERVAL_MS", "100".to_owned()),
            ("SHARDS_COUNT", "1".to_owned()),
        ] {
            command.env(format!("TTDUST_{name}"), value);
        }
        self.server = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("bash"));
        wait_for("the server", || {
            let server = self.server.as_mut().expect("it was started");
            let ended = server.try_wait().expect("a status");
            assert_eq!(ended, None, "{}", fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default());
            ports.exists().then_some(())
        });
    }

    /// Starts a server that has what the first steps make: the schema, the stream and the records of the sample.
    pub fn serve_with_flights(&mut self) {
        self.serve("ttdust serve");
        let steps = "ttdust schema create flights tests/data/flights.schema.json --namespace demo\n\
                     ttdust stream create flights --schema flights --key-field event_id\n\
                     ttdust produce flights tests/data/flights.jsonl.gz";
        let output = self.shell(steps).output().expect("bash");
        assert!(output.status.success(), "{}\n{}", python::said(&output), self.server_log());
    }

    /// Waits until all rows are in files.
    pub fn settle(&self) {
        if self.server.is_none() {
            return;
        }
        let left = "ttdust_ingestion_buffer_records{";
        wait_for("the flush", || {
            let shown = self.shell("curl -s http://localhost:8080/metrics").output().expect("bash");
            // Where certificates are wanted, nothing is asked.
            if !shown.status.success() {
                return Some(());
            }
            let text = String::from_utf8_lossy(&shown.stdout);
            let rows = text.lines().filter_map(|line| line.strip_prefix(left)?.rsplit(' ').next()?.parse::<f64>().ok());
            (rows.sum::<f64>() == 0.0).then_some(())
        });
    }

    /// Runs a block to its end, which must be a good one.
    pub fn run(&self, block: &Block) -> Output {
        let output = self.shell(&block.text).output().expect("bash");
        assert!(
            output.status.success(),
            "{}\n{}\n{}\n{}",
            block.place,
            block.text,
            python::said(&output),
            self.server_log()
        );
        output
    }

    /// Ends the server in peace.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        let status = wait_for("the end of the server", || server.try_wait().expect("a status"));
        assert!(status.success(), "{}", self.server_log());
    }
}

//! Files in an S3 store that others wrote (moto): it takes them, in parts too, and gives them back, and other people's clients
//! find in it what was acked.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/noise.rs"]
mod noise;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
};

use noise::{BATCH, Noise, RECORD_BYTES, append_at_last};
use process::{Server, wait_for};
use producer::{Producer, block_on};
use serde_json::{Value, json};

/// A part of an upload is at least so long.
const PART_BYTES: usize = 5 << 20;

/// The store. It ends when this is dropped.
struct Store {
    process: Child,
    address: String,
}

impl Store {
    fn start() -> Self {
        let mut command = python::command("other_store.py");
        let mut process =
            command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the interpreter starts");
        let mut address = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut address).expect("its address");
        let address = address.trim().to_owned();
        assert!(address.contains(':'), "the store did not start: `make test` installs it");
        Self { process, address }
    }

    /// What a client of others says.
    fn ask(&self, what: &str) -> Value {
        let output = python::run("other_store.py", &[Path::new(what), Path::new(&self.address)]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{what}: {}", python::said(&output)))
    }

    /// Lengths of all Parquet files.
    fn files(&self) -> Vec<u64> {
        let objects = self.ask("list");
        let files = objects.as_object().expect("objects").iter().filter(|(key, _)| key.ends_with(".parquet"));
        files.map(|(_, bytes)| bytes.as_u64().expect("a length")).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn others_read_from_it_what_was_acked_over_a_kill_and_a_deletion_leaves_nothing() {
    let (store, dir) = (Store::start(), tempfile::tempdir().expect("a directory"));
    let endpoint = format!("http://{}", store.address);
    let start = |more: &[(&'static str, &'static str)]| {
        let own = [
            ("shards.count", "1"),
            ("s3.endpoint", endpoint.as_str()),
            ("s3.region", "us-east-1"),
            ("s3.bucket", "ttdust"),
            ("s3.access_key", "test"),
            ("s3.secret_key", "test"),
            ("s3.multipart_bytes", "5MiB"),
            ("compaction.grace_ms", "60000"),
        ];
        Server::start(dir.path(), &[&own[..], more].concat())
    };
    // Flushed by size alone: a file of more than a part.
    let server = start(&[("buffer.flush_interval_ms", "3600000"), ("buffer.freeze_bytes", "12MiB")]);
    let stream = rest::create_stream(&server.http, "noise", &json!({"type": "object"}));
    let mut noise = Noise(1);
    let acked = block_on(async {
        let mut producer = Producer::connect(&server.grpc, &stream).await;
        while producer.acked.len() * RECORD_BYTES < 4 * PART_BYTES {
            append_at_last(&mut producer, &mut noise).await;
        }
        producer.acked
    });
    wait_for("a file", || (!store.files().is_empty()).then_some(()));
    server.kill();
    let server = start(&[("buffer.flush_interval_ms", "200")]);
    block_on(async {
        let mut producer = Producer::reconnect(&server.grpc, &stream, acked).await;
        let all = producer.acked.len() as i64;
        rest::wait_for_flush(&server.http, &stream, all);
        let read = producer.read_all().await;
        producer.check(&read);
        assert_eq!(store.ask("rows"), (1..=all).collect::<Value>());
        assert!(all > BATCH as i64);
    });
    let files = store.files();
    assert!(files.iter().any(|&bytes| bytes > PART_BYTES as u64), "none was sent in parts: {files:?}");
    assert!(!dir.path().join("data/objects").exists(), "no file lies in a directory");
    let (status, body) = rest::call(&server.http, "DELETE", &format!("/api/v1/streams/{stream}"), "");
    assert_eq!(status, 202, "{body}");
    wait_for("the store to be empty", || store.files().is_empty().then_some(()));
}

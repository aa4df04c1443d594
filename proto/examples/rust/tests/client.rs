//! The example against a real server: `TTDUST_PROGRAM`, or the one that `cargo build` left in this tree.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ttdust_example::{Client, Keyed};

/// More than the limit lets in within a second: the client is told to come again.
const SENT: usize = 700;
const STREAM: &str = "events";

struct Server {
    child: Child,
    grpc: String,
    http: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/debug/ttdust");
    let program = env::var_os("TTDUST_PROGRAM").map_or(built, PathBuf::from);
    assert!(program.exists(), "{} is missing: cargo build", program.display());
    program
}

/// A server in this directory, with a stream of any objects.
fn start(dir: &Path) -> Server {
    let ports = dir.join("ports.json");
    let mut command = Command::new(program());
    command.args(["serve", "--bind-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--data-dir"]);
    command.arg(dir.join("data")).arg("--port-file").arg(&ports);
    for setting in ["shards.count=1", "wal.quota_bytes=256MiB", "rate.ingest_records_per_second=200"] {
        command.args(["--set", setting]);
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server's process");
    let end = Instant::now() + Duration::from_secs(60);
    let told = loop {
        if let Ok(text) = fs::read(&ports) {
            break serde_json::from_slice::<serde_json::Value>(&text).expect("JSON");
        }
        assert_eq!(child.try_wait().expect("a status"), None, "the server ended");
        assert!(Instant::now() < end, "the server did not start");
        thread::sleep(Duration::from_millis(10));
    };
    let address = |name: &str| told[name].as_str().expect("an address").to_owned();
    let server = Server { child, grpc: address("grpc"), http: address("http") };
    fs::write(dir.join("schema.json"), r#"{"type": "object"}"#).expect("written");
    for arguments in
        [&["schema", "create", "events", "schema.json"][..], &["stream", "create", STREAM, "--schema", "events"]]
    {
        let status =
            Command::new(program()).args(arguments).args(["--endpoint", &server.http]).current_dir(dir).status();
        assert!(status.expect("run").success(), "{arguments:?}");
    }
    server
}

fn records() -> Vec<Keyed> {
    let payload = |n| format!(r#"{{"event_id":"event-{n}","n":{n}}}"#);
    (0..SENT).map(|n| Keyed { key: format!("event-{n}"), payload: payload(n).into() }).collect()
}

#[tokio::test]
async fn each_record_is_sent_once_read_and_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path());
    let mut client = Client::connect(format!("http://{}", server.grpc), None).await.expect("connected");
    let outcomes = client.send(STREAM, records()).await.expect("sent");
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [("STATUS_OK", SENT as u64)]);
    let again = client.send(STREAM, records()).await.expect("sent");
    assert_eq!(again.into_iter().collect::<Vec<_>>(), [("STATUS_DUPLICATE", SENT as u64)]);
    let page = client.read(STREAM, 10).await.expect("a page");
    assert_eq!(page.iter().map(|record| record.sequence_number).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    let followed = client.follow(STREAM, 7, 20).await.expect("followed");
    assert_eq!(followed, (7..27).collect::<Vec<_>>());
    let refused = client.send("nowhere", records()).await.expect_err("no such stream");
    assert!(refused.to_string().contains("no stream"), "{refused}");
}

//! `ttdust top` on a real server: its figures under load, and its screen on a terminal of its own.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "cli/door.rs"]
mod door;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;
#[path = "cli/client.rs"]
mod user;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use door::Door;
use process::Server;
use producer::{Producer, block_on};
use serde_json::{Value, json};
use user::Client;

const SETTINGS: &[(&str, &str)] = &[("wal.quota_bytes", "256MiB"), ("shards.count", "2")];
/// The end of all that is done to a terminal.
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

fn start(dir: &Path, more: &[(&str, &str)]) -> Server {
    Server::start(dir, &[SETTINGS, more].concat())
}

/// A producer that goes on until it is told to end.
struct Load {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Load {
    fn on(server: &Server, stream: &str) -> Self {
        let (over, grpc, stream) = (Arc::new(AtomicBool::new(false)), server.grpc.clone(), stream.to_owned());
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            block_on(async {
                let mut producer = Producer::connect(&grpc, &stream).await;
                while !ended.load(Ordering::Relaxed) {
                    let next = producer.acked.len();
                    let records = (next..next + 50).map(|id| Bytes::from(format!("{{\"id\":{id}}}"))).collect();
                    producer.append(records).await.expect("taken");
                }
                producer.acked.len() as u64
            })
        });
        Self { over, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("its records")
    }
}

fn create(server: &Server, stream: &str) {
    rest::create_stream(&server.http, stream, &json!({"type": "object", "properties": {"id": {"type": "integer"}}}));
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn one_look_tells_what_a_server_under_load_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    for stream in ["idle", "busy"] {
        create(&server, stream);
    }
    let load = Load::on(&server, "busy");
    let user = Client::new(&server.http);
    let look = ["top", "--once", "--interval", "500ms"];
    // The first records may come only after a look.
    let frame = process::wait_for("figures of the load", || {
        let frame = user.run(&[&look[..], &["-o", "json"]].concat()).json();
        (frame["total"]["records_per_second"].as_f64() > Some(0.0)).then_some(frame)
    });
    let table = user.run(&look).ok();
    let sent = load.end();

    assert_eq!((&frame["status"], &frame["down"], &frame["notes"]), (&json!("ok"), &json!({}), &json!([])), "{frame}");
    assert!(["uring", "epoll"].contains(&frame["io_backend"].as_str().expect("text")), "{frame}");
    let (shards, total) = (frame["shards"].as_array().expect("shards"), &frame["total"]);
    assert_eq!((shards.len(), &total["wal_quota_bytes"]), (2, &json!(256 << 20)), "{frame}");
    let sum: f64 = shards.iter().map(|shard| number(&shard["records_per_second"])).sum();
    assert!((sum - number(&total["records_per_second"])).abs() < 1.0, "{frame}");
    assert!(number(&frame["seconds"]) >= 0.5, "{frame}");
    assert!(number(&total["records_per_second"]) * number(&frame["seconds"]) <= sent as f64 + 1.0, "{frame}");
    assert!(number(&total["mb_per_second"]) > 0.0 && number(&total["wal_used_bytes"]) > 0.0, "{frame}");
    let (half, most) = (number(&total["ack_p50_ms"]), number(&total["ack_p99_ms"]));
    assert!(0.0 < half && half <= most, "{frame}");
    assert!(
        number(&frame["process"]["resident_bytes"]) > 1e6 && number(&frame["process"]["cores_busy"]) > 0.0,
        "{frame}"
    );
    let streams = frame["streams"].as_array().expect("streams");
    assert_eq!(
        (streams.len(), &streams[0]["stream"], &frame["streams_known"]),
        (2, &json!("busy"), &json!(2)),
        "{frame}"
    );
    assert!(
        number(&streams[0]["records_per_second"]) > 0.0 && number(&streams[1]["records_per_second"]) == 0.0,
        "{frame}"
    );

    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        rows.iter().map(|row| row[0]).collect::<Vec<_>>(),
        ["SHARD", "0", "1", "all", "", "STREAM", "busy", "idle"]
    );
    assert!(rows[3][1].parse::<f64>().expect("a number") > 0.0, "{table}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn what_a_caller_may_not_see_is_told_and_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("auth.mode", "keys")]);
    let user = Client::new(&server.http);
    let frame = user.run(&["top", "--once", "--interval", "200ms", "-o", "json"]).json();
    let notes = frame["notes"].to_string();
    assert!(notes.contains("quota is not known") && notes.contains("streams are not shown"), "{frame}");
    assert_eq!((&frame["total"]["wal_quota_bytes"], &frame["streams"]), (&Value::Null, &json!([])), "{frame}");
    assert_eq!(frame["streams_known"], Value::Null, "{frame}");
    assert_eq!(frame["shards"].as_array().map(Vec::len), Some(2), "metrics need no key");

    let no_terminal = user.run(&["top"]).fails(2);
    assert!(no_terminal.err.contains("--once"), "{no_terminal:?}");
    assert!(user.run(&["top", "--once", "--interval", "1ms"]).fails(2).err.contains("200ms"));
    let nobody = user.run(&["top", "--once", "--endpoint", "127.0.0.1:1"]).fails(3);
    assert!(nobody.err.contains("cannot connect"), "{nobody:?}");
}

/// `ttdust top` on a terminal.
struct Terminal {
    child: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Terminal {
    fn of(user: &Client, arguments: &[&str]) -> Self {
        // The variables are the user's, and the program comes after the interpreter's script.
        let top = user.command(arguments);
        let mut command = python::command("terminal.py");
        command.arg(top.get_program()).args(top.get_args());
        for (name, value) in top.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the interpreter starts");
        let steps = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, steps, answers }
    }

    fn step(&mut self, step: &Value) -> Value {
        writeln!(self.steps, "{step}").expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert!(
            answer["missing"].is_null(),
            "{} did not come; the terminal has {:?}",
            answer["missing"],
            answer["written"]
        );
        answer
    }

    #[track_caller]
    fn wait(&mut self, text: &str) {
        self.step(&json!({"wait": text}));
    }

    fn send(&mut self, keys: &str) {
        self.step(&json!({"send": keys}));
    }

    /// Its status and what was written last. The terminal is as it was before.
    #[track_caller]
    fn end(mut self) -> (i64, String) {
        let ended = self.step(&json!({"end": true}));
        drop(self.steps);
        assert!(self.child.wait().expect("a status").success());
        assert_eq!(ended["restored"], true, "{ended}");
        let written = ended["written"].as_str().expect("text").to_owned();
        assert!(written.contains(LEAVE), "{written:?}");
        (ended["status"].as_i64().expect("a status"), written)
    }
}

#[test]
fn the_screen_shows_the_shards_takes_keys_and_outlives_the_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let door = Door::to(&server.http);
    create(&server, "busy");
    let load = Load::on(&server, "busy");
    let mut terminal = Terminal::of(&Client::new(&door.address), &["top", "--interval", "200ms"]);
    terminal.wait("SHARD");
    terminal.wait("\r\n0 ");
    terminal.wait("\r\n1 ");
    terminal.wait("\r\nbusy");
    terminal.send("s");
    terminal.wait("s sort: records/s");
    terminal.send("\u{1b}[D");
    terminal.wait("s sort: usual");
    terminal.step(&json!({"resize": [60, 8]}));
    // Eight lines have no room for the streams.
    terminal.wait("more below");
    terminal.step(&json!({"resize": [120, 30]}));
    terminal.wait("\r\nbusy");
    terminal.send("p");
    terminal.wait("PAUSED");
    terminal.send("p");
    load.end();
    server.kill();
    terminal.wait("AWAY");
    terminal.wait("no answer for");
    let server = start(dir.path(), &[]);
    door.lead_to(&server.http);
    terminal.wait("  ok  I/O");
    terminal.wait("\r\nbusy");
    terminal.send("q");
    let (status, written) = terminal.end();
    assert_eq!(status, 0, "{written:?}");
    assert!(written.ends_with(LEAVE), "nothing is told after q: {written:?}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn however_it_is_ended_the_terminal_is_put_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    for step in
        [json!({"send": "\u{3}"}), json!({"signal": "INT"}), json!({"signal": "TERM"}), json!({"signal": "HUP"})]
    {
        let mut terminal = Terminal::of(&Client::new(&server.http), &["top"]);
        terminal.wait("SHARD");
        terminal.step(&step);
        let (status, written) = terminal.end();
        assert_eq!(status, 130, "{step}: {written:?}");
        assert!(written.contains("interrupted"), "{step}: {written:?}");
    }
}

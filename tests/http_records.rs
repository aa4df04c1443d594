//! Writing and following records over REST, as `curl` does it: the same meaning as gRPC, in every form that a body may have.
//!
//! Tests wait for what the server shows, never for time to pass.

#[path = "server/process.rs"]
mod process;
#[path = "server/rest.rs"]
mod rest;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use process::{Server, wait_for};
use serde_json::{Value, json};

const LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";

fn definition() -> Value {
    json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
}

fn start(dir: &Path, settings: &[(&str, &str)]) -> Server {
    Server::start(dir, &[&[("wal.quota_bytes", "256MiB"), ("wal.segment_bytes", "8MiB")], settings].concat())
}

/// Runs `curl` on a path of the server with a body on its standard input; the status, the answer's head in lower case, the body.
fn curl(server: &Server, path: &str, headers: &[&str], body: &[u8]) -> (u16, String, Value) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "-X", "POST", "--data-binary", "@-", "-H", "expect:"]);
    for header in headers {
        command.args(["-H", header]);
    }
    command.arg(format!("http://{}{path}", server.http)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("curl is installed");
    // A server that refuses a large body may close before it has read all of it.
    let _ = child.stdin.take().expect("piped").write_all(body);
    let output = child.wait_with_output().expect("curl ends");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn post(server: &Server, query: &str, kind: &str, more: &[&str], body: &[u8]) -> (u16, String, Value) {
    let kind = format!("content-type: {kind}");
    curl(server, &format!("/api/v1/streams/s/records{query}"), &[&[kind.as_str()], more].concat(), body)
}

/// The `n` and metadata of all records.
fn stored(server: &Server) -> Vec<(i64, Value)> {
    let (status, page) = rest::call(&server.http, "GET", "/api/v1/streams/s/records?limit=10000", "");
    assert_eq!(status, 200, "{page}");
    let records = page["records"].as_array().expect("a list");
    records.iter().map(|r| (r["payload"]["n"].as_i64().expect("a number"), r["metadata"].clone())).collect()
}

fn numbers(server: &Server) -> Vec<i64> {
    stored(server).into_iter().map(|(n, _)| n).collect()
}

fn packed(program: &str, data: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is installed");
    let mut stdin = child.stdin.take().expect("piped");
    let data = data.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&data));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("no panic").expect("fed");
    output.stdout
}

#[test]
fn every_form_of_a_body_is_taken_record_by_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    rest::create_stream(&server.http, "s", &definition());
    let (status, head, answer) = post(&server, "", LINES, &[], b"{\"n\":1}\n\n{\"n\": 2}\r\n{\"n\":3}");
    assert_eq!(status, 200, "{answer}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!((answer["status"].as_str(), answer["accepted"].as_u64()), (Some("OK"), Some(3)), "{answer}");
    assert_eq!((answer["first_sequence"].as_i64(), answer["last_sequence"].as_i64()), (Some(1), Some(3)));
    let metadata = "x-metadata: {\"source\": \"shop \\\"7\\\"\"}";
    let (status, _, answer) = post(&server, "", JSON, &[metadata], b" [ {\"n\":4} , {\"n\":5,\"x\":\"],[\"} ] ");
    assert_eq!((status, answer["accepted"].as_u64()), (200, Some(2)), "{answer}");
    let (status, _, answer) = post(&server, "", "application/json; charset=utf-8", &[], b"{\"n\":6}");
    assert_eq!((status, answer["accepted"].as_u64()), (200, Some(1)), "{answer}");
    let many: String = (7..=5000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    for (program, from) in [("gzip", 7), ("zstd", 4995)] {
        let body = packed(program, many.as_bytes());
        let (status, _, answer) = post(&server, "", LINES, &[&format!("content-encoding: {program}")], &body);
        assert_eq!((status, answer["accepted"].as_u64()), (200, Some(4994)), "{from}: {answer}");
    }
    let stored = stored(&server);
    let expected: Vec<i64> = (1..=6).chain(7..=5000).chain(7..=5000).take(10_000).collect();
    assert_eq!(stored.iter().map(|(n, _)| *n).collect::<Vec<_>>(), expected);
    assert_eq!(stored[3].1, json!({"source": "shop \"7\""}));
    assert_eq!(stored[0].1, json!({}));
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn bad_records_are_told_one_by_one_and_reject_all_or_are_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    rest::create_stream(&server.http, "s", &definition());
    let body = b"{\"n\":1}\n{\"n\":\"x\"}\nnonsense\n{\"n\":2}\n";
    let (status, head, problem) = post(&server, "", LINES, &[], body);
    assert_eq!((status, problem["code"].as_str()), (422, Some("INVALID_RECORDS")), "{problem}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let pointers: Vec<_> = problem["errors"].as_array().expect("a list").iter().map(|e| e["pointer"].clone()).collect();
    assert_eq!(pointers, ["/1/n", "/2"], "{problem}");
    assert_eq!(numbers(&server), [0; 0], "nothing was taken");
    let (status, _, answer) = post(&server, "?on_invalid=skip", LINES, &[], body);
    assert_eq!((status, answer["accepted"].as_u64(), answer["rejected"].as_u64()), (200, Some(2), Some(2)), "{answer}");
    let rows = answer["row_errors"].as_array().expect("a list");
    assert_eq!((rows[0]["index"].as_u64(), rows[0]["code"].as_str()), (Some(1), Some("SCHEMA_VIOLATION")), "{answer}");
    assert_eq!(rows[0]["field_errors"][0]["path"], "/n");
    assert_eq!((rows[1]["index"].as_u64(), rows[1]["code"].as_str()), (Some(2), Some("NOT_JSON")), "{answer}");
    assert_eq!(numbers(&server), [1, 2]);
    let (status, _, answer) = post(&server, "?on_invalid=skip", LINES, &[], b"1\n2\n");
    assert_eq!(
        (status, answer["status"].as_str(), answer["rejected"].as_u64()),
        (200, Some("VALIDATION_ERROR"), Some(2))
    );
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn bad_records_become_dead_letters_where_it_is_asked_for_one_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    rest::create_stream(&server.http, "s", &definition());
    let body = b"{\"n\":1}\n{\"n\":\"x\"}\nno \xff\n{\"n\":2}\n";
    let key = "idempotency-key: k";
    let send = |server: &Server, more: &[&str]| post(server, "?on_invalid=dlq", LINES, more, body);
    let (status, _, problem) = send(&server, &[key]);
    assert_eq!((status, problem["code"].as_str()), (409, Some("DLQ_MISSING")), "{problem}");
    assert_eq!(numbers(&server), [0; 0], "nothing was taken");
    let (status, stream) = rest::call(&server.http, "PATCH", "/api/v1/streams/s", r#"{"dlq": {}}"#);
    assert_eq!(status, 200, "{stream}");
    let metadata = "x-metadata: {\"source\": \"shop\"}";
    let counts =
        |answer: &Value| ["accepted", "duplicates", "rejected", "dead_lettered"].map(|name| answer[name].as_u64());
    let (status, _, answer) = send(&server, &[key, metadata]);
    assert_eq!((status, answer["status"].as_str()), (200, Some("OK")), "{answer}");
    assert_eq!(counts(&answer), [2, 0, 0, 2].map(Some), "{answer}");
    let rows: Vec<_> =
        answer["row_errors"].as_array().expect("a list").iter().map(|row| row["index"].clone()).collect();
    assert_eq!(rows, [1, 2], "{answer}");
    server.kill();
    let server = start(dir.path(), &[]);
    let (_, _, again) = send(&server, &[key, metadata]);
    assert_eq!(counts(&again), [0, 2, 0, 2].map(Some), "{again}");
    let letters = |server: &Server| {
        let (status, page) = rest::call(&server.http, "GET", "/api/v1/streams/s.dlq/records", "");
        assert_eq!(status, 200, "{page}");
        let records = page["records"].as_array().expect("a list");
        records.iter().map(|record| record["payload"].clone()).collect::<Vec<_>>()
    };
    let found = letters(&server);
    assert_eq!(found.len(), 2, "one each: {found:?}");
    assert_eq!((&found[0]["reason"], &found[0]["payload"]), (&json!("SCHEMA_VIOLATION"), &json!("{\"n\":\"x\"}")));
    assert_eq!((&found[0]["pointers"], &found[0]["metadata"]), (&json!(["/n"]), &json!({"source": "shop"})));
    assert_eq!((&found[1]["reason"], &found[1]["payload_base64"]), (&json!("NOT_JSON"), &json!("bm8g/w==")));
    // Without a key, and none of them good.
    let (status, _, all_bad) = post(&server, "?on_invalid=dlq", LINES, &[], b"1\n2\n3\n");
    assert_eq!((status, all_bad["status"].as_str()), (200, Some("OK")), "{all_bad}");
    assert_eq!(counts(&all_bad), [0, 0, 0, 3].map(Some), "{all_bad}");
    assert_eq!(letters(&server).len(), 5);
    // Records of more bytes than are checked where they come in, and letters of more than one submission.
    let long = format!("{{\"n\":\"{}\"}}\n", "x".repeat(100_000)).repeat(15);
    let (status, _, many) = post(&server, "?on_invalid=dlq", LINES, &["idempotency-key: long"], long.as_bytes());
    assert_eq!((status, counts(&many)), (200, [0, 0, 0, 15].map(Some)), "{many}");
    assert_eq!(letters(&server).len(), 20);
    assert_eq!(numbers(&server), [1, 2]);
    // A pause keeps records out, not letters: where would they go?
    let (answered, paused) =
        rest::call(&server.http, "PATCH", "/api/v1/streams/s.dlq", &json!({"status": "paused"}).to_string());
    assert_eq!(answered, 200, "{paused}");
    let (status, _, meanwhile) = post(&server, "?on_invalid=dlq", LINES, &[], b"1\n2\n");
    assert_eq!((status, counts(&meanwhile)), (200, [0, 0, 0, 2].map(Some)), "{meanwhile}");
    let (status, _, own) =
        curl(&server, "/api/v1/streams/s.dlq/records?on_invalid=dlq", &[&format!("content-type: {LINES}")], body);
    assert_eq!((status, own["code"].as_str()), (409, Some("DEAD_LETTERS_STREAM")), "{own}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn the_same_body_with_the_same_key_is_taken_once_over_a_crash_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    rest::create_stream(&server.http, "s", &definition());
    let body = b"[{\"n\":1},{\"bad\":0},{\"n\":2},{\"n\":3}]";
    let key = "idempotency-key: order 77";
    let (status, _, first) = post(&server, "?on_invalid=skip", JSON, &[key], body);
    assert_eq!((status, first["accepted"].as_u64(), first["duplicates"].as_u64()), (200, Some(3), Some(0)), "{first}");
    let again = |server: &Server| {
        let (status, _, answer) = post(server, "?on_invalid=skip", JSON, &[key], body);
        assert_eq!((status, answer["status"].as_str()), (200, Some("DUPLICATE")), "{answer}");
        assert_eq!((answer["accepted"].as_u64(), answer["duplicates"].as_u64()), (Some(0), Some(3)), "{answer}");
        let originals: Vec<_> = answer["duplicate_sequences"].as_array().expect("a list").clone();
        let expected = [(0, 1), (2, 2), (3, 3)].map(|(index, n)| json!({"index": index, "sequence_number": n}));
        assert_eq!(originals, expected, "{answer}");
        assert_eq!(answer["timestamp_unix_micros"], first["timestamp_unix_micros"]);
    };
    again(&server);
    server.kill();
    let server = start(dir.path(), &[]);
    again(&server);
    assert_eq!(numbers(&server), [1, 2, 3]);
    let (_, _, other) = post(&server, "", JSON, &["idempotency-key: order 78"], b"[{\"n\":1}]");
    assert_eq!(other["accepted"].as_u64(), Some(1), "another key is another record: {other}");
    assert!(server.stop().success(), "a clean stop");
}

/// Query, content type, more headers and body of a request; the status and a part of the reason.
type Case<'a> = (&'a str, &'a str, Vec<&'a str>, &'a [u8], u16, &'a str);

#[test]
fn what_cannot_be_taken_is_refused_with_a_reason_and_nothing_of_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("limits.message_bytes", "64KiB"), ("limits.record_bytes", "1KiB")]);
    let stream = rest::create_stream(&server.http, "s", &definition());
    let bomb = packed("gzip", &vec![b' '; 8 << 20]);
    let torn = &packed("zstd", b"{\"n\":1}")[..10];
    let long = [b"{\"n\":1,\"x\":\"".as_slice(), &vec![b'x'; 1024], b"\"}"].concat();
    let many = b"{\"n\":1}\n".repeat(10_000);
    let key = format!("idempotency-key: {}", "k".repeat(300));
    let cases: [Case<'_>; 17] = [
        ("", "text/plain", vec![], b"{\"n\":1}", 415, "application/x-ndjson"),
        ("", LINES, vec!["content-encoding: br"], b"x", 415, "gzip or zstd"),
        ("", LINES, vec!["content-encoding: gzip"], b"{\"n\":1}", 400, "content-encoding"),
        ("", LINES, vec!["content-encoding: zstd"], torn, 400, "content-encoding"),
        ("", LINES, vec!["content-encoding: gzip"], &bomb, 413, "limits.message_bytes"),
        ("", LINES, vec![], &vec![b' '; 65 << 10], 413, "limits.message_bytes"),
        ("", LINES, vec![], &many, 413, "limits.message_bytes"),
        ("", LINES, vec![], b" \n\n", 400, "no record"),
        ("", JSON, vec![], b"[]", 400, "no record"),
        ("", JSON, vec![], b"[{\"n\":1},", 400, "no JSON array"),
        ("", JSON, vec![], b"[{\"n\":1},]", 400, "no JSON array"),
        ("", LINES, vec![], &long, 422, "are bad"),
        ("?on_invalid=maybe", LINES, vec![], b"{\"n\":1}", 400, "atomic, skip or dlq"),
        ("?dry_run=true", LINES, vec![], b"{\"n\":1}", 400, "dry_run"),
        ("", LINES, vec![&key], b"{\"n\":1}", 400, "256"),
        ("", LINES, vec!["x-metadata: [1]"], b"{\"n\":1}", 400, "x-metadata"),
        ("", LINES, vec!["x-metadata: {\"a\": 1}"], b"{\"n\":1}", 400, "x-metadata"),
    ];
    for (query, kind, headers, body, expected, reason) in cases {
        let (status, head, problem) = post(&server, query, kind, &headers, body);
        assert_eq!(status, expected, "{query} {kind} {headers:?}: {head} {problem}");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(reason), "{detail}");
    }
    let (status, _, problem) =
        curl(&server, "/api/v1/streams/none/records", &[&format!("content-type: {LINES}")], b"1");
    assert_eq!((status, problem["code"].as_str()), (404, Some("NOT_FOUND")), "{problem}");
    let pause = json!({"status": "paused"}).to_string();
    assert_eq!(rest::call(&server.http, "PATCH", &format!("/api/v1/streams/{stream}"), &pause).0, 200);
    let (status, _, problem) = post(&server, "", LINES, &[], b"{\"n\":1}");
    assert_eq!((status, problem["code"].as_str()), (409, Some("STREAM_PAUSED")), "{problem}");
    assert_eq!(numbers(&server), [0; 0], "nothing was taken");
    assert!(server.stop().success(), "a clean stop");
}

/// Makes a key of a role for streams.
fn key(server: &Server, admin: &str, role: &str, streams: &[&str]) -> String {
    let body = json!({"name": role, "role": role, "streams": streams}).to_string();
    let (status, _, key) = rest::call_with(&server.http, "POST", "/api/v1/api-keys", &[("x-api-key", admin)], &body);
    assert_eq!(status, 201, "{key}");
    key["api_key"].as_str().expect("a key").to_owned()
}

#[test]
fn a_writer_writes_into_its_streams_within_its_limits_and_a_reader_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("auth.mode", "keys"), ("rate.ingest_records_per_second", "100")]);
    let admin = server.admin_key();
    let create = |path: &str, body: Value| {
        let (status, _, answer) =
            rest::call_with(&server.http, "POST", path, &[("x-api-key", &admin)], &body.to_string());
        assert_eq!(status, 201, "{answer}");
        answer
    };
    let schema = create("/api/v1/schemas", json!({"name": "s", "definition": definition()}));
    for name in ["s", "other"] {
        create("/api/v1/streams", json!({"name": name, "schema_id": schema["id"]}));
    }
    let (writer, reader) = (key(&server, &admin, "writer", &["s"]), key(&server, &admin, "reader", &["s"]));
    let by = |key: &str| format!("x-api-key: {key}");
    let (status, _, answer) = post(&server, "", LINES, &[&by(&writer)], b"{\"n\":1}");
    assert_eq!((status, answer["accepted"].as_u64()), (200, Some(1)), "{answer}");
    assert_eq!(post(&server, "", LINES, &[&by(&reader)], b"{\"n\":1}").0, 403);
    assert_eq!(post(&server, "", LINES, &[], b"{\"n\":1}").0, 401);
    let kind = format!("content-type: {LINES}");
    assert_eq!(curl(&server, "/api/v1/streams/other/records", &[&kind, &by(&writer)], b"{\"n\":1}").0, 404);
    // A body larger than the limit is let in whole, and paid before the next.
    let body: String = (0..1000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let sent = wait_for("a turn", || {
        let (status, _, answer) = post(&server, "", LINES, &[&by(&writer)], body.as_bytes());
        (status == 200).then_some(answer)
    });
    assert_eq!(sent["accepted"].as_u64(), Some(1000));
    let (status, head, problem) = post(&server, "", LINES, &[&by(&writer)], b"{\"n\":1}");
    assert_eq!((status, problem["code"].as_str()), (429, Some("RATE_LIMITED")), "{problem}");
    let after = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a time to come again");
    assert!(after.trim().parse::<u64>().expect("seconds") >= 5, "900 are owed at 100 a second: {after}");
    assert!(head.contains("ratelimit-limit: 100"), "{head}");
    // The limit of one client is none of another's.
    let other = key(&server, &admin, "writer", &["other"]);
    assert_eq!(curl(&server, "/api/v1/streams/other/records", &[&kind, &by(&other)], b"{\"n\":1}").0, 200);
    assert!(server.stop().success(), "a clean stop");
}

/// A `curl` that follows a stream.
struct Tail {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// The id of the event that came last.
    last: String,
}

impl Tail {
    fn open(server: &Server, query: &str, headers: &[&str]) -> Self {
        let mut command = Command::new("curl");
        command.args(["-sS", "-N"]);
        for header in headers {
            command.args(["-H", header]);
        }
        command.arg(format!("http://{}/api/v1/streams/s/tail{query}", server.http)).stdout(Stdio::piped());
        let mut child = command.spawn().expect("curl is installed");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut tail = Self { child, lines, last: String::new() };
        assert_eq!(tail.line().expect("a greeting"), "retry: 1000");
        tail
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("curl's output");
        (read > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The name and the data of the next event; `None`: the end.
    fn event(&mut self) -> Option<(String, Value)> {
        let (mut name, mut data) = (String::from("message"), Vec::new());
        loop {
            let line = self.line()?;
            if line.is_empty() && !data.is_empty() {
                return Some((name, serde_json::from_str(&data.join("\n")).expect("JSON")));
            }
            if let Some(text) = line.strip_prefix("data: ") {
                data.push(text.to_owned());
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut name);
            } else if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut self.last);
            }
        }
    }

    /// The `n` of the next records.
    fn numbers(&mut self, count: usize) -> Vec<i64> {
        let mut next = || {
            let (name, data) = self.event().expect("an event");
            assert_eq!(name, "message", "{data}");
            assert_eq!(data["sequence_number"].to_string(), self.last);
            data["payload"]["n"].as_i64().expect("a number")
        };
        (0..count).map(|_| next()).collect()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // One that ended by itself cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(server: &Server, numbers: impl Iterator<Item = i64>) {
    let body: String = numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let (status, _, answer) = post(server, "", LINES, &[], body.as_bytes());
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_tail_goes_from_what_was_to_what_comes_and_on_after_a_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    // Rows move to files all the while.
    let server = start(dir.path(), &[("buffer.flush_interval_ms", "100")]);
    rest::create_stream(&server.http, "s", &definition());
    write(&server, 1..=3000);
    let mut all = Tail::open(&server, "?start_sequence=1", &[]);
    assert_eq!(all.numbers(3000), (1..=3000).collect::<Vec<_>>());
    let mut now = Tail::open(&server, "", &[]);
    for n in 3001..=3050 {
        write(&server, n..=n);
    }
    assert_eq!(all.numbers(50), (3001..=3050).collect::<Vec<_>>());
    assert_eq!(now.numbers(50), (3001..=3050).collect::<Vec<_>>(), "what was acked once it had begun");
    // Cut off, and on after the event that came last.
    let last = format!("last-event-id: {}", all.last);
    drop(all);
    write(&server, 3051..=3060);
    let mut again = Tail::open(&server, "?start_sequence=1", &[&last]);
    assert_eq!(again.numbers(10), (3051..=3060).collect::<Vec<_>>());
    let mut ahead = Tail::open(&server, "?start_sequence=3065", &[]);
    write(&server, 3061..=3070);
    assert_eq!(ahead.numbers(6), (3065..=3070).collect::<Vec<_>>(), "one that was not there yet is waited for");
    let since = rest::call(&server.http, "GET", "/api/v1/streams/s/records?limit=1&order=desc", "").1;
    let at = since["records"][0]["ingested_at"].as_str().expect("a time").to_owned();
    let mut by_time = Tail::open(&server, &format!("?start_time={at}"), &[]);
    let first = by_time.numbers(1)[0];
    assert!((3061..=3070).contains(&first), "{first} was ingested then");
    // A stop ends them all, with a reason and where they were.
    assert!(server.stop().success(), "a clean stop");
    let (name, data) = now.event().map_or_else(Default::default, |mut event| {
        while event.0 == "message" {
            event = now.event().expect("the reason");
        }
        event
    });
    assert_eq!((name.as_str(), data["code"].as_str()), ("error", Some("DRAINING")), "{data}");
    assert!(now.event().is_none(), "nothing comes after it");
}

#[test]
fn a_tail_ends_with_its_stream_and_its_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("auth.mode", "keys")]);
    let admin = server.admin_key();
    let call = |method: &str, path: &str, body: Value| {
        rest::call_with(&server.http, method, path, &[("x-api-key", &admin)], &body.to_string())
    };
    let (_, _, schema) = call("POST", "/api/v1/schemas", json!({"name": "s", "definition": definition()}));
    let (status, _, stream) = call("POST", "/api/v1/streams", json!({"name": "s", "schema_id": schema["id"]}));
    assert_eq!(status, 201, "{stream}");
    let (_, _, made) = call("POST", "/api/v1/api-keys", json!({"name": "r", "role": "reader", "streams": ["s"]}));
    let reader = format!("x-api-key: {}", made["api_key"].as_str().expect("a key"));
    let mut of_reader = Tail::open(&server, "?start_sequence=1", &[&reader]);
    let mut of_admin = Tail::open(&server, "", &[&format!("x-api-key: {admin}")]);
    let (status, _, answer) = post(&server, "", LINES, &[&format!("x-api-key: {admin}")], b"{\"n\":1}");
    assert_eq!(status, 200, "{answer}");
    assert_eq!((of_reader.numbers(1), of_admin.numbers(1)), (vec![1], vec![1]));
    assert_eq!(
        call("DELETE", &format!("/api/v1/api-keys/{}", made["key_id"].as_str().expect("an id")), json!({})).0,
        204
    );
    let (name, data) = of_reader.event().expect("the reason");
    assert_eq!((name.as_str(), data["code"].as_str()), ("error", Some("UNAUTHENTICATED")), "{data}");
    let path = format!("/api/v1/streams/{}", stream["id"].as_str().expect("an id"));
    assert_eq!(call("DELETE", &path, json!({})).0, 202);
    let (name, data) = of_admin.event().expect("the reason");
    // Whether the deletion is still going on or over is for the clock to say.
    let code = data["code"].as_str().expect("a code");
    assert!(name == "error" && ["STREAM_DELETING", "STREAM_NOT_FOUND"].contains(&code), "{data}");
    assert!(of_admin.event().is_none(), "nothing comes after it");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_tail_that_nobody_reads_holds_up_nobody_and_is_whole_when_it_is_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("tail.memory_bytes", "1MiB"), ("buffer.flush_interval_ms", "200")]);
    rest::create_stream(&server.http, "s", &definition());
    let mut slow = Tail::open(&server, "?start_sequence=1", &[]);
    // Far more than sockets, curl's pipe and the memory for tails take.
    let filler = "x".repeat(1000);
    let batch: String = (1..=1000).map(|n| format!("{{\"n\":{n},\"filler\":\"{filler}\"}}\n")).collect();
    for _ in 0..16 {
        let (status, _, answer) = post(&server, "", LINES, &[], batch.as_bytes());
        assert_eq!(status, 200, "{answer}");
    }
    let mut other = Tail::open(&server, "?start_sequence=15990", &[]);
    assert_eq!(other.numbers(11), (990..=1000).collect::<Vec<_>>());
    for round in 0..16 {
        assert_eq!(slow.numbers(1000), (1..=1000).collect::<Vec<_>>(), "round {round}");
    }
    drop((slow, other));
    assert!(server.stop().success(), "a clean stop");
}

/// Records of which a pipeline leaves out those that three divides, a filler in each.
fn every_third_bad(numbers: impl Iterator<Item = i64>, filler: &str) -> String {
    let value = |n: i64| if n % 3 == 0 { format!("\"no {n}\"") } else { n.to_string() };
    numbers.map(|n| format!("{{\"n\":{},\"filler\":\"{filler}\"}}\n", value(n))).collect()
}

#[test]
fn a_tail_passes_by_what_a_pipeline_leaves_out_and_ends_where_records_are_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [
        ("tail.memory_bytes", "1MiB"),
        ("buffer.flush_interval_ms", "50"),
        ("upkeep.interval_ms", "10"),
        ("retention.interval_ms", "10"),
    ];
    let server = start(dir.path(), &settings);
    rest::create_stream(&server.http, "s", &json!({"properties": {"n": {"type": ["integer", "string"]}}}));
    let call = |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = rest::call(&server.http, method, path, &body);
        assert!((200..300).contains(&status), "{answer}");
        answer
    };
    let send = |body: &str| {
        let (status, _, answer) = post(&server, "", LINES, &[], body.as_bytes());
        assert_eq!(status, 200, "{answer}");
    };
    let good = |numbers: std::ops::RangeInclusive<i64>| numbers.filter(|n| n % 3 != 0).collect::<Vec<_>>();
    call("PATCH", "/api/v1/streams/s", json!({"dlq": {}}));
    let steps = |on_error: &str| json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": on_error}]);
    let pipeline = call("POST", "/api/v1/pipelines", json!({"stream_id": "s", "steps": steps("dlq")}));
    let mut live = Tail::open(&server, "", &[]);
    send(&every_third_bad(1..=300, ""));
    // Nothing is left of these.
    (301..=350).for_each(|n| send(&format!("{{\"n\":\"no {n}\"}}")));
    send(&every_third_bad(351..=600, ""));
    let of_pipeline = format!("/api/v1/pipelines/{}", pipeline["id"].as_str().expect("an id"));
    call("PATCH", &of_pipeline, json!({"steps": steps("drop")}));
    send(&every_third_bad(601..=900, ""));
    let expected = [good(1..=300), good(351..=900)].concat();
    assert_eq!(live.numbers(expected.len()), expected, "as they came");
    let flushed =
        |through: i64| call("GET", "/api/v1/streams/s", Value::Null)["statistics"]["flushed_through"] == through;
    wait_for("a flush", || flushed(900).then_some(()));
    let mut all = Tail::open(&server, "?start_sequence=1", &[]);
    assert_eq!(all.numbers(expected.len()), expected, "from files");
    for left_out in [3, 320, 348] {
        let mut tail = Tail::open(&server, &format!("?start_sequence={left_out}"), &[]);
        let first = expected.iter().copied().find(|n| *n > left_out);
        assert_eq!(tail.numbers(1)[0], first.expect("there is more"), "one that begins with what is left out");
    }

    // A reader that takes nothing, while far more comes than sockets and the memory for tails hold, and goes.
    let mut slow = all;
    call("PATCH", "/api/v1/streams/s", json!({"retention_policy": {"type": "size", "max_bytes": 1}}));
    let filler = "x".repeat(1000);
    for batch in 0..32 {
        send(&every_third_bad(901 + 1000 * batch..=1900 + 1000 * batch, &filler));
    }
    let first_there = || {
        let page = call("GET", "/api/v1/streams/s/records?start=2020-01-01T00:00:00Z&limit=1", Value::Null);
        page["records"][0]["sequence_number"].as_i64()
    };
    wait_for("records to go", || first_there().filter(|first| *first > 25_000));
    let mut next = good(901..=32_900).into_iter();
    let end = loop {
        let (name, data) = slow.event().expect("an event");
        if name == "error" {
            break data;
        }
        assert_eq!(data["payload"]["n"].as_i64(), next.next(), "without a gap until then");
    };
    assert_eq!(end["code"], "RECORDS_EXPIRED", "{end}");
    let lost = next.next().expect("not all was read");
    let message = end["message"].as_str().expect("a message");
    let go_on = message.rsplit(" = ").next().and_then(|text| text.parse::<i64>().ok()).expect("where to go on");
    assert!(go_on > lost && message.contains(&format!("to {} are gone", go_on - 1)), "{lost}: {message}");
    assert!(slow.event().is_none(), "nothing comes after it");
    assert!(server.stop().success(), "a clean stop");
}

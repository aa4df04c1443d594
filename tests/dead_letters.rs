//! Dead letters on the real program: each failure makes one, over `kill -9` at any moment; what was repaired goes back once.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use client::{Client, Ended};
use process::{Server, wait_for};
use producer::block_on;
use serde_json::{Value, json};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, OnInvalid, Status},
    path,
};

const SETTINGS: [(&str, &str); 4] = [
    ("shards.count", "2"),
    ("wal.quota_bytes", "256MiB"),
    ("buffer.flush_interval_ms", "20"),
    ("buffer.freeze_bytes", "64KiB"),
];
const KILL_ROUNDS: u64 = 8;

fn schema() -> Value {
    json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}, "n": {"type": "string"}}})
}

fn call(server: &Server, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    rest::call(&server.http, method, path, &body)
}

/// A stream `events` with dead letters.
fn create(server: &Server) {
    rest::create_stream(&server.http, "events", &schema());
    let (status, stream) = call(server, "PATCH", "/api/v1/streams/events", &json!({"dlq": {"retention_days": 3}}));
    assert_eq!(status, 200, "{stream}");
    let (status, letters) = call(server, "GET", "/api/v1/streams/events.dlq", &Value::Null);
    assert_eq!((status, &letters["id"]), (200, &stream["dlq_stream_id"]), "{letters}");
    assert_eq!(letters["retention_policy"], json!({"type": "time", "retention_days": 3}));
}

fn give_pipeline(server: &Server, on_error: &str) -> String {
    let steps = json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": on_error}]);
    let (status, pipeline) = call(server, "POST", "/api/v1/pipelines", &json!({"stream_id": "events", "steps": steps}));
    assert_eq!(status, 201, "{pipeline}");
    format!("/api/v1/pipelines/{}", pipeline["id"].as_str().expect("an id"))
}

async fn append(grpc: &str, request: AppendRequest) -> Result<AppendResponse, Ended> {
    let mut client = Client::connect(grpc.parse().expect("an address")).await;
    let mut call = client.call(path::APPEND).await;
    call.send(&AppendRequest { stream_id: "events".into(), ..request }).await;
    call.finish();
    call.receive().await
}

fn records(ids: std::ops::Range<i64>) -> Vec<Bytes> {
    let n = |id: i64| if id % 3 == 0 { "bad".to_owned() } else { id.to_string() };
    ids.map(|id| Bytes::from(json!({"id": id, "n": n(id)}).to_string())).collect()
}

/// All that a query gives of a stream.
fn read(server: &Server, stream: &str) -> Vec<(i64, Value)> {
    rest::read_all(&server.http, stream, "limit=1000").iter().map(rest::numbered).collect()
}

/// Original sequence number → how many letters tell of it.
fn letters(server: &Server) -> BTreeMap<i64, usize> {
    let mut found = BTreeMap::new();
    for (_, letter) in read(server, "events.dlq") {
        *found.entry(letter["original_sequence"].as_i64().expect("a number")).or_default() += 1;
    }
    found
}

#[test]
fn each_record_that_a_pipeline_makes_nothing_of_is_one_letter_over_crashes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path(), &SETTINGS);
    create(&server);
    give_pipeline(&server, "dlq");
    let mut next = 1;
    for round in 0..KILL_ROUNDS {
        let until = std::time::Instant::now() + Duration::from_millis(60 + 37 * round);
        block_on(async {
            while std::time::Instant::now() < until {
                let answer =
                    append(&server.grpc, AppendRequest { payloads: records(next..next + 50), ..Default::default() });
                let answer = answer.await.expect("taken");
                assert_eq!((answer.first_sequence, answer.accepted), (next, 50));
                next += 50;
            }
        });
        server.kill();
        server = Server::start(dir.path(), &SETTINGS);
    }
    rest::wait_for_flush(&server.http, "events", next - 1);
    let expected: BTreeMap<i64, usize> = (1..next).filter(|id| id % 3 == 0).map(|id| (id, 1)).collect();
    assert_eq!(letters(&server), expected);
    let seen: Vec<(i64, Value)> =
        (1..next).filter(|id| id % 3 != 0).map(|id| (id, json!({"id": id, "n": id}))).collect();
    assert_eq!(read(&server, "events"), seen);
    let letter = &read(&server, "events.dlq")[0].1;
    assert_eq!(
        (&letter["reason"], &letter["step"], &letter["pointers"]),
        (&json!("NOT_AN_INTEGER"), &json!(0), &json!(["/n"]))
    );
    let original = String::from_utf8(records(3..4)[0].to_vec()).expect("text");
    assert_eq!((&letter["payload"], &letter["pipeline_version"]), (&json!(original), &json!(1)));
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn what_the_schema_refuses_is_a_letter_where_it_is_asked_for_and_one_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &SETTINGS);
    rest::create_stream(&server.http, "events", &schema());
    let payloads =
        || [&b"{\"id\":1}"[..], b"{\"id\":\"x\"}", b"{\"id\":2}", b"no \xff"].map(Bytes::copy_from_slice).to_vec();
    let request = |keys: &[&str]| AppendRequest {
        payloads: payloads(),
        idempotency_keys: keys.iter().map(|&key| key.to_owned()).collect(),
        on_invalid: OnInvalid::Dlq.into(),
        ..Default::default()
    };
    let send = |request: AppendRequest| block_on(append(&server.grpc, request));
    let refused = send(request(&[])).expect_err("no dead letters");
    assert_eq!((refused.code, refused.reason.as_str()), (9, "DLQ_MISSING"), "{refused:?}");
    let (status, _) = call(&server, "PATCH", "/api/v1/streams/events", &json!({"dlq": {}}));
    assert_eq!(status, 200);
    let answer = send(request(&["a", "b", "c", "d"])).expect("taken");
    assert_eq!((answer.accepted, answer.dead_lettered, answer.rejected, answer.status()), (2, 2, 0, Status::Ok));
    assert_eq!(answer.row_errors.iter().map(|error| error.index).collect::<Vec<_>>(), [1, 3]);
    let again = send(request(&["a", "b", "c", "d"])).expect("taken");
    assert_eq!((again.accepted, again.duplicates, again.dead_lettered), (0, 2, 2));
    let numbered = || AppendRequest { writer_id: "w".into(), writer_epoch: 1, ..request(&[]) };
    let answer = send(numbered()).expect("taken");
    assert_eq!((answer.accepted, answer.dead_lettered, answer.rejected), (2, 2, 0));
    let again = send(numbered()).expect("taken");
    assert_eq!((again.duplicates, again.dead_lettered, again.rejected), (2, 2, 0), "{again:?}");
    let gap = send(AppendRequest { first_writer_sequence: 100, ..numbered() }).expect("an answer");
    assert_eq!((gap.error.expect("an error").code.as_str(), gap.rejected), ("WRITER_SEQUENCE_GAP", 4));
    let letters = read(&server, "events.dlq");
    assert_eq!(letters.len(), 4, "two by keys, two by numbers, and none of what was refused whole: {letters:?}");
    assert_eq!(letters[0].1["reason"], "SCHEMA_VIOLATION");
    assert_eq!((&letters[1].1["reason"], &letters[1].1["payload"]), (&json!("NOT_JSON"), &Value::Null));
    assert_eq!(letters[1].1["payload_base64"], "bm8g/w==");
    let direct = block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::APPEND).await;
        call.send(&AppendRequest { stream_id: "events.dlq".into(), payloads: payloads(), ..Default::default() }).await;
        call.finish();
        call.receive::<AppendResponse>().await
    });
    assert_eq!(direct.expect_err("the server's own").reason, "DEAD_LETTERS_STREAM");
    let (status, _) = call(&server, "POST", "/api/v1/streams", &json!({"name": "x.dlq", "schema_id": "sch_x"}));
    assert_eq!(status, 400, "the names are reserved");
    let (status, _) = call(&server, "DELETE", "/api/v1/streams/events.dlq", &Value::Null);
    assert_eq!(status, 409, "a stream needs its dead letters");
    assert!(server.stop().success(), "a clean stop");
}

/// Begins a replay; its id.
fn begin(server: &Server, body: &Value) -> String {
    let (status, job) = call(server, "POST", "/api/v1/streams/events/dlq/replay", body);
    assert_eq!((status, &job["status"]), (202, &json!("pending")), "{job}");
    job["id"].as_str().expect("an id").to_owned()
}

/// How it stands.
fn stands(server: &Server, id: &str) -> Value {
    let (status, job) = call(server, "GET", &format!("/api/v1/jobs/{id}"), &Value::Null);
    assert_eq!((status, &job["kind"]), (200, &json!("replay")), "{job}");
    job
}

fn is_over(job: &Value) -> bool {
    !["pending", "running"].contains(&job["status"].as_str().expect("a status"))
}

/// What came of it at its end.
fn ended(server: &Server, id: &str) -> Value {
    let path = format!("/api/v1/streams/events/dlq/replay?job_id={id}");
    wait_for("the replay", || {
        let (status, job) = call(server, "GET", &path, &Value::Null);
        assert_eq!(status, 200, "{job}");
        is_over(&job).then_some(job)
    })
}

fn replay(server: &Server, body: &Value) -> Value {
    ended(server, &begin(server, body))
}

fn set_status(server: &Server, status: &str) {
    let (answered, stream) = call(server, "PATCH", "/api/v1/streams/events", &json!({"status": status}));
    assert_eq!(answered, 200, "{stream}");
}

#[test]
fn replays_that_wait_leave_their_places_to_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &SETTINGS);
    create(&server);
    rest::create_stream(&server.http, "others", &schema());
    let (status, _) = call(&server, "PATCH", "/api/v1/streams/others", &json!({"dlq": {}}));
    assert_eq!(status, 200);
    for stream in ["events", "others"] {
        let path = format!("/api/v1/streams/{stream}/records?on_invalid=dlq");
        let (status, answer) = call(&server, "POST", &path, &json!([{"id": "no number"}]));
        assert_eq!((status, &answer["dead_lettered"]), (200, &json!(1)), "{answer}");
    }
    set_status(&server, "paused");
    // As many as run at a time.
    let waiting: Vec<String> = (0..4).map(|_| begin(&server, &json!({}))).collect();
    for id in &waiting {
        wait_for("the replay to wait", || stands(&server, id)["waits_for"].is_string().then_some(()));
    }
    let (status, other) = call(&server, "POST", "/api/v1/streams/others/dlq/replay", &json!({}));
    assert_eq!(status, 202, "{other}");
    let id = other["id"].as_str().expect("an id");
    let other = wait_for("the other replay", || Some(stands(&server, id)).filter(is_over));
    assert_eq!((&other["status"], &other["replay"]["rejected"]), (&json!("completed"), &json!(1)), "{other}");
    // One that only counts needs no stream that takes records.
    assert_eq!(replay(&server, &json!({"dry_run": true}))["scanned"], 1);
    assert!(waiting.iter().all(|id| stands(&server, id)["status"] == "pending"));
    let (status, unknown) = call(&server, "POST", "/api/v1/streams/events/dlq/replay", &json!({"reason": "OTHER"}));
    let detail = unknown["detail"].as_str().expect("a detail");
    assert_eq!((status, &unknown["errors"][0]["pointer"]), (400, &json!("/reason")), "{unknown}");
    assert!(["OTHER", "NOT_AN_INTEGER", "SCHEMA_VIOLATION"].iter().all(|code| detail.contains(code)), "{detail}");
    set_status(&server, "active");
    for id in &waiting {
        let ended = ended(&server, id);
        assert_eq!((&ended["status"], &ended["rejected"]), (&json!("completed"), &json!(1)), "{ended}");
    }
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_page_is_put_back_only_when_the_one_before_is_kept() {
    const LETTERS: i64 = 20_000;
    const PAGE: u64 = 500;
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &SETTINGS);
    create(&server);
    let pipeline = give_pipeline(&server, "dlq");
    let bad = |id: i64| Bytes::from(json!({"id": id, "n": "bad"}).to_string());
    block_on(async {
        for first in (1..=LETTERS).step_by(1000) {
            let payloads = (first..first + 1000).map(bad).collect();
            append(&server.grpc, AppendRequest { payloads, ..Default::default() }).await.expect("taken");
        }
    });
    rest::wait_for_flush(&server.http, "events", LETTERS);
    let steps = json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": "null"}]);
    assert_eq!(call(&server, "PATCH", &pipeline, &json!({"steps": steps})).0, 200);
    let tool = rusqlite::Connection::open(dir.path().join("data/catalog.sqlite")).expect("the catalog");
    tool.busy_timeout(Duration::from_secs(30)).expect("set");
    let id = begin(&server, &json!({}));
    let scanned = || stands(&server, &id)["replay"]["scanned"].as_u64().expect("a number");
    wait_for("the first letters", || (scanned() > 0).then_some(()));
    // From here on nothing can be kept.
    tool.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let kept = scanned();
    let waits = wait_for("word of it", || {
        let job = stands(&server, &id);
        job["waits_for"].as_str().is_some_and(|what| what.contains("cannot be kept")).then_some(job)
    });
    let held = waits["replay"]["scanned"].as_u64().expect("a number");
    assert!(held <= kept + PAGE && held < LETTERS as u64, "{held} after {kept}");
    assert!(read(&server, "events").len() as u64 <= held);
    tool.execute_batch("COMMIT").expect("let go");
    let done = ended(&server, &id);
    assert_eq!((&done["status"], &done["replayed"]), (&json!("completed"), &json!(LETTERS)), "{done}");
    let mut ids: Vec<i64> = read(&server, "events").iter().map(|(_, row)| row["id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(1..=LETTERS), "each record once");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn letters_go_back_once_when_what_was_wrong_is_repaired_over_a_crash_in_the_middle() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path(), &SETTINGS);
    create(&server);
    let pipeline = give_pipeline(&server, "dlq");
    const RECORDS: i64 = 6000;
    block_on(async {
        for first in (1..=RECORDS).step_by(500) {
            let request = AppendRequest { payloads: records(first..first + 500), ..Default::default() };
            assert_eq!(append(&server.grpc, request).await.expect("taken").accepted, 500);
        }
    });
    rest::wait_for_flush(&server.http, "events", RECORDS);
    let bad = RECORDS / 3;
    let still = replay(&server, &json!({}));
    assert_eq!(
        (&still["matched"], &still["failing"], &still["replayed"]),
        (&json!(bad), &json!(bad), &json!(0)),
        "{still}"
    );
    let steps = json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": "null"}]);
    assert_eq!(call(&server, "PATCH", &pipeline, &json!({"steps": steps})).0, 200);
    assert_eq!(still["through"], bad, "the last letter that there was: {still}");
    let dry = replay(&server, &json!({"dry_run": true, "reason": "NOT_AN_INTEGER", "field": "/n"}));
    assert_eq!((&dry["scanned"], &dry["replayed"]), (&json!(bad), &json!(bad)), "{dry}");
    assert_eq!(replay(&server, &json!({"reason": "NOT_JSON"}))["matched"], 0);
    assert_eq!(replay(&server, &json!({"field": "/id"}))["matched"], 0);
    assert_eq!(replay(&server, &json!({"end": "2020-01-01T00:00:00Z"}))["scanned"], 0);
    // One that is called off while it waits; what was put back of it stays, and that is nothing.
    set_status(&server, "paused");
    let waits = |server: &Server, id: &str| {
        wait_for("the replay to wait", || stands(server, id)["waits_for"].is_string().then_some(()));
    };
    let off = begin(&server, &json!({}));
    waits(&server, &off);
    let (status, cancelled) = call(&server, "POST", &format!("/api/v1/jobs/{off}/cancel"), &json!({}));
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")), "{cancelled}");
    // One goes on by itself over crashes: while it waits, and while it puts back.
    let id = begin(&server, &json!({}));
    waits(&server, &id);
    server.kill();
    server = Server::start(dir.path(), &SETTINGS);
    waits(&server, &id);
    let mut back = read(&server, "events").len();
    assert_eq!(back as i64, RECORDS - bad, "nothing yet");
    set_status(&server, "active");
    for _ in 0..3 {
        wait_for("more to be back", || {
            let now = read(&server, "events").len();
            (now > back || is_over(&stands(&server, &id))).then(|| back = now)
        });
        server.kill();
        server = Server::start(dir.path(), &SETTINGS);
    }
    let rest = ended(&server, &id);
    assert_eq!(rest["status"], "completed", "{rest}");
    let count = |name: &str| rest[name].as_i64().expect("a number");
    assert_eq!((count("scanned"), count("replayed") + count("duplicates")), (bad, bad), "{rest}");
    let job = stands(&server, &id);
    assert_eq!(
        (&job["records_processed"], &job["records_succeeded"], &job["records_failed"], &job["source_uri"]),
        (&json!(bad), &json!(bad), &json!(0), &Value::Null),
        "{job}"
    );
    let listed = |query: &str| {
        let (status, page) = call(&server, "GET", &format!("/api/v1/jobs?stream_id=events{query}"), &Value::Null);
        assert_eq!(status, 200, "{page}");
        page["jobs"].as_array().expect("a list").iter().map(|job| job["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed("&kind=replay&status=cancelled"), [json!(off)]);
    assert_eq!((listed("&kind=replay").len(), listed("&kind=import").len()), (listed("").len(), 0));
    let again = replay(&server, &json!({}));
    assert_eq!((&again["duplicates"], &again["replayed"]), (&json!(bad), &json!(0)), "{again}");
    let mut ids: Vec<i64> = read(&server, "events").iter().map(|(_, row)| row["id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=RECORDS).collect::<Vec<_>>(), "each record once");
    assert_eq!(letters(&server).len() as i64, bad, "letters stay until their time is over");
    assert!(server.stop().success(), "a clean stop");
}

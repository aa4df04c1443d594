//! Pipelines on the real program: made, changed and ended over REST while records come and readers follow; what is seen is the same
//! from the log, the tail and Parquet, over a crash and over merges.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/rest.rs"]
mod rest;

use std::{collections::BTreeSet, fs::File, path::PathBuf};

use arrow_array::{cast::AsArray as _, types::Int64Type};
use bytes::Bytes;
use client::{Call, Client};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use process::{Server, wait_for};
use producer::block_on;
use serde_json::{Value, json};
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse},
    path,
    query::{StreamingReadRequest, StreamingReadResponse},
};

/// Nothing is flushed.
const KEEP: [(&str, &str); 3] =
    [("shards.count", "2"), ("wal.quota_bytes", "256MiB"), ("buffer.flush_interval_ms", "3600000")];

/// All is flushed at once.
const FLUSH: [(&str, &str); 4] = [
    ("shards.count", "2"),
    ("wal.quota_bytes", "256MiB"),
    ("buffer.flush_interval_ms", "20"),
    ("upkeep.interval_ms", "3600000"),
];
/// And merged.
const MERGE: [(&str, &str); 4] = [
    ("upkeep.interval_ms", "10"),
    ("compaction.min_files", "2"),
    ("compaction.min_age_ms", "0"),
    ("compaction.grace_ms", "0"),
];

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "id": {"type": "integer"}, "secret": {"type": "string"}, "n": {"type": ["string", "integer"]},
        "at": {"type": "string"},
    }})
}

fn record(id: i64) -> Bytes {
    let n = if id % 5 == 0 { json!("none") } else { json!(format!("{id}")) };
    json!({"id": id, "secret": format!("s{id}"), "n": n, "at": "01/03/2026 12:00"}).to_string().into()
}

/// What readers see of a record under the first version of [`steps`].
fn seen(id: i64) -> Option<Value> {
    (id % 5 != 0).then(|| json!({"id": id, "n": id, "time": 1_772_366_400}))
}

fn steps() -> Value {
    json!([
        {"type": "exclude", "fields": ["secret"]},
        {"type": "coerce", "fields": ["/n"], "to": "integer", "on_error": "drop"},
        {"type": "timestamp", "fields": ["at"], "formats": ["%d/%m/%Y %H:%M"], "target": "unix_s"},
        {"type": "rename", "fields": {"at": "time"}},
    ])
}

fn call(server: &Server, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    rest::call(&server.http, method, path, &body)
}

fn create(server: &Server, steps: &Value) -> Value {
    let body = json!({"stream_id": "events", "steps": steps});
    let (status, pipeline) = call(server, "POST", "/api/v1/pipelines", &body);
    assert_eq!(status, 201, "{pipeline}");
    pipeline
}

fn append(server: &Server, ids: std::ops::RangeInclusive<i64>) {
    block_on(send(server, ids));
}

async fn send(server: &Server, ids: std::ops::RangeInclusive<i64>) {
    let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
    let mut call = client.call(path::APPEND).await;
    let payloads: Vec<Bytes> = ids.map(record).collect();
    let sent = payloads.len() as u32;
    call.send(&AppendRequest { stream_id: "events".into(), payloads, ..AppendRequest::default() }).await;
    call.finish();
    let answer: AppendResponse = call.receive().await.expect("an answer");
    assert_eq!(answer.accepted, sent, "{answer:?}");
}

/// All that a query gives: sequence numbers and records.
fn query(server: &Server, order: &str) -> Vec<(i64, Value)> {
    let records = rest::read_all(&server.http, "events", &format!("limit=7&order={order}"));
    records.iter().map(rest::numbered).collect()
}

async fn open(server: &Server, start_sequence: Option<i64>) -> Call {
    let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
    let mut call = client.call(path::STREAMING_READ).await;
    call.send(&StreamingReadRequest { stream_id: "events".to_owned(), start_sequence, start_time: None }).await;
    call.finish();
    call.opened().await;
    call
}

async fn receive(call: &mut Call) -> (i64, Value) {
    let answer: StreamingReadResponse = call.receive().await.expect("a record");
    let record = answer.record.expect("a record");
    (record.sequence_number, serde_json::from_slice(&record.payload).expect("JSON"))
}

/// Every committed Parquet file.
fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let (mut waiting, mut found) = (vec![dir.join("data/objects")], Vec::new());
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_seen_follows_the_pipeline_of_its_time_from_log_tail_and_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Server::start(dir.path(), &KEEP);
    rest::create_stream(&server.http, "events", &schema());
    append(&server, 1..=10);
    let pipeline = create(&server, &steps());
    assert_eq!((&pipeline["version"], &pipeline["steps"]), (&json!(1), &steps()), "{pipeline}");
    let of_pipeline = format!("/api/v1/pipelines/{}", pipeline["id"].as_str().expect("an id"));
    let mut expected: Vec<(i64, Value)> =
        (1..=10).map(|id| (id, serde_json::from_slice(&record(id)).expect("JSON"))).collect();
    block_on(async {
        let mut live = open(&server, None).await;
        send(&server, 11..=30).await;
        // Nothing is left of these.
        for _ in 0..5 {
            send(&server, 100..=100).await;
        }
        send(&server, 36..=40).await;
        expected.extend((11..=40).filter(|id| !(31..36).contains(id)).filter_map(|id| Some((id, seen(id)?))));
        for (sequence, output) in &expected[10..] {
            assert_eq!(receive(&mut live).await, (*sequence, output.clone()));
        }
        let (status, changed) =
            call(&server, "PATCH", &of_pipeline, &json!({"steps": [{"type": "select", "fields": ["id"]}]}));
        assert_eq!((status, &changed["version"]), (200, &json!(2)), "{changed}");
        send(&server, 41..=45).await;
        assert_eq!(call(&server, "DELETE", &of_pipeline, &Value::Null).0, 204);
        send(&server, 46..=50).await;
        expected.extend((41..=45).map(|id| (id, json!({"id": id}))));
        expected.extend((46..=50).map(|id| (id, serde_json::from_slice(&record(id)).expect("JSON"))));
        let mut replayed = open(&server, Some(1)).await;
        for row in &expected {
            assert_eq!(&receive(&mut replayed).await, row);
        }
        for row in &expected[expected.len() - 10..] {
            assert_eq!(&receive(&mut live).await, row);
        }
    });
    let check = |server: &Server| {
        assert_eq!(query(server, "asc"), expected);
        let mut backward = query(server, "desc");
        backward.reverse();
        assert_eq!(backward, expected);
    };
    check(&server);
    // From the log, and then from files.
    server.kill();
    server = Server::start(dir.path(), &KEEP);
    check(&server);
    assert!(server.stop().success(), "a clean stop");
    let server = Server::start(dir.path(), &FLUSH);
    rest::wait_for_flush(&server.http, "events", 50);
    check(&server);
    append(&server, 51..=55);
    let again = create(&server, &json!([{"type": "exclude", "fields": ["secret"]}]));
    assert_eq!(again["version"], 3, "no number comes twice");
    append(&server, 56..=60);
    rest::wait_for_flush(&server.http, "events", 60);
    let after: Vec<(i64, Value)> = (51..=60)
        .map(|id| {
            let mut output: Value = serde_json::from_slice(&record(id)).expect("JSON");
            if id > 55 {
                output.as_object_mut().expect("an object").remove("secret");
            }
            (id, output)
        })
        .collect();
    let all = [expected.clone(), after].concat();
    assert_eq!(query(&server, "asc"), all);
    assert!(server.stop().success(), "a clean stop");
    check_merged(dir.path(), &all);
}

/// Merges the files, and looks at what came of it.
fn check_merged(dir: &std::path::Path, all: &[(i64, Value)]) {
    let server = Server::start(dir, &[&FLUSH[..], &MERGE].concat());
    // One file an hour: the test may have seen the hour change.
    let hours = |files: &[PathBuf]| files.iter().filter_map(|file| file.parent()).collect::<BTreeSet<_>>().len();
    wait_for("merges", || {
        let files = files(dir);
        (!files.is_empty() && hours(&files) == files.len()).then_some(())
    });
    assert_eq!(query(&server, "asc"), all);
    check_files(&files(dir), all);
    assert!(server.stop().success(), "a clean stop");
}

/// As other readers see them: columns are those of the newest version.
fn check_files(paths: &[PathBuf], expected: &[(i64, Value)]) {
    let mut rows = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("a file")).expect("Parquet");
        let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        let is_last = at + 1 == paths.len();
        let is_right = names.contains(&"n".to_owned()) && !names.contains(&"secret".to_owned());
        assert!(is_right || !is_last, "{names:?}");
        for batch in builder.build().expect("a reader") {
            let batch = batch.expect("rows");
            let sequences = batch.column_by_name("_seq").expect("there").as_primitive::<Int64Type>().clone();
            let texts = batch.column_by_name("_payload").expect("there").as_string::<i32>().clone();
            let payloads = texts.iter().map(|text| serde_json::from_str::<Value>(text.expect("text")).expect("JSON"));
            rows.extend(sequences.values().iter().copied().zip(payloads));
        }
    }
    assert_eq!(rows, expected);
}

#[test]
fn a_version_that_a_pipeline_does_not_fit_is_refused_with_the_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &KEEP);
    let closed = |names: &[&str]| {
        let members: serde_json::Map<_, _> =
            names.iter().map(|&name| (name.into(), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": members, "additionalProperties": false})
    };
    let stream = rest::create_stream(&server.http, "events", &closed(&["a", "b", "c"]));
    let (_, whole) = call(&server, "GET", "/api/v1/streams/events", &Value::Null);
    let versions = format!("/api/v1/schemas/{}/versions", whole["schema_id"].as_str().expect("an id"));
    let add = |query: &str, definition: &Value| {
        call(&server, "POST", &format!("{versions}{query}"), &json!({"definition": definition}))
    };
    let steps =
        |last: &str| json!([{"type": "rename", "fields": {"a": "x"}}, {"type": "exclude", "fields": ["b", last]}]);
    let pipeline = create(&server, &steps("c"));
    let id = pipeline["id"].as_str().expect("an id");
    let without_c = closed(&["a", "b", "d"]);
    let (status, verdict) = add("?dry_run=true", &without_c);
    assert_eq!((status, &verdict["compatible"], &verdict["violations"]), (200, &json!(false), &json!([])), "{verdict}");
    let fault = &verdict["pipeline_faults"][0];
    assert_eq!((&fault["pipeline_id"], &fault["stream_id"]), (&json!(id), &json!(stream)), "{verdict}");
    assert_eq!((&fault["step"], &fault["pointer"]), (&json!(1), &json!("/steps/1/fields/1")), "{verdict}");
    let (status, refused) = add("", &without_c);
    assert_eq!((status, &refused["code"]), (409, &json!("BREAKS_PIPELINE")), "{refused}");
    for text in [&refused["detail"], &refused["errors"][0]["detail"]] {
        let text = text.as_str().expect("a text");
        assert!([id, "events", "step 1", "/steps/1/fields/1"].iter().all(|part| text.contains(part)), "{text}");
    }
    assert_eq!(call(&server, "GET", &versions, &Value::Null).1["versions"].as_array().map(Vec::len), Some(1));
    // One that fits is taken; so is the other, once the pipeline does without the field, or is gone.
    let (status, added) = add("", &closed(&["a", "b", "c", "e"]));
    assert_eq!((status, &added["version"]), (201, &json!(2)), "{added}");
    let path = format!("/api/v1/pipelines/{id}");
    assert_eq!(call(&server, "PATCH", &path, &json!({"steps": steps("a")})).0, 400, "it has another name by then");
    assert_eq!(call(&server, "PATCH", &path, &json!({"steps": steps("x")})).0, 200);
    let (status, verdict) = add("?dry_run=true", &without_c);
    assert_eq!(
        (status, &verdict["compatible"], &verdict["pipeline_faults"]),
        (200, &json!(true), &json!([])),
        "{verdict}"
    );
    assert_eq!(add("", &without_c).0, 201);
    assert_eq!(add("", &closed(&["d"])).0, 409);
    assert_eq!(call(&server, "DELETE", &path, &Value::Null).0, 204);
    assert_eq!(add("", &closed(&["d"])).0, 201);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn pipelines_are_checked_listed_changed_and_tried_over_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &KEEP);
    rest::create_stream(&server.http, "events", &schema());
    let post = |body: Value| call(&server, "POST", "/api/v1/pipelines", &body);
    let fault =
        |(status, answer): (u16, Value)| (status, answer["errors"][0]["pointer"].as_str().unwrap_or("").to_owned());
    let bad = |steps: Value| fault(post(json!({"stream_id": "events", "steps": steps})));
    assert_eq!(bad(json!([])), (400, "/steps".into()));
    assert_eq!(bad(json!([{"type": "exclude", "fields": ["secret", "nothing"]}])), (400, "/steps/0/fields/1".into()));
    assert_eq!(
        bad(json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": "dlq"}])),
        (400, "/steps".into())
    );
    assert_eq!(
        bad(json!([{"type": "timestamp", "fields": ["at"], "time_zone": "Mars/North"}])),
        (400, "/steps/0/time_zone".into())
    );
    assert_eq!(post(json!({"stream_id": "none", "steps": steps()})).0, 404);
    let zoned =
        json!([{"type": "timestamp", "fields": ["at"], "formats": ["%d/%m/%Y %H:%M"], "time_zone": "Europe/Berlin"}]);
    let pipeline = create(&server, &zoned);
    assert_eq!(pipeline["steps"], zoned, "as it was given");
    assert_eq!(post(json!({"stream_id": "events", "steps": steps()})).0, 409, "one at a time");
    let path = format!("/api/v1/pipelines/{}", pipeline["id"].as_str().expect("an id"));
    assert_eq!(call(&server, "GET", &path, &Value::Null).1, pipeline);
    assert_eq!(call(&server, "GET", "/api/v1/pipelines", &Value::Null).1["pipelines"], json!([pipeline]));
    let change = |version: &str, body: Value| {
        let headers = [("if-match", version)];
        let (status, _, answer) = rest::call_with(&server.http, "PATCH", &path, &headers, &body.to_string());
        (status, answer)
    };
    assert_eq!(change("\"7\"", json!({"description": "x"})).0, 412);
    let (status, changed) = change("\"1\"", json!({"description": "x"}));
    assert_eq!((status, &changed["version"], &changed["steps"]), (200, &json!(2), &zoned));
    let (status, same) = change("\"2\"", json!({"description": "x", "steps": zoned}));
    assert_eq!((status, same), (200, changed), "what is the same is no new version");
    append(&server, 1..=1);
    assert_eq!(query(&server, "asc")[0].1["at"], "2026-03-01T11:00:00Z");

    let records = [json!({"id": 1, "n": "7", "at": "01/03/2026 12:00"}), json!({"id": 2, "n": "x"}), json!({"n": []})];
    let body = json!({"stream_id": "events", "steps": steps(), "records": records});
    let (status, tested) = call(&server, "POST", "/api/v1/pipelines:test", &body);
    assert_eq!(status, 200, "{tested}");
    let first = &tested["results"][0];
    assert_eq!((&first["outcome"], first["steps"].as_array().expect("steps").len()), (&json!("kept"), 4));
    assert_eq!(first["output"], json!({"id": 1, "n": 7, "time": 1_772_366_400}));
    assert_eq!(first["steps"][1], json!({"id": 1, "n": 7, "at": "01/03/2026 12:00"}));
    let second = &tested["results"][1];
    assert_eq!((&second["outcome"], &second["failure"]["step"]), (&json!("dropped"), &json!(1)));
    assert_eq!(tested["results"][2]["schema_errors"][0]["pointer"], "/n");
    let columns: Vec<_> = tested["columns"].as_array().expect("columns").iter().map(|c| c["name"].clone()).collect();
    assert_eq!(columns, ["time", "id", "n"]);
    assert_eq!(call(&server, "POST", "/api/v1/pipelines:test", &json!({"steps": [], "records": []})).0, 400);
    let (_, metrics) = rest::call(&server.http, "GET", "/metrics", "");
    assert!(metrics.as_str().is_some_and(|text| text.contains("ttdust_processing_records_total")));
    assert!(server.stop().success(), "a clean stop");
}

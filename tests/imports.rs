//! Imports on the real program: what is read becomes records once each, over a crash too, and what cannot be read fails its job
//! and nothing else.
//!
//! Tests wait for what the server shows, never for time to pass.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "server/process.rs"]
mod process;
#[path = "server/producer.rs"]
mod producer;
#[path = "server/python.rs"]
mod python;
#[path = "server/rest.rs"]
mod rest;
#[path = "server/s3.rs"]
mod s3;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use client::Client;
use process::{Server, wait_for};
use producer::block_on;
use serde_json::{Value, json};
use ttdust_proto::{
    ingestion::{IngestBatchRequest, IngestBatchResponse, SourceFormat},
    path,
};

struct Setup {
    dir: tempfile::TempDir,
    /// What the server may import.
    input: PathBuf,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let input = dir.path().join("input");
        fs::create_dir(&input).expect("made");
        Self { dir, input }
    }

    fn start(&self, settings: &[(&str, &str)]) -> Server {
        let roots = self.input.to_str().expect("UTF-8");
        let usual = [("wal.quota_bytes", "512MiB"), ("wal.segment_bytes", "8MiB"), ("import.roots", roots)];
        Server::start(self.dir.path(), &[&usual, settings].concat())
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.input.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}/{name}", self.input.display())
    }

    fn ask(&self, name: &str, format: &str, options: Value) -> Value {
        json!({"stream_id": "s", "source_uri": self.uri(name), "format": format, "options": options})
    }
}

fn definition() -> Value {
    let members = json!({"n": {"type": "integer"}, "s": {"type": "string"}, "o": {"type": ["number", "null"]}});
    json!({"type": "object", "required": ["n"], "properties": members})
}

fn create(server: &Server, ask: &Value) -> String {
    let (status, head, job) = rest::call_with(&server.http, "POST", "/api/v1/jobs", &[], &ask.to_string());
    assert_eq!(status, 201, "{job}");
    let id = job["id"].as_str().expect("an id").to_owned();
    assert!(head.contains(&format!("location: /api/v1/jobs/{id}")), "{head}");
    assert_eq!(job["status"], "pending", "{job}");
    id
}

fn job(server: &Server, id: &str) -> Value {
    let (status, job) = rest::call(&server.http, "GET", &format!("/api/v1/jobs/{id}"), "");
    assert_eq!(status, 200, "{job}");
    job
}

fn is_over(job: &Value) -> bool {
    !["pending", "running"].contains(&job["status"].as_str().expect("a status"))
}

/// Whether it has given its place back until what is in its way is gone.
fn is_put_off(job: &Value) -> bool {
    job["status"] == "pending" && job["waits_for"].is_string()
}

/// The job once it is over.
fn ended(server: &Server, id: &str) -> Value {
    wait_for("the end of the import", || Some(job(server, id)).filter(is_over))
}

/// Imports, and answers the job at its end.
fn import(server: &Server, ask: &Value) -> Value {
    ended(server, &create(server, ask))
}

fn counts(job: &Value) -> [u64; 3] {
    ["records_processed", "records_succeeded", "records_failed"].map(|name| job[name].as_u64().expect("a number"))
}

/// The payloads of all records, in order.
fn stored(server: &Server) -> Vec<Value> {
    let records = rest::read_all(&server.http, "s", "limit=10000");
    let numbered = records.iter().zip(1..).map(|(record, number)| {
        let (sequence, payload) = rest::numbered(record);
        assert_eq!(sequence, number, "no gap and no double");
        payload
    });
    numbered.collect()
}

fn numbers(server: &Server) -> Vec<i64> {
    stored(server).iter().map(|payload| payload["n"].as_i64().expect("a number")).collect()
}

fn lines(range: std::ops::Range<i64>) -> Vec<u8> {
    range.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().into_bytes()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

#[test]
fn all_objects_of_a_folder_are_read_in_order_plain_and_compressed() {
    let setup = Setup::new();
    setup.write("in/a.jsonl", &lines(0..3000));
    setup.write("in/b.jsonl.gz", &gzip(&lines(3000..5000)));
    setup.write("in/c/d.jsonl.zst", &zstd::encode_all(&lines(5000..7000)[..], 1).expect("in memory"));
    setup.write("in/_SUCCESS", b"not a record");
    setup.write("elsewhere.jsonl", b"{\"n\":-1}\n");
    let server = setup.start(&[]);
    rest::create_stream(&server.http, "s", &definition());
    let job = import(&server, &setup.ask("in/", "json_lines", json!({})));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [7000, 7000, 0]), "{job}");
    assert_eq!((job["objects_done"].as_u64(), job["objects_total"].as_u64()), (Some(3), Some(3)));
    assert!(job["completed_at"].is_string() && job["reason"].is_null(), "{job}");
    assert_eq!(numbers(&server), (0..7000).collect::<Vec<_>>());
    // The same once more is another import: its records are others.
    let again = import(&server, &setup.ask("in/a.jsonl", "json_lines", json!({"compression": "none"})));
    assert_eq!(counts(&again), [3000, 3000, 0], "{again}");
    assert_eq!(numbers(&server).len(), 10_000);
    let (status, list) = rest::call(&server.http, "GET", "/api/v1/jobs?stream_id=s&status=completed", "");
    assert_eq!(status, 200, "{list}");
    let ids: Vec<_> = list["jobs"].as_array().expect("a list").iter().map(|job| job["id"].clone()).collect();
    assert_eq!(ids, [again["id"].clone(), job["id"].clone()], "the newest first");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn bad_rows_are_told_by_line_and_left_out() {
    let setup = Setup::new();
    let long = format!("{{\"n\":1,\"s\":\"{}\"}}", "x".repeat(2000));
    let text = format!("{{\"n\":1}}\n\nnonsense\n{{\"n\":\"x\"}}\n{{\"n\":2}}\n{long}\n{{\"n\":3}}");
    setup.write("a.jsonl", text.as_bytes());
    let server = setup.start(&[("limits.record_bytes", "1KiB")]);
    rest::create_stream(&server.http, "s", &definition());
    let job = import(&server, &setup.ask("a.jsonl", "json_lines", json!({})));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [6, 3, 3]), "{job}");
    let faults = job["errors"].as_array().expect("a list");
    let told: Vec<_> = faults.iter().map(|fault| (fault["line_number"].as_u64(), fault["field"].as_str())).collect();
    assert_eq!(told, [(Some(3), Some("")), (Some(4), Some("/n")), (Some(6), Some(""))], "{job}");
    assert!(faults.iter().all(|fault| fault["object"].as_str().is_some_and(|name| name.ends_with("/a.jsonl"))));
    assert!(faults[2]["message"].as_str().is_some_and(|text| text.contains("1024")), "{job}");
    assert_eq!(numbers(&server), [1, 2, 3]);
    let few = import(&server, &setup.ask("a.jsonl", "json_lines", json!({"max_failed": "2"})));
    assert_eq!(few["status"], "failed", "{few}");
    assert!(few["reason"].as_str().is_some_and(|reason| reason.contains("more than 2 rows")), "{few}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn rows_of_csv_become_records_of_the_schema() {
    let setup = Setup::new();
    setup.write("a.csv", b"n,s,o,extra\n1,\"a, \"\"b\"\"\",2.5,x\n2,12,,\nthree,c,1,y\n4,only two\n");
    setup.write("b.tsv", b"5\t'x\ty'\t\\N\n");
    let server = setup.start(&[]);
    rest::create_stream(&server.http, "s", &definition());
    let job = import(&server, &setup.ask("a.csv", "csv", json!({})));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [4, 2, 2]), "{job}");
    let told: Vec<_> = job["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| (e["line_number"].as_u64(), e["field"].as_str()))
        .collect();
    assert_eq!(told, [(Some(4), Some("/n")), (Some(5), Some(""))], "{job}");
    let options = json!({"delimiter": "\\t", "quote": "'", "header": "false", "columns": "n,s,o", "null": "\\N"});
    let job = import(&server, &setup.ask("b.tsv", "csv", options));
    assert_eq!(counts(&job), [1, 1, 0], "{job}");
    let expected = [
        json!({"n": 1, "s": "a, \"b\"", "o": 2.5, "extra": "x"}),
        json!({"n": 2, "s": "12", "o": null}),
        json!({"n": 5, "s": "x\ty", "o": null}),
    ];
    assert_eq!(stored(&server), expected);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn parquet_of_other_programs_becomes_records() {
    const ROWS: i64 = 5000;
    let setup = Setup::new();
    let output = python::run("write_parquet.py", &[&setup.input, Path::new(&ROWS.to_string())]);
    assert!(output.status.success(), "{}", python::said(&output));
    let whole = fs::read(setup.input.join("arrow.parquet")).expect("written");
    setup.write("torn.parquet", &whole[..whole.len() / 2]);
    // A footer of 160 MiB and more, it says.
    let mut claims = whole.clone();
    claims[whole.len() - 5] = 10;
    setup.write("claims.parquet", &claims);
    let server = setup.start(&[]);
    rest::create_stream(&server.http, "s", &definition());
    let job = import(&server, &setup.ask("arrow.parquet", "parquet", json!({})));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [ROWS as u64, ROWS as u64, 0]), "{job}");
    let payload = setup.ask("arrow.parquet", "parquet", json!({"payload_column": "raw"}));
    assert_eq!(import(&server, &payload)["status"], "completed");
    let job = import(&server, &setup.ask("duck.parquet", "parquet", json!({})));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [ROWS as u64, ROWS as u64, 0]), "{job}");
    for name in ["default.parquet", "gzip.parquet"] {
        let job = import(&server, &setup.ask(name, "parquet", json!({})));
        assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [ROWS as u64, ROWS as u64, 0]), "{job}");
    }
    let records = stored(&server);
    for n in 0..ROWS {
        let (record, at) = (&records[n as usize], n as usize);
        let price = format!("{}.{:02}", n / 100, n % 100).parse::<f64>().expect("a number");
        let time = format!("2026-01-01T{:02}:{:02}:{:02}.000000Z", n / 3600, n / 60 % 60, n % 60);
        let mut expected = json!({"n": n, "o": null, "flag": n % 2 == 0, "at": time, "day": "2026-01-01", "price": price,
            "list": [n, null], "group": {"a": n}, "raw": format!("{{\"n\": {n}, \"raw\": true}}")});
        if n % 2 == 1 {
            expected["o"] = json!(n as f64 / 4.0);
        }
        if n % 3 != 0 {
            expected["s"] = json!(format!("text \"{n}\""));
        }
        assert_eq!(record, &expected);
        assert_eq!(records[ROWS as usize + at], json!({"n": n, "raw": true}));
        let duck = &records[2 * ROWS as usize + at];
        assert_eq!((&duck["n"], &duck["s"], &duck["o"]), (&record["n"], &record["s"], &record["o"]));
        assert_eq!([&records[3 * ROWS as usize + at], &records[4 * ROWS as usize + at]], [record; 2]);
    }
    for (name, reason) in [
        ("torn.parquet", "cut short"),
        ("claims.parquet", "footer claims"),
        ("brotli.parquet", "write it with snappy, gzip, zstd or none"),
        ("page.parquet", "at most 67108864 are taken"),
        ("snappy.parquet", "claims 268435455 bytes in its data"),
    ] {
        let job = import(&server, &setup.ask(name, "parquet", json!({})));
        assert_eq!(job["status"], "failed", "{name}: {job}");
        assert!(job["reason"].as_str().is_some_and(|text| text.contains(reason)), "{name}: {job}");
    }
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn what_cannot_be_read_fails_its_job_with_a_reason_and_hurts_nothing_else() {
    let setup = Setup::new();
    let packed = gzip(&lines(0..20_000));
    setup.write("torn.jsonl.gz", &packed[..packed.len() - 1000]);
    setup.write("plain.gz", &lines(0..10));
    let bomb = zstd::encode_all(&vec![b' '; 256 << 20][..], 3).expect("in memory");
    setup.write("bomb.jsonl.zst", &bomb);
    setup.write("open.csv", b"n,s\n1,\"never closed\n2,b\n");
    setup.write("good.jsonl", &lines(0..5));
    std::os::unix::fs::symlink("/etc/hostname", setup.input.join("link.jsonl")).expect("linked");
    let server = setup.start(&[]);
    rest::create_stream(&server.http, "s", &definition());
    let (_, before) = server.memory();
    for (name, format, reason) in [
        ("torn.jsonl.gz", "json_lines", "cut short"),
        ("plain.gz", "json_lines", "plain.gz"),
        ("bomb.jsonl.zst", "json_lines", "bomb"),
        ("open.csv", "csv", "line 2"),
        ("link.jsonl", "json_lines", "leads out"),
        ("missing.jsonl", "json_lines", "missing.jsonl"),
        ("missing/", "json_lines", "missing"),
    ] {
        let job = import(&server, &setup.ask(name, format, json!({})));
        assert_eq!(job["status"], "failed", "{name}: {job}");
        assert!(job["reason"].as_str().is_some_and(|text| text.contains(reason)), "{name}: {job}");
    }
    let (_, after) = server.memory();
    assert!(after < before + (200 << 20), "bounded: {before} and then {after}");
    let torn = numbers(&server);
    assert_eq!(torn, (0..torn.len() as i64).collect::<Vec<_>>(), "what came before the cut is there");
    assert!(!torn.is_empty(), "and there was some");
    let job = import(&server, &setup.ask("good.jsonl", "json_lines", json!({})));
    assert_eq!(job["status"], "completed", "{job}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn what_may_not_be_imported_is_refused_at_once() {
    let setup = Setup::new();
    setup.write("a.jsonl", &lines(0..5));
    let server = setup.start(&[]);
    rest::create_stream(&server.http, "s", &definition());
    let good = setup.ask("a.jsonl", "json_lines", json!({}));
    let with = |name: &str, value: Value| {
        let mut ask = good.clone();
        ask[name] = value;
        ask
    };
    for (ask, status, pointer) in [
        (with("source_uri", json!("file:///etc/passwd")), 400, "/source_uri"),
        (with("source_uri", json!(setup.uri("../data/catalog.sqlite"))), 400, "/source_uri"),
        (with("source_uri", json!("s3://bucket/key")), 400, "/source_uri"),
        (with("source_uri", json!("http://localhost/a")), 400, "/source_uri"),
        (with("format", json!("xml")), 400, "/format"),
        (with("options", json!({"delimiter": ";"})), 400, "/options/delimiter"),
        (with("stream_id", json!("none")), 404, ""),
        (with("schema_id", json!("sch_none")), 409, ""),
    ] {
        let (answered, problem) = rest::call(&server.http, "POST", "/api/v1/jobs", &ask.to_string());
        assert_eq!(answered, status, "{ask}: {problem}");
        if !pointer.is_empty() {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        }
    }
    assert_eq!(rest::call(&server.http, "GET", "/api/v1/jobs/job_none", "").0, 404);
    assert!(server.stop().success(), "a clean stop");
    let server = Server::start(setup.dir.path(), &[("wal.quota_bytes", "512MiB"), ("wal.segment_bytes", "8MiB")]);
    let (status, problem) = rest::call(&server.http, "POST", "/api/v1/jobs", &good.to_string());
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("import.roots")), "{problem}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn a_paused_stream_is_waited_for_and_an_import_can_be_called_off() {
    let setup = Setup::new();
    setup.write("a.jsonl", &lines(0..20_000));
    let server = setup.start(&[]);
    let stream = rest::create_stream(&server.http, "s", &definition());
    let change = |status: &str| {
        let body = json!({"status": status}).to_string();
        assert_eq!(rest::call(&server.http, "PATCH", &format!("/api/v1/streams/{stream}"), &body).0, 200);
    };
    change("paused");
    let id = create(&server, &setup.ask("a.jsonl", "json_lines", json!({})));
    let waits = wait_for("the import to wait", || Some(job(&server, &id)).filter(is_put_off));
    assert_eq!(counts(&waits), [0, 0, 0], "{waits}");
    // One that has not begun, behind it.
    let behind = create(&server, &setup.ask("a.jsonl", "json_lines", json!({})));
    let cancel = |id: &str| rest::call(&server.http, "POST", &format!("/api/v1/jobs/{id}/cancel"), "");
    let (status, cancelled) = cancel(&behind);
    assert_eq!((status, cancelled["status"].as_str()), (200, Some("cancelled")), "{cancelled}");
    change("active");
    let done = ended(&server, &id);
    assert_eq!((done["status"].as_str(), counts(&done)), (Some("completed"), [20_000, 20_000, 0]), "{done}");
    assert!(done["waits_for"].is_null(), "{done}");
    change("paused");
    let id = create(&server, &setup.ask("a.jsonl", "json_lines", json!({})));
    wait_for("the import to wait", || is_put_off(&job(&server, &id)).then_some(()));
    let (status, cancelled) = cancel(&id);
    assert_eq!((status, cancelled["status"].as_str()), (200, Some("cancelled")), "{cancelled}");
    assert!(cancelled["waits_for"].is_null(), "{cancelled}");
    let (status, problem) = cancel(&id);
    assert_eq!((status, problem["code"].as_str()), (409, Some("FAILED_PRECONDITION")), "{problem}");
    assert_eq!(numbers(&server).len(), 20_000);
    let (_, audit) = rest::call(&server.http, "GET", "/api/v1/audit-log?page_size=500", "");
    let actions = audit["entries"].as_array().expect("a list").iter();
    assert_eq!(actions.filter(|entry| entry["action"] == "job.cancel").count(), 2, "{audit}");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn an_import_that_waits_leaves_its_place_to_others_also_when_its_stream_is_paused_under_way() {
    let setup = Setup::new();
    setup.write("a.jsonl", &lines(0..300_000));
    setup.write("b.jsonl", &lines(0..100));
    let server = setup.start(&[("import.jobs", "1")]);
    let stream = rest::create_stream(&server.http, "s", &definition());
    rest::create_stream(&server.http, "other", &definition());
    let change = |status: &str| {
        let body = json!({"status": status}).to_string();
        assert_eq!(rest::call(&server.http, "PATCH", &format!("/api/v1/streams/{stream}"), &body).0, 200);
    };
    let id = create(&server, &setup.ask("a.jsonl", "json_lines", json!({})));
    wait_for("rows", || (counts(&job(&server, &id))[0] > 0).then_some(()));
    change("paused");
    wait_for("the import to wait", || is_put_off(&job(&server, &id)).then_some(()));
    let mut other = setup.ask("b.jsonl", "json_lines", json!({}));
    other["stream_id"] = "other".into();
    assert_eq!(counts(&import(&server, &other)), [100, 100, 0]);
    assert!(!is_over(&job(&server, &id)));
    change("active");
    let done = ended(&server, &id);
    assert_eq!((done["status"].as_str(), counts(&done)), (Some("completed"), [300_000, 300_000, 0]), "{done}");
    assert!(numbers(&server).into_iter().eq(0..300_000), "each row once");
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn there_are_no_more_jobs_than_may_be() {
    let setup = Setup::new();
    setup.write("a.jsonl", b"{\"n\":1}\n");
    let server = setup.start(&[]);
    let stream = rest::create_stream(&server.http, "s", &definition());
    let body = json!({"status": "paused"}).to_string();
    assert_eq!(rest::call(&server.http, "PATCH", &format!("/api/v1/streams/{stream}"), &body).0, 200);
    let ask = setup.ask("a.jsonl", "json_lines", json!({}));
    let ids: Vec<String> = (0..1000).map(|_| create(&server, &ask)).collect();
    let (status, head, problem) = rest::call_with(&server.http, "POST", "/api/v1/jobs", &[], &ask.to_string());
    assert_eq!((status, &problem["code"]), (429, &json!("TOO_MANY_JOBS")), "{problem}");
    assert!(head.contains("retry-after: ") && problem["detail"].to_string().contains("1000 jobs"), "{head}{problem}");
    let refused = block_on(async {
        let mut client = Client::connect(server.grpc.parse().expect("an address")).await;
        let mut call = client.call(path::INGEST_BATCH).await;
        call.send(&IngestBatchRequest {
            stream_id: "s".into(),
            source_uri: setup.uri("a.jsonl"),
            format: SourceFormat::FormatJsonLines.into(),
            ..IngestBatchRequest::default()
        })
        .await;
        call.finish();
        call.receive::<IngestBatchResponse>().await.expect_err("there are too many")
    });
    assert_eq!((refused.code, refused.reason.as_str()), (8, "TOO_MANY_JOBS"), "{refused:?}");
    let (status, _) = rest::call(&server.http, "POST", &format!("/api/v1/jobs/{}/cancel", ids[500]), "");
    assert_eq!(status, 200);
    create(&server, &ask);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn an_import_goes_on_after_crashes_and_stops_with_each_row_taken_once() {
    const ROWS: i64 = 300_000;
    let setup = Setup::new();
    // Every thousandth row is bad: its number is taken as well.
    let text: String = (0..ROWS)
        .map(|n| if n % 1000 == 999 { format!("{{\"n\":\"bad {n}\"}}\n") } else { format!("{{\"n\":{n}}}\n") })
        .collect();
    let (first, second) = text.split_at(text.len() / 3);
    // Not at a line's end.
    let cut = first.rfind('\n').expect("a line") + 1;
    setup.write("in/a.jsonl", &first.as_bytes()[..cut]);
    setup.write("in/b.jsonl.gz", &gzip([&first.as_bytes()[cut..], second.as_bytes()].concat().as_slice()));
    let settings = [("buffer.flush_interval_ms", "200"), ("shards.count", "2")];
    let mut server = setup.start(&settings);
    rest::create_stream(&server.http, "s", &definition());
    let id = create(&server, &setup.ask("in/", "json_lines", json!({})));
    let (mut interrupted, mut seen) = (0, 0);
    for round in 0..4 {
        // On from what the start found, so that each round gets somewhere.
        let at = wait_for("progress", || {
            let job = job(&server, &id);
            (counts(&job)[0] > seen + 5000 || is_over(&job)).then_some(job)
        });
        assert_eq!(at["status"] == "completed", is_over(&at), "{at}");
        if is_over(&at) {
            break;
        }
        seen = counts(&at)[0];
        interrupted += 1;
        if round == 2 {
            assert!(server.stop().success(), "a clean stop")
        } else {
            server.kill()
        }
        server = setup.start(&settings);
    }
    assert!(interrupted > 0, "it was not over before it was interrupted");
    let done = ended(&server, &id);
    let (all, bad) = (ROWS as u64, ROWS as u64 / 1000);
    assert_eq!((done["status"].as_str(), counts(&done)), (Some("completed"), [all, all - bad, bad]), "{done}");
    assert_eq!(numbers(&server), (0..ROWS).filter(|n| n % 1000 != 999).collect::<Vec<_>>());
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn objects_of_a_bucket_are_read_where_they_may_be() {
    let (setup, store) = (Setup::new(), s3::Store::start());
    let put = |key: &str, content: Vec<u8>| {
        let object = s3::Object { content: content.into(), modified: 1_700_000_000 };
        store.state().objects.insert(key.to_owned(), object);
    };
    put("import/a b.jsonl", lines(0..3000));
    put("import/c.jsonl.gz", gzip(&lines(3000..200_000)));
    put("import/_SUCCESS", b"no record".to_vec());
    put("elsewhere.jsonl", lines(0..10));
    let own = store.settings();
    let mut settings: Vec<_> = own.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let root = format!("s3://{}/import/", s3::BUCKET);
    settings.push(("import.roots", &root));
    let server = setup.start(&settings);
    rest::create_stream(&server.http, "s", &definition());
    let ask = |uri: String| json!({"stream_id": "s", "source_uri": uri, "format": "json_lines"});
    let job = import(&server, &ask(root.clone()));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [200_000, 200_000, 0]), "{job}");
    assert_eq!(numbers(&server), (0..200_000).collect::<Vec<_>>());
    let job = import(&server, &ask(format!("{root}a%20b.jsonl")));
    assert_eq!((job["status"].as_str(), counts(&job)), (Some("completed"), [3000, 3000, 0]), "{job}");
    let job = import(&server, &ask(format!("{root}missing.jsonl")));
    assert_eq!(job["status"], "failed", "{job}");
    assert!(job["reason"].as_str().is_some_and(|reason| reason.contains("no object")), "{job}");
    let elsewhere = ask(format!("s3://{}/elsewhere.jsonl", s3::BUCKET)).to_string();
    assert_eq!(rest::call(&server.http, "POST", "/api/v1/jobs", &elsewhere).0, 400);
    assert!(server.stop().success(), "a clean stop");
}

#[test]
fn python_begins_an_import_and_follows_it_from_the_contract_alone() {
    let setup = Setup::new();
    let server = setup.start(&[("shards.count", "2")]);
    let definition: Value = serde_json::from_str(include_str!("data/flights.schema.json")).expect("JSON");
    rest::create_stream(&server.http, "flights", &definition);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/flights.jsonl.gz");
    let arguments = [Path::new(&server.grpc), Path::new("flights"), &setup.input, &sample];
    let output = python::run("import_batch.py", &arguments);
    assert!(output.status.success(), "{}", python::said(&output));
    assert!(server.stop().success(), "a clean stop");
}

//! Pipelines and dead letters from the command line.

use std::fs;

use serde_json::{Value, json};

use crate::{client::Client, process::wait_for, start};

#[test]
fn a_pipeline_is_tried_given_and_mended_and_what_it_made_nothing_of_goes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[("buffer.flush_interval_ms", "20")]);
    let client = Client::new(&server.http);
    let definition = json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}, "n": {"type": "string"}}});
    client.with_input(&["schema", "create", "events", "-"], &definition.to_string()).ok();
    client.run(&["stream", "create", "events", "--schema", "events"]).ok();
    let none = client.run(&["dlq", "list", "events"]).fails(4);
    assert!(none.err.contains("--dlq-days"), "{none:?}");
    client.run(&["stream", "change", "events", "--dlq-days", "3"]).ok();

    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let of = |on_error: &str| json!([{"type": "coerce", "fields": ["n"], "to": "integer", "on_error": on_error}]);
    let (strict, mild) = (file("strict.json", of("dlq").to_string()), file("mild.json", of("null").to_string()));
    let records = "{\"id\": 1, \"n\": \"7\"}\n{\"id\": 2, \"n\": \"bad\"}\n";
    let samples = file("samples.jsonl", records.to_owned());
    let tested = client.run(&["pipeline", "test", &strict, &samples, "--stream", "events"]).ok();
    let letter = "\ndead_letter\t-\tNOT_AN_INTEGER\t0\tthe value is no integer of 64 bits\t";
    assert!(tested.contains("\nkept\t{\"id\":1,\"n\":7}\t") && tested.contains(letter), "{tested}");
    assert!(tested.lines().next().is_some_and(|head| head.contains("\tREASON\tSTEP (FROM 0)\tMESSAGE\t")), "{tested}");

    let created = client.run(&["pipeline", "create", "events", &strict, "-o", "json"]).json();
    assert_eq!(created["version"], 1, "{created}");
    assert!(client.run(&["pipeline", "create", "events", &strict]).fails(1).err.contains("ttdust: "));
    client.run(&["produce", "events", &samples]).ok();
    let letters = wait_for("a dead letter", || {
        let letters = client.run(&["dlq", "list", "events", "-o", "json"]).json_lines();
        (!letters.is_empty()).then_some(letters)
    });
    assert_eq!((letters.len(), &letters[0]["payload"]["reason"]), (1, &json!("NOT_AN_INTEGER")));
    let still = client.run(&["dlq", "replay", "events"]).fails(1);
    assert!(still.out.contains("still not by the pipeline\t1\n"), "{still:?}");

    assert_eq!(client.run(&["pipeline", "change", "events", &mild, "-o", "json"]).json()["version"], 2);
    let chosen = ["dlq", "replay", "events", "--reason", "NOT_AN_INTEGER", "--field", "/n", "-o", "json"];
    assert_eq!(client.run(&[&chosen[..], &["--dry-run"]].concat()).json()["replayed"], 1);
    assert_eq!(client.run(&chosen).json()["replayed"], 1);
    assert_eq!(client.run(&chosen).json()["duplicates"], 1, "once");
    let seen = client.run(&["query", "events", "--payload"]).json_lines();
    assert_eq!(seen, [json!({"id": 1, "n": 7}), json!({"id": 2, "n": null})]);

    assert_eq!(client.run(&["pipeline", "get", "events", "--steps"]).json(), of("null"));
    let listed: Vec<Value> = client.run(&["pipeline", "list", "-o", "json"]).json_lines();
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &created["id"]));
    assert!(client.run(&["pipeline", "delete", "events"]).fails(2).err.contains("--yes"));
    client.run(&["pipeline", "delete", "events", "--yes"]).ok();
    assert!(client.run(&["pipeline", "get", "events"]).fails(4).err.contains("ttdust pipeline create"));
}

#[test]
fn letters_of_a_pipeline_come_with_a_flush_that_can_be_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    // By itself none comes before the test is over.
    let server = start(dir.path(), &[("buffer.flush_interval_ms", "86400000")]);
    let client = Client::new(&server.http);
    client.with_input(&["schema", "create", "events", "-"], r#"{"properties": {"n": {"type": "string"}}}"#).ok();
    client.run(&["stream", "create", "events", "--schema", "events", "--dlq-days", "3"]).ok();
    let steps = json!([
        {"type": "rename", "fields": {"n": "m"}},
        {"type": "coerce", "fields": ["m"], "to": "integer", "on_error": "dlq"},
    ]);
    let list = || client.run(&["dlq", "list", "events"]);
    assert_eq!(list().err, "", "there is nothing to wait for");
    client.with_input(&["pipeline", "create", "events", "-"], &steps.to_string()).ok();
    client.with_input(&["produce", "events"], "{\"n\": \"7\"}\n{\"n\": \"bad\"}\n").ok();
    assert_eq!(client.run(&["query", "events", "--payload"]).json_lines(), [json!({"m": 7})], "the other is left out");
    let empty = list();
    assert!(empty.err.contains("2 are not yet") && empty.err.contains("ttdust stream flush events"), "{empty:?}");
    assert_eq!(empty.ok().lines().count(), 1);
    // It is answered when the letters are there.
    let flush = ["stream", "flush", "events", "-o", "json"];
    for flushed in [client.run(&flush), client.run(&flush)] {
        assert_eq!(flushed.json()["flushed_through"], 2);
    }
    let listed = list();
    assert_eq!(listed.err, "");
    let listed = listed.ok();
    let mut lines = listed.lines();
    assert_eq!(lines.next(), Some("SEQUENCE\tAT\tREASON\tSTEP (FROM 0)\tMESSAGE\tRECORD"));
    assert!(lines.next().is_some_and(|line| line.contains("\tNOT_AN_INTEGER\t1\t")), "{listed}");
    let statistics = client.run(&["stream", "get", "events", "-o", "json"]).json()["statistics"].clone();
    assert_eq!((&statistics["flushed_through"], &statistics["buffered_records"]), (&json!(2), &json!(0)));
    assert!(client.run(&["stream", "flush", "none"]).fails(4).err.contains("ttdust stream list"));

    let replay = |reason: &str| client.run(&["dlq", "replay", "events", "--reason", reason]);
    let unknown = replay("the value is no integer of 64 bits").fails(1);
    assert!(unknown.err.contains("NOT_AN_INTEGER") && unknown.err.contains("SCHEMA_VIOLATION"), "{unknown:?}");
    let none = replay("NOT_JSON");
    assert!(none.err.contains("0 letters match, of 1 that were read"), "{none:?}");
    assert!(none.ok().contains("asked for\t0\n"));
}

#[test]
fn records_are_asked_for_by_the_time_of_their_event() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    let definition = json!({"type": "object", "properties": {"id": {"type": "integer"}, "at": {"type": "string"}}});
    client.with_input(&["schema", "create", "events", "-"], &definition.to_string()).ok();
    client.run(&["stream", "create", "events", "--schema", "events"]).ok();
    let refused = client.run(&["query", "events", "--time", "event"]).fails(1);
    assert!(refused.err.contains("event_time") && refused.err.contains("time_field"), "{refused:?}");

    let steps = json!([{"type": "timestamp", "fields": ["at"], "formats": ["%d/%m/%Y %H:%M"], "event_time": true}]);
    let path = dir.path().join("steps.json");
    fs::write(&path, steps.to_string()).expect("written");
    client.run(&["pipeline", "create", "events", path.to_str().expect("UTF-8")]).ok();
    let at = ["02/03/2026 08:00", "01/03/2026 08:00", "never", "03/03/1926 08:00", "02/03/2026 07:59"];
    let lines: String = at.iter().zip(1..).map(|(at, id)| format!("{}\n", json!({"id": id, "at": at}))).collect();
    client.with_input(&["produce", "events"], &lines).ok();

    let asked = |more: &[&str]| -> Vec<i64> {
        let records = client.run(&[&["query", "events", "--time", "event", "--payload"], more].concat()).json_lines();
        records.iter().map(|record| record["id"].as_i64().expect("a number")).collect()
    };
    assert_eq!(asked(&[]), [1, 2, 4, 5], "in the order in which they came; one has no time");
    assert_eq!(asked(&["--start", "2026-03-02T08:00:00Z"]), [1]);
    assert_eq!(asked(&["--start", "2026-03-01T08:00:00Z", "--end", "2026-03-02T08:00:00Z"]), [2, 5]);
    assert_eq!(asked(&["--end", "1970-01-01T00:00:00Z"]), [4]);
    assert_eq!(asked(&["--order", "desc", "--limit", "2"]), [5, 4]);
    assert_eq!(client.run(&["query", "events", "--time", "ingest", "--payload"]).json_lines().len(), 5);
}

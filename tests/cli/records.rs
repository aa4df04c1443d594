//! Records in and out: `produce`, `query`, `lookup`, `tail`, `import`; over a server that is killed in the middle, each once.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    client::{Client, Ended},
    door::Door,
    furnish,
    process::wait_for,
    start,
};

/// Records with these numbers, one a line.
fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("{{\"n\": {n}, \"exact\": 1.50}}\n")).collect()
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    fs::write(&path, bytes).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

/// The numbers of all records of a stream, in its order.
fn numbers(client: &Client) -> Vec<u64> {
    let all = client.run(&["query", "clicks", "--all", "--payload"]).json_lines();
    all.iter().map(|record| record["n"].as_u64().expect("a number")).collect()
}

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

#[test]
fn records_of_files_and_pipes_are_sent_and_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    furnish(&client);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines(2500..5000).as_bytes()).expect("in memory");
    let plain = write(dir.path(), "a.jsonl", lines(0..2500));
    let gzip = write(dir.path(), "b.jsonl.gz", gzip.finish().expect("in memory"));
    let zstd = write(dir.path(), "c", zstd::encode_all(lines(5000..5010).as_bytes(), 1).expect("in memory"));
    let sent = ["produce", "clicks", &plain, &gzip, &zstd, "--run-id", "load", "-o", "json"];
    let summary = client.run(&sent).json();
    assert_eq!((&summary["records"], &summary["accepted"]), (&json!(5010), &json!(5010)), "{summary}");
    let again = client.run(&sent).json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(5010)), "the same run: {again}");
    assert_eq!(sorted(numbers(&client)), (0..5010).collect::<Vec<_>>());

    let piped = ["produce", "clicks", "--ordered", "--batch-records", "2", "--metadata", "source=test"];
    let told = client.with_input(&piped, "{\"n\": 9001}\n\n{\"n\": 9002}\n{\"n\": 9003}");
    assert!(told.err.contains("3 records in "), "{told:?}");
    assert_eq!(told.ok(), "");
    let newest = client.run(&["query", "clicks", "--order", "desc", "--limit", "3", "-o", "json"]).json_lines();
    assert_eq!(newest.iter().map(|record| record["payload"]["n"].clone()).collect::<Vec<_>>(), [9003, 9002, 9001]);
    assert_eq!(newest[0]["metadata"], json!({"source": "test"}));
    let table = client.run(&["query", "clicks", "--limit", "1"]).ok();
    let (head, row) = table.trim_end().split_once('\n').expect("two lines");
    assert_eq!(head, "SEQUENCE\tINGESTED AT\tPAYLOAD");
    assert!(row.starts_with("1\t20") && row.ends_with("\"exact\": 1.50}"), "byte for byte: {row}");
    assert_eq!(client.run(&["query", "clicks", "--start", "now"]).ok(), "SEQUENCE\tINGESTED AT\tPAYLOAD\n");

    assert_eq!(client.run(&["lookup", "clicks", "n", "4711", "--payload"]).json()["n"], 4711);
    let id = newest[0]["record_id"].as_str().expect("an id");
    assert_eq!(client.run(&["lookup", "clicks", "_record_id", id, "-o", "json"]).json(), newest[0]);
    assert!(client.run(&["lookup", "clicks", "n", "-1"]).fails(4).err.contains("no record"));
    assert!(client.run(&["lookup", "clicks", "x", "1"]).fails(1).err.contains("key_field"));
    assert_eq!(client.run(&["produce", "clicks", "/nowhere"]).fails(2).out, "");
}

#[test]
fn bad_records_are_told_with_their_lines_and_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    furnish(&client);
    // More in a batch than an answer tells of, and one that is no JSON.
    let line = |n: usize| match n % 2 {
        _ if n == 7 => "\"n\": 7}\n".to_owned(),
        0 => format!("{{\"n\": {n}}}\n"),
        _ => format!("{{\"n\": \"{n}\"}}\n"),
    };
    let file = write(dir.path(), "bad.jsonl", (0..600).map(line).collect::<String>());
    let rejects = dir.path().join("rejects.jsonl");
    let rejects = rejects.to_str().expect("UTF-8");
    let ended = client.run(&["produce", "clicks", &file, "--rejects", rejects, "-o", "json"]).fails(1);
    let summary: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((&summary["accepted"], &summary["rejected"]), (&json!(300), &json!(300)), "{summary}");
    assert!(ended.err.contains("bad.jsonl, line 2: /n"), "{}", ended.err);
    let kept = fs::read_to_string(rejects).expect("a file");
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(kept.len(), 300);
    for (at, row) in kept.iter().enumerate() {
        let n = 2 * at + 1;
        assert_eq!((row["line"].as_u64(), row["record"].as_str()), (Some(n as u64 + 1), Some(line(n).trim_end())));
        assert!(n == 7 || row["field_errors"][0]["path"] == "/n", "{row}");
    }
    assert_eq!(sorted(numbers(&client)), (0..600).step_by(2).collect::<Vec<_>>(), "the good ones, each once");

    let atomic = ["produce", "clicks", &file, "--on-invalid", "atomic", "--batch-records", "100"];
    let ended = client.run(&atomic).fails(1);
    assert!(ended.err.contains("line 2 /n") && ended.err.contains("--on-invalid skip"), "{ended:?}");
    assert_eq!(numbers(&client).len(), 300, "nothing of it");
    let letters = ["produce", "clicks", &file, "--on-invalid", "dlq", "--rejects", rejects, "-o", "json"];
    let ended = client.run(&letters).fails(1);
    assert!(ended.err.contains("DLQ_MISSING") && ended.err.contains("--dlq-days"), "{ended:?}");
    client.run(&["stream", "change", "clicks", "--dlq-days", "1"]).ok();
    let run = [&letters[..], &["--run-id", "letters"]].concat();
    for accepted in [300, 0] {
        let summary = client.run(&run).json();
        assert_eq!(
            (&summary["accepted"], &summary["dead_lettered"], &summary["rejected"]),
            (&json!(accepted), &json!(300), &json!(0)),
            "{summary}"
        );
    }
    assert_eq!(fs::read_to_string(rejects).expect("a file").lines().count(), 300);
    let listed = client.run(&["dlq", "list", "clicks", "--limit", "1000", "-o", "json"]).json_lines();
    assert_eq!(listed.len(), 300, "the same run makes no second ones");
    let texts = listed.iter().map(|letter| letter["payload"]["payload"].as_str().expect("a text"));
    assert_eq!(
        texts.rev().collect::<Vec<_>>(),
        (0..300).map(|at| line(2 * at + 1).trim_end().to_owned()).collect::<Vec<_>>()
    );

    let none = client.run(&["produce", "none", &file]).fails(4);
    assert!(none.err.contains("ttdust stream list"), "{none:?}");
    let away = client.run(&["produce", "clicks", &file, "--endpoint", "127.0.0.1:1"]).fails(3);
    assert!(away.err.contains("ttdust serve") && away.err.contains("--run-id"), "{away:?}");
}

#[test]
fn over_a_kill_of_the_server_each_record_is_produced_and_followed_once() {
    const RECORDS: usize = 100_000;
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [("buffer.flush_interval_ms", "200")];
    let mut server = start(dir.path(), &settings);
    let door = Door::to(&server.http);
    let client = Client::new(&door.address);
    furnish(&client);
    let file = write(dir.path(), "all.jsonl", lines(0..RECORDS));
    let spawn = |arguments: &[&str]| {
        let mut command = client.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let follow = ["tail", "clicks", "--from-start", "--count", &RECORDS.to_string(), "--payload"];
    let mut tail = spawn(&follow);
    let out = tail.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let number =
            |line: String| serde_json::from_str::<Value>(&line).expect("JSON")["n"].as_u64().expect("a number");
        BufReader::new(out).lines().map(|line| number(line.expect("a line"))).collect::<Vec<_>>()
    });
    let mut producer = spawn(&["produce", "clicks", &file, "--batch-records", "50", "-o", "json"]);
    let mut taken = 0;
    for _ in 0..2 {
        taken = wait_for("more records", || {
            let statistics = client.run(&["stream", "get", "clicks", "-o", "json"]).json()["statistics"].clone();
            statistics["last_sequence"].as_u64().filter(|&last| last > taken + 2000)
        });
        server.kill();
        assert!(producer.try_wait().expect("a status").is_none(), "it is in the middle of its work");
        server = start(dir.path(), &settings);
        door.lead_to(&server.http);
    }
    let summary = Ended::from(producer.wait_with_output().expect("its end")).json();
    let sum = summary["accepted"].as_u64().zip(summary["duplicates"].as_u64()).map(|(new, before)| new + before);
    assert_eq!(sum, Some(RECORDS as u64), "{summary}");
    let followed = reader.join().expect("all lines are records");
    assert!(Ended::from(tail.wait_with_output().expect("its end")).ok().is_empty());
    let stored = numbers(&client);
    assert_eq!(followed, stored, "in the stream's order, without a gap or a double");
    assert_eq!(sorted(stored), (0..RECORDS as u64).collect::<Vec<_>>());
}

#[test]
fn a_tail_begins_now_and_ends_with_its_stream() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path(), &[]);
    let client = Client::new(&server.http);
    furnish(&client);
    client.with_input(&["produce", "clicks"], &lines(0..10)).ok();
    let mut command = client.command(&["tail", "clicks", "-o", "json"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut out = BufReader::new(tail.stdout.take().expect("piped"));
    // What is sent until it follows is not seen, or seen first: each number is sent once.
    let mut sent = 10;
    let (first, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut numbers = Vec::new();
        let mut line = String::new();
        while out.read_line(&mut line).expect("a line") > 0 {
            let record: Value = serde_json::from_str(&line).expect("JSON");
            let number = record["payload"]["n"].as_u64().expect("a number");
            numbers.push(number);
            // Nobody asks any more, once the last has been seen.
            let _ = first.send(number);
            line.clear();
        }
        numbers
    });
    let mut newest = wait_for("a record", || {
        client.with_input(&["produce", "clicks"], &lines(sent..sent + 1)).ok();
        sent += 1;
        seen.try_recv().ok()
    });
    wait_for("the last record", || {
        newest = seen.try_recv().unwrap_or(newest);
        (newest == sent as u64 - 1).then_some(())
    });
    client.run(&["stream", "delete", "clicks", "--yes"]).ok();
    let numbers = reader.join().expect("records");
    assert!(numbers[0] >= 10, "only what comes from now on: {numbers:?}");
    assert!(numbers.is_sorted() && numbers.last() == Some(&(sent as u64 - 1)), "{numbers:?}");
    let ended = Ended::from(tail.wait_with_output().expect("its end")).fails(4);
    assert!(ended.err.contains("the stream is gone"), "{ended:?}");
    assert_eq!(client.run(&["tail", "none"]).fails(4).out, "");
}

#[test]
fn the_server_imports_what_lies_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let objects = dir.path().join("in");
    fs::create_dir(&objects).expect("a directory");
    let roots = objects.to_str().expect("UTF-8").to_owned();
    let server = start(dir.path(), &[("import.roots", &roots)]);
    let client = Client::new(&server.http);
    furnish(&client);
    let good = write(&objects, "good.jsonl", lines(0..500));
    let bad = write(&objects, "bad.csv", "n\n500\nx\n501\n");
    let told = client.run(&["import", "start", "clicks", &good, "--wait"]).ok();
    assert!(told.contains("status\tcompleted\n") && told.contains("records\t500\n"), "{told}");
    let told = client.run(&["import", "start", "clicks", &format!("file://{bad}"), "--wait"]).fails(1);
    assert!(told.out.contains("bad row\t") && told.out.contains("line 3"), "{told:?}");
    assert_eq!(sorted(numbers(&client)), (0..=501).collect::<Vec<_>>());

    let listed = client.run(&["import", "list", "--stream", "clicks", "-o", "json"]).json_lines();
    assert_eq!(listed.iter().map(|job| job["format"].clone()).collect::<Vec<_>>(), ["csv", "json_lines"]);
    let id = listed[1]["id"].as_str().expect("an id");
    assert_eq!(client.run(&["import", "get", id, "-o", "json"]).json()["records_succeeded"], 500);
    client.run(&["import", "cancel", id]).fails(1);
    client.run(&["import", "wait", id]).ok();
    let none = client.run(&["import", "get", "job_none"]).fails(4);
    assert!(none.err.contains("ttdust import list"), "{none:?}");
    assert!(client.run(&["import", "start", "clicks", "/elsewhere/a.csv"]).fails(1).err.contains("import.roots"));
    assert!(client.run(&["import", "start", "clicks", "a.csv"]).fails(2).err.contains("ttdust produce"));
}

//! The generator against the fake server over real sockets: what it counts must be what the server did.

use std::{net::SocketAddr, sync::mpsc, thread, time::Duration};

use clap::Parser as _;

use super::{acked::AckedRun, args::LoadArgs, report::Report, run::measure};
use crate::fake::{Fake, Faults};

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: LoadArgs,
}

fn start(faults: Faults) -> (SocketAddr, Fake) {
    let fake = Fake::new(faults, true);
    let server = fake.clone();
    let (bound, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        runtime.block_on(server.serve(any, move |address| bound.send(address).expect("the test waits")))
    });
    (address.recv().expect("it listens"), fake)
}

fn flags(address: SocketAddr, more: &str) -> LoadArgs {
    let grpc = address.to_string();
    let fixed =
        ["load", "--grpc", &grpc, "--payload", "clicks", "--payload-records", "50", "--quiet", "--cores", "none"];
    let all = fixed.into_iter().chain(more.split_whitespace());
    Flags::try_parse_from(all).expect("good flags").args
}

fn run(faults: Faults, more: &str) -> (Report, Fake) {
    let (address, fake) = start(faults);
    (measure(&flags(address, more)).expect("a run"), fake)
}

const SHORT: &str = "--warmup 50ms --duration 300ms --verify";

#[test]
fn every_method_counts_what_the_server_took_and_reads_it_back() {
    for method in ["append --batch 7", "ingest-stream", "ingest"] {
        let shape = "--connections 3 --in-flight 5 --threads 2 --streams 2";
        for keys in ["", "--keys"] {
            let (report, fake) = run(Faults::default(), &format!("--method {method} {shape} {keys} {SHORT}"));
            let (requests, accepted) = fake.counts();
            assert_eq!(report.acked, accepted, "{method} {keys}");
            assert!(requests > 0 && report.unanswered == 0 && report.duplicates == 0, "{method} {keys}");
            let verdict = report.verify.as_ref().expect("asked for");
            assert_eq!(verdict.problems, Vec::<String>::new(), "{method} {keys}");
            assert_eq!((verdict.acked, verdict.read, verdict.not_ours), (accepted, accepted, 0), "{method} {keys}");
            assert!(verdict.samples_compared > 0 || accepted < 200, "{method} {keys}");
            assert!(report.is_good(), "{}", report.text());
        }
    }
}

#[test]
fn more_streams_than_connections_each_get_a_call() {
    for method in ["append --batch 3", "ingest-stream"] {
        let shape = "--connections 2 --in-flight 8 --streams 5";
        let (report, _) = run(Faults::default(), &format!("--method {method} {shape} {SHORT}"));
        let verdict = report.verify.as_ref().expect("asked for");
        assert!(report.is_good() && verdict.acked == report.acked, "{}", report.text());
    }
}

#[test]
fn refused_requests_are_counted_apart_and_sent_again_but_never_acked() {
    for method in ["append --batch 4", "ingest-stream", "ingest"] {
        let faults = Faults { rate_limit_every: 5, ..Faults::default() };
        let (report, fake) = run(faults, &format!("--method {method} --connections 2 --in-flight 4 --keys {SHORT}"));
        let (requests, accepted) = fake.counts();
        assert_eq!(report.rate_limited, requests / 5, "{method}");
        assert!(report.retries > 0 && report.retries <= report.rate_limited, "{method}");
        assert_eq!(report.acked, accepted, "{method}");
        assert_eq!(report.duplicates, 0, "a refused request was not taken: {method}");
        assert!(report.is_good(), "a rate limit is no failure: {}", report.text());
    }
}

#[test]
fn rejections_are_errors_by_their_reason() {
    for (method, batch) in [("append --batch 4", 4), ("ingest-stream", 1), ("ingest", 1)] {
        let faults = Faults { reject_every: 3, ..Faults::default() };
        let (report, fake) = run(faults, &format!("--method {method} --connections 2 --in-flight 4 {SHORT}"));
        let (requests, accepted) = fake.counts();
        assert_eq!(report.rejected, requests / 3 * batch, "{method}");
        assert_eq!(report.errors["SCHEMA_VIOLATION"].count, report.rejected, "{method}");
        assert_eq!(report.errors["SCHEMA_VIOLATION"].first, "the fake does not like it", "{method}");
        assert_eq!(report.acked, accepted, "{method}");
        assert!(!report.is_good());
    }
}

#[test]
fn a_call_that_the_server_ends_is_told_and_its_open_requests_are_unknown() {
    let faults = Faults { end_at: Some(100), ..Faults::default() };
    let (report, fake) = run(faults, "--connections 1 --in-flight 8 --batch 2 --warmup 0ms --duration 60s");
    assert_eq!(report.errors["UNAVAILABLE"].count, 1);
    assert_eq!(report.errors["UNAVAILABLE"].first, "the fake goes away");
    assert!(report.interrupted && !report.is_good());
    assert_eq!(report.acked, fake.counts().1);
    assert!((1..=8).contains(&report.unanswered), "{}", report.unanswered);
}

#[test]
fn a_stall_shows_in_every_request_of_an_open_loop_that_it_delays() {
    // Request 200 and all after it wait for the stall of 200 ms to end, so the request due t ms later waits 200 - t ms at least,
    // however slow the machine: with one due each ms, 100 of them wait 100 ms or more.
    let faults = Faults { stall: Some((200, Duration::from_millis(200))), ..Faults::default() };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("latency.hgrm");
    let shape = "--method append --batch 10 --rate 10000 --connections 1 --in-flight 4 --warmup 0ms --duration 1s";
    let (report, fake) = run(faults, &format!("{shape} --hgrm {}", path.display()));
    assert!(report.ack_latency_us.max >= 199_000.0, "{}", report.text());
    assert!(report.ack_latency_us.p999 >= 150_000.0, "{}", report.text());
    let text = std::fs::read_to_string(&path).expect("written");
    let below: u64 = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let value: f64 = columns.next()?.parse().ok()?;
            let total: u64 = columns.nth(1)?.parse().ok()?;
            (value < 100.0).then_some(total)
        })
        .max()
        .unwrap_or(0);
    let slow = report.ack_latency_us.count - below;
    assert!(slow >= 90, "{slow} of {}", report.ack_latency_us.count);
    let requests = fake.counts().0 + report.unsent;
    assert_eq!(requests, 1000, "one each ms for a second, sent or told as not sent");
}

#[test]
fn what_was_acked_and_is_gone_is_found_missing() {
    let faults = Faults { lose_every: 50, ..Faults::default() };
    let (report, fake) = run(faults, &format!("--batch 3 --connections 1 --in-flight 2 {SHORT}"));
    let verdict = report.verify.as_ref().expect("asked for");
    let lost = fake.counts().0 / 50 * 3;
    assert!(
        verdict.problems.iter().any(|problem| problem.contains(&format!("{lost} acked records are not there"))),
        "{verdict:?}"
    );
    assert!(!report.is_good());
    assert!(report.text().contains("verify       FAILED"));
}

#[test]
fn the_file_of_what_was_acked_says_the_same_as_the_report() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("acked.json");
    let more =
        format!("--batch 3 --streams 2 --connections 2 --warmup 0ms --duration 200ms --acked {}", path.display());
    let (report, _) = run(Faults::default(), &more);
    let run = AckedRun::read(&path).expect("written");
    let acked: i64 = run.streams.iter().flat_map(|stream| &stream.ranges).map(|(first, last)| last - first + 1).sum();
    assert_eq!(acked as u64, report.acked);
    assert_eq!(run.streams.iter().map(|stream| stream.stream.as_str()).collect::<Vec<_>>(), ["clicks-0", "clicks-1"]);
}

#[test]
fn a_server_that_is_not_there_or_is_no_grpc_server_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = measure(&flags(address, SHORT)).expect_err("nobody listens");
    assert!(error.to_string().contains("cannot connect to 127.0.0.1:"), "{error}");
    let error = measure(&flags(address, "--threads 9 --connections 4")).expect_err("too many threads");
    assert!(error.to_string().contains("--threads 9"), "{error}");
    let (address, _) = start(Faults::default());
    let error = measure(&flags(address, "--server-pid 4294967295")).expect_err("no such process");
    assert!(error.to_string().contains("--server-pid"), "{error}");
}

#[test]
fn the_report_has_the_same_figures_in_both_forms() {
    let (report, _) = run(
        Faults::default(),
        &format!("--rate 2000 --batch 4 --server-pid {} --note disk=ram {SHORT}", std::process::id()),
    );
    let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
    let by_second: u64 = report.records_by_second.iter().sum();
    assert!(
        (by_second as f64 - report.records_per_second * report.seconds).abs() < 0.5,
        "{by_second}: {}",
        report.text()
    );
    assert_eq!(report.slowest_us_by_second.len(), report.records_by_second.len());
    assert!(json["machine"]["cores"].as_u64() > Some(0) && json["notes"]["disk"] == "ram", "{json}");
    assert_eq!(json["acked"], report.acked);
    assert!(json["send_lag_us"]["p99"].is_number() && json["server"]["rss_max_bytes"].is_number());
    assert!(json["server_cpu_us_per_record"].as_f64().expect("a number") > 0.0);
    let text = report.text();
    assert!(
        text.contains(&format!("{} acked", report.acked)) && text.contains("send lag") && text.contains("RSS"),
        "{text}"
    );
}

//! What the decision costs whether a request is traced, and what a request costs that is.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use ttdust_shards::trace::{Finished, Span, SpanKind, Times, TraceStart, Tracer, sampling::Sampling, w3c::Incoming};

/// Requests between two looks at the clock.
const ROUND: u64 = 1024;

/// Measures each case for about so long, and prints what a request costs.
pub fn run(duration: Duration) {
    let headers = |flags: &str| {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::try_from(parent).expect("a value"));
        headers
    };
    let (sampled, unsampled) = (headers("01"), headers("00"));
    let tracer = |ratio, per_second| {
        let (queue, spans) = mpsc::channel(1 << 16);
        let start = TraceStart { sampling: Sampling { ratio, per_second }, queue, times: Arc::new(Times::new()) };
        (Tracer::new(Some(start)), spans)
    };
    let off = Tracer::new(None);
    print("off", duration, || drop(black_box(off.begin(black_box(&Incoming::Undecided), 0))));
    let (one_in_a_million, _spans) = tracer(1e-6, 100);
    print("on, not chosen", duration, || {
        drop(black_box(one_in_a_million.begin(black_box(&Incoming::Undecided), 0)));
    });
    print("on, the caller's header says no, read for each call", duration, || {
        let incoming = one_in_a_million.incoming(black_box(&unsampled));
        drop(black_box(one_in_a_million.begin(&incoming, 0)));
    });
    let (bounded, _spans) = tracer(0.0, 0);
    let wanted = Incoming::of(&sampled);
    print("on, the caller's header says yes, over the bound", duration, || {
        drop(black_box(bounded.begin(black_box(&wanted), 0)));
    });
    let (all, mut spans) = tracer(1.0, u32::MAX);
    print("traced, with six steps, and taken from the queue", duration, || trace(&all, &wanted, &mut spans));
}

fn trace(tracer: &Tracer, wanted: &Incoming, spans: &mut mpsc::Receiver<Vec<Span>>) {
    let begun = tracer.begin(wanted, 0).expect("all are traced");
    let now = Instant::now();
    let steps = ["decode", "validate", "cross", "wal_wait", "sync", "ack"].map(|name| (name, now, now)).to_vec();
    let request = Finished {
        name: "r".into(),
        kind: SpanKind::Server,
        started: now,
        ended: now,
        attributes: vec![("a", 1u32.into()), ("b", "text".into()), ("c", String::from("owned").into())],
        failure: None,
        steps,
    };
    tracer.end(begun, request).expect("there is room");
    drop(black_box(spans.try_recv()));
}

fn print(what: &str, duration: Duration, mut request: impl FnMut()) {
    let (began, mut best) = (Instant::now(), Duration::MAX);
    while began.elapsed() < duration {
        let round = Instant::now();
        (0..ROUND).for_each(|_| request());
        best = best.min(round.elapsed());
    }
    println!("trace, {what}: {:.1} ns a request", best.as_nanos() as f64 / ROUND as f64);
}

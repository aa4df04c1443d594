//! What the steps of a pipeline cost a record.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};
use ttdust_shards::pipeline::{Pipeline, Runner, Verdict};

/// Steps of each kind, for the flights.
fn steps() -> [(&'static str, Value); 8] {
    [
        ("select 4 of 13", json!({"type": "select", "fields": ["event_id", "timestamp", "/delay/arrival", "origin"]})),
        ("exclude 2", json!({"type": "exclude", "fields": ["tailnum", "/actual/arrival"]})),
        ("rename 2", json!({"type": "rename", "fields": {"carrier": "airline", "/delay/departure": "late"}})),
        ("reorder 2", json!({"type": "reorder", "fields": ["distance_miles", "dest"]})),
        ("timestamp to unix_ms", json!({"type": "timestamp", "fields": ["timestamp"], "target": "unix_ms"})),
        ("timestamp as it is", json!({"type": "timestamp", "fields": ["timestamp"]})),
        ("coerce to string", json!({"type": "coerce", "fields": ["flight"], "to": "string"})),
        (
            "coerce 2 to number",
            json!({"type": "coerce", "fields": ["air_time_minutes", "distance_miles"], "to": "number"}),
        ),
    ]
}

/// Runs each step alone and all of them together on `records` over and over for about `seconds` each, and prints what a record
/// costs; the ns of each: of the best pass.
///
/// # Panics
/// A step does not compile.
pub fn run(records: &[Bytes], seconds: f64) -> Vec<(String, f64)> {
    let all = Value::Array(steps().into_iter().map(|(_, step)| step).collect());
    let mut pipelines: Vec<_> = steps().into_iter().map(|(name, step)| (name.to_owned(), json!([step]))).collect();
    pipelines.push((format!("all {} steps", steps().len()), all));
    let mut measured = Vec::new();
    for (name, steps) in pipelines {
        let pipeline = Pipeline::compile(1, &steps).expect("steps that compile");
        let mut runner = Runner::new(Arc::new(pipeline));
        let (began, budget) = (Instant::now(), Duration::from_secs_f64(seconds));
        let (mut best, mut changed) = (Duration::MAX, 0);
        while best == Duration::MAX || began.elapsed() < budget {
            changed = 0;
            let pass = Instant::now();
            for record in records {
                changed += usize::from(matches!(black_box(runner.run(black_box(record))), Verdict::Changed(_)));
            }
            best = best.min(pass.elapsed());
        }
        let ns = best.as_nanos() as f64 / records.len() as f64;
        println!("pipeline {name}: {ns:.0} ns/record ({changed} of {} changed)", records.len());
        measured.push((name, ns));
    }
    measured
}

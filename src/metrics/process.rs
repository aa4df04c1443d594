//! What the process uses, from `/proc`, under the names that Prometheus clients agree on.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::telemetry;

/// Ticks a second in `/proc/self/stat`: fixed at 100 by the kernel's interface, whatever its timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(bytes);
            let help = "resident memory of the process";
            gauge.encode(encoder.encode_descriptor(
                "process_resident_memory_bytes",
                help,
                None,
                gauge.metric_type(),
            )?)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "CPU time of the process";
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        if let Some(open) = open_fds() {
            let gauge = ConstGauge::new(open);
            let help = "open file descriptors";
            gauge.encode(encoder.encode_descriptor("process_open_fds", help, None, gauge.metric_type())?)?;
        }
        let counter = ConstCounter::new(telemetry::dropped_lines());
        let (name, help) = ("ttdust_log_lines_dropped", "log lines not written: see the reference");
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
    }
}

fn resident_bytes() -> Option<i64> {
    let pages: i64 = fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as i64)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name in brackets, may hold blanks; user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn open_fds() -> Option<i64> {
    // Listing the directory opens one itself.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as i64 - 1)
}

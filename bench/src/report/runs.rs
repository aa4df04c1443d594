//! What files say of runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use ttdust_shards::calendar::civil_from_days;

use super::ReportError;

/// Parts of all requests and what they took at most, in ms.
pub type Curve = Vec<(f64, f64)>;

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Reports {
    /// Loads.
    pub runs: Vec<Run>,
    /// Names and figures of what is no load.
    pub others: Vec<(String, String)>,
}

/// A load.
#[derive(Debug, Default, Clone)]
pub struct Run {
    /// The scenario's, or the file's.
    pub name: String,
    /// The file.
    pub source: PathBuf,
    /// What is told of how it was run.
    pub conditions: Vec<(&'static str, String)>,
    /// What was seen to be wrong.
    pub faults: Vec<String>,
    /// Records acked a second.
    pub records_per_second: Option<f64>,
    /// 10^6 bytes of payload a second.
    pub mb_per_second: Option<f64>,
    /// The server's CPU time, in µs a record.
    pub server_cpu_us: Option<f64>,
    /// How busy the busiest thread of the generator was, 0 to 1.
    pub load_busy: Option<f64>,
    /// Latencies: p50, p90, p99, p99.9 and so on.
    pub curve: Curve,
    /// The longest, in ms.
    pub max_ms: Option<f64>,
    /// Records, and the longest latency in ms, of each second.
    pub seconds: Vec<(f64, Option<f64>)>,
}

/// What is read of a report of `load -o json`, of this version or an earlier one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    scenario: Option<String>,
    load: Option<String>,
    unix_seconds: u64,
    machine: Option<ToldMachine>,
    notes: BTreeMap<String, String>,
    method: String,
    payload: String,
    payload_bytes: f64,
    connections: u64,
    in_flight: u64,
    batch: u64,
    streams: u64,
    keys: bool,
    rate: Option<f64>,
    seconds: f64,
    interrupted: bool,
    records_per_second: Option<f64>,
    mb_per_second: Option<f64>,
    server_cpu_us_per_record: Option<f64>,
    ack_latency_us: ToldLatency,
    records_by_second: Vec<f64>,
    slowest_us_by_second: Vec<f64>,
    load_threads: Vec<ToldThread>,
    unsent: u64,
    unanswered: u64,
    violations: u64,
    errors: BTreeMap<String, ToldError>,
    stalls: Option<Vec<ToldStalls>>,
    verify: Option<ToldVerdict>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldMachine {
    cpu: String,
    cores: u64,
    kernel: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldLatency {
    count: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldThread {
    busy: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldError {
    count: u64,
    first: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldStalls {
    total_ms: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldVerdict {
    problems: Vec<String>,
}

impl Reports {
    /// Reads files in order.
    ///
    /// # Errors
    /// A file cannot be read, or is none of those that are meant.
    pub fn read(files: &[PathBuf]) -> Result<Self, ReportError> {
        let mut all = Self::default();
        let mut curves = Vec::new();
        for path in files {
            let text = fs::read_to_string(path).map_err(|source| ReportError::Io { path: path.clone(), source })?;
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("hgrm") => curves.push((path, curve_of(path, &text)?)),
                Some("jsonl") => all.add_lines(path, &text)?,
                _ => all.add(path, &text, &beside(path))?,
            }
        }
        for (path, curve) in curves {
            // That of a report stands beside it.
            let of = |run: &&mut Run| run.source.with_extension("hgrm") == *path;
            match all.runs.iter_mut().find(of) {
                Some(run) => run.curve = curve,
                None => all.runs.push(Run {
                    name: stem(path),
                    source: path.clone(),
                    max_ms: curve.last().map(|&(_, ms)| ms),
                    curve,
                    ..Run::default()
                }),
            }
        }
        Ok(all)
    }

    /// Leaves only runs whose names begin with one of `prefixes`; none: all.
    ///
    /// # Errors
    /// None is left.
    pub fn keep(&mut self, prefixes: &[String]) -> Result<(), ReportError> {
        let wanted =
            |name: &str| prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        self.runs.retain(|run| wanted(&run.name));
        self.others.retain(|(name, _)| wanted(name));
        let is_empty = self.runs.is_empty() && self.others.is_empty();
        if is_empty { Err(ReportError::NoneLeft(prefixes.join(" or "))) } else { Ok(()) }
    }

    fn add_lines(&mut self, path: &Path, text: &str) -> Result<(), ReportError> {
        let beside = beside(path);
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            self.add(path, line, &beside).map_err(|error| match error {
                ReportError::Content { path, what } => {
                    ReportError::Content { path, what: format!("line {}: {what}", at + 1) }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, text: &str, beside: &[(&'static str, String)]) -> Result<(), ReportError> {
        let wrong = |error: serde_json::Error| ReportError::Content {
            path: path.to_owned(),
            what: format!("no report: {error}; want what `load -o json` prints, a .jsonl of perf/results, or a .hgrm"),
        };
        let value: Value = serde_json::from_str(text).map_err(wrong)?;
        if value.get("ack_latency_us").is_some() {
            let told: Told = serde_json::from_value(value).map_err(wrong)?;
            self.runs.push(run_of(path, &told, beside));
            return Ok(());
        }
        match value {
            Value::Object(mut members) => {
                let name = members.remove("scenario").and_then(|name| name.as_str().map(str::to_owned));
                self.others.push((name.unwrap_or_else(|| stem(path)), Value::Object(members).to_string()));
                Ok(())
            }
            _ => {
                let what = "no report: want a JSON object".to_owned();
                Err(ReportError::Content { path: path.to_owned(), what })
            }
        }
    }
}

impl Run {
    /// What so many of the requests took at most, in ms.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        // A hair below: quantiles of files are rounded.
        self.curve.iter().find(|(at, _)| *at >= quantile - 1e-9).map(|&(_, ms)| ms)
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

fn run_of(path: &Path, told: &Told, beside: &[(&'static str, String)]) -> Run {
    let latency = &told.ack_latency_us;
    let ms = |us: f64| us / 1e3;
    let mut curve: Curve = [(0.5, latency.p50), (0.9, latency.p90), (0.99, latency.p99), (0.999, latency.p999)]
        .map(|(quantile, us)| (quantile, ms(us)))
        .to_vec();
    // The longest of n is past all but one n-th of them.
    if latency.count > 1000 {
        curve.push((1.0 - 1.0 / latency.count as f64, ms(latency.max)));
    }
    curve.retain(|&(_, ms)| latency.count > 0 && ms > 0.0);
    let second = |(at, &records): (usize, &f64)| {
        let length = (told.seconds - at as f64).clamp(0.0, 1.0);
        // A sliver at the end tells nothing.
        (length >= 0.5).then(|| (records / length, told.slowest_us_by_second.get(at).map(|&us| ms(us))))
    };
    Run {
        name: told.scenario.clone().or_else(|| told.load.clone()).unwrap_or_else(|| stem(path)),
        source: path.to_owned(),
        conditions: conditions(told, path, beside),
        faults: faults(told),
        records_per_second: told.records_per_second,
        mb_per_second: told.mb_per_second,
        server_cpu_us: told.server_cpu_us_per_record,
        load_busy: told.load_threads.iter().map(|thread| thread.busy).reduce(f64::max),
        curve,
        max_ms: (latency.count > 0).then(|| ms(latency.max)),
        seconds: told.records_by_second.iter().enumerate().filter_map(second).collect(),
    }
}

fn conditions(told: &Told, path: &Path, beside: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let notes: Vec<_> =
        told.notes.iter().filter(|(name, _)| !matches!(name.as_str(), "commit" | "durability")).collect();
    let pace = told.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("open loop at {rate} records/s"));
    let keys = if told.keys { ", a key a record" } else { "" };
    let machine = told.machine.as_ref().map(|m| format!("{}, {} cores, Linux {}", m.cpu, m.cores, m.kernel));
    let from_beside = |wanted: &str| beside.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone());
    let commit = told.notes.get("commit").cloned().or_else(|| commit_of(path));
    let unknown = || "not recorded".to_owned();
    let mut all = vec![
        ("date", date(told.unix_seconds)),
        ("commit", commit.unwrap_or_else(unknown)),
        ("machine", machine.or_else(|| from_beside("machine")).unwrap_or_else(unknown)),
        ("payload", format!("{}, {:.0} bytes a record{keys}", told.payload, told.payload_bytes)),
        (
            "load",
            format!(
                "{}, {} records a request, {} connections × {} in flight, {} streams, {pace}",
                told.method, told.batch, told.connections, told.in_flight, told.streams
            ),
        ),
        ("measured", format!("{:.1} s", told.seconds)),
        (
            "durability",
            told.notes.get("durability").cloned().unwrap_or_else(|| "of the server: no ack before the sync".to_owned()),
        ),
    ];
    all.extend(beside.iter().filter(|(name, _)| *name != "machine").cloned());
    if !notes.is_empty() {
        let told: Vec<_> = notes.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        all.push(("notes", told.join("; ")));
    }
    all
}

fn faults(told: &Told) -> Vec<String> {
    let mut faults = Vec::new();
    let mut add = |wrong: bool, what: String| {
        if wrong {
            faults.push(what);
        }
    };
    add(told.interrupted, "ended before its time".to_owned());
    for (kind, error) in &told.errors {
        add(true, format!("{} × {kind}: {}", error.count, error.first));
    }
    add(told.violations > 0, format!("{} answers break the contract", told.violations));
    add(told.unanswered > 0, format!("{} requests without an answer", told.unanswered));
    add(told.unsent > 0, format!("{} requests were due and never sent", told.unsent));
    let saturated = told.load_threads.iter().any(|thread| thread.busy >= 0.9);
    add(saturated, "the generator was saturated: its figure is a floor, not the server's limit".to_owned());
    let stalled: f64 = told.stalls.iter().flatten().map(|stalls| stalls.total_ms).sum();
    add(stalled > 0.0, format!("the machine under this one stalled for {stalled:.0} ms"));
    for problem in told.verify.iter().flat_map(|verdict| &verdict.problems) {
        add(true, format!("verify: {problem}"));
    }
    faults
}

/// What the `.txt` beside results of `perf/run-targets.sh` says of the machine.
fn beside(path: &Path) -> Vec<(&'static str, String)> {
    let Ok(text) = fs::read_to_string(path.with_extension("txt")) else { return Vec::new() };
    let head: Vec<_> = text.lines().take(20).collect();
    let of = |begin: &str| head.iter().find_map(|line| Some(line.strip_prefix(begin)?.trim()));
    let (Some(model), Some(cores), Some(kernel)) = (of("Model name:"), of("CPU(s):"), of("Linux ")) else {
        return Vec::new();
    };
    let under = of("Hypervisor vendor:").map_or_else(String::new, |vendor| format!(" under {vendor}"));
    let mut found = vec![("machine", format!("{model}{under}, {cores} cores, Linux {kernel}"))];
    found.extend(of("commit ").and_then(|line| line.split_once("; ")).map(|(_, cores)| ("placed", cores.to_owned())));
    found.extend(
        head.iter()
            .find(|line| line.starts_with("/dev/"))
            .map(|line| ("disk", line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))),
    );
    found
}

/// The commit in a name such as `20261130T052930Z-169d5e8.jsonl`.
fn commit_of(path: &Path) -> Option<String> {
    let stem = stem(path);
    let (date, rest) = stem.split_once("Z-")?;
    let commit = rest.split('-').next()?;
    let is_date = date.len() == 15 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'T');
    (is_date && commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| commit.to_owned())
}

fn date(unix_seconds: u64) -> String {
    if unix_seconds == 0 {
        return "not recorded".to_owned();
    }
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil_from_days(i64::try_from(days).unwrap_or(0));
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second / 60 % 60)
}

/// The curve of a file of percentiles, as HdrHistogram writes them.
fn curve_of(path: &Path, text: &str) -> Result<Curve, ReportError> {
    let wrong = |what: String| ReportError::Content { path: path.to_owned(), what };
    let mut curve = Curve::new();
    for (at, line) in text.lines().enumerate() {
        let mut columns = line.split_whitespace();
        let Some(first) = columns.next().filter(|first| !first.starts_with('#') && *first != "Value") else { continue };
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok()).filter(|n| n.is_finite());
        let row = (number(Some(first)), number(columns.next()), number(columns.next()));
        let (Some(ms), Some(quantile), Some(count)) = row else {
            return Err(wrong(format!("line {} is no percentile: want value, quantile and count", at + 1)));
        };
        // All of them are as many as can be told: the longest of n is past all but one n-th.
        let quantile = if quantile >= 1.0 { 1.0 - 1.0 / count.max(2.0) } else { quantile };
        if ms > 0.0 && curve.last().is_none_or(|&(before, _)| quantile >= before) {
            curve.push((quantile.max(0.0), ms));
        }
    }
    if curve.is_empty() { Err(wrong("no percentiles are in it".to_owned())) } else { Ok(curve) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |(name, text): &(&str, &str)| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let paths = files.iter().map(write).collect();
        (dir, paths)
    }

    const REPORT: &str = r#"{"unix_seconds": 1796016681, "method": "append", "payload": "clicks", "payload_bytes": 318.0,
        "connections": 4, "in_flight": 16, "batch": 100, "streams": 1, "rate": null, "seconds": 2.6,
        "records_per_second": 1000.0, "ack_latency_us": {"count": 5000, "p50": 500.0, "p90": 900.0, "p99": 2000.0,
        "p999": 4000.0, "max": 9000.0}, "records_by_second": [900, 1100, 600, 1], "slowest_us_by_second": [1000, 9000, 5],
        "notes": {"commit": "abcdef0", "disk": "nvme"}, "machine": {"cpu": "A", "cores": 2, "kernel": "6.1"},
        "errors": {"UNAVAILABLE": {"count": 2, "first": "gone"}}, "load_threads": [{"busy": 0.95}], "later": 1}"#;

    #[test]
    fn a_report_is_read_with_its_conditions_and_faults() {
        let (_dir, paths) = written(&[("one.json", REPORT)]);
        let reports = Reports::read(&paths).expect("a report");
        let run = &reports.runs[0];
        assert_eq!((run.name.as_str(), run.records_per_second, run.max_ms), ("one", Some(1000.0), Some(9.0)));
        assert_eq!(run.curve.last(), Some(&(1.0 - 1.0 / 5000.0, 9.0)));
        assert_eq!((run.quantile(0.5), run.quantile(0.99), run.quantile(0.99999)), (Some(0.5), Some(2.0), None));
        assert_eq!(run.seconds, [(900.0, Some(1.0)), (1100.0, Some(9.0)), (600.0 / 0.6000000000000001, Some(0.005))]);
        let condition = |name| run.conditions.iter().find(|(other, _)| *other == name).map(|(_, text)| text.as_str());
        assert_eq!((condition("commit"), condition("date")), (Some("abcdef0"), Some("2026-11-30 05:31 UTC")));
        assert_eq!((condition("machine"), condition("notes")), (Some("A, 2 cores, Linux 6.1"), Some("disk: nvme")));
        assert!(
            run.faults[0].contains("2 × UNAVAILABLE: gone") && run.faults[1].contains("saturated"),
            "{:?}",
            run.faults
        );
    }

    #[test]
    fn percentiles_go_to_the_report_beside_them_or_are_a_run() {
        let hgrm = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n 0.100 0.000000000000 1 1.00\n 0.250 0.500000000000 500 2.00\n\
                    3.000 1.000000000000 1000\n#[Mean    = 1.0, StdDeviation   = 1]\n";
        let (_dir, paths) = written(&[("a.hgrm", hgrm), ("a.json", REPORT), ("b.hgrm", hgrm)]);
        let mut reports = Reports::read(&paths).expect("reports");
        assert_eq!(reports.runs.len(), 2);
        assert_eq!(reports.runs[0].curve, [(0.0, 0.1), (0.5, 0.25), (0.999, 3.0)]);
        let alone = &reports.runs[1];
        assert_eq!((alone.name.as_str(), alone.quantile(0.5), alone.records_per_second), ("b", Some(0.25), None));
        reports.keep(&["b".to_owned()]).expect("one");
        assert_eq!(reports.runs.len(), 1);
        assert!(reports.keep(&["c".to_owned()]).expect_err("none").to_string().contains("--only"));
    }

    #[test]
    fn what_is_no_report_is_told_with_its_place() {
        for (name, text, part) in [
            ("a.json", "{", "no report"),
            ("a.json", "[1]", "JSON object"),
            ("a.json", r#"{"ack_latency_us": 1}"#, "no report"),
            ("a.jsonl", "{\"scenario\": \"x\"}\n\nnot", "line 3"),
            ("a.hgrm", "0.1 half 3", "line 1"),
            ("a.hgrm", "", "no percentiles"),
        ] {
            let (_dir, paths) = written(&[(name, text)]);
            let told = Reports::read(&paths).expect_err(text).to_string();
            assert!(told.contains(part) && told.contains(name), "{told}");
        }
        assert!(Reports::read(&["/nowhere.json".into()]).expect_err("no file").to_string().contains("/nowhere.json"));
        assert_eq!(commit_of(Path::new("20261130T052930Z-169d5e8-lookup.jsonl")).as_deref(), Some("169d5e8"));
        assert_eq!(commit_of(Path::new("resultsZ-169d5e8.jsonl")), None);
    }
}

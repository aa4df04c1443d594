//! The page: what was run, how the runs compare, and their plots.

use super::{
    markup::Markup,
    plot::{Axis, LINES_MAX, Line, Scale, chart},
    runs::{Reports, Run},
};

/// Everything of its looks. Colours are told apart on white and on black, also by those who see few of them.
const HEAD: &str = r#"<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<style>
:root { color-scheme: light dark; --ink: #1a1a1a; --faint: #8884; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #16181c; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--faint); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .words td { text-align: left; }
.ratio { opacity: .7; padding-left: .4rem; }
.faults { margin: 0; }
figure { margin: 1.2rem 0; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); }
.grid { stroke: var(--faint); }
.line { fill: none; stroke-width: 1.8; stroke: currentColor; }
.dot { fill: currentColor; }
.key { display: inline-block; width: 1.4rem; height: .25rem; margin-right: .4rem; vertical-align: middle; background: currentColor; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; margin: 0; }
.c0 { color: #0072b2; } .c1 { color: #d55e00; } .c2 { color: #009e73; } .c3 { color: #cc79a7; }
.c4 { color: #b8860b; } .c5 { color: #56b4e9; } .c6 { color: #7b5cd6; } .c7 { color: #8c8c8c; }
</style>
"#;

/// The whole page.
pub fn page(title: &str, reports: &Reports) -> String {
    let mut out = Markup::default();
    out.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n")
        .raw(HEAD)
        .element("title", title)
        .raw("\n</head>\n<body>\n");
    out.element("h1", title).raw("\n");
    if !reports.runs.is_empty() {
        comparison(&mut out, &reports.runs);
        conditions(&mut out, &reports.runs);
        latencies(&mut out, &reports.runs);
        throughput(&mut out, &reports.runs);
        slowest(&mut out, &reports.runs);
    }
    if !reports.others.is_empty() {
        out.raw("<h2>Other figures</h2>\n<div class=\"wide\"><table class=\"words\">\n");
        for (name, figures) in &reports.others {
            out.raw("<tr>").element("td", name).raw("<td>").element("code", figures).raw("</td></tr>\n");
        }
        out.raw("</table></div>\n");
    }
    out.raw("</body>\n</html>\n");
    out.into_string()
}

/// A figure of the table.
struct Column {
    title: &'static str,
    of: fn(&Run) -> Option<f64>,
    places: usize,
}

const COLUMNS: [Column; 9] = [
    Column { title: "records/s", of: |run| run.records_per_second, places: 0 },
    Column { title: "MB/s", of: |run| run.mb_per_second, places: 1 },
    Column { title: "ack p50 ms", of: |run| run.quantile(0.5), places: 3 },
    Column { title: "p90 ms", of: |run| run.quantile(0.9), places: 3 },
    Column { title: "p99 ms", of: |run| run.quantile(0.99), places: 3 },
    Column { title: "p99.9 ms", of: |run| run.quantile(0.999), places: 3 },
    Column { title: "longest ms", of: |run| run.max_ms, places: 1 },
    Column { title: "server CPU µs/record", of: |run| run.server_cpu_us, places: 3 },
    Column { title: "generator busy %", of: |run| run.load_busy.map(|busy| busy * 100.0), places: 0 },
];

fn comparison(out: &mut Markup, runs: &[Run]) {
    out.raw("<h2>Comparison</h2>\n<div class=\"wide\"><table>\n<tr><th>run</th>");
    for column in &COLUMNS {
        out.element("th", column.title);
    }
    out.raw("</tr>\n");
    for (at, run) in runs.iter().enumerate() {
        out.raw("<tr>").element("td", &run.name);
        for column in &COLUMNS {
            let value = (column.of)(run);
            out.raw("<td>").text(figure(value, column.places));
            let first = (column.of)(&runs[0]).filter(|first| at > 0 && *first > 0.0 && first.is_finite());
            if let (Some(first), Some(value)) = (first, value.filter(|value| value.is_finite())) {
                out.raw("<span class=\"ratio\">").text(format_args!("× {:.2}", value / first)).raw("</span>");
            }
            out.raw("</td>");
        }
        out.raw("</tr>\n");
    }
    out.raw("</table></div>\n");
    if runs.len() > 1 {
        out.raw("<p>× is the ratio to the first run.</p>\n");
    }
    let faulty: Vec<_> = runs.iter().filter(|run| !run.faults.is_empty()).collect();
    if !faulty.is_empty() {
        out.raw("<h2>To be known of these runs</h2>\n<ul class=\"faults\">\n");
        for run in faulty {
            for fault in &run.faults {
                out.raw("<li>").element("b", &run.name).text(": ").text(fault).raw("</li>\n");
            }
        }
        out.raw("</ul>\n");
    }
}

fn figure(value: Option<f64>, places: usize) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else { return "–".to_owned() };
    let text = format!("{value:.places$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && grouped != "-" {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// What all runs share once, and the rest by run.
fn conditions(out: &mut Markup, runs: &[Run]) {
    let mut names: Vec<&'static str> = Vec::new();
    for (name, _) in runs.iter().flat_map(|run| &run.conditions) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let of =
        |run: &Run, name: &str| run.conditions.iter().find(|(other, _)| *other == name).map(|(_, text)| text.clone());
    let shared = |name: &&'static str| runs.iter().all(|run| of(run, name) == of(&runs[0], name));
    let (same, differing): (Vec<_>, Vec<_>) = names.into_iter().partition(shared);
    out.raw("<h2>Conditions</h2>\n<table class=\"words\">\n");
    for name in same {
        out.raw("<tr>").element("th", name).element("td", of(&runs[0], name).unwrap_or_default()).raw("</tr>\n");
    }
    out.raw("</table>\n");
    if differing.is_empty() {
        return;
    }
    out.raw("<div class=\"wide\"><table class=\"words\">\n<tr><th>run</th>");
    for name in &differing {
        out.element("th", name);
    }
    out.raw("</tr>\n");
    for run in runs {
        out.raw("<tr>").element("td", &run.name);
        for name in &differing {
            out.element("td", of(run, name).unwrap_or_else(|| "–".to_owned()));
        }
        out.raw("</tr>\n");
    }
    out.raw("</table></div>\n");
}

/// One in so many requests takes longer.
fn one_in(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile).max(1e-9)
}

fn latencies(out: &mut Markup, runs: &[Run]) {
    let with: Vec<_> = runs.iter().filter(|run| !run.curve.is_empty()).collect();
    for some in with.chunks(LINES_MAX) {
        let all = || some.iter().flat_map(|run| run.curve.iter().copied());
        let x = Axis::of_percentiles("part of the requests", all().map(|(at, _)| one_in(at)).fold(100.0, f64::max));
        let y = Axis::of("ack latency at most, ms", Scale::Log, all().map(|(_, ms)| ms));
        let point = |&(at, ms): &(f64, f64)| (one_in(at), ms, format!("{:.5}% in {ms:.3} ms", at * 100.0));
        let lines: Vec<_> =
            some.iter().map(|run| Line { name: &run.name, points: run.curve.iter().map(point).collect() }).collect();
        chart(out, "Latency by percentile", &x, &y, &lines);
    }
}

/// Plots of what each second had.
fn by_second(
    out: &mut Markup,
    runs: &[Run],
    title: &str,
    axis: &'static str,
    of: fn(&(f64, Option<f64>)) -> Option<f64>,
) {
    let has = |run: &&Run| run.seconds.iter().filter_map(of).count() > 1;
    let with: Vec<_> = runs.iter().filter(has).collect();
    for some in with.chunks(LINES_MAX) {
        let longest = some.iter().map(|run| run.seconds.len()).max().unwrap_or(0);
        let x = Axis::of("second of the measured time", Scale::Linear, [longest as f64].into_iter());
        let y = Axis::of(axis, Scale::Linear, some.iter().flat_map(|run| run.seconds.iter().filter_map(of)));
        let point = |(at, second): (usize, &(f64, Option<f64>))| {
            let value = of(second)?;
            Some((at as f64 + 1.0, value, format!("{} in second {}", figure(Some(value), 1), at + 1)))
        };
        let points = |run: &Run| run.seconds.iter().enumerate().filter_map(point).collect();
        let lines: Vec<_> = some.iter().map(|run| Line { name: &run.name, points: points(run) }).collect();
        chart(out, title, &x, &y, &lines);
    }
}

fn throughput(out: &mut Markup, runs: &[Run]) {
    by_second(out, runs, "Records by second", "records/s", |&(records, _)| Some(records));
}

fn slowest(out: &mut Markup, runs: &[Run]) {
    by_second(out, runs, "The longest ack of each second", "ms", |&(_, ms)| ms);
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    const EVIL: &str = "<script>alert(\"x\")</script>&'\u{202e}";

    fn run(name: &str, records: f64) -> Run {
        Run {
            name: name.to_owned(),
            conditions: vec![("payload", "clicks".to_owned()), ("date", format!("of {name}"))],
            records_per_second: Some(records),
            server_cpu_us: None,
            curve: vec![(0.5, 0.5), (0.9, 0.9), (0.99, 2.0), (0.999, 4.0)],
            max_ms: Some(12.5),
            seconds: vec![(records, Some(1.0)), (records * 1.5, Some(2.0))],
            ..Run::default()
        }
    }

    /// Whether each element that is opened is closed, in order, as a browser's strictest reader has it.
    fn is_balanced(page: &str) -> Result<(), String> {
        let mut open = Vec::new();
        for part in page.split('<').skip(1) {
            let (tag, _) = part.split_once('>').ok_or_else(|| format!("no end of {part:?}"))?;
            if tag.starts_with('!') || tag.ends_with('/') {
                continue;
            }
            let name = tag.split([' ', '\n']).next().unwrap_or_default();
            match name.strip_prefix('/') {
                None => open.push(name),
                Some(closed) if open.last() == Some(&closed) => drop(open.pop()),
                Some(closed) => return Err(format!("{closed} is closed within {open:?}")),
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?} are left open")) }
    }

    #[test]
    fn runs_are_compared_with_the_first_and_plotted() {
        let mut second = run("after", 1_500_000.0);
        second.faults.push("ended before its time".to_owned());
        let reports = Reports {
            runs: vec![run("before", 1_000_000.0), second],
            others: vec![("recovery".into(), "{\"ready_ms\":5}".into())],
        };
        let page = page("Two runs", &reports);
        assert_eq!(is_balanced(&page), Ok(()));
        for part in [
            "<title>Two runs</title>",
            "<td>before</td><td>1,000,000</td>",
            "<td>1,500,000<span class=\"ratio\">× 1.50</span></td>",
            "<td>2.000<span class=\"ratio\">× 1.00</span></td>",
            "<td>–</td>",
            "<b>after</b>: ended before its time",
            "<th>payload</th><td>clicks</td>",
            "<td>of before</td>",
            "<code>{&quot;ready_ms&quot;:5}</code>",
            "99.00000% in 2.000 ms",
            "2,250,000.0 in second 2",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("<polyline").count(), 6);
    }

    #[test]
    fn nothing_that_was_read_is_markup_and_nothing_is_fetched() {
        let mut evil = run(EVIL, f64::NAN);
        evil.conditions = vec![("payload", EVIL.to_owned()), ("notes", EVIL.to_owned())];
        evil.faults = vec![EVIL.to_owned()];
        evil.curve = vec![(0.5, f64::INFINITY), (1.0, 0.0)];
        let reports = Reports { runs: vec![evil.clone(), evil], others: vec![(EVIL.to_owned(), EVIL.to_owned())] };
        let page = page(EVIL, &reports);
        assert_eq!(is_balanced(&page), Ok(()));
        assert!(!page.contains("<script") && !page.contains("\u{202e}"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 10);
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("points=\"inf"), "{page}");
    }

    #[test]
    fn more_runs_than_colours_get_more_plots() {
        let runs = (0..10).map(|number| run(&format!("run {number}"), 1.0)).collect();
        let page = page("Ten", &Reports { runs, others: Vec::new() });
        assert_eq!((page.matches("<svg").count(), page.matches("<polyline").count()), (6, 30));
    }

    #[test]
    fn the_recorded_results_make_a_page() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../perf/results");
        let entries = std::fs::read_dir(folder).expect("the results").map(|entry| entry.expect("an entry").path());
        let files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
        let reports = Reports::read(&files).expect("reports");
        assert!(reports.runs.len() > 100 && reports.others.len() > 20);
        assert!(reports.runs.iter().all(|run| run.records_per_second.is_some() && run.curve.len() >= 4));
        let page = page("All results", &reports);
        assert_eq!(is_balanced(&page), Ok(()));
        assert!(page.contains("AMD EPYC under KVM, 2 cores") && page.contains("169d5e8") && page.contains("recovery"));
    }
}

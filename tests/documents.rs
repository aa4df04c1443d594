//! What the pages say: every command in them works, every link and name of a file leads somewhere, and what is made from the
//! program is equal to what it prints now.

#[path = "documents/desk.rs"]
mod desk;
#[path = "documents/pages.rs"]
mod pages;
#[path = "server/process.rs"]
mod process;
#[path = "server/python.rs"]
mod python;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    process::Command,
};

use desk::Desk;
use pages::{blocks, files, pages, prose, quoted, root, text};
use ttdust::{config::SETTINGS, metrics::metrics};

/// Blocks of commands that are not run: each says in its fence why. More of them need a good reason.
const EXCUSED_MAX: usize = 12;
/// Pages whose commands another test holds.
const HELD_ELSEWHERE: &[(&str, &str)] = &[("deploy/RUNBOOK.md", "tests/deploy.rs")];
/// Pages with commands, each of which has a test below.
const RUN: &[&str] = &[
    "README.md",
    "deploy/OPERATIONS.md",
    "deploy/SECURITY.md",
    "proto/README.md",
    "src/CONCEPTS.md",
    "src/cli/README.md",
    "src/http/README.md",
];
/// What a command has to print: a part of the block, and a part of what comes out of it.
const PRINTED: &[(&str, &str)] = &[
    ("ttdust produce flights tests/data/flights.jsonl.gz", "20,000 records in"),
    ("ttdust lookup flights event_id UA1545-20130101-EWR", "UA1545-20130101-EWR"),
    ("duckdb -c", "UA"),
    ("ttdust dlq list flights", "NOT_AN_INTEGER"),
    ("ttdust query flights --time event", "UA1545-20130101-EWR"),
    ("ttdust import start flights", "records\t20000"),
];

/// Runs the blocks of a page, one after the other, beside one server: the one that the page starts, or one that has the flights.
fn run(page: &str) {
    let runnable: Vec<_> = blocks(page).into_iter().filter(|b| b.is_shell() && b.excuse().is_none()).collect();
    assert!(!runnable.is_empty(), "{page} has no commands");
    let mut desk = Desk::new();
    let serves = |text: &str| text.lines().last().is_some_and(|line| line.ends_with("ttdust serve"));
    if !serves(&runnable[0].text) {
        desk.serve_with_flights();
    }
    for block in &runnable {
        if serves(&block.text) {
            desk.serve(&block.text);
            continue;
        }
        desk.settle();
        let output = desk.run(block);
        let said = python::said(&output);
        for (_, wanted) in PRINTED.iter().filter(|(command, _)| block.text.contains(command)) {
            assert!(said.contains(wanted), "{} does not print {wanted}: {said}", block.place);
        }
    }
    desk.stop();
}

#[test]
fn the_commands_of_the_readme_work() {
    run("README.md");
}

#[test]
fn the_commands_about_running_it_work() {
    run("deploy/OPERATIONS.md");
}

#[test]
fn the_commands_about_security_work() {
    run("deploy/SECURITY.md");
}

#[test]
fn the_commands_about_grpc_work() {
    run("proto/README.md");
}

#[test]
fn the_commands_about_the_concepts_work() {
    run("src/CONCEPTS.md");
}

#[test]
fn the_commands_about_the_command_line_work() {
    run("src/cli/README.md");
}

#[test]
fn the_commands_about_rest_work() {
    run("src/http/README.md");
}

#[test]
fn no_block_of_commands_is_passed_by_without_a_reason() {
    let mut excused = Vec::new();
    for page in pages() {
        let held = HELD_ELSEWHERE.iter().any(|(held, _)| *held == page);
        for block in blocks(&page) {
            let known = ["sh", "text", "json", "toml", "rust", "python", "go", "proto"];
            assert!(
                known.iter().any(|known| block.info.split(' ').next() == Some(known)),
                "{}: say of what language the block is",
                block.place
            );
            if !block.is_shell() || held {
                continue;
            }
            match block.excuse() {
                Some(reason) => excused.push(format!("{}: {reason}", block.place)),
                None => {
                    assert_eq!(block.info, "sh", "{}: want `sh`, or `sh notest: REASON`", block.place);
                    assert!(RUN.contains(&page.as_str()), "{}: give {page} a test in tests/documents.rs", block.place);
                }
            }
        }
    }
    println!("{} blocks are not run:\n{}", excused.len(), excused.join("\n"));
    assert!(excused.len() <= EXCUSED_MAX, "{} blocks are not run:\n{}", excused.len(), excused.join("\n"));
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(page: &str) -> BTreeSet<String> {
    prose(page).lines().filter(|line| line.starts_with('#')).map(|l| anchor(l.trim_start_matches(['#', ' ']))).collect()
}

/// A path as seen from a page's folder, without `..`.
fn from_page(page: &str, path: &str) -> String {
    let mut whole = PathBuf::new();
    for part in Path::new(page).parent().expect("a folder").join(path).components() {
        match part {
            Component::ParentDir => _ = whole.pop(),
            part => whole.push(part),
        }
    }
    whole.to_str().expect("UTF-8").to_owned()
}

#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for page in pages() {
        for link in prose(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, place) = link.split_once('#').map_or((link, None), |(path, place)| (path, Some(place)));
            let target = if path.is_empty() { page.clone() } else { from_page(&page, path) };
            assert!(root().join(&target).exists(), "{page} links to {link}, which is not there");
            if let Some(place) = place {
                assert!(anchors(&target).contains(place), "{page} links to {link}: {target} has no such heading");
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "the search works: {followed}");
}

/// Whether this is the name of a file or folder of the tree: one with a slash, whose first part is at the top.
fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let first = word.split('/').next().unwrap_or("");
    word.contains('/') && word.chars().all(plain) && !["", "."].contains(&first) && root().join(first).is_dir()
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut found = 0;
    for page in pages() {
        for word in quoted(&page).iter().filter(|word| is_path(word)) {
            // What builds and runs leave.
            if word.starts_with("target/") || word.starts_with("deploy/secrets") {
                continue;
            }
            // A module goes by its name too.
            let there = root().join(word).exists() || root().join(format!("{word}.rs")).exists();
            assert!(there, "{page} names {word}, which is not there");
            found += 1;
        }
    }
    assert!(found > 100, "the search works: {found}");
}

#[test]
fn the_readme_has_every_page() {
    let readme = text("README.md");
    let table = readme.split("\n## Documents\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a table");
    for page in pages().iter().filter(|page| *page != "README.md") {
        assert!(table.contains(&format!("]({page})")), "README.md's table of documents lacks {page}");
    }
}

#[track_caller]
fn is_what_the_program_prints(page: &str, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_ttdust")).args(arguments).output().expect("run");
    assert!(output.status.success(), "{}", python::said(&output));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let differs = printed.lines().zip(text(page).lines()).position(|(new, old)| new != old);
    let command = arguments.join(" ");
    assert!(printed == text(page), "{page} is old, from line {differs:?} on: ttdust {command} > {page}");
}

#[test]
fn pages_made_by_the_program_are_what_it_makes_now() {
    is_what_the_program_prints("src/config/REFERENCE.md", &["config", "reference"]);
    is_what_the_program_prints("src/metrics/REFERENCE.md", &["metrics", "reference"]);
    is_what_the_program_prints("src/http/REFERENCE.md", &["openapi", "--format", "markdown"]);
}

/// Cells of the rows of a page's tables.
fn rows(page: &str) -> Vec<Vec<String>> {
    let prose = prose(page);
    let rows = prose.lines().filter(|line| line.starts_with("| ") || line.starts_with("|`"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// gRPC's own names of codes: `InvalidArgument` as `INVALID_ARGUMENT`.
fn code_name(code: &str) -> String {
    let mut name = String::new();
    for c in code.chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// Every pair of a code and a reason that the sources end a call with.
fn ends_in_the_sources() -> BTreeSet<(String, String)> {
    let pair = regex::Regex::new(r#"Code::(\w+),\s*"([A-Z_]+)""#).expect("a pattern");
    let invalid = regex::Regex::new(r#"\binvalid\(\s*"([A-Z_]+)""#).expect("a pattern");
    let mut found = BTreeSet::new();
    let sources = files(".rs").into_iter().filter(|path| path.starts_with("shards/src/grpc/"));
    for source in sources.chain(["src/producer.rs".to_owned(), "src/tails.rs".to_owned()]) {
        let text = text(&source);
        let text = text.split("#[cfg(test)]").next().unwrap_or("");
        found.extend(pair.captures_iter(text).map(|c| (code_name(&c[1]), c[2].to_owned())));
        found.extend(invalid.captures_iter(text).map(|c| ("INVALID_ARGUMENT".to_owned(), c[1].to_owned())));
    }
    // Put together in more than one step, so that the search does not see them.
    let tails =
        ["READER_STALLED", "READER_TOO_SLOW"].map(|reason| ("RESOURCE_EXHAUSTED".to_owned(), reason.to_owned()));
    let exhausted = ["BACKPRESSURE", "IDEMPOTENCY_KEYS_FULL", "TOO_MANY_WRITERS"];
    found.extend(tails);
    found.extend(exhausted.map(|reason| ("RESOURCE_EXHAUSTED".to_owned(), reason.to_owned())));
    let bad = ["NOT_JSON", "TOO_DEEP", "DUPLICATE_KEY", "NUMBER_OUT_OF_RANGE", "SCHEMA_VIOLATION", "RECORD_TOO_LARGE"];
    found.extend(bad.map(|reason| ("INVALID_ARGUMENT".to_owned(), reason.to_owned())));
    found
}

/// The other half, which reasons come with a time to try again, is held by `shards/src/grpc/status.rs`.
#[test]
fn the_retry_table_has_every_end_of_a_call_and_no_other() {
    let wanted = ends_in_the_sources();
    let mut told = BTreeSet::new();
    for row in rows("proto/README.md").iter().filter(|row| row.len() == 5) {
        for reason in row[1].split('`').skip(1).step_by(2) {
            told.insert((row[0].trim_matches('`').to_owned(), reason.to_owned()));
        }
    }
    let missing: Vec<_> = wanted.difference(&told).collect();
    assert!(missing.is_empty(), "proto/README.md lacks {missing:?}");
    // Lookups have reasons of their own, and so have admin calls.
    let control = text("src/control.rs") + &text("shards/src/query/lookup.rs");
    let more: Vec<_> = told.difference(&wanted).filter(|(_, reason)| !control.contains(reason.as_str())).collect();
    assert!(more.is_empty(), "proto/README.md tells of ends that the sources do not have: {more:?}");
}

#[test]
fn settings_and_metrics_that_are_told_of_exist() {
    let sections: BTreeSet<_> =
        SETTINGS.iter().filter_map(|setting| setting.key.split_once('.')).map(|(s, _)| s).collect();
    let metrics = metrics();
    let (mut settings, mut shown) = (0, 0);
    for page in pages() {
        for code in quoted(&page) {
            let word = code.split([' ', '=', '{']).next().expect("a word");
            let is_key = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b));
            if is_key && word.split_once('.').is_some_and(|(section, _)| sections.contains(section)) {
                assert!(SETTINGS.iter().any(|setting| setting.key == word), "{page}: {word} is no setting");
                settings += 1;
            }
            if word.starts_with("ttdust_") {
                assert!(metrics.iter().any(|metric| metric.name == word), "{page}: {word} is no metric");
                shown += 1;
            }
        }
    }
    assert!(settings > 100 && shown > 100, "the search works: {settings} {shown}");
}

#[test]
fn every_scenario_of_performance_is_told_of() {
    let script = ["perf/run-targets.sh", "perf/hostile.sh"].map(text).concat();
    let page = text("perf/README.md");
    let scenario = regex::Regex::new(r"(?m)^run_(\w+)\(\)").expect("a pattern");
    let scenarios: Vec<_> = scenario.captures_iter(&script).map(|found| found[1].to_owned()).collect();
    assert!(scenarios.len() > 10, "the search works: {scenarios:?}");
    // What others are made of takes arguments.
    for scenario in scenarios.iter().filter(|name| !name.ends_with("_on") && !name.ends_with("_of")) {
        assert!(page.contains(&format!("`{scenario}`")), "perf/README.md does not tell of {scenario}");
    }
}

#[test]
fn tests_that_are_named_are_there() {
    let named = regex::Regex::new(r"`([\w./-]+\.rs)`: ((?:`\w+`(?:, )?)+)").expect("a pattern");
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for page in ["shards/DURABILITY.md", "deploy/OPERATIONS.md", "deploy/SECURITY.md"] {
        for names in named.captures_iter(&prose(page)) {
            let source = text(&names[1]);
            for name in names[2].split('`').skip(1).step_by(2) {
                let head = format!("fn {name}(");
                let at = source.find(&head).unwrap_or_else(|| panic!("{page}: {} has no test {name}", &names[1]));
                let above = source[..at].trim_end().lines().rev().take_while(|line| !line.trim().is_empty());
                assert!(above.take(3).any(|line| line.contains("#[test]")), "{page}: {name} is no test");
                *found.entry(page.to_owned()).or_default() += 1;
            }
        }
    }
    for page in ["shards/DURABILITY.md", "deploy/SECURITY.md"] {
        assert!(found.get(page).is_some_and(|count| *count > 20), "the search works: {found:?}");
    }
}

//! The rules of the house, as tests: who may use whom, where `unsafe`, the environment and the runtime's name may stand, how
//! large things may grow, and that the README's map is true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules of `shards/src`, from the ground up: a module uses only itself and what stands before it.
const SHARD_FLOORS: &[&str] = &[
    "ids",
    "calendar",
    "config",
    "io",
    "memory",
    "threads",
    "filter",
    "tls",
    "peers",
    "rate",
    "metrics",
    "trace",
    "schema",
    "access",
    "wal::frame",
    "wal::entry",
    "wal",
    "record",
    "transform",
    "pipeline",
    "validate",
    "dead_letters",
    "snapshot",
    "parquet",
    "query",
    "tail",
    "dedup",
    "buffer",
    "message",
    "shard",
    "io::uring",
    "mailbox",
    "background",
    "reactor",
    "grpc",
    "runtime",
];

/// Modules of `src`, likewise. `main` is the program and uses the crate by its name.
const SERVER_FLOORS: &[&str] = &[
    "calendar",
    "config",
    "data_dir",
    "traces",
    "telemetry",
    "tls",
    "workers",
    "outgoing",
    "otlp",
    "compatibility",
    "catalog",
    "access",
    "objects",
    "link",
    "metrics",
    "redis_link",
    "shared_cache",
    "file_lists",
    "coordination",
    "publish",
    "producer",
    "dead_letters",
    "flush",
    "archive",
    "compaction",
    "retention",
    "manifests",
    "orphans",
    "rebuild",
    "upkeep",
    "query",
    "tails",
    "imports",
    "control",
    "http",
    "serve",
    "wal",
    "doctor",
    "bundle",
    "demo",
    "cli",
];

/// What `shards` may depend on directly.
const SHARD_DEPENDENCIES: &[&str] = &[
    "ttdust-proto",
    "ahash",
    "arrow-array",
    "arrow-schema",
    "bytes",
    "compio-buf",
    "compio-driver",
    "compio-runtime",
    "crc32c",
    "crossbeam-channel",
    "crossbeam-queue",
    "flate2",
    "futures-util",
    "h2",
    "http",
    "jiff",
    "jsonschema",
    "jsonschema-regex",
    "libc",
    "memchr",
    "parquet",
    "prost",
    "prost-types",
    "regex",
    "regex-automata",
    "rustix",
    "rustls",
    "serde",
    "serde_json",
    "sha2",
    "simd-json",
    "socket2",
    "thiserror",
    "tokio",
    "tokio-rustls",
    "tracing",
    "uuid",
    "x509-cert",
    "zstd",
];

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "Makefile",
    "README.md",
    "bench",
    "deny.toml",
    "deploy",
    "migrations",
    "perf",
    "proto",
    "rustfmt.toml",
    "shards",
    "src",
    "tests",
    "target",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below `dirs`, sorted.
fn sources(dirs: &[&str]) -> Vec<PathBuf> {
    let mut waiting: Vec<_> = dirs.iter().map(|dir| root().join(dir)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("a listing").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn all_sources() -> Vec<PathBuf> {
    let ours = [
        "src",
        "proto/src",
        "proto/build.rs",
        "proto/examples",
        "shards/src",
        "shards/tests",
        "bench/src",
        "bench/tests",
        "tests",
    ];
    // Workspaces of their own, held to the same.
    let apart = ["bench/peers/src", "bench/runtimes/src"];
    sources(&[&ours[..], &apart].concat()).into_iter().filter(|path| path.exists()).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The code of a file without comments, strings' contents aside (none of them contains `crate::`), and without its tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The module paths that stand behind `crate::` in `code`, with braces expanded.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if at > 0 && code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        expand("", &code[at + "crate::".len()..], &mut used);
    }
    used
}

/// Reads one path (`a::b`, `a::{b, c::d}`) from the start of `text` and returns what follows it.
fn expand<'a>(prefix: &str, text: &'a str, used: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = expand(prefix, rest, used).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            match rest.strip_prefix('}') {
                Some(after) => return after,
                None if rest.is_empty() => return rest,
                None => {}
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    if let Some(deeper) = rest.strip_prefix("::") {
        return expand(&path, deeper, used);
    }
    used.insert(path);
    let rest = rest
        .strip_prefix(" as ")
        .map_or(rest, |alias| alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
    if end == 0 { rest.get(1..).unwrap_or("") } else { rest }
}

/// The floor that a module path belongs to: its longest prefix among `floors`.
fn floor(floors: &[&str], path: &str) -> Option<usize> {
    let belongs = |floor: &str| path == floor || path.strip_prefix(floor).is_some_and(|rest| rest.starts_with("::"));
    (0..floors.len()).filter(|&i| belongs(floors[i])).max_by_key(|&i| floors[i].len())
}

fn module_of(source: &Path, src: &Path) -> String {
    let relative = source.strip_prefix(src).expect("below src").with_extension("");
    relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("::")
}

fn check_floors(dir: &str, floors: &[&str]) -> Vec<String> {
    let src = root().join(dir);
    let mut wrong = Vec::new();
    for source in sources(&[dir]) {
        let module = module_of(&source, &src);
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = floor(floors, &module) else {
            wrong.push(format!("{} is on no floor: give it one in tests/tidy.rs", shown(&source)));
            continue;
        };
        for used in used_modules(&code(&read(&source))) {
            if floor(floors, &used).is_some_and(|theirs| theirs > own) {
                wrong.push(format!("{} uses crate::{used}, which stands above it", shown(&source)));
            }
        }
    }
    wrong
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let mut wrong = check_floors("shards/src", SHARD_FLOORS);
    wrong.extend(check_floors("src", SERVER_FLOORS));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str, table: &str) -> BTreeSet<String> {
    let text = read(&root().join(manifest));
    let header = format!("[{table}]");
    text.lines()
        .skip_while(|line| line.trim() != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_depend_only_downwards_and_shards_on_an_allow_list() {
    let ours = |manifest| -> BTreeSet<String> {
        dependencies(manifest, "dependencies").into_iter().filter(|name| name.starts_with("ttdust")).collect()
    };
    assert_eq!(ours("proto/Cargo.toml"), BTreeSet::new());
    assert_eq!(ours("shards/Cargo.toml"), BTreeSet::from(["ttdust-proto".to_owned()]));
    assert!(!ours("bench/Cargo.toml").contains("ttdust"), "the load generator never uses the server");
    let allowed: BTreeSet<_> = SHARD_DEPENDENCIES.iter().map(|&name| name.to_owned()).collect();
    let actual = dependencies("shards/Cargo.toml", "dependencies");
    assert_eq!(actual.difference(&allowed).collect::<Vec<_>>(), Vec::<&String>::new(), "not on the allow-list");
    assert_eq!(allowed.difference(&actual).collect::<Vec<_>>(), Vec::<&String>::new(), "on the list, but not used");
}

/// The files whose code contains `needle`, tests aside.
fn containing(dirs: &[&str], needle: &str) -> Vec<String> {
    let has = |path: &PathBuf| code(&read(path)).contains(needle);
    sources(dirs).iter().filter(|path| has(path)).map(|path| shown(path)).collect()
}

#[test]
fn the_runtime_is_named_in_few_places() {
    let allowed = |path: &String| {
        ["shards/src/runtime", "shards/src/io/uring", "shards/src/mailbox", "shards/src/grpc"]
            .iter()
            .any(|place| path.starts_with(place))
    };
    let named = containing(&["src", "shards/src", "bench/src"], "compio_");
    assert!(!named.is_empty(), "the search works");
    assert_eq!(named.iter().filter(|path| !allowed(path)).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn unsafe_stands_only_where_a_comment_says_why() {
    for path in all_sources() {
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            let is_unsafe = line.trim_start().starts_with("unsafe ") || line.contains("= unsafe {");
            if is_unsafe && !shown(&path).starts_with("tests/tidy") {
                let above: Vec<_> = text.lines().take(number).collect();
                let reasoned = above.iter().rev().take(4).any(|line| line.contains("SAFETY:"));
                assert!(reasoned, "{}:{} has no SAFETY comment", shown(&path), number + 1);
            }
        }
    }
}

#[test]
fn the_environment_is_read_only_in_config() {
    let read_in = containing(&["src", "shards/src"], "env::var");
    let wrong: Vec<_> = read_in.iter().filter(|path| !path.starts_with("src/config")).collect();
    assert_eq!(wrong, Vec::<&String>::new());
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for path in all_sources() {
        let text = read(&path);
        let lines: Vec<_> = text.lines().collect();
        if lines.len() >= 800 {
            wrong.push(format!("{} has {} lines", shown(&path), lines.len()));
        }
        let mut begins: Vec<(usize, usize)> = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head =
                line.trim_start().trim_start_matches("pub").trim_start_matches("(crate)").trim_start_matches("(super)");
            let head = head.trim_start().trim_start_matches("async ").trim_start_matches("const ");
            if head.starts_with("fn ") && !line.trim_end().ends_with('}') && !line.trim_end().ends_with(';') {
                begins.push((indent, number));
            }
            while let Some(&(opened, at)) = begins.last()
                && indent == opened
                && (line.trim() == "}" || line.trim_end().ends_with(';'))
                && number > at
            {
                if number - at >= 80 {
                    wrong.push(format!("{}:{} is a function of {} lines", shown(&path), at + 1, number - at + 1));
                }
                begins.pop();
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_say_what_they_hold() {
    for path in all_sources() {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let vague = ["mod", "util", "utils", "common", "helper", "helpers", "misc"].contains(&stem);
        assert!(!vague, "{} says nothing about what it holds", shown(&path));
        assert!(read(&path).starts_with("//!"), "{} does not begin with what it holds", shown(&path));
    }
}

#[test]
fn the_top_level_is_fixed() {
    for entry in fs::read_dir(root()).expect("a listing") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || TOP_LEVEL.contains(&name.as_str()), "{name} is not in the house's plan");
    }
}

#[test]
fn the_readme_maps_every_module() {
    let readme = read(&root().join("README.md"));
    for dir in ["src", "shards/src", "bench/src"] {
        for entry in fs::read_dir(root().join(dir)).expect("a listing") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name.ends_with(".rs") && name != "lib.rs" {
                let module = name.trim_end_matches(".rs");
                assert!(readme.contains(&format!("`{module}`")), "README.md's code map lacks `{module}` of {dir}");
            }
        }
    }
}

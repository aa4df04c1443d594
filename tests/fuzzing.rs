//! The inputs that fuzzing found worth keeping, through the same entries: what was mended stays mended, and the entries compile
//! with the product. The fuzzing itself is `make fuzz`.

#[path = "fuzz/entries.rs"]
mod entries;

use std::{fs, path::PathBuf};

/// What a target may keep: the corpus is part of the repository.
const FILES_MAX: usize = 400;
const BYTES_MAX: u64 = 512 << 10;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

/// The inputs of a target, by name.
fn kept(target: &str) -> Vec<PathBuf> {
    let dir = corpus().join(target);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

fn replay(target: &str) {
    let (_, entry) = entries::TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target");
    let files = kept(target);
    assert!(files.len() >= 3, "{target} has no corpus");
    for file in files {
        let input = fs::read(&file).expect("it is readable");
        let done = std::panic::catch_unwind(|| entry(&input));
        assert!(done.is_ok(), "{} is an input that fails", file.display());
    }
}

macro_rules! replayed {
    ($($target:ident),*) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target));
        }
    )*};
}

replayed!(
    compatibility,
    grpc_connection,
    grpc_messages,
    import_csv,
    import_lines,
    import_parquet,
    json,
    schema,
    text,
    wal
);

#[test]
fn every_target_has_a_small_corpus_and_a_program() {
    let mut folders: Vec<_> =
        fs::read_dir(corpus()).expect("a corpus").map(|e| e.expect("an entry").file_name()).collect();
    folders.sort();
    assert_eq!(folders, entries::TARGETS.map(|(name, _)| name), "folders of the corpus, and targets");
    let manifest = include_str!("fuzz/Cargo.toml");
    for (target, _) in entries::TARGETS {
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target} is in no manifest");
        let files = kept(target);
        let bytes: u64 = files.iter().map(|file| fs::metadata(file).expect("a file").len()).sum();
        assert!(files.len() <= FILES_MAX && bytes <= BYTES_MAX, "{target}: {} files, {bytes} bytes", files.len());
    }
}

//! The pages of the source tree, and the blocks of code in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The top of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the source tree.
pub fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What is no page of ours: what builds and runs leave, and what came with data of others.
const PASSED_BY: &[&str] = &["target", ".git", "tests/data", "perf/results", "deploy/secrets"];

/// Every file with this ending, as paths in the tree, sorted.
pub fn files(ending: &str) -> Vec<String> {
    let mut waiting: Vec<PathBuf> = vec![root().to_owned()];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        let name = path.strip_prefix(root()).expect("below").to_str().expect("UTF-8").to_owned();
        if PASSED_BY.contains(&name.as_str()) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("a listing").map(|entry| entry.expect("an entry").path()));
        } else if name.ends_with(ending) {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// Every page.
pub fn pages() -> Vec<String> {
    files(".md")
}

/// A fenced block of a page.
#[derive(Debug, Clone)]
pub struct Block {
    /// `PAGE:LINE`, for people.
    pub place: String,
    /// What stands behind the fence.
    pub info: String,
    pub text: String,
}

impl Block {
    /// Why a block of commands is not run; `None`: it is.
    pub fn excuse(&self) -> Option<&str> {
        self.info.strip_prefix("sh notest: ").map(str::trim).filter(|reason| reason.len() > 8)
    }

    pub fn is_shell(&self) -> bool {
        self.info == "sh" || self.info.starts_with("sh ")
    }
}

/// The fenced blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in text(page).lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open) {
            (Some(info), false) => {
                let place = format!("{page}:{}", number + 1);
                found.push(Block { place, info: info.trim().to_owned(), text: String::new() });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let block = found.last_mut().expect("a block is open");
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, false) => {}
        }
    }
    assert!(!open, "{page}: the last block has no end");
    found
}

/// A page without its fenced blocks.
pub fn prose(page: &str) -> String {
    let mut open = false;
    let kept = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        open ^= is_fence;
        !open && !is_fence
    };
    let text = text(page);
    text.lines().filter(kept).flat_map(|line| [line, "\n"]).collect()
}

/// What stands between backticks in the prose of a page.
pub fn quoted(page: &str) -> Vec<String> {
    prose(page)
        .split("\n\n")
        .flat_map(|part| part.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")).collect::<Vec<_>>())
        .collect()
}

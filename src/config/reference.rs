//! The settings as text for people: the reference, and what is in force.

use std::fmt::Write;

use super::{Loaded, SETTINGS};

/// What the page of settings begins with.
const HEAD: &str = "# Settings\n\nMade by `ttdust config reference`. A setting is a key of the file of `--config` (TOML; \
                    `wal.quota_bytes` is `quota_bytes` under `[wal]`), a variable of the environment, or `--set KEY=VALUE`; the later \
                    ones come before the earlier. A key that is none is refused, with those that are near. `ttdust config show` tells \
                    what is in force and where it comes from, `ttdust config check` whether it fits.\n\n\
                    | key | variable | default | meaning |\n|---|---|---|---|\n";

/// All settings as a page of Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | `{}` | {default} | {} |", setting.key, setting.variable(), setting.meaning);
    }
    text
}

/// What is in force and where it comes from, one setting a line, as TOML that gives the same again but for passwords, which
/// are not shown.
#[must_use]
pub fn show(loaded: &Loaded) -> String {
    let mut text = String::new();
    for (setting, (value, origin)) in SETTINGS.iter().zip(&loaded.values) {
        if setting.secret && !value.is_empty() {
            let _ = writeln!(text, "# {} is set and not shown  # {}", setting.key, origin.name());
            continue;
        }
        let value = toml::Value::String(value.clone());
        let _ = writeln!(text, "{} = {value}  # {}", setting.key, origin.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn the_reference_names_every_setting() {
        let text = reference();
        assert_eq!(text.lines().filter(|line| line.starts_with("| `")).count(), SETTINGS.len());
        assert!(text.contains("| `wal.quota_bytes` | `TTDUST_WAL_QUOTA_BYTES` | `6GiB` |"), "{text}");
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let flags = vec![("shards.pin".to_owned(), "clicks=0,orders=1".to_owned())];
        let loaded = load(&Sources { flags, ..Sources::default() }).expect("valid");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("shown.toml");
        std::fs::write(&file, show(&loaded)).expect("a file in it");
        let again = load(&Sources { file: Some(file), ..Sources::default() }).expect("valid");
        assert_eq!(format!("{:?}", again.settings), format!("{:?}", loaded.settings));
    }
}

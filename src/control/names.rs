//! Names and texts that clients choose, and their bounds.

use std::collections::BTreeMap;

use ttdust_shards::{
    access::Role,
    ids::{SchemaId, StreamId},
};

use super::ControlError;

const NAME_BYTES: usize = 128;
const DESCRIPTION_BYTES: usize = 4096;
const LABELS: usize = 64;
const LABEL_BYTES: usize = 256;
const STREAM_PATTERNS: usize = 64;

/// `^[a-z0-9][a-z0-9._-]{0,127}$`, no `..`, and not what an id looks like.
pub(super) fn name(pointer: &str, name: &str) -> Result<(), ControlError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !first || name.len() > NAME_BYTES || !name.bytes().all(inner) || name.contains("..") {
        return Err(ControlError::field(
            pointer,
            "a name is 1 to 128 of a-z, 0-9, '.', '_' and '-', begins with a letter or digit, and has no '..'",
        ));
    }
    if name.parse::<StreamId>().is_ok() || name.parse::<SchemaId>().is_ok() {
        return Err(ControlError::field(pointer, "a name must not look like an id"));
    }
    Ok(())
}

pub(super) fn description(pointer: &str, text: &str) -> Result<(), ControlError> {
    if text.len() > DESCRIPTION_BYTES {
        return Err(ControlError::field(pointer, format!("a description has at most {DESCRIPTION_BYTES} bytes")));
    }
    if text.contains('\0') {
        return Err(ControlError::field(pointer, "a description has no U+0000: not every catalog can keep it"));
    }
    Ok(())
}

pub(super) fn labels(pointer: &str, labels: &BTreeMap<String, String>) -> Result<(), ControlError> {
    let text = |text: &str| text.len() <= LABEL_BYTES && !text.contains('\0');
    let fits = |(name, value): (&String, &String)| !name.is_empty() && text(name) && text(value);
    if labels.len() > LABELS || !labels.iter().all(fits) {
        let detail = format!(
            "at most {LABELS} labels, each with a name, at most {LABEL_BYTES} bytes a name or value, and no U+0000 in them"
        );
        return Err(ControlError::field(pointer, detail));
    }
    Ok(())
}

/// The streams that a key permits: a role that is confined to streams needs some.
pub(super) fn stream_patterns(pointer: &str, role: Role, patterns: &[String]) -> Result<(), ControlError> {
    if role.is_confined() && patterns.is_empty() {
        let detail =
            format!("a {} needs the streams that it may use: ids, names, or patterns such as web.*", role.name());
        return Err(ControlError::field(pointer, detail));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'*');
    let fits = |p: &String| !p.is_empty() && p.len() <= NAME_BYTES && p.bytes().all(inner);
    if patterns.len() > STREAM_PATTERNS || !patterns.iter().all(fits) {
        let detail =
            format!("at most {STREAM_PATTERNS} ids, names, or patterns of names in which * stands for any text");
        return Err(ControlError::field(pointer, detail));
    }
    Ok(())
}

/// A text of a client as it may stand in a message: cut, and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        for good in ["a", "0", "clicks", "web.clicks_v2-eu", &"x".repeat(128)] {
            assert!(name("/name", good).is_ok(), "{good}");
        }
        let id = StreamId::generate().to_string();
        for bad in ["", "A", ".a", "-a", "_a", "a..b", "a/b", "a b", "ä", &"x".repeat(129), &id] {
            assert!(name("/name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_and_labels_are_bounded() {
        assert!(description("/description", &"x".repeat(4097)).is_err());
        assert!(description("/description", "a\0b").is_err());
        assert!(labels("/labels", &[("team".to_owned(), "\0".to_owned())].into()).is_err());
        let many: BTreeMap<_, _> = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(labels("/labels", &many).is_err());
        assert!(labels("/labels", &[(String::new(), "v".to_owned())].into()).is_err());
        assert!(labels("/labels", &[("team".to_owned(), "v".to_owned())].into()).is_ok());
        let patterns = |role, patterns: &[&str]| {
            stream_patterns("/streams", role, &patterns.iter().map(|&p| p.to_owned()).collect::<Vec<_>>())
        };
        assert!(patterns(Role::Reader, &["web.*", &StreamId::generate().to_string()]).is_ok());
        assert!(patterns(Role::Reader, &[]).is_err() && patterns(Role::Admin, &[]).is_ok());
        assert!(patterns(Role::Writer, &["A"]).is_err() && patterns(Role::Writer, &[""; 1]).is_err());
        assert_eq!(shown("a\nb"), "a\u{fffd}b");
    }
}

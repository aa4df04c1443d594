//! What a PromQL expression names: its metrics with the labels that each is picked by, and the labels that it groups by.

use std::collections::BTreeSet;

/// Words that stand in an expression and are no metric, where no bracket follows them.
const WORDS: &[&str] = &["and", "avg", "bool", "by", "count", "max", "min", "offset", "on", "or", "sum", "unless"];
/// Words whose brackets hold labels.
const GROUPINGS: &[&str] = &["by", "group_left", "group_right", "ignoring", "on", "without"];

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Each metric, and the labels between the braces behind it.
    pub metrics: Vec<(String, BTreeSet<String>)>,
    /// Labels of groupings.
    pub grouped: BTreeSet<String>,
}

/// Reads an expression.
pub fn named(expression: &str) -> Named {
    let mut named = Named::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let word = &rest[..end_of_word(rest)];
        if first == '"' {
            rest = &rest[closing(rest, '"')..];
        } else if first == '[' {
            rest = &rest[closing(rest, ']')..];
        } else if first == '{' {
            let end = end_of_matchers(rest);
            let (_, labels) = named.metrics.last_mut().expect("braces stand behind a metric");
            labels.extend(labels_of_matchers(&rest[1..end - 1]));
            rest = &rest[end..];
        } else if word.is_empty() || first.is_ascii_digit() {
            rest = &rest[word.len().max(first.len_utf8())..];
        } else {
            let behind = rest[word.len()..].trim_start();
            rest = behind;
            if GROUPINGS.contains(&word) && behind.starts_with('(') {
                let end = closing(behind, ')');
                named.grouped.extend(behind[1..end - 1].split(',').map(|label| label.trim().to_owned()));
                rest = &behind[end..];
            } else if !behind.starts_with('(') && !WORDS.contains(&word) {
                named.metrics.push((word.to_owned(), BTreeSet::new()));
            }
        }
    }
    named
}

fn end_of_word(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len())
}

/// The place behind the next `end` that is not the first character.
fn closing(text: &str, end: char) -> usize {
    1 + text[1..].find(end).expect("it is closed") + end.len_utf8()
}

/// The place behind the brace that closes the one at the start; braces in strings do not.
fn end_of_matchers(text: &str) -> usize {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted => return at + 1,
            _ => {}
        }
    }
    panic!("{text} is not closed")
}

fn labels_of_matchers(text: &str) -> Vec<String> {
    // Every second part stands between quotes.
    let outside: String = text.split('"').step_by(2).collect();
    let labels = outside.split(',').map(|part| part.trim().trim_end_matches(['=', '~', '!', ' ']).to_owned());
    labels.filter(|label| !label.is_empty()).collect()
}

#[test]
fn metrics_and_labels_are_found_and_nothing_else() {
    let labels = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let read = named(
        r#"histogram_quantile(0.99, sum by (le, shard) (rate(a_bucket{x="}, y", z=~"$v"}[5m]))) > 3.5 * 1024
           and on (job) b_total{} == 0 unless c offset 5m"#,
    );
    let metrics = [("a_bucket", labels(&["x", "z"])), ("b_total", labels(&[])), ("c", labels(&[]))];
    assert_eq!(read.metrics, metrics.map(|(name, labels)| (name.to_owned(), labels)));
    assert_eq!(read.grouped, labels(&["job", "le", "shard"]));
}

//! Prometheus text, read: names, labels and values.

use std::collections::HashMap;

/// A value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Series {
    /// What a label says; empty: it is not there.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// What a scrape showed.
#[derive(Debug, Default)]
pub(super) struct Exposition(HashMap<String, Vec<Series>>);

impl Exposition {
    /// Reads the text format 0.0.4. The error says which line is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, series) =
                series(line).ok_or_else(|| format!("line {} of the metrics cannot be read", at + 1))?;
            read.0.entry(name.to_owned()).or_default().push(series);
        }
        Ok(read)
    }

    /// All series of a name.
    pub(super) fn of(&self, name: &str) -> &[Series] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The only value of a name, or the sum of several; nothing: the server does not show it.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let all = self.of(name);
        (!all.is_empty()).then(|| all.iter().map(|series| series.value).sum())
    }
}

/// `name{label="value",…} number [time]`.
fn series(line: &str) -> Option<(&str, Series)> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => labels(inner)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    is_name.then_some((name, Series { labels, value }))
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut all = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((all, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, after) = unquoted(quoted)?;
        all.push((name.trim().to_owned(), value));
        rest = after;
    }
}

/// A value up to its closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values_are_read() {
        let text = "# HELP a what it is\n# TYPE a counter\na_total 5\nb{shard=\"0\"} 1.5e3\nb{shard=\"1\",le=\"+Inf\"} 2 1700\n\
                    c{reason=\"a \\\"quoted\\\" \\\\ one, with } and \\n\"} NaN\n\nd{} -1\n";
        let read = Exposition::parse(text).expect("text");
        assert_eq!(read.sum("a_total"), Some(5.0));
        assert_eq!(
            read.of("b").iter().map(|s| (s.label("shard"), s.label("le"), s.value)).collect::<Vec<_>>(),
            [("0", "", 1500.0), ("1", "+Inf", 2.0)]
        );
        assert_eq!(read.of("c")[0].label("reason"), "a \"quoted\" \\ one, with } and \n");
        assert!(read.of("c")[0].value.is_nan());
        assert_eq!((read.sum("d"), read.sum("e")), (Some(-1.0), None));
    }

    #[test]
    fn what_is_no_such_text_is_told_with_its_line() {
        for bad in ["<html>", "a", "a{b=\"c\" 1", "a{b=c} 1", "a x", "{} 1", "a{b=\"c} 1", "a{b=\"\\"] {
            let told = Exposition::parse(&format!("ok 1\n{bad}\n")).expect_err(bad);
            assert!(told.contains("line 2"), "{bad}: {told}");
        }
    }
}

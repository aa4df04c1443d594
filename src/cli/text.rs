//! Values as text for people: nothing in it commands a terminal, times and sizes are short.

use serde_json::Value;

use crate::calendar::{now_unix_micros, parse_time};

/// The text with its control characters spelt out: one of another's making may hold commands for the terminal.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// A JSON value as a cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(members) if members.is_empty() => "-".to_owned(),
        Value::Object(members) if members.values().all(|member| member.is_string()) => {
            let pairs = members.iter().map(|(name, value)| format!("{}={}", plain(name), cell(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        other => plain(&other.to_string()),
    }
}

/// A time of an answer, to the second.
pub(super) fn time(value: &Value) -> String {
    let text = cell(value);
    match text.split_once('.') {
        Some((seconds, _)) if seconds.len() == "2026-03-01T12:00:00".len() => format!("{seconds}Z"),
        _ => text,
    }
}

/// Bytes, in the unit that fits.
pub(super) fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| cell(value), size)
}

/// Bytes, in the unit that fits.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A number in groups of three digits.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with a decimal place.
pub(super) fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| cell(value), |rate| format!("{rate:.1}"))
}

/// How long a retention policy keeps records.
pub(super) fn retention(value: &Value) -> String {
    match (&value["retention_days"], &value["max_bytes"]) {
        (Value::Number(days), _) => format!("{days} d"),
        (_, Value::Number(bytes)) => bytes.as_u64().map_or_else(|| bytes.to_string(), size),
        _ => "for ever".to_owned(),
    }
}

/// Reads a point in time: RFC 3339, Unix microseconds, `now`, or how long ago it was (`90s`, `15m`, `2h`, `7d`). Unix µs.
pub(super) fn parse_moment(text: &str) -> Result<i64, String> {
    if text == "now" {
        return Ok(now_unix_micros());
    }
    if let Some(seconds) = parse_seconds(text.strip_prefix('-').unwrap_or(text)) {
        return Ok(now_unix_micros().saturating_sub(seconds.saturating_mul(1_000_000)));
    }
    parse_time(text).map_err(|_| {
        "no time: give RFC 3339 (2026-03-01T12:00:00Z), Unix microseconds, now, or how long ago (90s, 15m, 2h, 7d)"
            .into()
    })
}

/// `90s`, `15m`, `2h`, `7d` in seconds.
fn parse_seconds(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    let all_digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| number.parse::<i64>().ok()).flatten()?.checked_mul(unit)
}

/// Reads a length of time: `500ms`, `90s`, `15m`, `2h`.
pub(super) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let millis = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    let millis = millis.or_else(|| parse_seconds(text)?.checked_mul(1000)?.try_into().ok());
    millis.map(std::time::Duration::from_millis).ok_or_else(|| "want a time such as 500ms, 90s, 15m or 2h".to_owned())
}

/// Reads a number of bytes: `1048576`, `512KiB`, `10MiB`, `2GiB`, `1TiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let unit = units.into_iter().find_map(|(name, shift)| Some((text.strip_suffix(name)?, shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "want a size such as 1048576, 512KiB, 10MiB or 2GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_one_line_and_harmless() {
        for (value, text) in [
            (json!(null), "-"),
            (json!(""), "-"),
            (json!("a\nb\u{1b}]0;x\u{7}"), "a b\\u{1b}]0;x\\u{7}"),
            (json!(["a", "b"]), "a,b"),
            (json!({"team": "web", "x": "y"}), "team=web,x=y"),
            (json!({"n": 1}), "{\"n\":1}"),
            (json!(1.5), "1.5"),
            (json!(true), "true"),
        ] {
            assert_eq!(cell(&value), text);
        }
        assert_eq!(time(&json!("2026-03-01T12:00:00.123456Z")), "2026-03-01T12:00:00Z");
        assert_eq!(time(&json!(null)), "-");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (1 << 52, "4096.0 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_are_in_groups() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn moments_are_absolute_or_ago() {
        assert_eq!(parse_moment("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(parse_moment("-5"), Ok(-5), "Unix microseconds");
        let ago = now_unix_micros() - parse_moment("2h").expect("a moment");
        assert!((7_199_000_000..7_300_000_000).contains(&ago), "{ago}");
        assert_eq!(parse_moment("-15m").map(|m| (now_unix_micros() - m) / 900_000_000), Ok(1));
        for text in ["", "h", "2x", "2026-03-01", "99999999999999999999d", "é"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(std::time::Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(std::time::Duration::from_secs(120)));
        assert!(parse_duration("2").is_err() && parse_duration("-2s").is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("10"), Ok(10));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert!(parse_size("2GB").is_err() && parse_size("-1").is_err() && parse_size("99999999999TiB").is_err());
    }
}

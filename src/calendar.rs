//! Unix microseconds ↔ RFC 3339 text, always in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use ttdust_shards::calendar::{civil_from_days, date_exists, days_from_civil};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Now, Unix µs.
#[must_use]
pub fn now_unix_micros() -> i64 {
    // A clock before 1970 counts as 1970: nothing here can be done about it, and no caller depends on it.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// `2026-03-01T12:00:00.123456Z`.
#[must_use]
pub fn rfc3339(unix_micros: i64) -> String {
    let seconds = unix_micros.div_euclid(MICROS_PER_SECOND);
    let micros = unix_micros.rem_euclid(MICROS_PER_SECOND);
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The text is neither an RFC 3339 time nor Unix microseconds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a time: give RFC 3339 (2026-03-01T12:00:00Z) or Unix microseconds")]
pub struct TimeError;

/// Reads an RFC 3339 time or Unix microseconds. Digits past the microsecond are cut.
///
/// # Errors
/// The text is neither, or the date does not exist.
pub fn parse_time(text: &str) -> Result<i64, TimeError> {
    if let Ok(micros) = text.parse::<i64>() {
        return Ok(micros);
    }
    parse_rfc3339(text).ok_or(TimeError)
}

fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let (year, month, day) = (digits(&text[..4])?, digits(&text[5..7])?, digits(&text[8..10])?);
    let (hour, minute, second) = (digits(&text[11..13])?, digits(&text[14..16])?, digits(&text[17..19])?);
    // A leap second (60) is taken as the next second, as POSIX time has none.
    if hour > 23 || minute > 59 || second > 60 || !date_exists(year, month as u32, day as u32) {
        return None;
    }
    let (micros, zone) = fraction(&text[19..])?;
    let offset = zone_seconds(zone)?;
    let days = days_from_civil(year, month as u32, day as u32);
    Some((days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset) * MICROS_PER_SECOND + micros)
}

fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Splits `.123456Z` into microseconds and the zone.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    if end == 0 {
        return None;
    }
    let micros =
        rest[..end].bytes().chain(std::iter::repeat(b'0')).take(6).fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    Some((micros, &rest[end..]))
}

fn zone_seconds(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes() {
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    if zone.len() != 6 || zone.as_bytes()[3] != b':' {
        return None;
    }
    let (hours, minutes) = (digits(&zone[1..3])?, digits(&zone[4..6])?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_to_text_and_back() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_772_366_400_123_456, "2026-03-01T12:00:00.123456Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
        ] {
            assert_eq!(rfc3339(micros), text);
            assert_eq!(parse_time(text), Ok(micros));
        }
    }

    #[test]
    fn zones_fractions_and_plain_microseconds_are_read() {
        assert_eq!(parse_time("2026-03-01T14:00:00+02:00"), parse_time("2026-03-01T12:00:00Z"));
        assert_eq!(parse_time("2026-03-01T12:00:00.1234569Z"), Ok(1_772_366_400_123_456));
        assert_eq!(parse_time("1772366400123456"), Ok(1_772_366_400_123_456));
        assert_eq!(parse_time("-5"), Ok(-5));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-03-01",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:00:00",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00+0200",
            "+026-03-01T12:00:00Z",
            "2026-03-01T12:00:00é",
            "99999999999999999999",
        ] {
            assert_eq!(parse_time(text), Err(TimeError), "{text}");
        }
    }
}

//! Unix microseconds ↔ RFC 3339 text and calendar fields, always in UTC.
//!
//! The conversion of days is Howard Hinnant's `civil_from_days` and `days_from_civil` (proleptic Gregorian calendar).

use std::time::{SystemTime, UNIX_EPOCH};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Now, Unix µs.
#[must_use]
pub fn now_unix_micros() -> i64 {
    // A clock before 1970 counts as 1970: nothing here can be done about it, and no caller depends on it.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// Year, month (1–12) and day (1–31) of a day counted from 1970-01-01.
#[must_use]
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// The day, counted from 1970-01-01, of a date that exists.
#[must_use]
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
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
    if hour > 23 || minute > 59 || second > 60 || !date_exists(year, month, day) {
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

fn date_exists(year: i64, month: i64, day: i64) -> bool {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=length).contains(&day)
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

    #[test]
    fn every_day_of_four_centuries_is_one_after_the_day_before() {
        for day in -10_000..150_000 {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, date), day);
        }
    }
}

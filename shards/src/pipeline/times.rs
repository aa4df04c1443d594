//! Times as texts and numbers: the forms that a step reads, and those that it writes.
//!
//! Years are 0000 to 9999. A second 60 is the first of
//! the next minute; hour 24 is the next day, where ISO 8601 has it.

use std::fmt::Write as _;

use jiff::{civil, tz::TimeZone};

use crate::calendar::{civil_from_days, date_exists, days_from_civil, is_leap};

const NANOS: i128 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;
/// 0000-01-01 and the end of 9999, Unix seconds.
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    seconds: i64,
    nanos: u32,
}

/// Where times without an offset are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Zone {
    /// So many seconds east of Greenwich.
    Fixed(i32),
    /// One with rules.
    Named(TimeZone),
}

/// A unit of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    fn nanos(self) -> i128 {
        match self {
            Self::Seconds => NANOS,
            Self::Millis => 1_000_000,
            Self::Micros => 1_000,
            Self::Nanos => 1,
        }
    }
}

/// A form of times in records.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Format {
    /// RFC 3339, which has an offset.
    Rfc3339,
    /// ISO 8601: extended or basic, dates of the calendar, of weeks and of days, with or without a time and an offset.
    Iso8601,
    /// Unix time, as a number or as text of one.
    Unix(Unit),
    /// As `strptime` has it.
    Pattern(Vec<Item>),
}

/// What a step writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// In UTC, with as many of 0, 3, 6 or 9 digits of the second as it takes.
    Rfc3339,
    /// A whole number; what is less than a unit is cut off, towards the past.
    Unix(Unit),
}

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Literal(u8),
    /// Any white space, or none.
    Space,
    Year,
    /// Of two digits: 69 to 99 are 19xx, as POSIX has it.
    ShortYear,
    Month,
    MonthName,
    Day,
    DayOfYear,
    WeekdayName,
    Hour,
    /// 1 to 12.
    HalfHour,
    AmPm,
    Minute,
    Second,
    /// 1 to 9 digits, also with the point before it.
    Fraction,
    Offset,
    Epoch,
}

impl Format {
    /// The format that `name` means, or why it means none.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "rfc3339" => Self::Rfc3339,
            "iso8601" => Self::Iso8601,
            "unix_s" => Self::Unix(Unit::Seconds),
            "unix_ms" => Self::Unix(Unit::Millis),
            "unix_us" => Self::Unix(Unit::Micros),
            "unix_ns" => Self::Unix(Unit::Nanos),
            pattern if pattern.contains('%') => Self::Pattern(items(pattern)?),
            _ => {
                return Err("a format is rfc3339, iso8601, unix_s, unix_ms, unix_us, unix_ns or a pattern such as \
                            %d/%m/%Y %H:%M:%S"
                    .to_owned());
            }
        })
    }

    /// The moment that `text` is in this format.
    pub(super) fn read(&self, text: &str, is_number: bool, zone: &Zone) -> Option<Moment> {
        match self {
            Self::Unix(unit) => unix(text, *unit),
            _ if is_number && !matches!(self, Self::Pattern(_)) => None,
            Self::Rfc3339 => rfc3339(text),
            Self::Iso8601 => iso8601(text, zone),
            Self::Pattern(items) => pattern(items, text, zone),
        }
    }
}

impl Zone {
    /// `UTC`, `Z` or an offset such as `+02:00`; a name is for the caller to look up.
    pub(super) fn offset(text: &str) -> Option<Self> {
        if matches!(text, "UTC" | "utc" | "Z") {
            return Some(Self::Fixed(0));
        }
        let mut reader = Reader::new(text);
        let offset = reader.offset(true)?;
        reader.is_done().then_some(Self::Fixed(offset))
    }
}

impl Moment {
    fn new(seconds: i64, nanos: u32) -> Option<Self> {
        (FIRST_SECOND..=LAST_SECOND).contains(&seconds).then_some(Self { seconds, nanos })
    }

    /// Unix µs.
    pub(super) fn unix_micros(self) -> i64 {
        self.seconds * 1_000_000 + i64::from(self.nanos / 1000)
    }

    /// As JSON text.
    pub(super) fn write(self, target: Target, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = match target {
            Target::Unix(unit) => {
                let nanos = i128::from(self.seconds) * NANOS + i128::from(self.nanos);
                write!(out, "{}", nanos.div_euclid(unit.nanos()))
            }
            Target::Rfc3339 => {
                self.write_rfc3339(out);
                Ok(())
            }
        };
    }

    fn write_rfc3339(self, out: &mut String) {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(DAY_SECONDS));
        let of_day = self.seconds.rem_euclid(DAY_SECONDS) as u32;
        let mut text = *b"\"0000-00-00T00:00:00";
        let mut put = |at: usize, mut number: u32, digits: usize| {
            for place in (at..at + digits).rev() {
                text[place] = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(1, year as u32, 4);
        put(6, month, 2);
        put(9, day, 2);
        put(12, of_day / 3600, 2);
        put(15, of_day / 60 % 60, 2);
        put(18, of_day % 60, 2);
        out.push_str(std::str::from_utf8(&text).unwrap_or_default());
        let _ = match self.nanos {
            0 => Ok(()),
            nanos if nanos % 1_000_000 == 0 => write!(out, ".{:03}", nanos / 1_000_000),
            nanos if nanos % 1000 == 0 => write!(out, ".{:06}", nanos / 1000),
            nanos => write!(out, ".{nanos:09}"),
        };
        out.push_str("Z\"");
    }
}

/// A date that exists, as days since 1970-01-01.
fn date(year: i64, month: u32, day: u32) -> Option<i64> {
    date_exists(year, month, day).then(|| days_from_civil(year, month, day))
}

fn ordinal_date(year: i64, day: u32) -> Option<i64> {
    let days = if is_leap(year) { 366 } else { 365 };
    (1..=days).contains(&day).then(|| days_from_civil(year, 1, 1) + i64::from(day) - 1)
}

/// Monday is 1.
fn week_date(year: i64, week: u32, weekday: u32) -> Option<i64> {
    // The week of 4 January is the first; 1970-01-01 was a Thursday.
    let first_monday = |year: i64| {
        let fourth = days_from_civil(year, 1, 4);
        fourth - (fourth + 3).rem_euclid(7)
    };
    let weeks = (first_monday(year + 1) - first_monday(year)) / 7;
    let exists = (1..=weeks).contains(&i64::from(week)) && (1..=7).contains(&weekday);
    exists.then(|| first_monday(year) + i64::from(week - 1) * 7 + i64::from(weekday) - 1)
}

/// A time of a day: seconds, and the rest.
fn time_of_day(hour: u32, minute: u32, second: u32) -> Option<i64> {
    let exists = hour < 24 && minute < 60 && second <= 60;
    exists.then(|| i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second))
}

/// A local time as a moment. A time that comes twice is the first one; one that is left out is as long after the change.
fn moment(days: i64, of_day: i64, nanos: u32, offset: Option<i32>, zone: &Zone) -> Option<Moment> {
    let local = days * DAY_SECONDS + of_day;
    let offset = match (offset, zone) {
        (Some(offset), _) => offset,
        (None, Zone::Fixed(offset)) => *offset,
        (None, Zone::Named(zone)) => {
            let (year, month, day) = civil_from_days(local.div_euclid(DAY_SECONDS));
            let at = local.rem_euclid(DAY_SECONDS);
            let part = |number: i64| i8::try_from(number).ok();
            let date = civil::Date::new(i16::try_from(year).ok()?, part(month.into())?, part(day.into())?).ok()?;
            let time = civil::Time::new(part(at / 3600)?, part(at / 60 % 60)?, part(at % 60)?, 0).ok()?;
            let found = zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok()?;
            return Moment::new(found.as_second(), nanos);
        }
    };
    Moment::new(local - i64::from(offset), nanos)
}

/// Decimal digits with an optional sign, and a fraction of the unit.
fn unix(text: &str, unit: Unit) -> Option<Moment> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) || whole.len() > 22 {
        return whole_of_float(text, unit);
    }
    let mut nanos = whole.parse::<i128>().ok()? * unit.nanos();
    let mut scale = unit.nanos();
    for digit in fraction.bytes() {
        scale /= 10;
        nanos += i128::from(digit - b'0') * scale;
    }
    at_nanos(if is_negative { -nanos } else { nanos })
}

/// A number with an exponent, such as `1.5e9`: as near as a double is.
#[cold]
fn whole_of_float(text: &str, unit: Unit) -> Option<Moment> {
    let has_exponent =
        text.contains(['e', 'E']) && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let value: f64 = text.parse().ok().filter(|_| has_exponent)?;
    let nanos = (value * unit.nanos() as f64).floor();
    (nanos.abs() < 1e21).then(|| at_nanos(nanos as i128))?
}

/// So many units since 1970.
pub(super) fn of_unit(value: i128, unit: Unit) -> Option<Moment> {
    at_nanos(value * unit.nanos())
}

fn at_nanos(nanos: i128) -> Option<Moment> {
    Moment::new(i64::try_from(nanos.div_euclid(NANOS)).ok()?, nanos.rem_euclid(NANOS) as u32)
}

/// A text that is read from its front.
struct Reader<'t> {
    rest: &'t [u8],
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self { rest: text.as_bytes() }
    }

    fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.take_any(&[byte]).map(drop)
    }

    fn take_any(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.rest.split_first().filter(|(first, _)| bytes.contains(first))?;
        self.rest = rest;
        Some(*first)
    }

    fn digits_ahead(&self) -> usize {
        self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// Exactly so many digits.
    fn number(&mut self, digits: usize) -> Option<u32> {
        self.number_up_to(digits, digits)
    }

    fn number_up_to(&mut self, least: usize, most: usize) -> Option<u32> {
        let digits = self.digits_ahead().min(most);
        if digits < least {
            return None;
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Some(number.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
    }

    /// At least one digit after the point, as nanoseconds; those past the ninth are cut off.
    fn fraction(&mut self) -> Option<u32> {
        let digits = self.digits_ahead();
        if digits == 0 {
            return None;
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let nine = number.iter().chain(std::iter::repeat(&b'0')).take(9);
        Some(nine.fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
    }

    fn optional_fraction(&mut self) -> Option<u32> {
        match self.take_any(b".,") {
            Some(_) => self.fraction(),
            None => Some(0),
        }
    }

    /// `+02:00`; where `is_short` lets it, also `+0200` and `+02`. Seconds east.
    fn offset(&mut self, is_short: bool) -> Option<i32> {
        let is_west = self.take_any(b"+-")? == b'-';
        let hours = self.number(2)?;
        let minutes = match self.take(b':') {
            Some(()) => self.number(2)?,
            None if is_short && self.digits_ahead() >= 2 => self.number(2)?,
            None if is_short => 0,
            None => return None,
        };
        if hours > 23 || minutes > 59 {
            return None;
        }
        let seconds = (hours * 3600 + minutes * 60) as i32;
        Some(if is_west { -seconds } else { seconds })
    }

    /// `Z` or an offset.
    fn zone(&mut self, is_short: bool) -> Option<i32> {
        match self.take_any(b"Zz") {
            Some(_) => Some(0),
            None => self.offset(is_short),
        }
    }

    /// One of `names`, in full or by its first three letters, in any case; its number.
    fn name(&mut self, names: &[&str]) -> Option<usize> {
        let begins =
            |name: &str| self.rest.get(..name.len()).is_some_and(|text| text.eq_ignore_ascii_case(name.as_bytes()));
        let found = names.iter().position(|name| begins(name) || begins(&name[..3]))?;
        let length = if begins(names[found]) { names[found].len() } else { 3 };
        self.rest = &self.rest[length..];
        Some(found)
    }

    fn skip_space(&mut self) {
        while self.take_any(b" \t\n\r").is_some() {}
    }
}

/// `2026-03-01T12:00:00.5Z`.
pub(super) fn rfc3339(text: &str) -> Option<Moment> {
    let mut reader = Reader::new(text);
    let year = reader.number(4)?;
    reader.take(b'-')?;
    let month = reader.number(2)?;
    reader.take(b'-')?;
    let days = date(year.into(), month, reader.number(2)?)?;
    reader.take_any(b"Tt ")?;
    let hour = reader.number(2)?;
    reader.take(b':')?;
    let minute = reader.number(2)?;
    reader.take(b':')?;
    let of_day = time_of_day(hour, minute, reader.number(2)?)?;
    let nanos = if reader.take(b'.').is_some() { reader.fraction()? } else { 0 };
    let offset = reader.zone(false)?;
    if !reader.is_done() {
        return None;
    }
    moment(days, of_day, nanos, Some(offset), &Zone::Fixed(0))
}

fn iso8601(text: &str, zone: &Zone) -> Option<Moment> {
    let mut reader = Reader::new(text);
    let days = iso_date(&mut reader)?;
    let (mut of_day, mut nanos, mut offset) = (0, 0, None);
    if reader.take_any(b"Tt ").is_some() {
        (of_day, nanos) = iso_time(&mut reader)?;
        if !reader.is_done() {
            offset = Some(reader.zone(true)?);
        }
    }
    if !reader.is_done() {
        return None;
    }
    moment(days, of_day, nanos, offset, zone)
}

fn iso_date(reader: &mut Reader<'_>) -> Option<i64> {
    let year = i64::from(reader.number(4)?);
    let is_extended = reader.take(b'-').is_some();
    if reader.take(b'W').is_some() {
        let week = reader.number(2)?;
        let has_day = if is_extended { reader.take(b'-').is_some() } else { reader.digits_ahead() > 0 };
        let weekday = if has_day { reader.number(1)? } else { 1 };
        return week_date(year, week, weekday);
    }
    match (is_extended, reader.digits_ahead()) {
        (_, 3) => ordinal_date(year, reader.number(3)?),
        (false, 4) => date(year, reader.number(2)?, reader.number(2)?),
        (true, 2) => {
            let month = reader.number(2)?;
            let day = if reader.take(b'-').is_some() { reader.number(2)? } else { 1 };
            date(year, month, day)
        }
        _ => None,
    }
}

/// Hours, or minutes, or seconds, the last with a fraction. 24:00 is the end of the day.
fn iso_time(reader: &mut Reader<'_>) -> Option<(i64, u32)> {
    let hour = reader.number(2)?;
    let is_extended = reader.take(b':').is_some();
    let (mut minute, mut second, mut unit) = (0, 0, 3600);
    if is_extended || reader.digits_ahead() >= 2 {
        minute = reader.number(2)?;
        unit = 60;
        let has_seconds = if is_extended { reader.take(b':').is_some() } else { reader.digits_ahead() >= 2 };
        if has_seconds {
            second = reader.number(2)?;
            unit = 1;
        }
    }
    // A fraction of the last of them.
    let nanos = u64::from(reader.optional_fraction()?) * unit;
    let more = (nanos / NANOS as u64) as i64;
    let nanos = (nanos % NANOS as u64) as u32;
    let of_day = match (hour, minute, second, more, nanos) {
        (24, 0, 0, 0, 0) => DAY_SECONDS,
        _ => time_of_day(hour, minute, second)? + more,
    };
    Some((of_day, nanos))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// What the letter after a `%` means.
fn directive(letter: u8) -> Option<&'static [Item]> {
    use Item::{
        AmPm, Day, DayOfYear, Epoch, Fraction, HalfHour, Hour, Literal, Minute, Month, MonthName, Offset, Second,
        ShortYear, Space, WeekdayName, Year,
    };
    Some(match letter {
        b'Y' => &[Year],
        b'y' => &[ShortYear],
        b'm' => &[Month],
        b'b' | b'B' | b'h' => &[MonthName],
        b'd' | b'e' => &[Day],
        b'j' => &[DayOfYear],
        b'a' | b'A' => &[WeekdayName],
        b'H' | b'k' => &[Hour],
        b'I' | b'l' => &[HalfHour],
        b'p' | b'P' => &[AmPm],
        b'M' => &[Minute],
        b'S' => &[Second],
        b'f' => &[Fraction],
        b'z' => &[Offset],
        b's' => &[Epoch],
        b'F' => &[Year, Literal(b'-'), Month, Literal(b'-'), Day],
        b'T' => &[Hour, Literal(b':'), Minute, Literal(b':'), Second],
        b'R' => &[Hour, Literal(b':'), Minute],
        b'D' => &[Month, Literal(b'/'), Day, Literal(b'/'), ShortYear],
        b'n' | b't' => &[Space],
        b'%' => &[Literal(b'%')],
        _ => return None,
    })
}

/// The parts of a pattern.
fn items(pattern: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut rest = pattern.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            items.push(if byte.is_ascii_whitespace() { Item::Space } else { Item::Literal(*byte) });
            continue;
        }
        // `%.f` and `%3f` are written too.
        if let [b'.' | b'3' | b'6' | b'9', tail @ ..] = rest
            && tail.first() == Some(&b'f')
        {
            rest = tail;
        }
        let Some((letter, tail)) = rest.split_first() else {
            return Err("the pattern ends with a lone %: write %% for the sign".to_owned());
        };
        rest = tail;
        items.extend_from_slice(directive(*letter).ok_or_else(|| {
            let letter = char::from(*letter);
            format!(
                "%{letter} is not known in a pattern: use %Y %y %m %b %d %j %a %H %I %p %M %S %f %z %s %F %T %R %D %%"
            )
        })?);
    }
    let has = |wanted: &[Item]| items.iter().any(|item| wanted.contains(item));
    let has_month_and_day = has(&[Item::Month, Item::MonthName]) && has(&[Item::Day]);
    let has_date = has(&[Item::Year, Item::ShortYear]) && (has(&[Item::DayOfYear]) || has_month_and_day);
    if !has(&[Item::Epoch]) && !has_date {
        return Err("the pattern does not name a day: it takes a year (%Y), a month (%m) and a day (%d)".to_owned());
    }
    if has(&[Item::HalfHour]) && !has(&[Item::AmPm]) {
        return Err("the pattern has hours of half a day (%I), but not which half (%p)".to_owned());
    }
    Ok(items)
}

/// What a pattern has found so far.
#[derive(Default)]
struct Found {
    year: i64,
    month: u32,
    day: u32,
    day_of_year: Option<u32>,
    hour: u32,
    half: Option<u32>,
    minute: u32,
    second: u32,
    nanos: u32,
    offset: Option<i32>,
    epoch: Option<Moment>,
}

impl Found {
    fn take(&mut self, item: Item, reader: &mut Reader<'_>) -> Option<()> {
        match item {
            Item::Literal(byte) => return reader.take(byte),
            Item::Space => reader.skip_space(),
            Item::Year => self.year = reader.number(4)?.into(),
            Item::ShortYear => {
                let year = i64::from(reader.number(2)?);
                self.year = year + if year >= 69 { 1900 } else { 2000 };
            }
            Item::Month => self.month = reader.number_up_to(1, 2)?,
            Item::MonthName => self.month = reader.name(&MONTHS)? as u32 + 1,
            Item::Day => {
                reader.skip_space();
                self.day = reader.number_up_to(1, 2)?;
            }
            Item::DayOfYear => self.day_of_year = Some(reader.number_up_to(1, 3)?),
            Item::WeekdayName => drop(reader.name(&WEEKDAYS)?),
            Item::Hour => {
                reader.skip_space();
                self.hour = reader.number_up_to(1, 2)?;
            }
            Item::HalfHour => {
                reader.skip_space();
                self.hour = reader.number_up_to(1, 2).filter(|hour| (1..=12).contains(hour))? % 12;
            }
            Item::AmPm => {
                let is_pm = matches!(reader.take_any(b"AaPp")?, b'P' | b'p');
                reader.take_any(b"Mm")?;
                self.half = Some(if is_pm { 12 } else { 0 });
            }
            Item::Minute => self.minute = reader.number_up_to(1, 2)?,
            Item::Second => self.second = reader.number_up_to(1, 2)?,
            Item::Fraction => {
                let _ = reader.take_any(b".,");
                self.nanos = reader.fraction()?;
            }
            Item::Offset => self.offset = Some(reader.zone(true)?),
            Item::Epoch => {
                let is_negative = reader.take(b'-').is_some();
                let digits = reader.digits_ahead();
                let (number, rest) = reader.rest.split_at(digits);
                let seconds: i64 = std::str::from_utf8(number).ok()?.parse().ok()?;
                reader.rest = rest;
                self.epoch = Some(Moment::new(if is_negative { -seconds } else { seconds }, 0)?);
            }
        }
        Some(())
    }
}

fn pattern(items: &[Item], text: &str, zone: &Zone) -> Option<Moment> {
    let mut reader = Reader::new(text);
    let mut found = Found::default();
    items.iter().try_for_each(|item| found.take(*item, &mut reader))?;
    if !reader.is_done() {
        return None;
    }
    if let Some(epoch) = found.epoch {
        return Moment::new(epoch.seconds, found.nanos);
    }
    let days = match found.day_of_year {
        Some(day) => ordinal_date(found.year, day)?,
        None => date(found.year, found.month, found.day)?,
    };
    let hour = match found.half {
        // `%H` beside `%p`: 13 is 13.
        Some(half) if found.hour < 12 => found.hour + half,
        _ => found.hour,
    };
    moment(days, time_of_day(hour, found.minute, found.second)?, found.nanos, found.offset, zone)
}

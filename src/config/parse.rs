//! Text → values. Every source gives text, so that a value means the same in a file, a variable and a flag.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use toml::{Table, Value};

use super::{
    secrets::RedisUrl,
    settings::{CertificateHolder, ImportRoot, Pin},
};
use ttdust_shards::access::Role;

/// The settings of a file as dotted keys with text values.
pub(super) fn flatten(table: &Table) -> Result<Vec<(String, String)>, String> {
    let mut entries = Vec::new();
    flatten_into(&mut entries, "", table)?;
    Ok(entries)
}

// Recursion is bounded by the TOML parser's own limit on nesting.
fn flatten_into(entries: &mut Vec<(String, String)>, prefix: &str, table: &Table) -> Result<(), String> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten_into(entries, &key, inner)?,
            value => {
                let text = text_of(&key, value)?;
                entries.push((key, text));
            }
        }
    }
    Ok(())
}

fn text_of(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        Value::Array(items) => {
            if items.iter().all(Value::is_str) {
                return Ok(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
            }
            let items: Result<Vec<_>, _> = items.iter().map(|item| item_text(key, item)).collect();
            Ok(items?.join(","))
        }
        _ => Err(format!("{key}: a text, a number, true or false is wanted here")),
    }
}

fn item_text(key: &str, item: &Value) -> Result<String, String> {
    match item {
        Value::Integer(number) => Ok(number.to_string()),
        Value::Table(pin) => match (pin.get("stream"), pin.get("shard"), pin.len()) {
            (Some(Value::String(stream)), Some(Value::Integer(shard)), 2) => Ok(format!("{stream}={shard}")),
            _ => Err(format!("{key}: an entry is {{ stream = \"name or id\", shard = number }} and no more")),
        },
        _ => Err(format!("{key}: the entries are integers")),
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "want an IP address and a port, such as 0.0.0.0:8080 or [::1]:8080".into())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("want a path".into()) } else { Ok(text.into()) }
}

pub(super) fn path_or_none(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| text.into()))
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("want true or false".into()),
    }
}

/// A whole number from `least` to `most`.
pub(super) fn number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
    text: &str,
    least: T,
    most: T,
) -> Result<T, String> {
    let wanted = || format!("want a whole number from {least} to {most}");
    let number = text.parse().map_err(|_| wanted())?;
    if number < least || number > most { Err(wanted()) } else { Ok(number) }
}

/// Where a server is that is asked by HTTP: a URL without anything that a request would add.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    let wanted = || "want http://host:port or https://host, without user, query or fragment".to_owned();
    if text.is_empty() {
        return Ok(String::new());
    }
    let url = url::Url::parse(text).map_err(|_| wanted())?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
        return Err(wanted());
    }
    Ok(text.to_owned())
}

/// A part of a whole.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "want a number from 0 to 1, such as 0.01".to_owned())
}

/// `name=value` pairs separated by commas. What is wrong is told without them: values are secrets.
pub(super) fn headers(text: &str) -> Result<Vec<(http::HeaderName, http::HeaderValue)>, String> {
    let wanted = || "want name=value pairs of HTTP headers separated by commas".to_owned();
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').ok_or_else(wanted)?;
        let name = http::HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wanted())?;
        let mut value = http::HeaderValue::from_str(value.trim()).map_err(|_| wanted())?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(pair).collect()
}

/// A bucket's name, as every store takes it.
pub(super) fn bucket(text: &str) -> Result<String, String> {
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    let ends = |text: &str| !text.starts_with(['.', '-']) && !text.ends_with(['.', '-']);
    if (3..=63).contains(&text.len()) && text.bytes().all(byte) && ends(text) {
        Ok(text.to_owned())
    } else {
        Err("want 3 to 63 of a-z, 0-9, `.` and `-`, first and last a letter or digit".into())
    }
}

/// What keys in a bucket begin with: parts separated by slashes, or nothing.
pub(super) fn s3_prefix(text: &str) -> Result<String, String> {
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(byte);
    let trimmed = text.trim_end_matches('/');
    if trimmed.is_empty() && text.len() <= 1 {
        return Ok(String::new());
    }
    if trimmed.len() <= 256 && trimmed.split('/').all(part) {
        Ok(trimmed.to_owned())
    } else {
        Err("want parts of letters, digits, `.`, `_` and `-` separated by /, 256 bytes at most".into())
    }
}

/// Bytes: an integer, or one with KiB, MiB, GiB or TiB.
pub(super) fn bytes(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let wanted = || format!("want bytes from {least} to {most}: an integer, or one with KiB, MiB, GiB or TiB");
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), *shift))).unwrap_or((text, 0));
    let number: u64 = digits.parse().map_err(|_| wanted())?;
    let total = number.checked_mul(1 << shift).ok_or_else(wanted)?;
    if total < least || total > most { Err(wanted()) } else { Ok(total) }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    number(text, 1, 3600).map(Duration::from_secs).map_err(|e| format!("{e} (seconds)"))
}

/// Core numbers separated by commas; ranges as `2-5`.
pub(super) fn cores(text: &str) -> Result<Vec<usize>, String> {
    let wanted = || "want core numbers separated by commas, such as 1,2,3 or 1-3".to_string();
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wanted())?;
        let last: usize = last.parse().map_err(|_| wanted())?;
        if first > last || last >= 1024 {
            return Err(wanted());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

/// `name=shard` pairs separated by commas.
pub(super) fn pins(text: &str) -> Result<Vec<Pin>, String> {
    let wanted = || "want stream=shard pairs separated by commas, such as clicks=2,orders=1".to_string();
    let mut pins = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (stream, shard) = part.split_once('=').ok_or_else(wanted)?;
        let pin = Pin { stream: stream.trim().to_owned(), shard: shard.trim().parse().map_err(|_| wanted())? };
        if pins.iter().any(|other: &Pin| other.stream == pin.stream) {
            return Err(format!("{} is pinned twice", pin.stream));
        }
        pins.push(pin);
    }
    Ok(pins)
}

/// Directories and parts of buckets, separated by commas.
pub(super) fn import_roots(text: &str) -> Result<Vec<ImportRoot>, String> {
    let wanted =
        || "want directories (/data/in) and parts of buckets (s3://bucket/prefix/), separated by commas".to_owned();
    let root = |part: &str| match part.strip_prefix("s3://") {
        Some(rest) => {
            let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = s3_prefix(prefix)?;
            let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
            Ok(ImportRoot::Bucket { bucket: bucket(name)?, prefix })
        }
        None => {
            let path = PathBuf::from(part.strip_prefix("file://").unwrap_or(part));
            if path.is_absolute() { Ok(ImportRoot::Directory(path)) } else { Err(wanted()) }
        }
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(root).collect()
}

/// `name=role` or `name=role:stream+stream`, separated by commas.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateHolder>, String> {
    let mut holders = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, rest) = part
            .rsplit_once('=')
            .ok_or("want name=role pairs separated by commas, such as edge.example=writer:clicks")?;
        let (role, streams) = rest.split_once(':').unwrap_or((rest, ""));
        let role = Role::of_name(role)
            .ok_or_else(|| format!("{role:?} is no role: want admin, operator, schema_admin, writer or reader"))?;
        let streams: Vec<_> = streams.split('+').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        if role.is_confined() && streams.is_empty() {
            return Err(format!("{name}={}: say which streams, such as {name}={0}:clicks+web.*", role.name()));
        }
        if holders.iter().any(|other: &CertificateHolder| other.name == name) {
            return Err(format!("{name} is named twice"));
        }
        holders.push(CertificateHolder { name: name.to_owned(), role, streams });
    }
    Ok(holders)
}

/// Where a Redis is; empty: there is none.
pub(super) fn redis_url(text: &str) -> Result<Option<RedisUrl>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    // Checked by the client itself, whose own message may show the password.
    let good =
        text.starts_with("redis://") && redis::parse_redis_url(text).is_some() && redis::Client::open(text).is_ok();
    if good {
        Ok(Some(RedisUrl::new(text)))
    } else {
        Err("want redis://[user:password@]host[:port][/database]; TLS to Redis is not available in this version".into())
    }
}

/// One of `choices`, by name.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("want one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_binary_units_and_refuse_overflow() {
        assert_eq!(bytes("64MiB", 0, u64::MAX), Ok(64 << 20));
        assert_eq!(bytes("2 GiB", 0, u64::MAX), Ok(2 << 30));
        assert_eq!(bytes("4096", 0, u64::MAX), Ok(4096));
        for text in ["", "-1", "MiB", "1MB", "99999999999TiB", "1.5GiB"] {
            assert!(bytes(text, 0, u64::MAX).is_err(), "{text}");
        }
        assert!(bytes("1KiB", 2048, 4096).is_err());
    }

    #[test]
    fn ratios_and_headers_are_checked() {
        assert_eq!((ratio("0"), ratio("0.25"), ratio("1")), (Ok(0.0), Ok(0.25), Ok(1.0)));
        for text in ["", "-0.1", "1.1", "NaN", "inf", "x"] {
            assert!(ratio(text).is_err(), "{text}");
        }
        let pairs = headers("Authorization=Basic s3cret==, x-tenant=7").expect("valid");
        assert_eq!((pairs[0].0.as_str(), pairs[0].1.as_bytes()), ("authorization", &b"Basic s3cret=="[..]));
        assert!(!format!("{pairs:?}").contains("s3cret"));
        for text in ["s3cret", "a b=s3cret", "a=s3\ncret", "=s3cret"] {
            assert!(!headers(text).expect_err("no header").contains("s3"), "{text}");
        }
    }

    #[test]
    fn cores_take_lists_and_ranges() {
        assert_eq!(cores("0, 2-4,7"), Ok(vec![0, 2, 3, 4, 7]));
        assert_eq!(cores(""), Ok(vec![]));
        for text in ["x", "3-1", "1-", "4096", "0-99999999999"] {
            assert!(cores(text).is_err(), "{text}");
        }
    }

    #[test]
    fn import_roots_are_directories_and_parts_of_buckets() {
        let roots = import_roots("/data/in, file:///srv,s3://lake, s3://lake/raw/2026").expect("valid");
        let directory = |path: &str| ImportRoot::Directory(path.into());
        let part = |prefix: &str| ImportRoot::Bucket { bucket: "lake".into(), prefix: prefix.into() };
        assert_eq!(roots, [directory("/data/in"), directory("/srv"), part(""), part("raw/2026/")]);
        assert_eq!(import_roots(""), Ok(vec![]));
        for text in ["data/in", "s3://", "s3://UPPER/x", "s3://lake/../x", "http://lake"] {
            assert!(import_roots(text).is_err(), "{text}");
        }
    }

    #[test]
    fn certificate_holders_have_a_role_and_writers_their_streams() {
        let holders = certificates("spiffe://x/a=admin, edge=writer:clicks+web.*").expect("valid");
        assert_eq!((holders[0].name.as_str(), holders[0].role), ("spiffe://x/a", Role::Admin));
        assert_eq!(holders[1].streams, ["clicks", "web.*"]);
        for text in ["a", "a=root", "a=writer", "a=admin,a=admin"] {
            assert!(certificates(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_pinned_twice_is_refused() {
        assert!(pins("a=1,b=2").is_ok());
        assert!(pins("a=1,a=2").is_err());
        assert!(pins("a").is_err());
    }
}

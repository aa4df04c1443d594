//! Keys: what they are made of, and what a file's key says.
//!
//! The key of a file that a flush wrote is a function of stream, hour, sequence range and format version, so a retry writes the
//! same name, and whatever is found in a store can be told from what is not ours. That of a merged file has its level and its
//! checksum as well: two merges of the same rows with other bytes never meet under one name.

use std::{fmt, str::FromStr as _};

use ttdust_shards::{
    calendar::{civil_from_days, days_from_civil},
    ids::StreamId,
    parquet::{FileMeta, PartitionHour},
};

/// The version of the files' layout, part of each key.
pub const FORMAT_VERSION: u32 = 1;

/// The longest key, in bytes: with a prefix of its own before it, it fits S3's 1024.
pub const KEY_BYTES_MAX: usize = 512;
/// The longest part of a key, in bytes: a file system takes 255.
const PART_BYTES_MAX: usize = 200;

/// Whether `text` can be a key: parts of ASCII letters, digits, `.`, `_` and `-`, separated by `/`, none empty or beginning with
/// a dot. What begins with a dot is a store's own.
#[must_use]
pub fn is_key(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let part =
        |part: &str| (1..=PART_BYTES_MAX).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(byte);
    text.len() <= KEY_BYTES_MAX && text.split('/').all(part)
}

/// What the key of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileName {
    /// The stream.
    pub stream: StreamId,
    /// The hour.
    pub hour: PartitionHour,
    /// Its first sequence number.
    pub first_sequence: i64,
    /// Its last sequence number.
    pub last_sequence: i64,
    /// `None`: a flush wrote it.
    pub merged: Option<MergeMark>,
    /// The version of its layout.
    pub version: u32,
}

/// What tells a merged file from others with the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MergeMark {
    /// At least 1: how often its rows were merged, about.
    pub level: u32,
    /// CRC32C of the whole file.
    pub checksum: u32,
}

impl MergeMark {
    /// `m{level}-{checksum}`.
    fn parse(text: &str) -> Option<Self> {
        let (level, checksum) = text.strip_prefix('m')?.split_once('-')?;
        Some(Self { level: level.parse().ok()?, checksum: u32::from_str_radix(checksum, 16).ok()? })
    }
}

impl FileName {
    /// Reads a key; `None`: it is no file's.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.split('/');
        let stream = StreamId::from_str(parts.next()?).ok()?;
        let mut number = || parts.next()?.parse::<u32>().ok();
        let (year, month, day, hour) = (number()?, number()?, number()?, number()?);
        let (range, version) = parts.next()?.strip_suffix(".parquet")?.split_once(".v")?;
        let (range, merged) = match range.split_once('.') {
            None => (range, None),
            Some((range, mark)) => (range, Some(MergeMark::parse(mark).filter(|mark| mark.level > 0)?)),
        };
        let (first, last) = range.split_once('-')?;
        let bounded = year <= 9999 && (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24;
        let name = bounded.then_some(Self {
            stream,
            hour: PartitionHour(days_from_civil(i64::from(year), month, day) * 24 + i64::from(hour)),
            first_sequence: first.parse().ok()?,
            last_sequence: last.parse().ok()?,
            merged,
            version: version.parse().ok()?,
        })?;
        // One file, one key: what is written otherwise is not ours.
        (name.to_string() == key && name.first_sequence <= name.last_sequence).then_some(name)
    }
}

impl fmt::Display for FileName {
    /// `{stream}/{yyyy}/{mm}/{dd}/{hh}/{first}-{last}.v{version}.parquet`, of a merged file
    /// `…/{first}-{last}.m{level}-{checksum}.v{version}.parquet`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first_sequence, self.last_sequence);
        write!(f, "{}/{first:020}-{last:020}", hour_of(self.stream, self.hour))?;
        if let Some(MergeMark { level, checksum }) = self.merged {
            write!(f, ".m{level}-{checksum:08x}")?;
        }
        write!(f, ".v{}.parquet", self.version)
    }
}

/// The key of a file that a flush wrote, in today's layout.
#[must_use]
pub fn key_of(file: &FileMeta) -> String {
    name_of(file, None).to_string()
}

/// The key of a merged file in today's layout.
///
/// # Panics
/// The level is 0.
#[must_use]
pub fn merged_key_of(file: &FileMeta, level: u32) -> String {
    assert!(level > 0, "level 0 is a flush's");
    name_of(file, Some(MergeMark { level, checksum: file.checksum })).to_string()
}

fn name_of(file: &FileMeta, merged: Option<MergeMark>) -> FileName {
    FileName {
        stream: file.stream,
        hour: file.hour,
        first_sequence: file.first_sequence,
        last_sequence: file.last_sequence,
        merged,
        version: FORMAT_VERSION,
    }
}

/// The key of the manifest of a stream's hour.
#[must_use]
pub fn manifest_key_of(stream: StreamId, hour: PartitionHour) -> String {
    format!("{}/manifest.json", hour_of(stream, hour))
}

/// The key of a stream's checkpoint.
#[must_use]
pub fn checkpoint_key_of(stream: StreamId) -> String {
    format!("{}/checkpoint.json", prefix_of(stream))
}

/// The folder of a stream's hour: `{stream}/{yyyy}/{mm}/{dd}/{hh}`.
#[must_use]
pub fn hour_of(stream: StreamId, hour: PartitionHour) -> String {
    let (year, month, day) = civil_from_days(hour.0.div_euclid(24));
    format!("{stream}/{year:04}/{month:02}/{day:02}/{:02}", hour.0.rem_euclid(24))
}

/// The folder of a stream.
#[must_use]
pub fn prefix_of(stream: StreamId) -> String {
    stream.to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_key_says_where_and_what_and_is_read_back() {
        let stream = StreamId::generate();
        let file = FileMeta {
            stream,
            hour: PartitionHour(492_324),
            path: PathBuf::new(),
            first_sequence: 7,
            last_sequence: 12,
            rows: 6,
            min_timestamp: 0,
            max_timestamp: 0,
            bytes: 0,
            checksum: 0,
        };
        let key = key_of(&file);
        assert_eq!(key, format!("{stream}/2026/03/01/12/00000000000000000007-00000000000000000012.v1.parquet"));
        assert!(is_key(&key) && key.starts_with(&prefix_of(stream)));
        let name = FileName::parse(&key).expect("a file's key");
        assert_eq!(
            name,
            FileName { stream, hour: file.hour, first_sequence: 7, last_sequence: 12, merged: None, version: 1 }
        );
        for hour in [0, 1, 23, 24, 430_000, 492_324, 1_000_000] {
            let name = FileName { hour: PartitionHour(hour), ..name };
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        let merged = merged_key_of(&FileMeta { checksum: 0xab, ..file }, 2);
        assert_eq!(merged, key.replace(".v1.", ".m2-000000ab.v1."));
        let mark = MergeMark { level: 2, checksum: 0xab };
        assert_eq!(FileName::parse(&merged), Some(FileName { merged: Some(mark), ..name }));
        assert_eq!(manifest_key_of(stream, name.hour), format!("{stream}/2026/03/01/12/manifest.json"));
        assert!(is_key(&merged) && is_key(&checkpoint_key_of(stream)));
    }

    #[test]
    fn what_is_no_key_of_a_file_is_told() {
        let stream = StreamId::generate();
        let good = format!("{stream}/2026/03/01/12/00000000000000000007-00000000000000000012.v1.parquet");
        assert!(FileName::parse(&good).is_some());
        for (from, to) in [
            (".parquet", ".csv"),
            ("v1", "v01"),
            (".v1", ".m0-00000000.v1"),
            (".v1", ".m1-0.v1"),
            (".v1", ".m1-0000000G.v1"),
            (".v1", ".m1.v1"),
            ("/03/", "/3/"),
            ("/03/", "/13/"),
            ("/03/01/", "/02/31/"),
            ("/12/", "/24/"),
            ("0007-", "0013-"),
            ("-", "_"),
            ("str_", ""),
            ("/2026", "/+2026"),
            ("00000000000000000007", "7"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_eq!(FileName::parse(&bad), None, "{bad}");
        }
        assert_eq!(FileName::parse(&format!("{good}/more")), None);
        assert_eq!(FileName::parse(""), None);
    }

    #[test]
    fn keys_stay_below_their_root() {
        for good in ["a", "a/b", "str_1/2026/x-y.v1.parquet", "manifests/1..2"] {
            assert!(is_key(good), "{good}");
        }
        let long = ["x"; 300].join("/");
        for bad in ["", "/a", "a/", "a//b", ".a", "a/..", "a/../b", "a/.b", "a b", "a\\b", "é", "a\0", &long] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}

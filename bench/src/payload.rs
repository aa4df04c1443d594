//! The records that are sent: a bounded set, cycled.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use bytes::Bytes;

use crate::clicks::click;

/// Bytes of all records of a set, at most: the set should not thrash the cache more than a real producer does.
const SET_BYTES_MAX: usize = 64 << 20;
const FLIGHTS: &[u8] = include_bytes!("../../tests/data/flights.jsonl.gz");
const FLIGHTS_SCHEMA: &str = include_str!("../../tests/data/flights.schema.json");
const CLICKS_SCHEMA: &str = include_str!("../../tests/data/clicks.schema.json");

/// Where records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayloadKind {
    /// The bundled flights of 2013.
    Flights,
    /// Generated clicks of about 320 bytes, from this one on.
    Clicks(u64),
    /// NDJSON, also with gzip.
    File(PathBuf),
}

impl PayloadKind {
    /// What a stream of these is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Flights => "flights",
            Self::Clicks(_) => "clicks",
            Self::File(_) => "bench",
        }
    }
}

impl FromStr for PayloadKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "flights" => Ok(Self::Flights),
            "clicks" => Ok(Self::Clicks(0)),
            _ => match (text.strip_prefix("file:"), text.strip_prefix("clicks@").map(str::parse)) {
                (Some(path), _) if !path.is_empty() => Ok(Self::File(path.into())),
                (_, Some(Ok(first))) => Ok(Self::Clicks(first)),
                _ => Err("want `flights`, `clicks`, `clicks@NUMBER` or `file:PATH`".to_owned()),
            },
        }
    }
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flights => f.write_str("flights"),
            Self::Clicks(0) => f.write_str("clicks"),
            Self::Clicks(first) => write!(f, "clicks@{first}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Why there are no records to send.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no line in the file.
    #[error("{0} holds no records: want one JSON object a line")]
    Empty(PathBuf),
    /// A file of one's own says nothing of its schema.
    #[error("--create with --payload file:PATH needs --schema PATH")]
    NoSchema,
    /// The schema is not JSON.
    #[error("the schema {path} is not JSON: {source}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A set of records.
#[derive(Debug, Clone)]
pub struct Payloads {
    records: Vec<Bytes>,
    bytes: u64,
}

impl Payloads {
    /// Up to `max` records of a kind.
    ///
    /// # Errors
    /// See [`PayloadError`].
    pub fn load(kind: &PayloadKind, max: usize) -> Result<Self, PayloadError> {
        match kind {
            PayloadKind::Clicks(first) => {
                let numbers = (0..max.max(1) as u64).map(|number| first.wrapping_add(number));
                Ok(Self::new(numbers.map(|number| click(number).into()).collect()))
            }
            PayloadKind::Flights => Self::read(Path::new("the bundled flights"), Box::new(gunzip(FLIGHTS)), max),
            PayloadKind::File(path) => {
                let file = File::open(path).map_err(|source| PayloadError::Io { path: path.clone(), source })?;
                let gzip = path.extension().is_some_and(|extension| extension == "gz");
                Self::read(path, if gzip { Box::new(gunzip(file)) } else { Box::new(file) }, max)
            }
        }
    }

    /// A set of the given records.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn new(records: Vec<Bytes>) -> Self {
        assert!(!records.is_empty(), "a set of payloads holds at least one");
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        Self { records, bytes }
    }

    fn read(path: &Path, plain: Box<dyn Read + '_>, max: usize) -> Result<Self, PayloadError> {
        let wrap = |source| PayloadError::Io { path: path.to_owned(), source };
        let mut records = Vec::new();
        let mut bytes = 0;
        for line in BufReader::with_capacity(1 << 16, plain).split(b'\n') {
            let mut line = line.map_err(wrap)?;
            line.truncate(line.trim_ascii_end().len());
            if line.is_empty() {
                continue;
            }
            bytes += line.len();
            if bytes > SET_BYTES_MAX && !records.is_empty() {
                break;
            }
            records.push(Bytes::from(line));
            if records.len() >= max {
                break;
            }
        }
        if records.is_empty() { Err(PayloadError::Empty(path.to_owned())) } else { Ok(Self::new(records)) }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// The record at `index`, cycled.
    #[must_use]
    pub fn get(&self, index: u64) -> &Bytes {
        &self.records[(index % self.records.len() as u64) as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.records.iter()
    }

    /// Mean size of a record, in bytes.
    #[must_use]
    pub fn mean_bytes(&self) -> f64 {
        self.bytes as f64 / self.records.len() as f64
    }
}

/// The JSON Schema of a kind, or of the file `own`.
///
/// # Errors
/// See [`PayloadError`].
pub fn schema(kind: &PayloadKind, own: Option<&Path>) -> Result<serde_json::Value, PayloadError> {
    let (path, text) = match (own, kind) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path);
            (path, text.map_err(|source| PayloadError::Io { path: path.to_owned(), source })?)
        }
        (None, PayloadKind::Flights) => (Path::new("flights.schema.json"), FLIGHTS_SCHEMA.to_owned()),
        (None, PayloadKind::Clicks(_)) => (Path::new("clicks.schema.json"), CLICKS_SCHEMA.to_owned()),
        (None, PayloadKind::File(_)) => return Err(PayloadError::NoSchema),
    };
    serde_json::from_str(&text).map_err(|source| PayloadError::Schema { path: path.to_owned(), source })
}

fn gunzip<R: Read>(zipped: R) -> flate2::read::MultiGzDecoder<R> {
    flate2::read::MultiGzDecoder::new(zipped)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use ttdust_shards::{ids::SchemaId, schema::CompiledSchema, validate::Validator};

    use super::*;

    #[test]
    fn bundled_records_are_stable_distinct_and_fit_their_schemas() {
        for kind in [PayloadKind::Clicks(0), PayloadKind::Flights] {
            let set = Payloads::load(&kind, 1000).expect("bundled");
            assert_eq!(set.len(), 1000);
            assert_eq!(set.get(3), set.get(1003));
            assert_ne!(set.get(3), set.get(4));
            assert!((280.0..400.0).contains(&set.mean_bytes()), "{}", set.mean_bytes());
            let definition = schema(&kind, None).expect("bundled").to_string();
            let schema = CompiledSchema::compile(SchemaId::generate(), 1, &definition).expect("a schema");
            let mut validator = Validator::default();
            assert!(set.iter().all(|record| validator.check(&schema, record).is_ok()), "{kind}");
        }
    }

    #[test]
    fn files_are_read_plain_and_with_gzip_up_to_the_bound() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let text = b"{\"a\":1}\r\n\n{\"a\":2}\n{\"a\":3}";
        let plain = dir.path().join("x.ndjson");
        std::fs::write(&plain, text).expect("written");
        let zipped = dir.path().join("x.ndjson.gz");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&zipped).expect("made"), Default::default());
        encoder.write_all(text).expect("written");
        encoder.finish().expect("written");
        for path in [plain, zipped] {
            let all = Payloads::load(&PayloadKind::File(path.clone()), 10).expect("read");
            assert_eq!(all.iter().collect::<Vec<_>>(), ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]);
            assert_eq!(Payloads::load(&PayloadKind::File(path), 2).expect("read").len(), 2);
        }
    }

    #[test]
    fn bad_kinds_and_empty_files_are_told() {
        assert!("file:".parse::<PayloadKind>().is_err());
        assert!("orders".parse::<PayloadKind>().is_err());
        assert_eq!("file:a".parse(), Ok(PayloadKind::File("a".into())));
        assert!("clicks@x".parse::<PayloadKind>().is_err());
        assert_eq!(PayloadKind::Clicks(7).to_string().parse(), Ok(PayloadKind::Clicks(7)));
        let empty = tempfile::NamedTempFile::new().expect("a temporary file");
        let result = Payloads::load(&PayloadKind::File(empty.path().into()), 10);
        assert!(matches!(result, Err(PayloadError::Empty(_))));
    }
}

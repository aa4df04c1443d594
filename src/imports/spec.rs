//! What is to be imported: the request, its options, and whether its source may be read at all.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::ImportRoot;

/// What the text of an option is at most, in bytes.
const OPTION_BYTES_MAX: usize = 4096;

/// A fault of a request: the field, and what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// `source_uri`, `format`, or `options/` and the option's name.
    pub field: String,
    /// For people.
    pub detail: String,
}

fn wrong<T>(field: impl Into<String>, detail: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError { field: field.into(), detail: detail.into() })
}

/// How the records lie in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON text a line.
    JsonLines,
    /// Fields separated by commas, or by another character.
    Csv,
    /// Parquet.
    Parquet,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::JsonLines, Self::Csv, Self::Parquet];

    /// Its name in REST.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "json_lines",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// What an import is of, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// `file://` or `s3://`; one that ends with a slash means all objects under it.
    pub source_uri: String,
    /// How the records lie there.
    pub format: Format,
    /// See [`Options`].
    pub options: BTreeMap<String, String>,
}

/// How objects are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As the object's name ends: `.gz`, `.zst`, or else not.
    ByName,
    /// Not.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// The options, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `compression`: `none`, `gzip`, `zstd`, or `auto`.
    pub compression: Compression,
    /// `max_failed`: the import fails once more rows than this are bad.
    pub failed_max: Option<u64>,
    /// `delimiter`: what separates the fields of CSV.
    pub delimiter: u8,
    /// `quote`: what stands around a field of CSV that holds others; `None`: nothing does.
    pub quote: Option<u8>,
    /// `columns`: the names of the fields of CSV without a header; `None`: the first line has them.
    pub columns: Option<Vec<String>>,
    /// `null`: the text of a field of CSV that has no value.
    pub null: String,
    /// `payload_column`: the column of Parquet whose texts are whole records.
    pub payload_column: Option<String>,
}

/// Where objects are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, or a directory with all that is in it.
    Local {
        /// Its path.
        path: PathBuf,
        /// All under it.
        is_folder: bool,
    },
    /// Objects of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The key, or what keys begin with.
        key: String,
        /// All that begin so.
        is_folder: bool,
    },
}

impl Spec {
    /// The options, each known, of this format and of a form that can be used.
    ///
    /// # Errors
    /// One is not.
    pub fn options(&self) -> Result<Options, SpecError> {
        let mut options = Options {
            compression: Compression::ByName,
            failed_max: None,
            delimiter: b',',
            quote: Some(b'"'),
            columns: None,
            null: String::new(),
            payload_column: None,
        };
        let mut has_header = true;
        for (name, value) in &self.options {
            let field = format!("options/{name}");
            if value.len() > OPTION_BYTES_MAX {
                return wrong(field, format!("at most {OPTION_BYTES_MAX} bytes are taken"));
            }
            match (name.as_str(), self.format) {
                ("compression", Format::JsonLines | Format::Csv) => {
                    options.compression = match value.as_str() {
                        "auto" => Compression::ByName,
                        "none" => Compression::None,
                        "gzip" => Compression::Gzip,
                        "zstd" => Compression::Zstd,
                        _ => return wrong(field, "compression is auto (by the object's name), none, gzip or zstd"),
                    };
                }
                ("max_failed", _) => match value.parse() {
                    Ok(most) => options.failed_max = Some(most),
                    Err(_) => return wrong(field, "max_failed is how many bad rows there may be, a whole number"),
                },
                ("delimiter", Format::Csv) => options.delimiter = byte(value, &field)?,
                ("quote", Format::Csv) if value.is_empty() => options.quote = None,
                ("quote", Format::Csv) => options.quote = Some(byte(value, &field)?),
                ("header", Format::Csv) => match value.as_str() {
                    "true" => has_header = true,
                    "false" => has_header = false,
                    _ => return wrong(field, "header is true or false"),
                },
                ("columns", Format::Csv) => {
                    options.columns = Some(value.split(',').map(|name| name.trim().to_owned()).collect());
                }
                ("null", Format::Csv) => options.null.clone_from(value),
                ("payload_column", Format::Parquet) if !value.is_empty() => {
                    options.payload_column = Some(value.clone());
                }
                _ => return wrong(field, format!("no option of {}: {}", self.format.name(), known(self.format))),
            }
        }
        match (has_header, &options.columns) {
            (false, None) => wrong("options/columns", "without a header, columns must name the fields: a,b,c"),
            (true, Some(_)) => wrong("options/header", "columns name the fields, so header must be false"),
            _ if options.quote == Some(options.delimiter) => {
                wrong("options/quote", "quote and delimiter must be different characters")
            }
            _ => Ok(options),
        }
    }

    /// Where the objects lie, if that is under one of `roots`.
    ///
    /// # Errors
    /// The URI is none that is known, or leads elsewhere. The answer is the same whether or not there is something there.
    pub fn place(&self, roots: &[ImportRoot]) -> Result<Place, SpecError> {
        let field = "source_uri";
        if roots.is_empty() {
            let detail = "imports are off: start the server with import.roots (TTDUST_IMPORT_ROOTS), the directories and parts of \
                buckets that may be read, such as /data/in,s3://lake/raw/";
            return wrong(field, detail);
        }
        let Ok(url) = Url::parse(&self.source_uri) else {
            return wrong(
                field,
                "want file:///path or s3://bucket/key; with a slash at its end, all that lies under it",
            );
        };
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return wrong(field, "want no user, query or fragment in it");
        }
        let is_folder = url.path().ends_with('/');
        let detail = "it lies under none of import.roots (TTDUST_IMPORT_ROOTS), which the server may read";
        let outside = || SpecError { field: field.into(), detail: detail.into() };
        match url.scheme() {
            "file" => {
                let path = url.to_file_path().map_err(|()| outside())?;
                let is_plain = path.is_absolute() && !path.to_string_lossy().contains('\0');
                let is_under =
                    |root: &ImportRoot| matches!(root, ImportRoot::Directory(root) if path.starts_with(root));
                let is_let = is_plain && roots.iter().any(is_under);
                if is_let { Ok(Place::Local { path, is_folder }) } else { Err(outside()) }
            }
            "s3" => {
                let bucket = url.host_str().unwrap_or("").to_owned();
                let encoded = url.path().trim_start_matches('/');
                let key = percent_decoded(encoded).ok_or_else(outside)?;
                let is_let = roots.iter().any(|root| match root {
                    ImportRoot::Bucket { bucket: name, prefix } => *name == bucket && key.starts_with(prefix.as_str()),
                    ImportRoot::Directory(_) => false,
                });
                if is_let { Ok(Place::S3 { bucket, key, is_folder }) } else { Err(outside()) }
            }
            _ => wrong(field, "want file:///path or s3://bucket/key"),
        }
    }
}

fn byte(value: &str, field: &str) -> Result<u8, SpecError> {
    match value.as_bytes() {
        b"\\t" => Ok(b'\t'),
        &[byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n' | 0) => Ok(byte),
        _ => wrong(field, "want one ASCII character; \\t is the tab"),
    }
}

fn known(format: Format) -> &'static str {
    match format {
        Format::JsonLines => "there are compression and max_failed",
        Format::Csv => "there are compression, max_failed, delimiter, quote, header, columns and null",
        Format::Parquet => "there are max_failed and payload_column",
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0'))
}

impl Compression {
    /// How the object of this name is compressed.
    #[must_use]
    pub fn of(self, name: &Path) -> Self {
        let ending = name.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        match (self, ending.as_str()) {
            (Self::ByName, "gz" | "gzip") => Self::Gzip,
            (Self::ByName, "zst" | "zstd") => Self::Zstd,
            (Self::ByName, _) => Self::None,
            (known, _) => known,
        }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(uri: &str, format: Format, options: &[(&str, &str)]) -> Spec {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Spec { source_uri: uri.into(), format, options }
    }

    #[test]
    fn only_what_lies_under_a_root_may_be_read() {
        let roots = [
            ImportRoot::Directory("/data/in".into()),
            ImportRoot::Bucket { bucket: "lake".into(), prefix: "raw/".into() },
        ];
        let place = |uri: &str| spec(uri, Format::Csv, &[]).place(&roots).ok();
        let local = |path: &str, is_folder| Some(Place::Local { path: path.into(), is_folder });
        assert_eq!(place("file:///data/in/a.csv"), local("/data/in/a.csv", false));
        assert_eq!(place("file:///data/in/"), local("/data/in", true));
        assert_eq!(place("file:///data/in/b%20c/"), local("/data/in/b c", true));
        let key = |key: &str, is_folder| Some(Place::S3 { bucket: "lake".into(), key: key.into(), is_folder });
        assert_eq!(place("s3://lake/raw/a%2Bb.csv"), key("raw/a+b.csv", false));
        assert_eq!(place("s3://lake/raw/2026/"), key("raw/2026/", true));
        for uri in [
            "file:///data/inside/a.csv",
            "file:///data/in/../../etc/passwd",
            "file:///data/in/%2e%2e/%2e%2e/etc/passwd",
            "file:///etc/passwd",
            "file://host/data/in/a.csv",
            "s3://lake/other/a.csv",
            "s3://pond/raw/a.csv",
            "s3://lake",
            "s3://key@lake/raw/a.csv",
            "http://lake/raw/a.csv",
            "/data/in/a.csv",
            "",
        ] {
            assert_eq!(place(uri), None, "{uri}");
        }
        let off = spec("file:///data/in/a.csv", Format::Csv, &[]).place(&[]).expect_err("off");
        assert!(off.detail.contains("import.roots (TTDUST_IMPORT_ROOTS)"), "{off}");
    }

    #[test]
    fn options_are_of_their_format_and_of_a_form_that_can_be_used() {
        let options = |format, options: &[(&str, &str)]| spec("file:///x", format, options).options();
        let csv =
            options(Format::Csv, &[("delimiter", "\\t"), ("quote", ""), ("header", "false"), ("columns", "a, b")]);
        let csv = csv.expect("valid");
        assert_eq!((csv.delimiter, csv.quote), (b'\t', None));
        assert_eq!(csv.columns, Some(vec!["a".into(), "b".into()]));
        assert_eq!(options(Format::JsonLines, &[("max_failed", "7")]).expect("valid").failed_max, Some(7));
        for (format, bad) in [
            (Format::JsonLines, ("delimiter", ";")),
            (Format::Parquet, ("compression", "gzip")),
            (Format::Csv, ("delimiter", ";;")),
            (Format::Csv, ("delimiter", "\n")),
            (Format::Csv, ("quote", ",")),
            (Format::Csv, ("header", "false")),
            (Format::Csv, ("columns", "a")),
            (Format::Csv, ("compression", "br")),
            (Format::JsonLines, ("max_failed", "-1")),
            (Format::JsonLines, ("nonsense", "")),
        ] {
            assert!(options(format, &[bad]).is_err(), "{format:?} {bad:?}");
        }
        assert_eq!(Compression::ByName.of(Path::new("a.jsonl.GZ")), Compression::Gzip);
        assert_eq!(Compression::None.of(Path::new("a.gz")), Compression::None);
    }
}

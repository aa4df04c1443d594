//! Texts that callers bring along: cursors, credentials, traces, times, and what they ask to be imported from. Each is read, or
//! refused; what is refused opens nothing.

use std::{collections::HashMap, net::Ipv4Addr, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderValue};
use ttdust::{
    access::{new_key, tokens::Tokens},
    calendar,
    config::{ImportRoot, Sources, load},
    imports::{Format, Place, Spec},
    query,
};
use ttdust_shards::{
    access::{Access, Credentials, KEY_PREFIX, KeyEntry, Role, StreamPermissions, Unauthenticated},
    ids::{SchemaId, StreamId},
    query::{Order, decode_cursor, encode_cursor},
    trace::w3c::Incoming,
};

use super::parts;

/// A key by which tokens are checked; the one that signs them is gone.
const PUBLIC_KEY: &str = include_str!("token_key.pem");
/// The subject of the tokens that it did sign, which are in the corpus and end in the year 2100.
const SUBJECT: &str = "jwt:fuzz";

/// From the year 0 to the year 9999, in Unix µs.
const YEARS: std::ops::Range<i64> = -62_167_219_200_000_000..253_402_300_800_000_000;

thread_local! {
    static ACCESS: (Access, String) = access();
}

/// One key, and tokens.
fn access() -> (Access, String) {
    let (key, text) = new_key("k".to_owned(), Role::Admin, Vec::new(), None, 1).expect("random bytes");
    let entry = KeyEntry {
        sha256: key.sha256,
        role: key.role,
        streams: StreamPermissions::default(),
        expires_unix_micros: None,
        last_used: Arc::default(),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key.pem");
    std::fs::write(&path, PUBLIC_KEY).expect("a file");
    let flags = [("jwt.public_key_path", path.to_str().expect("UTF-8")), ("jwt.issuer", "https://id.example")];
    let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = load(&Sources { flags, ..Sources::default() }).expect("valid").settings;
    let tokens = Tokens::load(&settings).expect("a key").expect("it is named");
    let check = move |token: &str| -> Result<_, Unauthenticated> { tokens.check(token) };
    let credentials = Credentials {
        keys: HashMap::from([(ttdust::access::uuid_of(&key).to_owned(), entry)]),
        tokens: Some(Arc::new(check)),
        ..Credentials::default()
    };
    (Access::Checked(credentials), text)
}

/// The first byte chooses what the rest is.
pub fn text(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    match (kind % 6, std::str::from_utf8(rest)) {
        (0, Ok(text)) => cursor(text),
        (1, _) => credential(rest),
        (2, _) => traced(rest),
        (3, Ok(text)) => time(text),
        (4, Ok(text)) => source(text),
        (5, Ok(text)) => names(text),
        _ => {}
    }
}

/// A cursor is one that was given, to the letter.
fn cursor(text: &str) {
    for order in [Order::Ascending, Order::Descending] {
        if let Ok(after) = decode_cursor(text, order) {
            assert!(after >= 0);
            assert_eq!(encode_cursor(after, order), text);
        }
        let asked = query::after_cursor(Some(text), order).map_err(|error| error.message.len());
        assert_eq!(asked.is_ok(), decode_cursor(text, order).is_ok());
    }
    let (_, _, _) = (query::order(Some(text)), query::time_field(Some(text)), query::limit(Some(text)));
}

/// Nobody is let in but by what was signed, or by the key itself.
fn credential(bytes: &[u8]) {
    ACCESS.with(|(access, key)| {
        for (name, value) in [("authorization", bytes), ("x-api-key", bytes), ("authorization", &bearer(bytes))] {
            let Ok(value) = HeaderValue::from_bytes(value) else { continue };
            let mut headers = HeaderMap::new();
            headers.insert(name, value);
            if let Ok(caller) = access.authenticate(&headers, None, Ipv4Addr::LOCALHOST.into(), 1) {
                assert_eq!(&*caller.id, SUBJECT, "let in");
            }
        }
        assert!(key.starts_with(KEY_PREFIX));
    });
}

fn bearer(text: &[u8]) -> Vec<u8> {
    [b"Bearer ", text].concat()
}

/// `traceparent` and `tracestate`.
fn traced(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for (name, value) in ["traceparent", "tracestate"].into_iter().zip(parts::<2>(bytes)) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    let first = Incoming::of(&headers);
    assert_eq!(first, Incoming::of(&headers));
    assert_eq!(first.trace().is_some(), first != Incoming::Undecided);
}

/// A time that can be read is written so that it is read again as the same.
fn time(text: &str) {
    // Beyond the year 9999 a time can be given as a number alone.
    if let Some(micros) = calendar::parse_time(text).ok().filter(|micros| YEARS.contains(micros)) {
        assert_eq!(calendar::parse_time(&calendar::rfc3339(micros)).ok(), Some(micros), "{text:?}");
    }
}

/// Where an import reads from lies under a root, whatever its URI says.
fn source(text: &str) {
    let spec = Spec { source_uri: text.to_owned(), format: Format::Csv, options: Default::default() };
    let bucket = ImportRoot::Bucket { bucket: "bucket".to_owned(), prefix: "in/".to_owned() };
    let roots = [ImportRoot::Directory(PathBuf::from("/srv/in")), bucket];
    match spec.place(&roots) {
        Ok(Place::Local { path, .. }) => {
            assert!(path.starts_with("/srv/in"), "{path:?}");
            assert!(path.components().all(|part| part.as_os_str() != ".."), "{path:?}");
        }
        Ok(Place::S3 { bucket, key, .. }) => {
            assert!(bucket == "bucket" && key.starts_with("in/"), "{bucket} {key}");
        }
        Err(refused) => assert!(!refused.detail.is_empty()),
    }
}

/// Ids, and patterns of streams' names.
fn names(text: &str) {
    if let Ok(id) = text.parse::<StreamId>() {
        assert_eq!(id.to_string().parse::<StreamId>().ok(), Some(id));
    }
    if let Ok(id) = text.parse::<SchemaId>() {
        assert_eq!(id.to_string().parse::<SchemaId>().ok(), Some(id));
    }
    let (pattern, name) = text.split_once(' ').unwrap_or((text, "web.clicks"));
    let id = StreamId::from_bytes([7; 16]);
    let allowed = StreamPermissions::new(vec![pattern.to_owned()]).allow(id, name);
    assert!(!allowed || pattern.contains('*') || pattern == name || pattern.parse() == Ok(id), "{pattern:?} {name:?}");
}

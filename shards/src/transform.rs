//! From a JSON Schema to typed columns: one pure function of (schema, record), the same wherever a record is looked at.
//!
//! [`columns`] derives the columns from a definition, [`rows`] fills them. What does not fit its column is null there; the
//! record itself is always kept whole beside them, so nothing is lost. No input panics: not a schema, not a record.

pub mod columns;
pub mod rows;

use std::collections::BTreeMap;

use prost::Message;

/// A record's metadata as the log keeps it.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(btree_map = "string, string", tag = "1")]
    metadata: BTreeMap<String, String>,
}

/// The encoding of metadata in the log: a protobuf message with `map<string, string> metadata = 1`. No pairs: empty. The last
/// of two equal names counts.
#[must_use]
pub fn encode_metadata<I, K, V>(pairs: I) -> Vec<u8>
where
    I: IntoIterator<Item = (K, V)>,
    K: Into<String>,
    V: Into<String>,
{
    Metadata { metadata: pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect() }.encode_to_vec()
}

/// The pairs in `encoded`, sorted by name. Only what [`encode_metadata`] made is ever stored, under a checksum; anything else
/// has no pairs.
#[must_use]
pub fn decode_metadata(encoded: &[u8]) -> Vec<(String, String)> {
    if encoded.is_empty() {
        return Vec::new();
    }
    Metadata::decode(encoded).map(|decoded| decoded.metadata.into_iter().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_sorted() {
        let encoded = encode_metadata([("b", "2"), ("a", "1"), ("", "ü"), ("b", "3")]);
        let pairs = decode_metadata(&encoded);
        let expected = [("", "ü"), ("a", "1"), ("b", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs, expected);
        assert!(encode_metadata(Vec::<(String, String)>::new()).is_empty());
        assert!(decode_metadata(b"").is_empty());
        assert!(decode_metadata(b"\xff\xff\xff").is_empty());
    }
}

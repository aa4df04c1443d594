//! Names of things as types: ids that clients see (`str_…`, `sch_…`, `rec_…`) and numbers that the engine uses.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// The text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id of the form {prefix}<uuid>")]
pub struct ParseIdError {
    /// The prefix that was wanted, such as `str_`.
    pub prefix: &'static str,
    /// What was given, cut to 64 characters.
    pub text: String,
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What every such id begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, ordered by time of creation (UUID version 7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with these 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the UUID.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; 36];
                f.write_str($prefix)?;
                f.write_str(self.0.hyphenated().encode_lower(&mut text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .filter(|uuid| uuid.len() == 36)
                    .and_then(|uuid| Uuid::try_parse(uuid).ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError { prefix: $prefix, text: text.chars().take(64).collect() })
            }
        }
    };
}

prefixed_id!(
    /// A stream.
    StreamId, "str_"
);
prefixed_id!(
    /// A schema of the registry.
    SchemaId, "sch_"
);
prefixed_id!(
    /// A record. A pure function of its stream and sequence number, so it is never stored and can be looked up at once.
    RecordId, "rec_"
);

impl RecordId {
    const SEQUENCE_BITS: u32 = 62;

    /// The id of the record with sequence number `sequence` in `stream` (UUID version 8: 60 bits of the stream's id, 62 of
    /// the sequence number).
    #[must_use]
    pub fn of(stream: StreamId, sequence: i64) -> Self {
        debug_assert!((0..1 << Self::SEQUENCE_BITS).contains(&sequence));
        let id = u128::from_be_bytes(*stream.as_bytes());
        let folded = (id >> 64) as u64 ^ id as u64;
        let tag = u128::from(folded >> 4);
        let high = (tag >> 12) << 16 | 0x8 << 12 | (tag & 0xfff);
        let low = 0b10u128 << Self::SEQUENCE_BITS | (sequence as u128 & ((1 << Self::SEQUENCE_BITS) - 1));
        Self(Uuid::from_u128(high << 64 | low))
    }

    /// The id as clients see it, without an allocation.
    #[must_use]
    pub fn to_text(self) -> [u8; 40] {
        let mut text = [0u8; 40];
        text[..4].copy_from_slice(Self::PREFIX.as_bytes());
        self.0.hyphenated().encode_lower(&mut text[4..]);
        text
    }

    /// The sequence number that the id carries.
    #[must_use]
    pub fn sequence(self) -> i64 {
        (self.0.as_u128() & ((1 << Self::SEQUENCE_BITS) - 1)) as i64
    }
}

/// A shard: an index into the configured shards, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// As an index into a slice of the shards.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The sequence number of the first record of a stream.
pub const FIRST_SEQUENCE: i64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_id_is_a_version_8_uuid_that_carries_its_sequence() {
        let stream = StreamId::generate();
        for sequence in [1, 2, 4095, 1 << 40, (1 << 62) - 1] {
            let id = RecordId::of(stream, sequence);
            assert_eq!(id.0.get_version_num(), 8);
            assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(id.sequence(), sequence);
            assert_eq!(id.to_string().parse::<RecordId>(), Ok(id));
        }
        assert_ne!(RecordId::of(StreamId::generate(), 7), RecordId::of(stream, 7));
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in ["", "str_", "sch_018f4e3c-0000-7000-8000-000000000000", "str_018f4e3c00007000800000000000000"] {
            assert!(text.parse::<StreamId>().is_err(), "{text}");
        }
    }
}

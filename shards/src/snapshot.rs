//! The catalog as a shard sees it: immutable, published by control, swapped whole.

use std::{collections::HashMap, sync::Arc};

use crate::{
    access::Access,
    dead_letters::SUFFIX,
    ids::{SchemaId, ShardId, StreamId},
    pipeline::Pipelines,
    rate::RateLimits,
    record::keys::KeyField,
    schema::CompiledSchema,
};

/// Whether a stream takes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Takes records.
    Active,
    /// Refuses records, answers queries.
    Paused,
    /// Refuses both; its data is being removed.
    Deleting,
}

/// A stream.
#[derive(Debug, Clone)]
pub struct StreamEntry {
    /// Its id.
    pub id: StreamId,
    /// Its unique name.
    pub name: String,
    /// Whether it takes records.
    pub state: StreamState,
    /// The schema that its records are checked against: the newest version.
    pub schema: Arc<CompiledSchema>,
    /// Where its records have keys to be looked up by.
    pub key_fields: Arc<[KeyField]>,
    /// What its readers see of its records.
    pub pipelines: Arc<Pipelines>,
    /// The stream of its dead letters, if it has one.
    pub dead_letters: Option<StreamId>,
    /// The shard that owns it.
    pub home: ShardId,
}

impl StreamEntry {
    /// Whether it is a stream of dead letters, which takes none of its records from clients.
    #[must_use]
    pub fn is_dead_letters(&self) -> bool {
        self.name.ends_with(SUFFIX)
    }
}

/// The whole catalog at one version.
#[derive(Debug, Default)]
pub struct CatalogSnapshot {
    /// Grows by one with every change.
    pub version: u64,
    /// Who may call.
    pub access: Access,
    /// How much each may do.
    pub rates: RateLimits,
    by_id: HashMap<StreamId, Arc<StreamEntry>, ahash::RandomState>,
    by_name: HashMap<Arc<str>, Arc<StreamEntry>, ahash::RandomState>,
}

impl CatalogSnapshot {
    /// A snapshot of these streams.
    #[must_use]
    pub fn new(version: u64, access: Access, streams: Vec<StreamEntry>) -> Self {
        let mut snapshot = Self { version, access, ..Self::default() };
        streams.into_iter().for_each(|stream| snapshot.insert(stream));
        snapshot
    }

    /// The next version of this one: `changed` streams in the place of what they were, `gone` ones left out.
    #[must_use]
    pub fn advanced(&self, access: Access, changed: Vec<StreamEntry>, gone: &[StreamId]) -> Self {
        let mut next = Self {
            version: self.version + 1,
            access,
            rates: self.rates,
            by_id: self.by_id.clone(),
            by_name: self.by_name.clone(),
        };
        for id in gone {
            if let Some(stream) = next.by_id.remove(id) {
                next.by_name.remove(stream.name.as_str());
            }
        }
        changed.into_iter().for_each(|stream| next.insert(stream));
        next
    }

    fn insert(&mut self, stream: StreamEntry) {
        let stream = Arc::new(stream);
        self.by_name.insert(stream.name.as_str().into(), Arc::clone(&stream));
        self.by_id.insert(stream.id, stream);
    }

    /// The same with these limits.
    #[must_use]
    pub fn with_rates(self, rates: RateLimits) -> Self {
        Self { rates, ..self }
    }

    /// The stream with this id.
    #[must_use]
    pub fn stream(&self, id: StreamId) -> Option<&Arc<StreamEntry>> {
        self.by_id.get(&id)
    }

    /// The stream that a client means by `text`: its id, or else its name.
    #[must_use]
    pub fn resolve(&self, text: &str) -> Option<&Arc<StreamEntry>> {
        text.parse().ok().and_then(|id| self.by_id.get(&id)).or_else(|| self.by_name.get(text))
    }

    /// Every stream, in no order.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<StreamEntry>> {
        self.by_id.values()
    }
}

/// The shard that owns `stream` among `shards`: the highest rendezvous weight (Thaler and Ravishankar, 1998), so that a
/// change of the number of shards moves as few streams as can be.
#[must_use]
pub fn home_shard(stream: StreamId, shards: u16) -> ShardId {
    assert!(shards > 0, "an engine has at least one shard");
    let weight = |shard: &u16| {
        let mut key = [0u8; 18];
        key[..16].copy_from_slice(stream.as_bytes());
        key[16..].copy_from_slice(&shard.to_le_bytes());
        mix(u64::from(crc32c::crc32c(&key)) | u64::from(crc32c::crc32c(&key[8..])) << 32)
    };
    ShardId((0..shards).max_by_key(weight).unwrap_or(0))
}

/// The finaliser of SplitMix64 (Steele et al., 2014): spreads a checksum's bits evenly.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a client may name a schema by in a request: nothing, or the id of the stream's own schema.
#[must_use]
pub fn names_schema(stream: &StreamEntry, schema: &str) -> bool {
    schema.is_empty() || schema.parse::<SchemaId>().is_ok_and(|id| id == stream.schema.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_spread_evenly_and_few_move_when_a_shard_is_added() {
        let streams: Vec<_> = (0..4000).map(|_| StreamId::generate()).collect();
        let mut count = [0; 4];
        let mut moved = 0;
        for &stream in &streams {
            count[home_shard(stream, 4).index()] += 1;
            moved += usize::from(home_shard(stream, 4) != home_shard(stream, 5));
        }
        assert!(count.iter().all(|n| (850..1150).contains(n)), "{count:?}");
        assert!((600..1000).contains(&moved), "about a fifth moves, not {moved}");
    }
}

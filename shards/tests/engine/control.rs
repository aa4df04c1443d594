//! An engine with a control plane of the tests' own: a catalog in memory, files where the flusher wrote them.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use ttdust_proto::admin;
use ttdust_shards::{
    access::Access,
    config::{BufferConfig, DedupConfig, EngineConfig, IoChoice, Limits, WalConfig},
    ids::{SchemaId, ShardId, StreamId},
    message::{AdminFailure, AdminReply, AdminRequest, FailureKind, QueryFailure, ToControl, ToShard},
    parquet::{FileMeta, cache::FileCache},
    query::{Bounds, FileRef, KeyLookup, Query, QueryContext, Wanted, time_range_within},
    rate::{LeaseAsk, LeaseGrant, RateLimits},
    record::keys::KeyField,
    runtime::{Engine, EngineStart, UnknownStreams},
    schema::CompiledSchema,
    snapshot::{CatalogSnapshot, StreamEntry, StreamState, home_shard},
};

pub const SCHEMA: &str = r#"{"type":"object","required":["id"],"properties":{"id":{"type":"integer","minimum":0},
    "name":{"type":"string","maxLength":8}},"additionalProperties":false}"#;

/// What outlives a restart of the engine.
#[derive(Default)]
pub struct Store {
    pub files: Mutex<Vec<FileMeta>>,
    pub ended: Mutex<Vec<(ShardId, Result<(), String>)>>,
    /// Lookups of [`HELD`] that came, and that were cancelled.
    pub held: AtomicU64,
    pub cancelled: AtomicU64,
}

/// A lookup of this key does not end before it is cancelled.
pub const HELD: &str = "held";

/// A running engine and its control thread.
pub struct Fixture {
    pub engine: Arc<Engine>,
    pub store: Arc<Store>,
    pub stream: StreamId,
    pub schema: SchemaId,
    version: Mutex<u64>,
    pub rates: Mutex<RateLimits>,
    control: Option<std::thread::JoinHandle<()>>,
}

/// A configuration for tests in `dir`.
pub fn config(dir: &Path, shards: usize, io: IoChoice) -> EngineConfig {
    EngineConfig {
        grpc_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        shard_cores: vec![None; shards],
        helper_cores: Vec::new(),
        io,
        wal_dir: dir.join("wal"),
        staging_dir: dir.join("staging"),
        limits: Limits::default(),
        wal: WalConfig {
            segment_bytes: 1 << 20,
            quota_bytes: 64 << 20,
            frame_bytes: 256 << 10,
            segments_ahead: 2,
            archive: false,
        },
        buffer: BufferConfig { memory_bytes: 4 << 20, freeze_bytes: 1 << 20, freeze_age: Duration::from_secs(3600) },
        tail_memory_bytes: 16 << 20,
        dedup: DedupConfig { homes: shards as u64, ..DedupConfig::default() },
    }
}

impl Fixture {
    pub fn start(config: EngineConfig) -> Self {
        Self::start_with(config, Arc::default(), StreamId::generate(), SchemaId::generate())
    }

    /// Starts an engine over the same store and stream.
    pub fn start_with(config: EngineConfig, store: Arc<Store>, stream: StreamId, schema: SchemaId) -> Self {
        let shards = config.shard_cores.len() as u16;
        let (to_control, messages) = mpsc::channel(64);
        let mut flushed_through = HashMap::new();
        for file in store.files.lock().expect("not poisoned").iter() {
            let through: &mut i64 = flushed_through.entry(file.stream).or_default();
            *through = file.last_sequence.max(*through);
        }
        let catalog = catalog(1, stream, schema, shards, StreamState::Active, Access::Open, RateLimits::default());
        let start = EngineStart {
            config,
            catalog,
            flushed_through,
            unknown_streams: UnknownStreams::Keep,
            to_control,
            tls: None,
            traces: None,
        };
        let engine = Arc::new(Engine::start(start).expect("the engine starts"));
        let control = std::thread::spawn({
            let (engine, store) = (Arc::clone(&engine), Arc::clone(&store));
            move || serve(&engine, &store, messages)
        });
        Self { engine, store, stream, schema, version: Mutex::new(1), rates: Mutex::default(), control: Some(control) }
    }

    /// Publishes a catalog in which the stream has this state, and waits until every shard runs on it.
    pub async fn publish(&self, state: StreamState, access: Access) {
        let version = {
            let mut version = self.version.lock().expect("not poisoned");
            *version += 1;
            *version
        };
        let rates = *self.rates.lock().expect("not poisoned");
        let snapshot = catalog(version, self.stream, self.schema, self.engine.shards(), state, access, rates);
        for shard in 0..self.engine.shards() {
            let (done, published) = oneshot::channel();
            self.engine.send(ShardId(shard), ToShard::Catalog(Arc::clone(&snapshot), done)).expect("room");
            published.await.expect("published");
        }
    }

    pub async fn flush(&self) {
        for shard in 0..self.engine.shards() {
            let (done, flushed) = oneshot::channel();
            self.engine.send(ShardId(shard), ToShard::Flush(self.stream, done)).expect("room");
            flushed.await.expect("flushed");
        }
    }

    /// Drains and waits for the end.
    pub fn stop(mut self) -> Arc<Store> {
        for shard in 0..self.engine.shards() {
            self.engine.send(ShardId(shard), ToShard::Drain).expect("room");
        }
        self.control.take().expect("running").join().expect("control ended well");
        Arc::clone(&self.store)
    }
}

fn catalog(
    version: u64,
    stream: StreamId,
    schema: SchemaId,
    shards: u16,
    state: StreamState,
    access: Access,
    rates: RateLimits,
) -> Arc<CatalogSnapshot> {
    let schema = Arc::new(CompiledSchema::compile(schema, 1, SCHEMA).expect("compiles"));
    let home = home_shard(stream, shards);
    let key_fields = ["id", "/name"].map(KeyField::new).into();
    let entry = StreamEntry {
        id: stream,
        name: "events".to_owned(),
        state,
        schema,
        key_fields,
        pipelines: Arc::default(),
        dead_letters: None,
        home,
    };
    Arc::new(CatalogSnapshot::new(version, access, vec![entry]).with_rates(rates))
}

/// Control: commits files at once, answers queries, ends when every shard has.
fn serve(engine: &Engine, store: &Store, mut messages: mpsc::Receiver<ToControl>) {
    while store.ended.lock().expect("not poisoned").len() < usize::from(engine.shards()) {
        match messages.blocking_recv().expect("shards tell their end") {
            ToControl::FilesReady { shard, stream, files, through, .. } => {
                store.files.lock().expect("not poisoned").extend(files);
                engine.send(shard, ToShard::Flushed(stream, through)).expect("room");
            }
            ToControl::Query {
                query: Query::Lookup(KeyLookup { wanted: Wanted::Key { key, .. }, .. }),
                cancel,
                reply,
                ..
            } if key == HELD => {
                // A query that takes for ever, until nobody waits for it.
                store.held.fetch_add(1, SeqCst);
                let end = Instant::now() + Duration::from_secs(60);
                while !cancel.is_cancelled() {
                    assert!(Instant::now() < end, "a held query is cancelled");
                    std::thread::sleep(Duration::from_millis(1));
                }
                store.cancelled.fetch_add(1, SeqCst);
                let answer = ToShard::Answer(reply.token, Err(QueryFailure::Cancelled));
                engine.send(reply.shard, answer).expect("never refused");
            }
            ToControl::Query { query, reply, .. } => {
                let (sent, snapshot) = oneshot::channel();
                let home = home_shard(query.stream(), engine.shards());
                engine.send(home, ToShard::Snapshot(query.stream(), sent)).expect("room");
                let snapshot = snapshot.blocking_recv().expect("a snapshot");
                let files: Vec<_> = store.files.lock().expect("not poisoned").iter().map(file_ref).collect();
                let context = QueryContext { cache: &FileCache::new(0), bounds: &Bounds::default() };
                let answer = query.answer(&snapshot, &files, &context).map_err(Into::into);
                engine.send(reply.shard, ToShard::Answer(reply.token, answer)).expect("never refused");
            }
            ToControl::Sealed(_) => panic!("nothing is archived here"),
            ToControl::OpenTail { reply, .. } => {
                engine.send(reply.shard, ToShard::TailOpened(reply.token, Ok(()))).expect("never refused");
            }
            ToControl::TailPage { ask, reply } => {
                let (sent, snapshot) = oneshot::channel();
                engine
                    .send(home_shard(ask.stream, engine.shards()), ToShard::Snapshot(ask.stream, sent))
                    .expect("room");
                let snapshot = snapshot.blocking_recv().expect("a snapshot");
                let files: Vec<_> = store.files.lock().expect("not poisoned").iter().map(file_ref).collect();
                let context = QueryContext { cache: &FileCache::new(0), bounds: &Bounds::default() };
                let answer = time_range_within(&ask.query(), ask.bytes, &snapshot, &files, &context);
                let answer = answer.map_err(Into::into);
                let page = answer.map(|answer| ask.fill(&snapshot, answer));
                engine.send(reply.shard, ToShard::TailPage(reply.token, page)).expect("never refused");
            }
            ToControl::Leases(shard, asks) => {
                // Nothing is granted: clients have the shard's own share.
                let none =
                    |ask: LeaseAsk| LeaseGrant { client: ask.client, category: ask.category, permits: 0, short: true };
                let grants = asks.into_iter().map(none).collect();
                engine.send(shard, ToShard::Leases(grants)).expect("never refused");
            }
            ToControl::Admin { request, reply, .. } => {
                // A stream by any name is there, but nothing can be changed.
                let answer = match request {
                    AdminRequest::Get(name) => {
                        Ok(AdminReply::Stream(admin::StreamConfig { name, ..admin::StreamConfig::default() }))
                    }
                    _ => Err(AdminFailure {
                        kind: FailureKind::Conflict,
                        reason: "FAILED_PRECONDITION",
                        message: "not here".to_owned(),
                        fields: Vec::new(),
                    }),
                };
                engine.send(reply.shard, ToShard::Admin(reply.token, Box::new(answer))).expect("never refused");
            }
            ToControl::ShardEnded(shard, outcome) => {
                store.ended.lock().expect("not poisoned").push((shard, outcome));
            }
        }
    }
}

fn file_ref(file: &FileMeta) -> FileRef {
    FileRef {
        source: file.path.clone().into(),
        hour: file.hour,
        first_sequence: file.first_sequence,
        last_sequence: file.last_sequence,
        min_timestamp: file.min_timestamp,
        max_timestamp: file.max_timestamp,
        bytes: file.bytes,
    }
}

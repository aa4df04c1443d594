//! What the engine is told at start: plain numbers, already validated. No environment, no files.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Which I/O backend the shards run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoChoice {
    /// io_uring where a probe at start shows that it works, else epoll.
    #[default]
    Auto,
    /// io_uring, or the start fails.
    Uring,
    /// epoll, with log writes on a helper thread.
    Epoll,
}

/// The engine's whole configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where gRPC listens; each shard has a listener of its own there (SO_REUSEPORT).
    pub grpc_address: SocketAddr,
    /// The core of each shard; `None`: not pinned.
    pub shard_cores: Vec<Option<usize>>,
    /// Where the helpers of a shard that is pinned may run beside its own core: those that nobody waits for.
    pub helper_cores: Vec<usize>,
    /// The backend wanted.
    pub io: IoChoice,
    /// Holds a folder a shard.
    pub wal_dir: PathBuf,
    /// Where the flusher writes files before they are committed; on the same file system as the local objects.
    pub staging_dir: PathBuf,
    /// Bounds on what clients send.
    pub limits: Limits,
    /// The write-ahead log of each shard.
    pub wal: WalConfig,
    /// The row buffer of each shard.
    pub buffer: BufferConfig,
    /// The idempotency keys of each shard.
    pub dedup: DedupConfig,
    /// What a shard may hold for the readers of tails, in bytes.
    pub tail_memory_bytes: usize,
}

/// Bounds on what clients send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One gRPC message, in bytes, after decompression.
    pub message_bytes: usize,
    /// One record, in bytes.
    pub record_bytes: usize,
    /// Records in one `Append` request.
    pub records_per_request: usize,
    /// One idempotency key, in bytes.
    pub key_bytes: usize,
    /// The metadata of one request, in bytes of keys and values.
    pub metadata_bytes: usize,
    /// Open connections a shard.
    pub connections: usize,
    /// Open connections a shard of one address.
    pub connections_per_address: usize,
    /// Tails a shard.
    pub tails: usize,
    /// Requests of one call that are taken but not yet answered.
    pub requests_in_flight: usize,
    /// Seconds for which a client may keep a call waiting: in the middle of a message, or with acks that it does not take.
    /// Answers to queries have a bound of their own, by the memory that they hold: [`crate::memory::Patience`].
    pub stall_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 4 << 20,
            record_bytes: 1 << 20,
            records_per_request: 10_000,
            key_bytes: 256,
            metadata_bytes: 8 << 10,
            connections: 4096,
            connections_per_address: 1024,
            tails: 4096,
            requests_in_flight: 1024,
            stall_seconds: 30,
        }
    }
}

/// The write-ahead log of one shard.
#[derive(Debug, Clone, Copy)]
pub struct WalConfig {
    /// One segment file, in bytes; a multiple of 4096.
    pub segment_bytes: u64,
    /// All segments of the shard, in bytes. 85% used refuses records with a retry time, 95% answers UNAVAILABLE.
    pub quota_bytes: u64,
    /// A frame (one group commit) is closed at this size, in bytes.
    pub frame_bytes: usize,
    /// How many segments are kept prepared ahead. Two are made up for at once; more are made at the start, and from then on
    /// kept by recycling: a pool for bursts.
    pub segments_ahead: usize,
    /// Whether control is told of each segment that takes no more frames, and holds it until it is archived.
    pub archive: bool,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self { segment_bytes: 128 << 20, quota_bytes: 6 << 30, frame_bytes: 1 << 20, segments_ahead: 2, archive: false }
    }
}

/// The row buffer of one shard.
#[derive(Debug, Clone, Copy)]
pub struct BufferConfig {
    /// Rows held in memory, in bytes; past it the oldest frozen rows are kept in the log only.
    pub memory_bytes: usize,
    /// A stream's rows are frozen at this many bytes of payload.
    pub freeze_bytes: usize,
    /// A stream's rows are frozen at this age.
    pub freeze_age: Duration,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self { memory_bytes: 512 << 20, freeze_bytes: 128 << 20, freeze_age: Duration::from_secs(60) }
    }
}

/// The idempotency keys of one shard.
#[derive(Debug, Clone, Copy)]
pub struct DedupConfig {
    /// How long a key is remembered at least.
    pub window: Duration,
    /// How many keys are remembered; at this number, records with keys are refused.
    pub keys_max: u64,
    /// How many keys are kept in memory before they are written to a file.
    pub part_keys: usize,
    /// Which streams are whose, as a number: another one whenever a stream may have got another home.
    pub homes: u64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        // As many keys in memory as 2²⁰ slots take.
        Self { window: Duration::from_secs(24 * 3600), keys_max: 1_000_000_000, part_keys: 7 << 17, homes: 0 }
    }
}

impl DedupConfig {
    /// The window in µs.
    #[must_use]
    pub fn window_micros(&self) -> u64 {
        self.window.as_micros() as u64
    }
}

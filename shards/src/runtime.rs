//! Starts the shards: probes the I/O backend, recovers the logs, pins the threads, runs the loops.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    config::EngineConfig,
    ids::{ShardId, StreamId},
    message::{ToControl, ToShard},
    metrics::ShardMetrics,
    snapshot::CatalogSnapshot,
    wal::recovery::RecoveryError,
};

/// What the engine needs to start.
#[derive(Debug)]
pub struct EngineStart {
    /// Its configuration.
    pub config: EngineConfig,
    /// The catalog as it is now.
    pub catalog: Arc<CatalogSnapshot>,
    /// For each stream with committed files, the last sequence number in them.
    pub flushed_through: HashMap<StreamId, i64>,
    /// Where the shards send to.
    pub to_control: mpsc::Sender<ToControl>,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A log cannot be used.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The address cannot be listened on.
    #[error("cannot listen for gRPC on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// io_uring was demanded and does not work.
    #[error("io = \"uring\" was demanded, but {reason}; {remedy}; or set io = \"auto\"")]
    NoUring {
        /// What failed.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A thread or directory could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The backend that the shards run on, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoBackend {
    /// `uring` or `epoll`.
    pub kind: &'static str,
    /// Why, for people: `probe passed`, or what refused io_uring.
    pub reason: String,
}

/// What recovery found, over all shards.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverySummary {
    /// Records that are in no committed file.
    pub records: u64,
    /// Bytes of log read.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// The running shards.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Recovers the logs and starts the shards; returns when all of them listen. Blocking.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(_start: EngineStart) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        unimplemented!()
    }

    /// Sends to a shard; gives the message back when its queue is full. From any thread.
    ///
    /// # Errors
    /// The message, when the queue is full or the shard has ended.
    pub fn send(&self, _shard: ShardId, _message: ToShard) -> Result<(), ToShard> {
        unimplemented!()
    }

    /// The counters of a shard.
    #[must_use]
    pub fn metrics(&self, _shard: ShardId) -> &Arc<ShardMetrics> {
        unimplemented!()
    }

    /// Where gRPC really listens (the port is chosen if the configured one is 0).
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// The I/O backend.
    #[must_use]
    pub fn backend(&self) -> &IoBackend {
        unimplemented!()
    }

    /// What recovery found.
    #[must_use]
    pub fn recovery(&self) -> RecoverySummary {
        unimplemented!()
    }

    /// Waits for the shards' threads to end (after [`ToShard::Drain`]). Blocking.
    pub fn join(self) {
        unimplemented!()
    }
}

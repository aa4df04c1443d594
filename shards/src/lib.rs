//! The data plane of TTDust: one pinned thread a shard, each with its listener, write-ahead log, row buffer and flusher.
//!
//! A record goes through the files in this order: `grpc` (frames, messages) → `validate` → `shard` (sequence, dedup) →
//! `wal` (group commit) → ack → `buffer` → `flusher` → `parquet`. It knows no Postgres, Redis, S3 or REST; what it needs of
//! them comes in as a [`snapshot::CatalogSnapshot`] and goes out as a [`message::ToControl`].

pub mod access;
mod background;
pub mod buffer;
pub mod calendar;
pub mod config;
pub mod dead_letters;
pub mod dedup;
pub mod filter;
mod grpc;
pub mod ids;
pub mod io;
mod mailbox;
pub mod memory;
pub mod message;
pub mod metrics;
pub mod parquet;
pub mod peers;
pub mod pipeline;
pub mod query;
pub mod rate;
mod reactor;
pub mod record;
pub mod runtime;
pub mod schema;
pub mod shard;
pub mod snapshot;
pub mod tail;
pub mod threads;
pub mod tls;
pub mod trace;
pub mod transform;
pub mod validate;
pub mod wal;

#[doc(hidden)]
pub use grpc::framing::{Encoding, Messages};
pub use grpc::{access::permitted, rows, status};

//! The gRPC services of a shard, straight on h2.
//!
//! A call goes through `transport` (socket) → `opening` (TLS or not) → `metered` (frames that carry nothing are charged) →
//! `server` (connection, which a call may end by its `line`; dispatch) → `framing` (messages) → `exchange` (the loop of a call) →
//! `ingest`, `append`, `query`, `tail`, `admin`, `health` or `reflection` (what a method means) → `rows` (the answer to many
//! records), `answer` (one that holds memory), `status` (how it ends), `traced` (what is told of it where it is traced).

pub mod access;
pub mod admin;
pub mod answer;
pub mod append;
pub mod exchange;
pub mod framing;
pub mod health;
pub mod ingest;
pub mod intake;
pub mod line;
pub mod metered;
pub mod opening;
pub mod query;
pub mod reflection;
pub mod rows;
pub mod server;
pub mod status;
pub mod tail;
pub mod traced;
pub mod transport;

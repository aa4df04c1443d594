//! The server: composition, control plane and everything around the shard engine.

pub mod access;
pub mod calendar;
pub mod catalog;
pub mod compatibility;
pub mod config;
pub mod control;
pub mod coordination;
pub mod data_dir;
pub mod demo;
pub mod file_lists;
pub mod flush;
pub mod http;
pub mod link;
pub mod metrics;
pub mod objects;
pub mod publish;
pub mod query;
pub mod serve;
pub mod telemetry;
pub mod tls;
pub mod wal;
pub mod workers;

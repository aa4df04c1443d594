//! The server: composition, control plane and everything around the shard engine.

pub mod calendar;
pub mod config;
pub mod catalog;

//! The load generator: plans a run, drives it on pinned threads, reports it.
//!
//! Each thread owns its connections and counters; nothing is shared while the run goes on but a counter a thread for the progress
//! line and the phase of the run.

pub mod acked;
pub mod args;
pub mod call;
pub mod connection;
pub mod flight;
pub mod procfs;
pub mod relay;
pub mod report;
pub mod run;
pub mod sequences;
pub mod shared;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod timer;
pub mod unary;
pub mod verify;
pub mod worker;

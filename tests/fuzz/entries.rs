//! What each fuzz target does with an input, and what must hold of it; a panic is a finding. The fuzzer calls these by
//! `targets/`, and `tests/fuzzing.rs` calls them with the inputs that are kept in `corpus/`, so both do the same.

#![allow(dead_code, reason = "a target uses one entry, and each file that is shared with tests a part of it")]

mod compatibility;
mod connection;
#[path = "../../shards/tests/engine/control.rs"]
mod control;
mod imports;
mod json;
mod messages;
#[path = "../compatibility/records.rs"]
mod records;
mod schemas;
mod texts;
mod wal;

pub use compatibility::compatibility;
pub use connection::grpc_connection;
pub use imports::{import_csv, import_lines, import_parquet};
pub use json::json;
pub use messages::grpc_messages;
pub use schemas::schema;
pub use texts::text;
pub use wal::wal;

/// What takes an input.
pub type Entry = fn(&[u8]);

/// Every target by its name, which its folder of the corpus has too.
pub const TARGETS: [(&str, Entry); 10] = [
    ("compatibility", compatibility),
    ("grpc_connection", grpc_connection),
    ("grpc_messages", grpc_messages),
    ("import_csv", import_csv),
    ("import_lines", import_lines),
    ("import_parquet", import_parquet),
    ("json", json),
    ("schema", schema),
    ("text", text),
    ("wal", wal),
];

/// The parts of an input that a NUL stands between: at most `N`, the last of them with all that is left.
fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |&byte| byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

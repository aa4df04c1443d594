//! Compiles the `.proto` files with protox, so that no `protoc` is needed, into messages and a descriptor set.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = [
    "ttdust/ingestion/v1/ingestion.proto",
    "ttdust/query/v1/query.proto",
    "ttdust/admin/v1/admin.proto",
    "google/rpc/status.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
];

/// What is spoken to others: no part of what reflection tells of.
const OTLP: &str = "trace.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=otlp");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    prost_build::Config::new().bytes(["."]).compile_fds(protox::compile([OTLP], ["otlp"])?)?;
    Ok(())
}

//! Compiles the `.proto` files with protox, so that no `protoc` is needed, into messages and clients.

const FILES: [&str; 3] =
    ["ttdust/ingestion/v1/ingestion.proto", "ttdust/query/v1/query.proto", "google/rpc/status.proto"];
const FOLDER: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={FOLDER}");
    let descriptors = protox::compile(FILES, [FOLDER])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}

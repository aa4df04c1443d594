//! Random histories of a stream against a plain model: records that come in, flushes, merges, changes of the schema and of what
//! tells when events were, retention, deletion, clean stops and `kill -9`, with the files on disk, and in an S3 store that fails
//! as it goes. After each step every kind of query is asked for what the model knows, while the server goes on with its upkeep.
//!
//! A failure names its seed; `TTDUST_HISTORIES=n` runs n more of each kind.

#[path = "../shards/tests/engine/client.rs"]
mod client;
#[path = "histories/model.rs"]
mod model;
#[path = "server/process.rs"]
mod process;
#[path = "histories/reads.rs"]
mod reads;
#[path = "server/redis.rs"]
mod redis_server;
#[path = "server/rest.rs"]
mod rest;
#[path = "server/s3.rs"]
mod s3;
#[path = "histories/world.rs"]
mod world;

use world::{Place, World};

const STREAM: &str = "events";
const STEPS: usize = 40;

fn run(place: Place, seeds: &[u64]) {
    let more: u64 = std::env::var("TTDUST_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in seeds.iter().copied().chain(1000..1000 + more) {
        let mut world = World::new(place, seed);
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
            for step in 0..STEPS {
                world.step(step).await;
            }
            world.end().await;
        });
        world.check_files();
    }
}

#[test]
fn every_query_answers_as_the_model_does_with_files_on_disk() {
    run(Place::Disk, &[1, 2]);
}

#[test]
fn every_query_answers_as_the_model_does_with_files_in_a_store_that_fails() {
    run(Place::FailingStore, &[3, 4]);
}

//! Deterministic simulation of the engine's durable part over a disk that loses power, tears writes and fails calls.
//!
//! A seed gives a configuration, an order of events and all accidents; the same seed gives the same run. After each restart
//! what was recovered is held against a model: every acknowledged record is there once, in order, with its bytes, sequence
//! numbers have no gaps, and nothing appears that was not submitted. `TTDUST_SIM_SEEDS=n` runs n seeds, `TTDUST_SIM_SEED=n`
//! that one.

#[path = "sim/bare_wal.rs"]
mod bare_wal;
#[path = "sim/model.rs"]
mod model;
#[path = "sim/world.rs"]
mod world;

use bare_wal::BareWal;
use world::{Tally, World};

const SEEDS: u64 = 1500;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn acknowledged_records_survive_every_accident() {
    let one = from_environment("TTDUST_SIM_SEED");
    let seeds = one.map_or(0..from_environment("TTDUST_SIM_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let mut total = Tally::default();
    for seed in seeds {
        match World::<BareWal>::run(seed, false) {
            Ok(tally) => total.add(&tally),
            Err(violation) => panic!("TTDUST_SIM_SEED={seed}: {violation}"),
        }
    }
    println!("{total:?}");
    if one.is_none() {
        // Else the simulation would prove nothing.
        let Tally { acks, power_cuts, kills, recoveries, cut_recoveries, torn, faults, recycled, late, .. } = total;
        for seen in [acks, power_cuts, kills, recoveries, cut_recoveries, torn, faults, recycled, late] {
            assert!(seen > 50, "too few of something: {total:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..30 {
        let [first, second] = [0, 1].map(|_| World::<BareWal>::run(seed, false).map(|tally| tally.trace));
        assert_eq!(first, second, "seed {seed}");
    }
    let traces = [1, 2].map(|seed| World::<BareWal>::run(seed, false).map(|tally| tally.trace));
    assert_ne!(traces[0], traces[1], "the trace tells runs apart");
}

/// The mutation: a disk that acknowledges writes without making them durable.
#[test]
fn a_lost_sync_is_caught() {
    let caught = (0..100).filter(|&seed| World::<BareWal>::run(seed, true).is_err()).count();
    assert!(caught > 50, "a log that is not synced was caught by {caught} of 100 seeds only");
}

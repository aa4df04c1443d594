//! Looks whether every shard goes on. A shard whose thread stands still can tell of nothing itself: its upkeep notes each of its
//! turns, ten a second, and here it is seen that there was none for a while.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant, MissedTickBehavior};
use ttdust_shards::{ids::ShardId, metrics::STALL};

use crate::{link::ShardLink, metrics::ControlMetrics};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What was seen of a shard.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Its last turn.
    turn: u64,
    since: Instant,
    stalled: bool,
}

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    GoesOn,
    /// It has just come to count as stalled.
    Stalls(Duration),
    Stalled(Duration),
    /// It had stalled for so long.
    GoesOnAgain(Duration),
}

impl Seen {
    fn look(&mut self, turn: u64, now: Instant) -> Look {
        let still = now.duration_since(self.since);
        if turn != self.turn {
            let was_stalled = self.stalled;
            *self = Self { turn, since: now, stalled: false };
            return if was_stalled { Look::GoesOnAgain(still) } else { Look::GoesOn };
        }
        match (still >= STALL, std::mem::replace(&mut self.stalled, still >= STALL)) {
            (false, _) => Look::GoesOn,
            (true, false) => Look::Stalls(still),
            (true, true) => Look::Stalled(still),
        }
    }
}

/// Looks for as long as the server runs, tells the log of a stall when it begins and when it ends, and the metrics how long it is.
pub(super) async fn watch(link: ShardLink, metrics: Arc<ControlMetrics>) {
    let turn = |shard: ShardId| link.engine().metrics(shard).turned_micros.get();
    let mut ticks = time::interval(LOOK);
    // When this side was late itself, it is no shard's fault: the next look comes a whole pause later.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Vec<_> =
        link.shards().map(|shard| Seen { turn: turn(shard), since: Instant::now(), stalled: false }).collect();
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let now = Instant::now();
        // While this side stood still, as when the whole machine did, nothing was seen.
        let late = now.duration_since(last).saturating_sub(2 * LOOK);
        last = now;
        for (shard, seen) in link.shards().zip(&mut seen) {
            seen.since += late;
            if link.has_ended(shard) {
                metrics.shard_stalled(shard, Duration::ZERO);
                continue;
            }
            let stalled = match seen.look(turn(shard), now) {
                Look::GoesOn => Duration::ZERO,
                Look::Stalls(still) => {
                    let millis = still.as_millis() as u64;
                    tracing::error!(%shard, millis, "a shard stands still: what it serves waits");
                    still
                }
                Look::Stalled(still) => still,
                Look::GoesOnAgain(still) => {
                    tracing::warn!(%shard, millis = still.as_millis() as u64, "the shard goes on again");
                    Duration::ZERO
                }
            };
            metrics.shard_stalled(shard, stalled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_of_when_it_begins_and_when_it_ends() {
        let start = Instant::now();
        let mut seen = Seen { turn: 7, since: start, stalled: false };
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(seen.look(7, at(900)), Look::GoesOn);
        assert_eq!(seen.look(8, at(950)), Look::GoesOn);
        assert_eq!(seen.look(8, at(1900)), Look::GoesOn);
        assert_eq!(seen.look(8, at(1950)), Look::Stalls(STALL));
        assert_eq!(seen.look(8, at(2950)), Look::Stalled(2 * STALL));
        assert_eq!(seen.look(9, at(3950)), Look::GoesOnAgain(3 * STALL));
        assert_eq!(seen.look(10, at(4000)), Look::GoesOn);
    }
}

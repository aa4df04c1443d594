//! How fast an import may go: as fast as it can while nobody else ingests, and a fraction of that as soon as somebody does.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between looks at what others send.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long others' last records count.
const MEMORY: Duration = Duration::from_millis(200);
/// Beside others, a pause follows each request, as long as the request took, and no shorter.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// Requests under way at a time, and the records of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) requests: usize,
    pub(super) records: usize,
}

const ALONE: Window = Window { requests: 4, records: 1000 };
const BESIDE: Window = Window { requests: 1, records: 100 };

/// See the file's comment.
#[derive(Debug)]
pub(super) struct Pace {
    looked_at: Instant,
    /// What others had sent when it was looked last.
    seen: u64,
    others_at: Option<Instant>,
}

impl Pace {
    /// Others have sent so many records.
    pub(super) fn new(sent: u64) -> Self {
        Self { looked_at: Instant::now(), seen: sent, others_at: None }
    }

    /// What may be under way now; `sent` counts what others send.
    pub(super) fn window(&mut self, now: Instant, sent: impl FnOnce() -> u64) -> Window {
        if now.saturating_duration_since(self.looked_at) >= LOOK_PAUSE {
            self.looked_at = now;
            let sent = sent();
            if std::mem::replace(&mut self.seen, sent) != sent {
                self.others_at = Some(now);
            }
        }
        let recent = self.others_at.is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
        if recent { BESIDE } else { ALONE }
    }

    /// Gives way, if others ingest, after a request that took so long.
    pub(super) fn give_way(&mut self, took: Duration, sent: impl FnOnce() -> u64) {
        if self.window(Instant::now(), sent) == BESIDE {
            thread::sleep(took.max(PAUSE_MIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_way_while_others_send_and_not_long_after() {
        let (mut pace, start) = (Pace::new(7), Instant::now());
        let mut at = |millis, sent| pace.window(start + Duration::from_millis(millis), || sent);
        assert_eq!(at(100, 7), ALONE);
        assert_eq!(at(110, 8), ALONE, "it has looked just now");
        assert_eq!(at(130, 8), BESIDE);
        assert_eq!(at(300, 8), BESIDE);
        assert_eq!(at(340, 8), ALONE);
        assert_eq!(at(370, 9), BESIDE);
    }
}

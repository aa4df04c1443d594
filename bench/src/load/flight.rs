//! Which requests of one call may go now, and when: pure bookkeeping, with the time handed in.
//!
//! Closed loop: a request goes as soon as a slot is free. Open loop: request `k` is due at `start + k * interval` whether or not
//! the server keeps up, and its latency counts from then: a stall shows in each request that it delays, not only in the one
//! that saw it (coordinated omission).

use std::{cmp::Reverse, collections::BinaryHeap};

/// A request on its way. Times are in ns since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    /// When it was due (open loop) or sent (closed loop).
    pub start_ns: u64,
    /// Its number in the call: says what it holds.
    pub message: u64,
}

/// How requests are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as slots come free.
    Closed,
    /// On a schedule.
    Open {
        /// When the first is due, in ns.
        first_ns: f64,
        /// From one to the next, in ns.
        interval_ns: f64,
    },
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The request.
    pub sent: Sent,
    /// How late the generator itself is, in ns; `None`: not paced, or held back by the bound on requests in flight.
    pub lag_ns: Option<u64>,
}

/// The requests of one call.
#[derive(Debug)]
pub struct Flight {
    pace: Pace,
    limit: usize,
    in_flight: usize,
    first_message: u64,
    taken: u64,
    retries: BinaryHeap<Reverse<(u64, u64)>>,
    /// When a request was last held back by `limit`.
    full_ns: Option<u64>,
    /// No request that is due from here on is sent.
    stop_ns: u64,
}

impl Flight {
    /// A call with at most `limit` requests in flight, numbered from `first_message`.
    ///
    /// # Panics
    /// If `limit` is 0.
    #[must_use]
    pub fn new(pace: Pace, limit: usize, first_message: u64) -> Self {
        assert!(limit > 0, "with nothing in flight nothing is ever sent");
        let retries = BinaryHeap::new();
        Self { pace, limit, in_flight: 0, first_message, taken: 0, retries, full_ns: None, stop_ns: u64::MAX }
    }

    /// The next request to send, if there is one at `now_ns`.
    pub fn take(&mut self, now_ns: u64) -> Option<Due> {
        if let Some(&Reverse((due_ns, message))) = self.retries.peek()
            && due_ns <= now_ns
        {
            self.retries.pop();
            return Some(Due { sent: Sent { start_ns: now_ns, message }, lag_ns: None });
        }
        let start_ns = self.next_ns(now_ns);
        if start_ns > now_ns || start_ns >= self.stop_ns {
            return None;
        }
        if self.in_flight >= self.limit {
            self.full_ns = Some(now_ns);
            return None;
        }
        let held_back = self.full_ns.is_some_and(|full_ns| start_ns <= full_ns);
        let lag_ns = (self.pace != Pace::Closed && !held_back).then_some(now_ns - start_ns);
        self.in_flight += 1;
        let message = self.first_message + self.taken;
        self.taken += 1;
        Some(Due { sent: Sent { start_ns, message }, lag_ns })
    }

    /// A request has its last answer.
    pub fn done(&mut self) {
        assert!(self.in_flight > 0, "an answer belongs to a request in flight");
        self.in_flight -= 1;
    }

    /// A request was refused for now. In a closed loop it goes again at `again_ns` (true); an open loop keeps to its schedule
    /// and lets it go (false).
    pub fn refused(&mut self, sent: Sent, again_ns: u64) -> bool {
        if self.pace != Pace::Closed || again_ns >= self.stop_ns {
            self.done();
            return false;
        }
        self.retries.push(Reverse((again_ns, sent.message)));
        true
    }

    /// When to ask [`Flight::take`] again without an answer in between.
    #[must_use]
    pub fn wake_ns(&self, now_ns: u64) -> Option<u64> {
        let retry = self.retries.peek().map(|Reverse((due_ns, _))| *due_ns);
        let next = (self.in_flight < self.limit).then(|| self.next_ns(now_ns)).filter(|&next| next < self.stop_ns);
        let stop = Some(self.stop_ns).filter(|&stop_ns| now_ns < stop_ns && stop_ns != u64::MAX);
        [retry, next, stop].into_iter().flatten().min()
    }

    /// Nothing that is due at `stop_ns` or later is sent, retries included; only ever earlier than said before. How many retries
    /// were given up.
    pub fn stop(&mut self, stop_ns: u64) -> u64 {
        if stop_ns >= self.stop_ns {
            return 0;
        }
        self.stop_ns = stop_ns;
        let before = self.retries.len();
        self.retries.retain(|Reverse((due_ns, _))| *due_ns < stop_ns);
        let given_up = before - self.retries.len();
        self.in_flight -= given_up;
        given_up as u64
    }

    /// Whether the stop has come and all is sent and answered.
    #[must_use]
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.in_flight == 0 && now_ns >= self.stop_ns && self.next_ns(now_ns) >= self.stop_ns
    }

    /// The requests that were due before the stop and are not sent: the server was slower than the schedule.
    pub fn unsent(&self) -> impl Iterator<Item = u64> + use<> {
        let (pace, stop_ns, taken) = (self.pace, self.stop_ns, self.taken);
        (taken..).map_while(move |k| match pace {
            Pace::Open { .. } if stop_ns != u64::MAX => Some(due_ns(pace, k)).filter(|&due| due < stop_ns),
            _ => None,
        })
    }

    fn next_ns(&self, now_ns: u64) -> u64 {
        match self.pace {
            Pace::Closed => now_ns,
            Pace::Open { .. } => due_ns(self.pace, self.taken),
        }
    }
}

fn due_ns(pace: Pace, k: u64) -> u64 {
    match pace {
        Pace::Closed => 0,
        Pace::Open { first_ns, interval_ns } => (first_ns + k as f64 * interval_ns) as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MS: u64 = 1_000_000;

    /// Runs `flight` for 3 s against a server that answers in order, each after 1 ms, but not between 1000 and 1200 ms. The
    /// latencies, and how many were never sent.
    fn against_a_stall(pace: Pace, limit: usize) -> (Vec<u64>, usize) {
        let mut flight = Flight::new(pace, limit, 0);
        let mut on_the_way: VecDeque<(u64, Sent)> = VecDeque::new();
        let mut latencies = Vec::new();
        for now in (0..3000).map(|ms| ms * MS) {
            while on_the_way.front().is_some_and(|&(ready, _)| ready <= now) && !(1000 * MS..1200 * MS).contains(&now) {
                let (_, sent) = on_the_way.pop_front().expect("just seen");
                latencies.push(now - sent.start_ns);
                flight.done();
            }
            while let Some(due) = flight.take(now) {
                on_the_way.push_back((now + MS, due.sent));
            }
        }
        flight.stop(3000 * MS);
        let unsent = flight.unsent().count();
        (latencies, unsent)
    }

    #[test]
    fn an_open_loop_counts_a_stall_in_every_request_that_it_delays() {
        let pace = Pace::Open { first_ns: 0.0, interval_ns: MS as f64 };
        for limit in [1000, 4] {
            let (latencies, unsent) = against_a_stall(pace, limit);
            let over = |ms: u64| latencies.iter().filter(|&&latency| latency > ms * MS).count();
            assert!(over(100) >= 100, "{limit}: {}", over(100));
            assert!(latencies.iter().max() >= Some(&(200 * MS)), "{limit}");
            assert!(unsent <= 1, "{limit}: {unsent}");
        }
        let (latencies, _) = against_a_stall(Pace::Closed, 1);
        let over = latencies.iter().filter(|&&latency| latency > 100 * MS).count();
        assert_eq!(over, 1, "a closed loop sees it once: that is why there is an open one");
    }

    #[test]
    fn an_open_loop_sends_at_its_rate_from_its_start() {
        let mut flight = Flight::new(Pace::Open { first_ns: 500.0, interval_ns: 1000.0 }, 10, 40);
        assert_eq!(flight.take(499), None);
        assert_eq!(flight.wake_ns(0), Some(500));
        let first = flight.take(700).expect("due");
        assert_eq!(first, Due { sent: Sent { start_ns: 500, message: 40 }, lag_ns: Some(200) });
        assert_eq!(flight.take(1499), None);
        let starts: Vec<u64> = std::iter::from_fn(|| flight.take(4600)).map(|due| due.sent.start_ns).collect();
        assert_eq!(starts, [1500, 2500, 3500, 4500]);
        flight.stop(7000);
        assert_eq!(flight.unsent().collect::<Vec<_>>(), [5500, 6500]);
        assert_eq!(flight.wake_ns(4600), Some(5500));
        assert!(!flight.is_over(9000), "two are due");
        flight.stop(5000);
        assert_eq!(flight.wake_ns(4600), Some(5000), "to end in time");
        assert_eq!(flight.unsent().count(), 0);
        (0..5).for_each(|_| flight.done());
        assert!(!flight.is_over(4999) && flight.is_over(5000));
    }

    #[test]
    fn lag_is_the_generators_own_and_not_the_servers() {
        let mut flight = Flight::new(Pace::Open { first_ns: 0.0, interval_ns: 10.0 }, 1, 0);
        assert_eq!(flight.take(0).expect("due").lag_ns, Some(0));
        assert_eq!(flight.take(25), None);
        assert_eq!(flight.wake_ns(25), None, "only an answer frees the slot");
        flight.done();
        assert_eq!(flight.take(27).expect("due").lag_ns, None, "was due at 10, held back until 25");
        flight.done();
        assert_eq!(flight.take(27).expect("due").lag_ns, None, "was due at 20, held back until 25");
        flight.done();
        assert_eq!(flight.take(33).expect("due").lag_ns, Some(3));
    }

    #[test]
    fn a_refused_request_keeps_its_slot_and_its_number() {
        let mut flight = Flight::new(Pace::Closed, 1, 0);
        let first = flight.take(0).expect("a free slot").sent;
        assert!(flight.refused(first, 100));
        assert_eq!(flight.take(99), None);
        assert_eq!(flight.wake_ns(99), Some(100));
        let again = flight.take(100).expect("due");
        assert_eq!(again.sent, Sent { start_ns: 100, message: first.message });
        flight.refused(again.sent, 200);
        assert_eq!(flight.stop(150), 1);
        assert!(flight.is_over(150));
        assert_eq!(flight.take(300), None);
    }
}

//! What is logged again and again: of each place in the program so many lines are written in a while, and of those past it only
//! how many there were. A fault that hits every request so makes a few lines a second, not as many as there are requests.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Lines of a place that are written in a while.
const LINES: u32 = 100;
/// How long that is.
const WHILE: Duration = Duration::from_secs(5);

/// What each place has logged lately.
#[derive(Debug)]
pub(super) struct Repeats<P> {
    places: HashMap<P, Place>,
    /// When the first while ends in which lines were left out.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    until: Instant,
    written: u32,
    left_out: u64,
}

impl<P: Copy + Eq + Hash> Repeats<P> {
    pub(super) fn new() -> Self {
        Self { places: HashMap::new(), due: None }
    }

    /// Whether a line of a place is to be written.
    pub(super) fn lets(&mut self, place: P, now: Instant) -> bool {
        let state = self.places.entry(place).or_insert(Place { until: now + WHILE, written: 0, left_out: 0 });
        // What was left out is told of before another while begins.
        if now >= state.until && state.left_out == 0 {
            *state = Place { until: now + WHILE, written: 0, left_out: 0 };
        }
        if state.written < LINES {
            state.written += 1;
            return true;
        }
        state.left_out += 1;
        self.due = Some(self.due.map_or(state.until, |due| due.min(state.until)));
        false
    }

    /// How long until there is something to tell.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Places whose while is over, and how many of their lines were left out; `all`: also where it is not over.
    pub(super) fn left_out(&mut self, now: Instant, all: bool) -> Vec<(P, u64)> {
        if !all && self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let mut told = Vec::new();
        self.due = None;
        for (place, state) in &mut self.places {
            if state.left_out == 0 {
                continue;
            }
            if all || now >= state.until {
                told.push((*place, state.left_out));
                *state = Place { until: now + WHILE, written: 0, left_out: 0 };
            } else {
                self.due = Some(self.due.map_or(state.until, |due| due.min(state.until)));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_so_many_lines_in_a_while_and_the_rest_is_counted_and_told() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        let written = |repeats: &mut Repeats<u8>, place, at, lines: u32| {
            (0..lines).filter(|_| repeats.lets(place, at)).count() as u32
        };
        assert_eq!(written(&mut repeats, 1, start, LINES), LINES);
        assert_eq!(repeats.due_in(start), None);
        assert_eq!(written(&mut repeats, 1, start, 7), 0);
        assert_eq!(written(&mut repeats, 2, start + WHILE / 2, LINES + 1), LINES, "another place has its own");
        assert_eq!(repeats.due_in(start), Some(WHILE));
        assert!(repeats.left_out(start + WHILE / 2, false).is_empty());
        assert_eq!(repeats.left_out(start + WHILE, false), [(1, 7)]);
        assert_eq!(repeats.due_in(start + WHILE), Some(WHILE / 2));
        assert_eq!(written(&mut repeats, 1, start + WHILE, 3), 3, "a new while");
        assert_eq!(repeats.left_out(start + WHILE, true), [(2, 1)]);
        assert!(repeats.left_out(start + 2 * WHILE, true).is_empty());
    }

    #[test]
    fn a_place_that_was_quiet_begins_anew() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        assert!((0..LINES).all(|_| repeats.lets(1, start)));
        assert!((0..LINES).all(|_| repeats.lets(1, start + WHILE)));
        assert!(!repeats.lets(1, start + WHILE));
    }
}

//! Who is traced: a caller's own decision counts; where there is none, a part of the requests is taken by lot. Of either, so many
//! a second at most, that a caller who wants every request traced costs no more than that.

use std::cell::Cell;

use uuid::Uuid;

use super::{Begun, SpanContext, SpanId, TraceId, w3c::Incoming};

/// How much is traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Of requests without a decision of their own: this part, from 0 to 1.
    pub ratio: f64,
    /// Of all requests: so many a second at most.
    pub per_second: u32,
}

/// Draws lots for one thread.
#[derive(Debug)]
pub struct Sampler {
    /// A number below it, out of all of 64 bits, is a request that is traced.
    below: u64,
    always: bool,
    per_second: u32,
    second: Cell<u64>,
    left: Cell<u32>,
    random: Cell<u64>,
}

impl Sampler {
    /// With lots of its own.
    #[must_use]
    pub fn new(sampling: Sampling) -> Self {
        // A cast that is out of range gives the end of the range.
        let below = (sampling.ratio * 2f64.powi(64)) as u64;
        let seed = Uuid::new_v4().as_u64_pair();
        Self {
            below,
            always: sampling.ratio >= 1.0,
            per_second: sampling.per_second,
            second: Cell::new(0),
            left: Cell::new(sampling.per_second),
            random: Cell::new(seed.0 ^ seed.1),
        }
    }

    /// The trace of a request that came with this, in this second, if it is traced.
    #[must_use]
    pub fn begin(&self, incoming: &Incoming, second: u64) -> Option<Begun> {
        let wanted = match incoming {
            Incoming::Sampled(_) => true,
            Incoming::Unsampled(_) => false,
            Incoming::Undecided => self.always || self.draw() < self.below,
        };
        if !wanted || !self.has_room(second) {
            return None;
        }
        let span = self.span_id();
        Some(match incoming {
            Incoming::Sampled(caller) => {
                Begun { context: SpanContext { span, ..caller.clone() }, parent: Some(caller.span) }
            }
            _ => Begun { context: SpanContext { trace: TraceId::generate(), span, state: None }, parent: None },
        })
    }

    /// A trace of what no request asked for, if there is room for it in this second.
    #[must_use]
    pub fn begin_own(&self, second: u64) -> Option<SpanContext> {
        self.has_room(second).then(|| SpanContext { trace: TraceId::generate(), span: self.span_id(), state: None })
    }

    /// A new span's id.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        SpanId(self.draw().max(1))
    }

    fn has_room(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.left.set(self.per_second);
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// SplitMix64: every number once, in an order without a pattern that matters here, at the cost of a few multiplications.
    fn draw(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(ratio: f64, per_second: u32) -> Sampler {
        Sampler::new(Sampling { ratio, per_second })
    }

    fn caller() -> SpanContext {
        SpanContext { trace: TraceId(7), span: SpanId(9), state: Some("a=1".into()) }
    }

    #[test]
    fn a_part_of_those_without_a_decision_is_taken_by_lot() {
        let count = |ratio| {
            let sampler = sampler(ratio, u32::MAX);
            (0..100_000).filter(|_| sampler.begin(&Incoming::Undecided, 0).is_some()).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 100_000));
        // Of 100,000 with 1 in 4 the chance to be off by 2,000 is one in far more than there are runs.
        assert!((23_000..27_000).contains(&count(0.25)), "{}", count(0.25));
    }

    #[test]
    fn a_callers_decision_counts() {
        let sampler = sampler(1.0, 10);
        assert!(sampler.begin(&Incoming::Unsampled(TraceId(7)), 0).is_none());
        let begun = sampler.begin(&Incoming::Sampled(caller()), 0).expect("sampled");
        assert_eq!((begun.context.trace, begun.parent), (TraceId(7), Some(SpanId(9))));
        assert_eq!(begun.context.state.as_deref(), Some("a=1"));
        assert_ne!(begun.context.span, SpanId(9));
    }

    #[test]
    fn no_more_a_second_than_there_may_be() {
        let sampler = sampler(0.0, 3);
        let traced = |second| (0..10).filter(|_| sampler.begin(&Incoming::Sampled(caller()), second).is_some()).count();
        assert_eq!((traced(0), traced(0), traced(1), traced(7)), (3, 0, 3, 3));
    }
}

//! Whether one version of a schema may follow another: a structural comparison of two draft-07 definitions.
//!
//! Backward compatible: every record that the older version takes, the newer takes as well. Forward compatible: the reverse.
//! The answer is sound for what the validator of `ttdust-shards` takes (formats and content keywords are assertions, `1.0` is
//! an integer, what stands beside a `$ref` is not looked at): "compatible" is only ever said where it is proved. It is not
//! complete: two different patterns, two unions that overlap or a comparison beyond the bounds on work are refused with a rule
//! whose name ends in `_NOT_PROVED`. Definitions are expected to have been compiled before; one that cannot be is compared
//! without panicking, and what is not understood in it is never taken as proved.
//!
//! # How
//!
//! The narrower side is a conjunction of schemas (`conjunction`), the wider side is taken apart into its assertions, and each
//! is proved by itself, for one JSON type at a time (`comparison`). Where an assertion does not follow from the conjunction
//! as it stands, the alternatives of the narrower side (`anyOf`, `oneOf`, `if`) are taken one by one. A question that is met
//! again further down in the record counts as answered: this is induction over the size of the record, so it is allowed only
//! for a part of the record that is smaller than the one that the question was first asked for.
//!
//! # Open content models
//!
//! An object without `additionalProperties` may already hold any member. So a version that gives a new member `p` a schema
//! refuses records that hold some other `p`: [`Policy::Strict`] says so. [`Policy::Lenient`] assumes that nobody sent members
//! that were not declared, as the registries' practice is (Confluent Schema Registry names it the lenient compatibility policy
//! of JSON Schema), and lets a member be added to an open object, or forward, be removed from one. Nothing else is relaxed.

use serde_json::Value;

mod arrays;
mod canonical;
mod comparison;
mod conjunction;
mod definitions;
mod emptiness;
mod numbers;
mod objects;
mod parse;
mod scalars;
mod values;

pub use self::canonical::fingerprint;
use self::comparison::{Comparison, WORK_MAX};

/// The most violations in a [`Verdict`].
pub const VIOLATIONS_MAX: usize = 100;

/// What a rule's name ends with where the comparison could not decide.
pub const NOT_PROVED: &str = "_NOT_PROVED";

/// Which versions a new one is held against, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Any version may follow any.
    None,
    /// The new version takes all records of the newest.
    Backward,
    /// The new version takes all records of every version.
    BackwardTransitive,
    /// The newest version takes all records of the new.
    Forward,
    /// Every version takes all records of the new.
    ForwardTransitive,
    /// Backward and forward, against the newest.
    Full,
    /// Backward and forward, against every version.
    FullTransitive,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    /// Reads a mode's name, in any case; `None`: there is no such mode.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(name))
    }

    /// Its name, in capitals.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    fn directions(self) -> &'static [Direction] {
        match self {
            Self::None => &[],
            Self::Backward | Self::BackwardTransitive => &[Direction::Backward],
            Self::Forward | Self::ForwardTransitive => &[Direction::Forward],
            Self::Full | Self::FullTransitive => &[Direction::Backward, Direction::Forward],
        }
    }

    fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }
}

/// How members that an open object does not declare are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// They may be anything.
    #[default]
    Strict,
    /// Nobody sends them.
    Lenient,
}

/// Whose records are held against whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The older version's records against the new definition.
    Backward,
    /// The new definition's records against the older version.
    Forward,
}

/// One reason why two versions do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The machine-readable reason. It ends with [`NOT_PROVED`] where the comparison could not decide.
    pub rule: &'static str,
    /// JSON Pointer into the new definition: the place at fault, or the nearest that there is.
    pub pointer: String,
    /// The same in the older definition.
    pub old_pointer: String,
    /// For people: which records break, and what to do.
    pub reason: String,
    /// The older version.
    pub against_version: u32,
    /// Whose records break.
    pub direction: Direction,
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The new definition fits, under the mode.
    pub compatible: bool,
    /// Why not; at most [`VIOLATIONS_MAX`], and never empty where it does not fit.
    pub violations: Vec<Violation>,
}

/// Holds `new` against the versions in `history`, oldest first. Bounded in work, but up to seconds for the worst definitions:
/// never on a thread that others wait for.
#[must_use]
pub fn check(mode: Mode, policy: Policy, history: &[(u32, &Value)], new: &Value) -> Verdict {
    let held_against =
        if mode.is_transitive() { history } else { history.last_chunk::<1>().map_or(&[][..], |last| last) };
    let mut verdict = Verdict { compatible: true, violations: Vec::new() };
    let mut work = WORK_MAX;
    // The newest first: what it breaks matters most, should there be too much to say.
    for &(version, old) in held_against.iter().rev() {
        for &direction in mode.directions() {
            let (narrow, wide) = match direction {
                Direction::Backward => (old, new),
                Direction::Forward => (new, old),
            };
            let mut comparison = Comparison::new(policy, direction, version, work);
            let before = verdict.violations.len();
            verdict.compatible &= comparison.run(narrow, wide, &mut verdict.violations);
            work = comparison.work_left();
            for violation in &mut verdict.violations[before..] {
                nearest(new, &mut violation.pointer);
                nearest(old, &mut violation.old_pointer);
            }
        }
    }
    verdict
}

/// Cuts `pointer` to the nearest place that is in `definition`.
fn nearest(definition: &Value, pointer: &mut String) {
    while definition.pointer(pointer).is_none() {
        pointer.truncate(pointer.rfind('/').unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modes_are_read_in_any_case() {
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(mode.name()), Some(mode));
            assert_eq!(Mode::parse(&mode.name().to_lowercase()), Some(mode));
        }
        assert_eq!(Mode::parse("sideways"), None);
    }

    #[test]
    fn only_transitive_modes_look_beyond_the_newest_version() {
        let (wide, narrow) = (json!({ "type": "string" }), json!({ "type": "string", "maxLength": 3 }));
        let history = [(1, &wide), (2, &narrow)];
        assert!(check(Mode::Backward, Policy::Strict, &history, &narrow).compatible);
        let verdict = check(Mode::BackwardTransitive, Policy::Strict, &history, &narrow);
        assert_eq!(verdict.violations.len(), 1);
        let violation = &verdict.violations[0];
        assert_eq!((violation.rule, violation.against_version), ("MAX_LENGTH_LOWERED", 1));
        assert_eq!((&*violation.pointer, &*violation.old_pointer), ("/maxLength", ""));
        assert!(check(Mode::Forward, Policy::Strict, &history, &narrow).compatible);
        assert!(!check(Mode::Forward, Policy::Strict, &history, &wide).compatible);
        assert!(check(Mode::None, Policy::Strict, &history, &json!(false)).compatible);
        assert!(check(Mode::FullTransitive, Policy::Strict, &[], &narrow).compatible);
    }

    #[test]
    fn a_verdict_is_bounded() {
        let members =
            |of: &str| (0..300).map(|i| (format!("p{i}"), json!({ "type": of }))).collect::<serde_json::Map<_, _>>();
        let (old, new) = (json!({ "properties": members("string") }), json!({ "properties": members("null") }));
        let verdict = check(Mode::Backward, Policy::Strict, &[(1, &old)], &new);
        assert!(!verdict.compatible);
        assert_eq!(verdict.violations.len(), VIOLATIONS_MAX);
    }
}

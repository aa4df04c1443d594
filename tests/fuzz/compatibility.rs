//! Compatibility of two versions of a schema: where it is said to hold, no record speaks against it.

use serde_json::Value;
use ttdust::compatibility::{Mode, Policy, VIOLATIONS_MAX, check, fingerprint};

use super::{
    parts,
    records::{Judges, Records},
};

/// Records that are tried.
const RECORDS: usize = 60;
/// Longer definitions find nothing that shorter ones do not, and are slow.
const DEFINITION_BYTES_MAX: usize = 1024;
/// Larger counts in a definition would ask for records that long.
const NUMBER_MAX: f64 = 1e4;

/// Two definitions with a NUL between them.
pub fn compatibility(input: &[u8]) {
    let [old, new] = parts(input).map(definition);
    let (Some(old), Some(new)) = (old, new) else { return };
    // Whether it compiles or not: there is an answer, and its reasons point into the definitions.
    for policy in [Policy::Strict, Policy::Lenient] {
        let verdict = check(Mode::FullTransitive, policy, &[(1, &old), (2, &new)], &new);
        assert_eq!(verdict.compatible, verdict.violations.is_empty());
        assert!(verdict.violations.len() <= VIOLATIONS_MAX);
        for violation in &verdict.violations {
            assert!(new.pointer(&violation.pointer).is_some(), "{violation:?}");
        }
    }
    let same = check(Mode::Full, Policy::Strict, &[(1, &old)], &new);
    if fingerprint(&old) == fingerprint(&new) && old == new {
        let proved =
            same.violations.iter().all(|violation| violation.rule.ends_with(ttdust::compatibility::NOT_PROVED));
        assert!(proved, "a definition may follow itself: {same:?}");
    }
    let backward = check(Mode::Backward, Policy::Strict, &[(1, &old)], &new).compatible;
    let forward = check(Mode::Forward, Policy::Strict, &[(1, &old)], &new).compatible;
    assert_eq!(same.compatible, backward && forward);
    if !backward && !forward {
        return;
    }
    let Some(mut judges) = Judges::new(&old, &new) else { return };
    let seed = input.iter().fold(7u64, |seed, &byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let found = judges.search(&mut Records::new(&old, &new, seed), RECORDS, [backward, forward]);
    if let Some(record) = found.backward.filter(|_| backward) {
        panic!("said to be backward compatible, but {record} is taken by {old} and not by {new}");
    }
    if let Some(record) = found.forward.filter(|_| forward) {
        panic!("said to be forward compatible, but {record} is taken by {new} and not by {old}");
    }
}

fn definition(bytes: &[u8]) -> Option<Value> {
    let value = (bytes.len() <= DEFINITION_BYTES_MAX).then(|| serde_json::from_slice(bytes).ok())??;
    is_small(&value).then_some(value)
}

fn is_small(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() <= NUMBER_MAX),
        Value::Array(elements) => elements.iter().all(is_small),
        Value::Object(members) => members.values().all(is_small),
        _ => true,
    }
}

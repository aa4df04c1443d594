//! Real histories of schemas: Wikimedia's events.

use std::{fs::File, io::Read as _, path::PathBuf, time::Instant};

use serde_json::Value;
use ttdust::compatibility::{Direction, Mode, Policy, Violation, check, fingerprint};

use crate::{
    records::{Judges, Records},
    verdict,
};

/// The most that one verdict may take, in seconds, on a busy machine and without optimisation.
const SECONDS_MAX: u64 = 20;
const RECORDS: usize = 400;

/// A schema's title and its versions, oldest first.
type History = (String, Vec<(String, Value)>);

fn histories() -> Vec<History> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/wikimedia/histories.jsonl.gz");
    let mut lines = String::new();
    let file = File::open(path).expect("the histories are part of the repository");
    flate2::read::GzDecoder::new(file).read_to_string(&mut lines).expect("whole gzip data");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let history = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let versions = line["versions"].as_array().expect("versions").iter();
        (text(&line["title"]), versions.map(|each| (text(&each["version"]), each["definition"].clone())).collect())
    };
    lines.lines().map(history).collect()
}

/// Each version, and the one after it.
fn steps() -> Vec<(String, Value, Value)> {
    let steps = |(title, versions): History| {
        let pairs: Vec<_> = versions
            .windows(2)
            .map(|pair| (format!("{title} {} to {}", pair[0].0, pair[1].0), pair[0].1.clone(), pair[1].1.clone()))
            .collect();
        pairs
    };
    histories().into_iter().flat_map(steps).collect()
}

#[test]
fn a_version_is_compatible_with_itself() {
    for (title, versions) in histories() {
        for (version, definition) in versions {
            for policy in [Policy::Strict, Policy::Lenient] {
                for mode in Mode::ALL {
                    let verdict = check(mode, policy, &[(1, &definition)], &definition);
                    assert!(verdict.compatible, "{title} {version}, {mode:?}: {:#?}", verdict.violations);
                }
            }
        }
    }
}

#[test]
fn verdicts_on_consecutive_versions_agree_with_records() {
    let steps = steps();
    assert_eq!(steps.len(), 18);
    for (step, old, new) in &steps {
        let mut judges = Judges::new(old, new).unwrap_or_else(|| panic!("{step} does not compile"));
        let mut records = Records::new(old, new, 0x7769_6b69);
        let found = judges.search(&mut records, RECORDS, [true; 2]);
        let examples = [old, new].map(|definition| definition["examples"].as_array().cloned().unwrap_or_default());
        for (direction, counterexample) in [(Direction::Backward, found.backward), (Direction::Forward, found.forward)]
        {
            let (began, strict) = (Instant::now(), verdict(Policy::Strict, direction, old, new));
            assert!(began.elapsed().as_secs() < SECONDS_MAX, "{step}");
            let lenient = verdict(Policy::Lenient, direction, old, new);
            assert!(!strict.compatible || lenient.compatible, "{step}, {direction:?}: {lenient:#?}");
            if strict.compatible {
                assert_eq!(counterexample, None, "{step}, {direction:?}");
            }
            // The bundled examples hold no undeclared members, so even a lenient verdict must be true for them.
            for example in examples.iter().flatten() {
                let taken = judges.take(example);
                let breaks = match direction {
                    Direction::Backward => taken[0] && !taken[1],
                    Direction::Forward => taken[1] && !taken[0],
                };
                assert!(!breaks || !strict.compatible, "{step}, {direction:?}: {example}");
            }
        }
    }
}

/// The steps that break records even under the lenient policy, and why: read and found right in the definitions.
const BREAKING: [(&str, &[&str]); 7] = [
    ("error 1.0.0 to 2.0.0", &["REQUIRED_ADDED /required", "ADDITIONAL_PROPERTIES_CLOSED /additionalProperties"]),
    ("mediawiki/api/request 0.0.1 to 1.0.0", &["ADDITIONAL_PROPERTIES_CLOSED /additionalProperties"]),
    // `tags` went, of a closed object.
    ("mediawiki/client/error 1.1.0 to 2.0.0", &["PROPERTY_REMOVED_FROM_CLOSED /additionalProperties"]),
    (
        "mediawiki/revision/create 1.2.0 to 2.0.0",
        &["REQUIRED_ADDED /required", "ADDITIONAL_PROPERTIES_CLOSED /additionalProperties"],
    ),
    // Arrays became objects.
    (
        "mediawiki/revision/score 1.0.0 to 2.0.0",
        &["TYPE_NARROWED /properties/errors/type", "TYPE_NARROWED /properties/scores/type"],
    ),
    (
        "mediawiki/revision/score 2.0.0 to 3.0.0",
        &["REQUIRED_ADDED /required", "ADDITIONAL_PROPERTIES_CLOSED /additionalProperties"],
    ),
    ("test/event 0.0.3 to 1.0.0", &["REQUIRED_ADDED /required", "REQUIRED_ADDED /properties/meta/required"]),
];

/// What was measured, and looked at. A change of these figures wants a look at what changed.
#[test]
fn as_many_steps_are_compatible_as_were_found_to_be() {
    let mut compatible = [[0; 2]; 2];
    let mut rules = Vec::new();
    for (step, old, new) in steps() {
        for (p, policy) in [Policy::Strict, Policy::Lenient].into_iter().enumerate() {
            for (d, direction) in [Direction::Backward, Direction::Forward].into_iter().enumerate() {
                let verdict = verdict(policy, direction, &old, &new);
                compatible[p][d] += usize::from(verdict.compatible);
                if (policy, direction) == (Policy::Lenient, Direction::Backward) && !verdict.compatible {
                    let shown = |violation: &Violation| format!("{} {}", violation.rule, violation.pointer);
                    rules.push((step.clone(), verdict.violations.iter().map(shown).collect::<Vec<_>>()));
                }
            }
        }
    }
    // Strict, then lenient; backward, then forward.
    assert_eq!(compatible, [[5, 7], [11, 8]], "of 18");
    let expected: Vec<_> = BREAKING
        .map(|(step, rules)| (step.to_owned(), rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>()))
        .into();
    assert_eq!(rules, expected);
}

#[test]
fn each_version_has_its_own_fingerprint() {
    let mut seen: Vec<_> = histories()
        .iter()
        .flat_map(|(_, versions)| versions.iter().map(|(_, definition)| fingerprint(definition)))
        .collect();
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((seen.len(), count), (28, 28));
}

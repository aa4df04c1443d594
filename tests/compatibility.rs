//! The comparison of schemas, held against the validator: a verdict is believed only where no record speaks against it, and
//! a refusal only where some record speaks for it.

#[path = "compatibility/cases.rs"]
mod cases;
#[path = "compatibility/histories.rs"]
mod histories;
#[path = "compatibility/random.rs"]
mod random;
#[path = "compatibility/records.rs"]
mod records;

use cases::{Case, Expect};
use records::{Judges, Records};
use serde_json::Value;
use ttdust::compatibility::{Direction, Mode, NOT_PROVED, Policy, Verdict, check};

/// The most records that are tried for one case.
const RECORDS: usize = 4000;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn verdict(policy: Policy, direction: Direction, old: &Value, new: &Value) -> Verdict {
    let mode = if direction == Direction::Backward { Mode::Backward } else { Mode::Forward };
    let verdict = check(mode, policy, &[(1, old)], new);
    assert_eq!(verdict.compatible, verdict.violations.is_empty(), "{old} {new} {verdict:?}");
    for violation in &verdict.violations {
        assert!(new.pointer(&violation.pointer).is_some(), "{:?} is not in {new}", violation);
        assert!(old.pointer(&violation.old_pointer).is_some(), "{:?} is not in {old}", violation);
        assert_eq!((violation.against_version, violation.direction), (1, direction));
    }
    verdict
}

/// What is wrong with a case, if anything.
fn judge((name, old, new, backward, forward): Case, policy: Policy) -> Vec<String> {
    let (old, new) = (parsed(old), parsed(new));
    let mut judges = Judges::new(&old, &new).unwrap_or_else(|| panic!("{name} does not compile"));
    let mut records = Records::new(&old, &new, 0x5eed);
    let found = judges.search(&mut records, RECORDS, [true; 2]);
    let mut wrong = Vec::new();
    for (direction, expected, counterexample) in
        [(Direction::Backward, backward, found.backward), (Direction::Forward, forward, found.forward)]
    {
        let verdict = verdict(policy, direction, &old, &new);
        if verdict.compatible != (expected == Expect::Fits) {
            wrong.push(format!("{name}, {direction:?}: expected {expected:?}, but {verdict:#?}"));
        }
        match (expected, counterexample) {
            (Expect::Breaks, None) => wrong.push(format!("{name}, {direction:?}: no counterexample")),
            (Expect::Fits, Some(record)) if policy == Policy::Strict => {
                wrong.push(format!("{name}, {direction:?}: it breaks {record}"));
            }
            (Expect::Unproved, Some(record)) => wrong.push(format!("{name}, {direction:?}: it does break {record}")),
            _ => {}
        }
    }
    wrong
}

#[test]
fn each_case_is_what_records_show_it_to_be() {
    let wrong: Vec<_> = cases::STRICT.iter().flat_map(|case| judge(*case, Policy::Strict)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases::STRICT.len() >= 80);
    let unproved = cases::STRICT.iter().filter(|case| [case.3, case.4].contains(&Expect::Unproved)).count();
    assert!(unproved <= 5, "{unproved} cases are beyond the comparison");
}

#[test]
fn leniency_relaxes_undeclared_members_and_nothing_else() {
    let wrong: Vec<_> = cases::LENIENT.iter().flat_map(|case| judge(*case, Policy::Lenient)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_lenient_is_strict_where_no_member_is_added() {
    for case in cases::STRICT {
        let (old, new) = (parsed(case.1), parsed(case.2));
        for direction in [Direction::Backward, Direction::Forward] {
            let strict = verdict(Policy::Strict, direction, &old, &new);
            let lenient = verdict(Policy::Lenient, direction, &old, &new);
            assert!(!strict.compatible || lenient.compatible, "{}: {lenient:?}", case.0);
            let only_members = strict.violations.iter().all(|violation| violation.rule == "PROPERTY_ADDED_TO_OPEN");
            assert!(strict.compatible || only_members || !lenient.compatible, "{}: {strict:?}", case.0);
        }
    }
}

/// Definitions that could make a comparison run for ever, or deep.
#[test]
fn hostile_definitions_end_in_a_verdict() {
    let cross = |n: usize| {
        let cases: Vec<_> = (0..n).map(|i| format!(r#"{{"anyOf":[{{"minimum":{i}}},{{"maxLength":{i}}}]}}"#)).collect();
        parsed(&format!(r#"{{"allOf":[{}]}}"#, cases.join(",")))
    };
    let nested = |keyword: &str, leaf: &str| {
        parsed(&format!("{}{leaf}{}", format!(r#"{{"{keyword}":"#).repeat(60), "}".repeat(60)))
    };
    let chain: Vec<_> = (0..900)
        .map(|i| {
            format!(
                r##""d{i}":{{"properties":{{"a":{{"$ref":"#/definitions/d{}"}}}},"minProperties":{}}}"##,
                (i + 1) % 900,
                i % 7
            )
        })
        .collect();
    let chain = parsed(&format!(r##"{{"definitions":{{{}}},"$ref":"#/definitions/d0"}}"##, chain.join(",")));
    let circle = parsed(
        r##"{"definitions":{"a":{"$ref":"#/definitions/b"},"b":{"anyOf":[{"$ref":"#/definitions/a"}]}},"$ref":"#/definitions/a"}"##,
    );
    let contrary = parsed(r##"{"not":{"$ref":"#"}}"##);
    let wide: Vec<_> = (0..5000).map(|i| format!(r#""p{i}":{{"type":"string","maxLength":{i}}}"#)).collect();
    let wide = parsed(&format!(r#"{{"properties":{{{}}}}}"#, wide.join(",")));
    let patterns: Vec<_> = (0..40).map(|i| format!(r#""^{i}":{{"type":"string"}}"#)).collect();
    let patterns = parsed(&format!(r#"{{"patternProperties":{{{}}}}}"#, patterns.join(",")));
    let definitions = [
        cross(12),
        cross(13),
        nested("not", r#"{"type":"string"}"#),
        nested("not", r#"{"type":"null"}"#),
        nested("items", r#"{"type":"string"}"#),
        nested("items", "{}"),
        nested("contains", r#"{"minimum":3}"#),
        chain,
        circle,
        contrary,
        wide,
        patterns,
        parsed("true"),
        parsed("false"),
        parsed("7"),
        parsed(r#"{"type":7,"properties":[]}"#),
    ];
    for (index, old) in definitions.iter().enumerate() {
        // Not each with each, to save time: itself, and two others.
        for other in [0, 1, 5] {
            let new = &definitions[(index + other) % definitions.len()];
            let began = std::time::Instant::now();
            let strict = check(Mode::FullTransitive, Policy::Strict, &[(1, old), (2, new)], new);
            assert!(strict.compatible || !strict.violations.is_empty());
            assert!(
                began.elapsed().as_secs() < 30,
                "{} bytes against {}",
                old.to_string().len(),
                new.to_string().len()
            );
        }
    }
}

/// The bounds on work are not in the way of a definition of about the greatest size, be it compatible or not.
#[test]
fn a_large_definition_is_within_the_bounds() {
    let closed = |count: usize, longer: usize| {
        let members: Vec<_> =
            (0..count).map(|i| format!(r#""p{i}":{{"type":["string","null"],"maxLength":{}}}"#, i + longer)).collect();
        parsed(&format!(r#"{{"type":"object","properties":{{{}}},"additionalProperties":false}}"#, members.join(",")))
    };
    let (old, new) = (closed(12_000, 1), closed(12_001, 2));
    assert!(verdict(Policy::Strict, Direction::Backward, &old, &new).compatible);
    let forward = verdict(Policy::Strict, Direction::Forward, &old, &new);
    assert!(forward.violations.iter().all(|violation| violation.rule == "MAX_LENGTH_LOWERED"), "{forward:?}");
}

/// What cannot be read is never taken as proved.
#[test]
fn what_is_not_understood_is_not_proved() {
    let old = parsed(r#"{"type":"object"}"#);
    for new in [
        r##"{"properties":{"a":{"$ref":"#/definitions/none"}}}"##,
        r##"{"properties":{"a":{"$ref":"#name"}}}"##,
        r##"{"properties":{"a":{"$ref":"http://a.example/"}}}"##,
        r##"{"definitions":{"s":{}},"properties":{"a":{"$id":"http://a.example/","$ref":"#/definitions/s"}}}"##,
    ] {
        let verdict = check(Mode::Backward, Policy::Strict, &[(1, &old)], &parsed(new));
        assert!(!verdict.compatible, "{new}");
        let rules: Vec<_> = verdict.violations.iter().map(|violation| violation.rule).collect();
        assert!(rules.iter().any(|rule| rule.ends_with(NOT_PROVED) || *rule == "PROPERTY_ADDED_TO_OPEN"), "{rules:?}");
    }
}

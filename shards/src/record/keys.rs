//! Which key a record has in a key field: one rule for the buffer, for files and for requests.
//!
//! A field is named by a JSON Pointer (RFC 6901; it begins with `/`) or by the name of a top-level member. A string is its own
//! key; an integer that 64 bits hold, also one that is written as `1.0` or `1e2`, has its decimal digits, a boolean has `true`
//! or `false`. Anything else has no key there: other numbers, null, arrays, objects, what is missing. Of two members with the
//! same name the last counts. So the string `"5"` and the number `5` have the same key.

use std::fmt::Write as _;

use memchr::{memchr, memmem::Finder};
use simd_json::{Node, StaticNode};

use super::{Parser, integer, span};

/// Where records of a stream have a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyField {
    name: Box<str>,
    steps: Box<[Box<str>]>,
}

impl KeyField {
    /// The field that `name` means. Any text means one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let steps = match name.strip_prefix('/') {
            None => Box::from([name.into()]),
            // `~01` is `~1`, so `~1` goes first.
            Some(pointer) => pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~").into()).collect(),
        };
        Self { name: name.into(), steps }
    }

    /// As it was declared.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key of a record that is laid out as `nodes`. `digits` is memory for it.
    #[must_use]
    pub fn key<'k>(&self, nodes: &'k [Node<'k>], digits: &'k mut String) -> Option<&'k str> {
        let node = &nodes[self.find(nodes)?];
        match node {
            Node::String(text) => return Some(text),
            Node::Static(StaticNode::Bool(value)) => return Some(if *value { "true" } else { "false" }),
            _ => {}
        }
        digits.clear();
        match (integer(node), node) {
            // Writing to a string cannot fail.
            (Some(value), _) => drop(write!(digits, "{value}")),
            (None, Node::Static(StaticNode::U64(value))) => drop(write!(digits, "{value}")),
            _ => return None,
        }
        Some(digits)
    }

    /// The name that a member has whose value is the key; `None`: it may be an element of an array.
    fn member(&self) -> Option<&str> {
        self.steps.last().map(|step| &**step).filter(|step| !is_index(step))
    }

    /// The value of the field in a record that is laid out as `nodes`.
    pub(crate) fn node<'n, 'k>(&self, nodes: &'n [Node<'k>]) -> Option<&'n Node<'k>> {
        self.find(nodes).map(|at| &nodes[at])
    }

    fn find(&self, nodes: &[Node<'_>]) -> Option<usize> {
        self.steps.iter().try_fold(0, |at, step| match nodes[at] {
            Node::Object { len, .. } => member(nodes, at, len, step),
            Node::Array { len, .. } => element(nodes, at, len, step),
            _ => None,
        })
    }
}

fn member(nodes: &[Node<'_>], object: usize, len: usize, name: &str) -> Option<usize> {
    let mut found = None;
    let mut at = object + 1;
    for _ in 0..len {
        if matches!(nodes[at], Node::String(key) if key == name) {
            found = Some(at + 1);
        }
        at += 1 + span(&nodes[at + 1]);
    }
    found
}

fn element(nodes: &[Node<'_>], array: usize, len: usize, index: &str) -> Option<usize> {
    let index: usize = index.parse().ok().filter(|number| is_index(index) && *number < len)?;
    let mut at = array + 1;
    for _ in 0..index {
        at += span(&nodes[at]);
    }
    Some(at)
}

/// Whether a step of a pointer can name an element.
fn is_index(step: &str) -> bool {
    step == "0" || (!step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) && !step.starts_with('0'))
}

/// Looks for one key in many records.
#[derive(Debug)]
pub struct KeySearch {
    field: KeyField,
    key: Box<str>,
    needle: Needle,
    parser: Parser,
    digits: String,
}

impl KeySearch {
    /// A search for records whose key in `field` is `key`.
    #[must_use]
    pub fn new(field: KeyField, key: &str) -> Self {
        let literal = !key.is_empty() && !key.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let needle = match field.member() {
            _ if literal => Needle::Key(Finder::new(key.as_bytes()).into_owned()),
            Some(name) => Needle::Member(Finder::new(format!("\"{name}\"").as_bytes()).into_owned()),
            None => Needle::Nothing,
        };
        Self { field, key: key.into(), needle, parser: Parser::default(), digits: String::new() }
    }

    /// The field.
    #[must_use]
    pub fn field(&self) -> &KeyField {
        &self.field
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether one of the records that `text` holds may have the key: `false` is certain, and found at the speed of memory.
    #[must_use]
    pub fn may_be_in(&self, text: &[u8]) -> bool {
        let found = match &self.needle {
            Needle::Key(key) => key.find(text).is_some(),
            Needle::Member(name) => has_member(name, text, self.key.as_bytes()),
            Needle::Nothing => true,
        };
        found || memchr(b'\\', text).is_some()
    }

    /// Whether the record has the key.
    pub fn matches(&mut self, payload: &[u8]) -> bool {
        let Self { field, key, parser, digits, .. } = self;
        parser.with_nodes(payload, |nodes| field.key(nodes, digits).is_some_and(|found| *found == **key))
    }

    /// The last of these records that has the key. `text` holds all of them.
    pub fn last_match<'p>(&mut self, text: &[u8], count: usize, payload: impl Fn(usize) -> &'p [u8]) -> Option<usize> {
        if !self.may_be_in(text) {
            return None;
        }
        (0..count).rev().find(|&index| {
            let payload = payload(index);
            self.may_be_in(payload) && self.matches(payload)
        })
    }
}

/// What a record with the key holds, if nothing in it is escaped.
#[derive(Debug)]
enum Needle {
    /// The key itself: it is no number, which may be written in other digits.
    Key(Finder<'static>),
    /// The member's name, with its quotes; what comes after it may be the key.
    Member(Finder<'static>),
    /// Anything.
    Nothing,
}

/// Whether `text` has a member of this name whose value may be `key`, which is of digits or empty.
fn has_member(name: &Finder<'_>, text: &[u8], key: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = name.find(rest) {
        if may_begin_with(&rest[at + name.needle().len()..], key) {
            return true;
        }
        // The quote that ends one text may begin another that is the name.
        rest = &rest[at + 1..];
    }
    false
}

/// Whether what comes after a text, which then is the name of a member, is a value that may be `key`.
fn may_begin_with(text: &[u8], key: &[u8]) -> bool {
    /// Digits that a number is known by for sure: past them it may be a rounded one.
    const EXACT: usize = 18;
    let Some(value) = without_blanks(text).strip_prefix(b":") else { return false };
    let value = without_blanks(value);
    match value.first() {
        Some(b'"') => value[1..].strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b'"')),
        Some(b'-' | b'0'..=b'9') => {
            let digits = value.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count() + 1;
            let is_plain = digits <= EXACT && !matches!(value.get(digits), Some(b'.' | b'e' | b'E'));
            !is_plain || value[..digits] == *key || value[..digits] == *b"-0"
        }
        _ => false,
    }
}

fn without_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    &text[blanks..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(field: &str, payload: &str) -> Option<String> {
        let field = KeyField::new(field);
        let mut digits = String::new();
        Parser::default().with_nodes(payload.as_bytes(), |nodes| field.key(nodes, &mut digits).map(str::to_owned))
    }

    #[test]
    fn a_key_is_a_string_an_integer_or_a_boolean() {
        for (payload, expected) in [
            (r#"{"k":"a"}"#, Some("a")),
            (r#"{"k":""}"#, Some("")),
            (r#"{"k":"\u00fc\n"}"#, Some("ü\n")),
            (r#"{"k":5}"#, Some("5")),
            (r#"{"k":-0}"#, Some("0")),
            (r#"{"k":1.0}"#, Some("1")),
            (r#"{"k":1e2}"#, Some("100")),
            (r#"{"k":-9223372036854775808}"#, Some("-9223372036854775808")),
            (r#"{"k":18446744073709551615}"#, Some("18446744073709551615")),
            (r#"{"k":18446744073709551616}"#, None),
            (r#"{"k":1.5}"#, None),
            (r#"{"k":true}"#, Some("true")),
            (r#"{"k":false}"#, Some("false")),
            (r#"{"k":null}"#, None),
            (r#"{"k":["a"]}"#, None),
            (r#"{"k":{}}"#, None),
            (r#"{"other":"k"}"#, None),
            (r#"{"a":{"k":"inner"},"k":"outer"}"#, Some("outer")),
            (r#"{"k":"first","k":"last"}"#, Some("last")),
            (r#"{"n":123456789012345678901234567890,"k":"slow"}"#, Some("slow")),
            ("[]", None),
            ("\"k\"", None),
            ("not json", None),
            ("", None),
        ] {
            assert_eq!(key("k", payload).as_deref(), expected, "{payload}");
        }
    }

    #[test]
    fn pointers_reach_inside() {
        let payload = r#"{"a":{"b":[10,{"c":"x"}],"d/e":1,"m~n":2,"":3},"":{"":4},"0":5}"#;
        for (field, expected) in [
            ("/a/b/0", Some("10")),
            ("/a/b/1/c", Some("x")),
            ("/a/b/2", None),
            ("/a/b/01", None),
            ("/a/b/-", None),
            ("/a/b/", None),
            ("/a/d~1e", Some("1")),
            ("/a/m~0n", Some("2")),
            ("/a/", Some("3")),
            ("/", None),
            ("//", Some("4")),
            ("/0", Some("5")),
            ("0", Some("5")),
            ("a/b/0", None),
        ] {
            assert_eq!(key(field, payload).as_deref(), expected, "{field}");
        }
    }

    #[test]
    fn a_search_finds_what_the_rule_says() {
        let payloads = [
            r#"{"k":"plain"}"#,
            r#"{"k":"\u0070lain"}"#,
            r#"{"k":"100"}"#,
            r#"{"k":1e2}"#,
            r#"{"k":100.0}"#,
            r#"{"k":""}"#,
            r#"{"k":true,"x":"plain"}"#,
            r#"{"k":"true"}"#,
            r#"{"k":"-"}"#,
        ];
        for wanted in ["plain", "100", "", "true", "-", "1e2", "k", "absent"] {
            let mut search = KeySearch::new(KeyField::new("k"), wanted);
            for payload in payloads {
                let expected = key("k", payload).as_deref() == Some(wanted);
                assert_eq!(search.matches(payload.as_bytes()), expected, "{wanted} in {payload}");
                assert!(!expected || search.may_be_in(payload.as_bytes()), "{wanted} in {payload}");
            }
            let all = payloads.concat();
            let found = search.last_match(all.as_bytes(), payloads.len(), |index| payloads[index].as_bytes());
            let expected = payloads.iter().rposition(|payload| key("k", payload).as_deref() == Some(wanted));
            assert_eq!(found, expected, "{wanted}");
        }
    }

    /// Every way in which a record may come to a key of digits, and many that come near: what is passed over never has it.
    #[test]
    fn what_a_search_passes_over_has_not_the_key() {
        let values = [
            "7",
            "-7",
            "0",
            "-0",
            "-0.0",
            "70e-1",
            "0.7E1",
            "7.0",
            "6.9999999999999999999999",
            "77",
            "\"7\"",
            "\"\"",
            "\" 7\"",
            "\"\\u0037\"",
            "9223372036854775807",
            "-9223372036854775809",
            "9007199254740993.0",
            "18446744073709551615",
            "1e18",
            "true",
            "null",
            "[7]",
            "{\"k\":7}",
        ];
        let wanted = ["7", "-7", "0", "", "9223372036854775807", "-9223372036854775808", "9007199254740992"];
        let wanted = [&wanted[..], &["18446744073709551615", "1000000000000000000", "-"]].concat();
        let (mut passed, mut kept) = (0, 0);
        for (field, name) in
            [("k", "k"), ("/a/k", "k"), (",", ","), ("{", "{"), ("", ""), ("q\"", "q\\\""), ("/a/0", "0")]
        {
            for (blank, value) in ["", " ", "\t\r\n"].iter().flat_map(|blank| values.map(|value| (blank, value))) {
                let member = format!("\"{name}\"{blank}:{blank}{value}");
                let payloads = [
                    format!("{{{member}}}"),
                    format!("{{\"x\":\"y\",{member},\"{name}x\":7}}"),
                    format!("{{\"x\":\"{}\",{member}}}", if name.contains('\\') { "" } else { name }),
                    format!("{{\"a\":{{{member}}}}}"),
                    format!("{{\"a\":[{value},1]}}"),
                    format!("{{{member},\"{name}\":1}}"),
                    format!("{{\"other\":{value}}}"),
                ];
                for wanted in &wanted {
                    let mut search = KeySearch::new(KeyField::new(field), wanted);
                    for payload in &payloads {
                        let has = key(field, payload).as_deref() == Some(*wanted);
                        assert_eq!(search.matches(payload.as_bytes()), has, "{field} {wanted} in {payload}");
                        let may = search.may_be_in(payload.as_bytes());
                        assert!(may || !has, "{field} {wanted} in {payload}");
                        if may { kept += 1 } else { passed += 1 }
                    }
                    let all = payloads.concat();
                    let found = search.last_match(all.as_bytes(), payloads.len(), |index| payloads[index].as_bytes());
                    let last = payloads.iter().rposition(|payload| key(field, payload).as_deref() == Some(*wanted));
                    assert_eq!(found, last, "{field} {wanted}");
                }
            }
        }
        assert!(passed > 10_000, "{passed} are passed over, {kept} looked at");
    }
}

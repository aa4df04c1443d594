//! A record's JSON, looked at once: [`Parser`] lays it out as a tape of nodes, [`keys`] finds keys in them.
//!
//! No input panics. What is no JSON looks like `null`.

pub mod keys;

use std::mem;

use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape};

/// Nesting past this is not looked into: such a record looks like `null`. Admission refuses it long before.
const MAX_JSON_DEPTH: usize = 128;

/// Parses records one after the other, in the same memory.
pub struct Parser {
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser").finish_non_exhaustive()
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self { scratch: Vec::new(), buffers: Buffers::with_max_depth(1024, MAX_JSON_DEPTH), tape: Tape(Vec::new()) }
    }
}

impl Parser {
    /// Shows `payload` to `look` as nodes: each value, and before a member's value its name. At least one.
    pub fn with_nodes<R>(&mut self, payload: &[u8], look: impl FnOnce(&[Node<'_>]) -> R) -> R {
        // The parser rewrites what it reads, so it gets a copy.
        self.scratch.clear();
        self.scratch.extend_from_slice(payload);
        self.scratch.resize(payload.len() + INPUT_PADDING, 0);
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed =
            simd_json::fill_tape_padded(&mut self.scratch, payload.len(), &mut self.buffers, &mut tape).is_ok();
        if parsed && !tape.0.is_empty() {
            let seen = look(&tape.0);
            self.tape = tape.reset();
            return seen;
        }
        self.tape = tape.reset();
        look_slowly(payload, look)
    }
}

/// The rare record that simd-json refuses and `serde_json` takes, such as one with an integer past 64 bits.
#[cold]
fn look_slowly<R>(payload: &[u8], look: impl FnOnce(&[Node<'_>]) -> R) -> R {
    let value = serde_json::from_slice::<serde_json::Value>(payload).unwrap_or_default();
    let mut nodes = Vec::new();
    push_nodes(&value, &mut nodes);
    look(&nodes)
}

/// Lays `value` out as simd-json's tape does.
fn push_nodes<'v>(value: &'v serde_json::Value, nodes: &mut Vec<Node<'v>>) {
    let at = nodes.len();
    match value {
        serde_json::Value::Null => nodes.push(Node::Static(StaticNode::Null)),
        serde_json::Value::Bool(value) => nodes.push(Node::Static(StaticNode::Bool(*value))),
        serde_json::Value::Number(number) => {
            let int = number.as_i64().map(StaticNode::I64).or_else(|| number.as_u64().map(StaticNode::U64));
            nodes.push(Node::Static(int.or_else(|| number.as_f64().map(StaticNode::F64)).unwrap_or_default()));
        }
        serde_json::Value::String(text) => nodes.push(Node::String(text)),
        serde_json::Value::Array(elements) => {
            nodes.push(Node::Array { len: elements.len(), count: 0 });
            elements.iter().for_each(|element| push_nodes(element, nodes));
            nodes[at] = Node::Array { len: elements.len(), count: nodes.len() - at - 1 };
        }
        serde_json::Value::Object(members) => {
            nodes.push(Node::Object { len: members.len(), count: 0 });
            for (key, member) in members {
                nodes.push(Node::String(key));
                push_nodes(member, nodes);
            }
            nodes[at] = Node::Object { len: members.len(), count: nodes.len() - at - 1 };
        }
    }
}

/// How many nodes the value at a node takes, with the node itself.
#[must_use]
pub fn span(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        _ => 1,
    }
}

/// The node as an integer, if it is one and 64 bits hold it: `1.0` and `1e2` are integers.
#[must_use]
pub fn integer(node: &Node<'_>) -> Option<i64> {
    // 2^63: the first double past i64; −2^63 is still within.
    const END: f64 = 9_223_372_036_854_775_808.0;
    match node {
        Node::Static(StaticNode::I64(value)) => Some(*value),
        Node::Static(StaticNode::U64(value)) => i64::try_from(*value).ok(),
        Node::Static(StaticNode::F64(value)) if value.fract() == 0.0 && *value >= -END && *value < END => {
            Some(*value as i64)
        }
        _ => None,
    }
}

//! When a record's event was, where a step says which of its fields tells.

use simd_json::{Node, StaticNode};

use super::times::{self, Target};
use crate::record::keys::KeyField;

/// The field of a pipeline's output that tells when a record's event was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTime {
    field: KeyField,
    target: Target,
}

impl EventTime {
    /// In the field at this JSON Pointer, written as `target`.
    pub(super) fn new(pointer: &str, target: Target) -> Self {
        Self { field: KeyField::new(pointer), target }
    }

    /// The time of an output that is laid out as `nodes`, Unix µs; what is less is cut off.
    #[must_use]
    pub fn of(&self, nodes: &[Node<'_>]) -> Option<i64> {
        let moment = match (self.field.node(nodes)?, self.target) {
            (Node::String(text), Target::Rfc3339) => times::rfc3339(text),
            (Node::Static(StaticNode::I64(value)), Target::Unix(unit)) => times::of_unit(i128::from(*value), unit),
            (Node::Static(StaticNode::U64(value)), Target::Unix(unit)) => times::of_unit(i128::from(*value), unit),
            _ => None,
        };
        moment.map(times::Moment::unix_micros)
    }
}

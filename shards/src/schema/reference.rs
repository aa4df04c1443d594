//! `serde_json` values as `jsonschema` sees them: the reference, which decides whenever the tape does not accept.
//!
//! Listing what is wrong can cost far more than finding that something is (a branch of `anyOf` may be listed once a
//! level, so twice as often with each level of nesting). Every node carries a [`Budget`]; once it is spent, containers look
//! empty, so the listing ends at once, and errors raised from then on report [`SPENT`], by which they are known.

use std::{borrow::Cow, cell::Cell, ops::ControlFlow};

use jsonschema::{
    JsonType,
    json::{Array, Json, Node, NodeIdentity, Object, SerdeJson, unique},
};
use serde_json::{Map, Number, Value};

/// What an error reports as its instance if it was raised after the budget was spent.
static SPENT: Value = Value::String(String::new());

/// How much work a validation may still do.
#[derive(Debug)]
pub(crate) struct Budget {
    errors: Cell<u64>,
    visits: Cell<u64>,
}

impl Budget {
    /// Enough for any verdict: only listing errors is bounded.
    pub(crate) fn unlimited() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }

    /// At most `errors` errors raised and `visits` containers and elements looked at.
    pub(crate) fn new(errors: u64, visits: u64) -> Self {
        Self { errors: Cell::new(errors), visits: Cell::new(visits) }
    }

    fn is_spent(&self) -> bool {
        self.errors.get() == 0 || self.visits.get() == 0
    }

    /// Takes one of `counter`; false if the budget is spent.
    fn take(&self, counter: &Cell<u64>) -> bool {
        if self.is_spent() {
            return false;
        }
        counter.set(counter.get() - 1);
        true
    }

    fn visit(&self) -> bool {
        self.take(&self.visits)
    }
}

/// Whether an error with this instance was raised while the budget lasted.
pub(crate) fn is_genuine(instance: &Value) -> bool {
    !std::ptr::eq(instance, &raw const SPENT)
}

/// One value of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReferenceNode<'a> {
    pub(crate) value: &'a Value,
    pub(crate) budget: &'a Budget,
}

/// [`Json`] over [`Value`], with a [`Budget`].
#[derive(Debug)]
pub(crate) struct ReferenceJson;

impl Json for ReferenceJson {
    type Node<'a> = ReferenceNode<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    const KEYS_PER_LOOKUP: usize = SerdeJson::KEYS_PER_LOOKUP;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(ReferenceNode<'_>) -> T) -> T {
        f(ReferenceNode { value: &Value::String(string.to_owned()), budget: &Budget::unlimited() })
    }
}

impl<'a> Node<'a, ReferenceJson> for ReferenceNode<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        let members = self.value.as_object()?;
        self.budget.visit().then_some(Members { members, budget: self.budget })
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        let elements = self.value.as_array()?;
        self.budget.visit().then_some(Elements { elements, budget: self.budget })
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        Node::<SerdeJson>::as_string(&self.value)
    }

    fn as_number(&self) -> Option<&'a Number> {
        Node::<SerdeJson>::as_number(&self.value)
    }

    fn as_boolean(&self) -> Option<bool> {
        self.value.as_bool()
    }

    fn is_null(&self) -> bool {
        self.value.is_null()
    }

    fn json_type(&self) -> JsonType {
        Node::<SerdeJson>::json_type(&self.value)
    }

    fn string_length(&self) -> Option<u64> {
        Node::<SerdeJson>::string_length(&self.value)
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        Node::<SerdeJson>::string_length_within(&self.value, min, max)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        Node::<SerdeJson>::equals_value(&self.value, expected)
    }

    /// Called once for each error that is raised.
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Borrowed(if self.budget.take(&self.budget.errors) { self.value } else { &SPENT })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Node::<SerdeJson>::identity(&self.value)
    }
}

/// An object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Members<'a> {
    members: &'a Map<String, Value>,
    budget: &'a Budget,
}

impl<'a> Object<'a, ReferenceJson> for Members<'a> {
    type Node = ReferenceNode<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.members.len()
    }

    fn get(&self, key: &String) -> Option<ReferenceNode<'a>> {
        self.members.get(key).map(|value| ReferenceNode { value, budget: self.budget })
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter { members: self.members.iter(), budget: self.budget }
    }

    fn try_for_each_name_node<B>(
        &self,
        buffer: &mut (),
        mut f: impl FnMut(ReferenceNode<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for (name, _) in self.members() {
            ReferenceJson::with_string_node(buffer, name, &mut f)?;
        }
        ControlFlow::Continue(())
    }
}

/// The members of an object in the order of their names.
#[derive(Debug)]
pub(crate) struct MembersIter<'a> {
    members: serde_json::map::Iter<'a>,
    budget: &'a Budget,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, ReferenceNode<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.members.next()?;
        self.budget.visit().then_some((name, ReferenceNode { value, budget: self.budget }))
    }
}

/// An array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements<'a> {
    elements: &'a [Value],
    budget: &'a Budget,
}

impl<'a> Array<'a, ReferenceJson> for Elements<'a> {
    type Node = ReferenceNode<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.elements.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter { elements: self.elements.iter(), budget: self.budget }
    }

    fn is_unique(&self) -> bool {
        unique::is_unique(self.elements)
    }
}

/// The elements of an array.
#[derive(Debug)]
pub(crate) struct ElementsIter<'a> {
    elements: std::slice::Iter<'a, Value>,
    budget: &'a Budget,
}

impl<'a> Iterator for ElementsIter<'a> {
    type Item = ReferenceNode<'a>;

    fn next(&mut self) -> Option<ReferenceNode<'a>> {
        let value = self.elements.next()?;
        self.budget.visit().then_some(ReferenceNode { value, budget: self.budget })
    }
}

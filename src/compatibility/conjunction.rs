//! The narrower side of a question: schemas that all hold, and schemas that do not.

use std::{
    collections::{BTreeSet, HashSet},
    rc::Rc,
};

use super::{
    definitions::{ALL, Definitions, Id, Keywords, NOTHING, Schema, types},
    numbers::{Num, Range},
    values::type_of,
};

/// How deep unions are looked into for the types that they take.
const TYPES_DEPTH_MAX: usize = 16;

/// Where a choice stands: `anyOf`, `oneOf` or `if` of a schema.
pub(super) type ChoiceKey = (Id, u8);

/// Schemas that hold for a value and schemas that do not. Sorted and without repetition, so that it can be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Conjunction {
    all: Vec<Id>,
    none: Vec<Id>,
    /// Choices that were made: the case that was taken is among the others.
    chosen: Vec<ChoiceKey>,
}

impl Conjunction {
    /// All of `schemas`.
    pub(super) fn of(definitions: &Definitions, schemas: impl IntoIterator<Item = Id>) -> Self {
        let mut all: Vec<_> =
            schemas.into_iter().map(|id| definitions.resolve(id)).filter(|&resolved| resolved != ALL).collect();
        all.sort_unstable();
        all.dedup();
        Self { all, ..Self::default() }
    }

    /// With `schema` as well.
    pub(super) fn and(&self, definitions: &Definitions, schema: Id) -> Self {
        let mut more = self.clone();
        insert(&mut more.all, definitions.resolve(schema), ALL);
        more
    }

    /// But not `schema`.
    pub(super) fn and_not(&self, definitions: &Definitions, schema: Id) -> Self {
        let mut more = self.clone();
        insert(&mut more.none, definitions.resolve(schema), NOTHING);
        more
    }

    /// Whether `schema` may hold as well: what can be shown of this, can be shown without it.
    pub(super) fn without_not(&self, schema: Id) -> Self {
        let mut less = self.clone();
        less.none.retain(|&id| id != schema);
        less
    }

    /// One case of a choice.
    pub(super) fn choosing(&self, definitions: &Definitions, key: ChoiceKey, case: &Case) -> Self {
        let mut more = self.clone();
        if let Err(at) = more.chosen.binary_search(&key) {
            more.chosen.insert(at, key);
        }
        for &schema in &case.all {
            more = more.and(definitions, schema);
        }
        for &schema in &case.none {
            more = more.and_not(definitions, schema);
        }
        more
    }

    /// The schemas that hold.
    pub(super) fn all(&self) -> &[Id] {
        &self.all
    }

    /// The schemas that do not hold.
    pub(super) fn none(&self) -> &[Id] {
        &self.none
    }

    /// Whether it takes everything.
    pub(super) fn is_all(&self) -> bool {
        self.all.is_empty() && self.none.is_empty()
    }
}

fn insert(into: &mut Vec<Id>, id: Id, unless: Id) {
    if id != unless
        && let Err(at) = into.binary_search(&id)
    {
        into.insert(at, id);
    }
}

/// Alternatives, of which at least one holds.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// Where it stands.
    pub(super) key: ChoiceKey,
    /// The alternatives.
    pub(super) cases: Vec<Case>,
}

/// One alternative.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// What holds.
    pub(super) all: Vec<Id>,
    /// What does not.
    pub(super) none: Vec<Id>,
}

/// A conjunction with `$ref` and `allOf` taken apart.
#[derive(Debug)]
pub(super) struct Flat {
    /// The schemas that hold.
    pub(super) parts: Vec<Rc<Keywords>>,
    /// The choices still open.
    pub(super) choices: Vec<Choice>,
    /// The schemas that do not hold.
    pub(super) none: Vec<Id>,
    /// Whether it takes nothing, as is plain to see.
    pub(super) nothing: bool,
    /// The types that it may take.
    pub(super) types: u8,
}

impl Flat {
    /// Takes `conjunction` apart, for the values of `of_types`.
    pub(super) fn of(definitions: &Definitions, conjunction: &Conjunction, of_types: u8) -> Self {
        let mut flat = Self {
            parts: Vec::new(),
            choices: Vec::new(),
            none: conjunction.none.clone(),
            nothing: false,
            types: types::ALL,
        };
        let mut waiting = conjunction.all.clone();
        let mut met = HashSet::new();
        while let Some(id) = waiting.pop() {
            let id = definitions.resolve(id);
            if id == NOTHING {
                flat.nothing = true;
            }
            if let (true, Some(keywords)) = (met.insert(id), definitions.keywords(id)) {
                waiting.extend(&keywords.all_of);
                flat.none.extend(keywords.not.map(|not| definitions.resolve(not)));
                flat.choose(id, &keywords, &conjunction.chosen, &mut waiting);
                flat.parts.push(keywords);
            }
            // What objects require says nothing of other values.
            if waiting.is_empty() && of_types == types::OBJECT {
                waiting.extend(flat.triggered(definitions).filter(|id| !met.contains(id)));
            }
        }
        flat.nothing |= flat.none.contains(&ALL);
        flat.types = if flat.nothing { 0 } else { of_types & flat.types_taken(definitions) };
        flat
    }

    fn choose(&mut self, id: Id, keywords: &Keywords, chosen: &[ChoiceKey], waiting: &mut Vec<Id>) {
        let any_of = keywords.any_of.iter().map(|&case| Case { all: vec![case], none: Vec::new() }).collect();
        let one_of = (0..keywords.one_of.len()).map(|i| {
            let mut none = keywords.one_of.clone();
            let taken = none.remove(i);
            Case { all: vec![taken], none }
        });
        let condition = keywords.condition.map(|[condition, then, otherwise]| {
            [
                Case { all: vec![condition, then], none: Vec::new() },
                Case { all: vec![otherwise], none: vec![condition] },
            ]
        });
        let choices = [any_of, one_of.collect(), condition.into_iter().flatten().collect::<Vec<_>>()];
        for (kind, mut cases) in (0..).zip(choices) {
            let key = (id, kind);
            if chosen.binary_search(&key).is_ok() {
                continue;
            }
            match cases.len() {
                0 => {}
                1 => waiting.extend(cases.remove(0).all),
                _ => self.choices.push(Choice { key, cases }),
            }
        }
    }

    /// The dependencies of members that objects must have.
    fn triggered<'a>(&'a self, definitions: &'a Definitions) -> impl Iterator<Item = Id> + 'a {
        let dependencies = self.parts.iter().flat_map(|part| &part.dependencies);
        dependencies.filter(|(name, _)| self.requires(name)).map(|(_, &id)| definitions.resolve(id))
    }

    /// Whether an object must have the member `name`.
    pub(super) fn requires(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.plain.required.contains(name))
    }

    fn types_taken(&self, definitions: &Definitions) -> u8 {
        let mut taken = types::ALL;
        for part in &self.parts {
            taken &= own_types(part);
        }
        for choice in &self.choices {
            taken &= choice
                .cases
                .iter()
                .map(|case| case.all.iter().fold(types::ALL, |set, &id| set & types_of(definitions, id, 0)))
                .fold(0, |union, set| union | set);
        }
        for &id in &self.none {
            if let Some(keywords) = definitions.keywords(id)
                && keywords.is_type_only()
            {
                taken &= !keywords.plain.types;
            }
        }
        taken
    }

    /// The bounds on a number; closed integers where it has no fraction.
    pub(super) fn range(&self, of_integers: bool) -> Range {
        use super::numbers::End::{Lower, Upper};
        let mut range = Range::default();
        for part in &self.parts {
            for end in [Lower, Upper] {
                let bound = part.plain.range.bound(end);
                range.tighten(end, bound.map(|bound| if of_integers { bound.for_integers(end) } else { bound }));
            }
        }
        range
    }

    /// The fewest and the most characters of a string.
    pub(super) fn lengths(&self) -> (u64, u64) {
        let min = self.parts.iter().map(|part| part.plain.min_length).max();
        let max = self.parts.iter().filter_map(|part| part.plain.max_length).min();
        (min.unwrap_or(0), max.unwrap_or(u64::MAX))
    }

    /// The schemas of the element at `index`.
    pub(super) fn element(&self, definitions: &Definitions, index: usize) -> Conjunction {
        let of = |part: &Rc<Keywords>| part.tuple.get(index).copied().unwrap_or(part.rest);
        Conjunction::of(definitions, self.parts.iter().map(of))
    }

    /// From this index on, all elements have the same schemas.
    pub(super) fn tuple_length(&self) -> usize {
        self.parts.iter().map(|part| part.tuple.len()).max().unwrap_or(0)
    }

    /// All names in `properties`.
    pub(super) fn declared(&self) -> BTreeSet<Rc<str>> {
        self.parts.iter().flat_map(|part| part.properties.keys().cloned()).collect()
    }

    /// The names that the choices still open, and dependencies, may declare; `None`: any.
    pub(super) fn declared_by_choice(&self, definitions: &Definitions) -> Option<BTreeSet<Rc<str>>> {
        let mut declared = BTreeSet::new();
        let mut met = HashSet::new();
        let cases =
            self.choices.iter().flat_map(|choice| choice.cases.iter().flat_map(|case| case.all.iter().copied()));
        let mut waiting: Vec<Id> =
            cases.chain(self.parts.iter().flat_map(|part| part.dependencies.values().copied())).collect();
        while let Some(id) = waiting.pop() {
            let Some(keywords) = definitions.keywords(id) else { continue };
            if !met.insert(definitions.resolve(id)) {
                continue;
            }
            if !keywords.patterns.is_empty() || keywords.others != ALL {
                return None;
            }
            declared.extend(keywords.properties.keys().cloned());
            let lists = [&keywords.all_of, &keywords.any_of, &keywords.one_of];
            waiting.extend(lists.into_iter().flatten());
            waiting.extend(keywords.condition.iter().flatten());
            waiting.extend(keywords.dependencies.values());
        }
        Some(declared)
    }
}

/// The types that the assertions of one schema itself leave.
fn own_types(keywords: &Keywords) -> u8 {
    let plain = &keywords.plain;
    let mut taken = plain.types;
    if let Some(values) = &plain.values {
        taken &= values.values().fold(0, |set, value| set | type_of(value));
    }
    if let Some(Num::Int(_)) = plain.multiple_of {
        taken &= !types::FRACTION;
    }
    taken
}

/// The types that a schema may take: never fewer than it does.
pub(super) fn types_of(definitions: &Definitions, id: Id, depth: usize) -> u8 {
    let id = definitions.resolve(id);
    let keywords = match definitions.schema(id) {
        Schema::Nothing => return 0,
        Schema::Keywords(keywords) if depth < TYPES_DEPTH_MAX => keywords,
        _ => return types::ALL,
    };
    let mut taken = own_types(&keywords);
    for &id in &keywords.all_of {
        taken &= types_of(definitions, id, depth + 1);
    }
    for cases in [&keywords.any_of, &keywords.one_of] {
        if !cases.is_empty() {
            taken &= cases.iter().fold(0, |union, &id| union | types_of(definitions, id, depth + 1));
        }
    }
    if let Some(not) = keywords.not.and_then(|not| definitions.keywords(not))
        && not.is_type_only()
    {
        taken &= !not.plain.types;
    }
    taken
}

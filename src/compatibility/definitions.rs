//! The schemas of the definitions that are compared, numbered.
//!
//! Both sides share one numbering, so a conjunction may hold schemas of both. A schema without assertions is [`ALL`], whatever
//! its annotations; a `$ref` is a number of its own that leads to its target.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    rc::Rc,
};

use serde_json::Value;

use super::numbers::{Num, Range};

/// The number of a schema.
pub(super) type Id = u32;

/// The schema that takes everything.
pub(super) const ALL: Id = 0;
/// The schema that takes nothing.
pub(super) const NOTHING: Id = 1;
/// A schema that is not understood: it may take anything.
pub(super) const OPAQUE: Id = 2;

/// The most `$ref`s that lead to each other; the compiler takes 32.
const HOPS_MAX: usize = 64;

/// Sets of JSON types. Numbers without a fraction are apart from those with one, so that both are decided by themselves.
pub(super) mod types {
    /// `null`.
    pub(in super::super) const NULL: u8 = 1;
    /// `true` and `false`.
    pub(in super::super) const BOOLEAN: u8 = 2;
    /// A number without a fraction.
    pub(in super::super) const INTEGER: u8 = 4;
    /// A number with a fraction.
    pub(in super::super) const FRACTION: u8 = 8;
    /// A string.
    pub(in super::super) const STRING: u8 = 16;
    /// An array.
    pub(in super::super) const ARRAY: u8 = 32;
    /// An object.
    pub(in super::super) const OBJECT: u8 = 64;
    /// Any value.
    pub(in super::super) const ALL: u8 = 127;

    /// The single types of a set.
    pub(in super::super) fn each(set: u8) -> impl Iterator<Item = u8> {
        (0..7).map(|bit| 1 << bit).filter(move |bit| set & bit != 0)
    }

    /// Their names, for people.
    pub(in super::super) fn names(set: u8) -> String {
        if set == ALL {
            return "values of any type".into();
        }
        let name = |bit| match bit {
            NULL => "null",
            BOOLEAN => "booleans",
            INTEGER => "integers",
            FRACTION => "numbers with a fraction",
            STRING => "strings",
            ARRAY => "arrays",
            _ => "objects",
        };
        each(set).map(name).collect::<Vec<_>>().join(", ")
    }
}

/// A schema.
#[derive(Debug, Clone)]
pub(super) enum Schema {
    /// Takes everything.
    All,
    /// Takes nothing.
    Nothing,
    /// Is not understood.
    Opaque,
    /// Stands elsewhere.
    Reference(Id),
    /// Asserts something.
    Keywords(Rc<Keywords>),
}

/// The assertions of one schema. Absent keywords have the value that asserts nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Keywords {
    pub(super) plain: Plain,
    /// `items` as an array.
    pub(super) tuple: Vec<Id>,
    /// `items` as one schema, or `additionalItems`.
    pub(super) rest: Id,
    pub(super) contains: Option<Id>,
    pub(super) properties: BTreeMap<Rc<str>, Id>,
    pub(super) patterns: BTreeMap<Rc<str>, Id>,
    /// `additionalProperties`.
    pub(super) others: Id,
    /// `propertyNames`.
    pub(super) names: Id,
    /// Those that list names are schemas with `required`.
    pub(super) dependencies: BTreeMap<Rc<str>, Id>,
    pub(super) all_of: Vec<Id>,
    pub(super) any_of: Vec<Id>,
    pub(super) one_of: Vec<Id>,
    pub(super) not: Option<Id>,
    /// `if`, `then`, `else`.
    pub(super) condition: Option<[Id; 3]>,
}

/// The assertions that hold no schema.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plain {
    /// A set of [`types`].
    pub(super) types: u8,
    /// `enum` and `const`, by their canonical text: it is the same for values that are equal.
    pub(super) values: Option<BTreeMap<String, Value>>,
    pub(super) range: Range,
    pub(super) multiple_of: Option<Num>,
    pub(super) min_length: u64,
    pub(super) max_length: Option<u64>,
    pub(super) pattern: Option<Rc<str>>,
    pub(super) format: Option<Rc<str>>,
    /// `contentEncoding` and `contentMediaType`: the second is of what the first decodes.
    pub(super) content: (Option<Rc<str>>, Option<Rc<str>>),
    pub(super) min_items: u64,
    pub(super) max_items: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) required: BTreeSet<Rc<str>>,
    pub(super) min_properties: u64,
    pub(super) max_properties: Option<u64>,
}

impl Default for Plain {
    fn default() -> Self {
        Self {
            types: types::ALL,
            values: None,
            range: Range::default(),
            multiple_of: None,
            min_length: 0,
            max_length: None,
            pattern: None,
            format: None,
            content: (None, None),
            min_items: 0,
            max_items: None,
            unique_items: false,
            required: BTreeSet::new(),
            min_properties: 0,
            max_properties: None,
        }
    }
}

impl Default for Keywords {
    fn default() -> Self {
        Self {
            plain: Plain::default(),
            tuple: Vec::new(),
            rest: ALL,
            contains: None,
            properties: BTreeMap::new(),
            patterns: BTreeMap::new(),
            others: ALL,
            names: ALL,
            dependencies: BTreeMap::new(),
            all_of: Vec::new(),
            any_of: Vec::new(),
            one_of: Vec::new(),
            not: None,
            condition: None,
        }
    }
}

impl Keywords {
    /// One that only bounds the type.
    pub(super) fn is_type_only(&self) -> bool {
        *self == Self { plain: Plain { types: self.plain.types, ..Plain::default() }, ..Self::default() }
    }

    /// Whether `other` asserts the same but for what its schemas say: then they stand in the same order in both lists.
    fn pairs(&self, other: &Self) -> Option<Vec<(Id, Id)>> {
        let names = |of: &BTreeMap<Rc<str>, Id>, theirs: &BTreeMap<Rc<str>, Id>| of.keys().eq(theirs.keys());
        let same = self.plain == other.plain
            && names(&self.properties, &other.properties)
            && names(&self.patterns, &other.patterns)
            && names(&self.dependencies, &other.dependencies)
            && self.tuple.len() == other.tuple.len()
            && self.all_of.len() == other.all_of.len()
            && self.any_of.len() == other.any_of.len()
            && self.one_of.len() == other.one_of.len()
            && self.contains.is_some() == other.contains.is_some()
            && self.not.is_some() == other.not.is_some()
            && self.condition.is_some() == other.condition.is_some();
        same.then(|| self.below().zip(other.below()).collect())
    }

    fn below(&self) -> impl Iterator<Item = Id> {
        let maps = [&self.properties, &self.patterns, &self.dependencies];
        let lists = [&self.tuple, &self.all_of, &self.any_of, &self.one_of];
        maps.into_iter()
            .flat_map(|map| map.values())
            .chain(lists.into_iter().flatten())
            .chain(self.contains.iter())
            .chain(self.not.iter())
            .chain(self.condition.iter().flatten())
            .chain([&self.rest, &self.others, &self.names])
            .copied()
    }
}

/// All schemas, by their numbers.
#[derive(Debug)]
pub(super) struct Definitions {
    schemas: Vec<Schema>,
    pointers: Vec<Rc<str>>,
    made: HashMap<String, Id>,
    /// What [`Definitions::same`] found out.
    compared: HashMap<(Id, Id), bool>,
}

impl Definitions {
    /// Only the constants.
    pub(super) fn new() -> Self {
        let nowhere: Rc<str> = "".into();
        Self {
            schemas: vec![Schema::All, Schema::Nothing, Schema::Opaque],
            pointers: vec![nowhere; 3],
            made: HashMap::new(),
            compared: HashMap::new(),
        }
    }

    /// Takes the next number, for a schema to be put there.
    pub(super) fn reserve(&mut self, pointer: Rc<str>) -> Id {
        let id = Id::try_from(self.schemas.len()).expect("definitions are bounded far below 2^32 schemas");
        self.schemas.push(Schema::Opaque);
        self.pointers.push(pointer);
        id
    }

    /// Puts a schema at its number.
    pub(super) fn put(&mut self, id: Id, schema: Schema) {
        self.schemas[id as usize] = schema;
    }

    /// Adds a schema.
    pub(super) fn add(&mut self, pointer: Rc<str>, keywords: Keywords) -> Id {
        let id = self.reserve(pointer);
        self.put(id, Schema::Keywords(Rc::new(keywords)));
        id
    }

    /// A schema that stands in neither definition. There is one number for one `name`, so that questions about it repeat.
    pub(super) fn made(&mut self, name: String, keywords: Keywords) -> Id {
        if let Some(&id) = self.made.get(&name) {
            return id;
        }
        let id = self.add("".into(), keywords);
        self.made.insert(name, id);
        id
    }

    /// The schema of a number that [`Definitions::resolve`] gave.
    pub(super) fn schema(&self, id: Id) -> Schema {
        self.schemas[id as usize].clone()
    }

    /// The assertions of a schema, if it is understood and neither takes everything nor nothing.
    pub(super) fn keywords(&self, id: Id) -> Option<Rc<Keywords>> {
        match &self.schemas[self.resolve(id) as usize] {
            Schema::Keywords(keywords) => Some(Rc::clone(keywords)),
            _ => None,
        }
    }

    /// Where the schema stands in its definition.
    pub(super) fn pointer(&self, id: Id) -> Rc<str> {
        Rc::clone(&self.pointers[id as usize])
    }

    /// The number behind `$ref`s, one number for all that takes everything, and for all that takes nothing.
    pub(super) fn resolve(&self, mut id: Id) -> Id {
        for _ in 0..HOPS_MAX {
            match self.schemas[id as usize] {
                Schema::Reference(target) => id = target,
                Schema::All => return ALL,
                Schema::Nothing => return NOTHING,
                Schema::Opaque | Schema::Keywords(_) => return id,
            }
        }
        OPAQUE
    }

    /// Whether two schemas say the same, `$ref`s followed and annotations aside, without reasoning about what they say.
    pub(super) fn same(&mut self, a: Id, b: Id) -> bool {
        let top = (self.resolve(a), self.resolve(b));
        if let Some(&known) = self.compared.get(&top) {
            return known;
        }
        let mut met = HashSet::new();
        let mut waiting = vec![top];
        while let Some((a, b)) = waiting.pop() {
            let pair = (self.resolve(a), self.resolve(b));
            // What is being compared further up may count as the same: the two unfold into the same tree.
            if pair.0 == pair.1 || self.compared.get(&pair) == Some(&true) || !met.insert(pair) {
                continue;
            }
            let below = match (&self.schemas[pair.0 as usize], &self.schemas[pair.1 as usize]) {
                (Schema::Keywords(a), Schema::Keywords(b)) => a.pairs(b),
                _ => None,
            };
            match below {
                Some(below) => waiting.extend(below),
                None => {
                    self.compared.insert(top, false);
                    return false;
                }
            }
        }
        self.compared.extend(met.into_iter().map(|pair| (pair, true)));
        true
    }
}

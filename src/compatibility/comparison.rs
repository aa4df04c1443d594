//! Whether a conjunction of schemas is within a schema.
//!
//! Invariants: `true` is a proof, `false` is not a disproof. A question that is still open is answered `true` only for a part
//! of the value that it was asked for (see [`super`]), and what was proved with the help of an open question is not remembered
//! beyond it. Leniency ends where a schema is negated: there, everything is strict.

use std::{collections::HashSet, rc::Rc};

use serde_json::Value;

use super::{
    Direction, Policy, VIOLATIONS_MAX, Violation,
    conjunction::{Conjunction, Flat, types_of},
    definitions::{ALL, Definitions, Id, Keywords, NOTHING, Schema, types},
    parse,
    values::{Assertions, Question},
};

/// Steps that one call of [`super::check`] may take, before it says that it cannot decide. One to
/// three seconds without optimisation; a definition of the greatest size with some changes takes less.
pub(super) const WORK_MAX: usize = 300_000;

/// Schemas that a single value goes through for one step.
const VISITS_A_STEP: usize = 8;

/// How many questions may be open at once: what bounds the stack.
const OPEN_MAX: usize = 160;

/// What is asked about a conjunction and one JSON type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Query {
    narrow: Conjunction,
    of_type: u8,
    goal: Goal,
    lenient: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Goal {
    Within(Id),
    Empty,
}

/// A conjunction, one of the types that it may take, and where to say it stands.
#[derive(Clone, Copy)]
pub(super) struct Narrow<'a> {
    pub(super) conjunction: &'a Conjunction,
    pub(super) flat: &'a Flat,
    pub(super) of_type: u8,
    pub(super) at: &'a Rc<str>,
}

/// Whether some assertions of the wider side, which stand at the given number, follow.
pub(super) type Check = fn(&mut Comparison, Narrow<'_>, &Keywords, Id) -> bool;

/// What does not fit.
pub(super) struct Fault<'a> {
    pub(super) rule: &'static str,
    /// The place in the narrower definition.
    pub(super) narrow_at: &'a str,
    /// The place in the wider definition.
    pub(super) wide_at: String,
    /// What the narrower takes: `strings shorter than 3 characters`.
    pub(super) taken: String,
    /// What the owner of the wider definition can do.
    pub(super) remedy: &'static str,
}

/// One narrower and one wider definition.
pub(super) struct Comparison {
    pub(super) definitions: Definitions,
    pub(super) assertions: Assertions,
    /// Whether undeclared members are taken to be absent.
    pub(super) lenient: bool,
    direction: Direction,
    version: u32,
    work: usize,
    exhausted: bool,
    /// How many members or elements deep in the record.
    depth: usize,
    open: Vec<(Query, usize)>,
    /// The oldest open question that was relied on since the newest was opened.
    relied_on: usize,
    proved: HashSet<Query>,
    unproved: HashSet<Query>,
    reported: HashSet<Query>,
    /// Above 0: nothing is reported.
    silent: usize,
    faults: Vec<Violation>,
    known_faults: HashSet<(&'static str, String, String, String)>,
}

impl Comparison {
    /// One with `work` steps left.
    pub(super) fn new(policy: Policy, direction: Direction, version: u32, work: usize) -> Self {
        Self {
            definitions: Definitions::new(),
            assertions: Assertions::default(),
            lenient: policy == Policy::Lenient,
            direction,
            version,
            work,
            exhausted: false,
            depth: 0,
            open: Vec::new(),
            relied_on: usize::MAX,
            proved: HashSet::new(),
            unproved: HashSet::new(),
            reported: HashSet::new(),
            silent: 0,
            faults: Vec::new(),
            known_faults: HashSet::new(),
        }
    }

    /// The steps that are left.
    pub(super) fn work_left(&self) -> usize {
        self.work
    }

    /// Whether all that `narrow` takes, `wide` takes; why not, is added to `violations`.
    pub(super) fn run(&mut self, narrow: &Value, wide: &Value, violations: &mut Vec<Violation>) -> bool {
        let narrow = parse::definition(&mut self.definitions, narrow);
        let wide = parse::definition(&mut self.definitions, wide);
        let conjunction = Conjunction::of(&self.definitions, [narrow]);
        let holds = self.within(&conjunction, &"".into(), wide);
        if self.exhausted {
            self.fault(Fault {
                rule: "COMPARISON_NOT_PROVED",
                narrow_at: "",
                wide_at: String::new(),
                taken: "what could not be compared within the bounds on work".into(),
                remedy: "nest fewer unions and negations in each other, or split the schema",
            });
        } else if !holds && self.faults.is_empty() {
            self.fault(Fault {
                rule: "RECURSION_NOT_PROVED",
                narrow_at: "",
                wide_at: String::new(),
                taken: "what could not be compared because the definitions refer back to themselves".into(),
                remedy: "keep the recursive part as it was",
            });
        }
        let room = VIOLATIONS_MAX.saturating_sub(violations.len());
        violations.extend(self.faults.drain(..).take(room));
        holds
    }

    /// Whether all that `narrow` takes, `wide` takes. `at` is where the narrower stands.
    pub(super) fn within(&mut self, narrow: &Conjunction, at: &Rc<str>, wide: Id) -> bool {
        let wide = self.definitions.resolve(wide);
        if wide == ALL || self.holds_already(narrow, wide) {
            return true;
        }
        let flat = Flat::of(&self.definitions, narrow, types::ALL);
        self.spend(flat.parts.len());
        let allowed = types_of(&self.definitions, wide, 0);
        let refused: u8 =
            types::each(flat.types & !allowed).filter(|&of_type| !self.is_empty_of(narrow, of_type)).sum();
        let mut holds = true;
        if refused != 0 {
            let has_type = self.definitions.keywords(wide).is_some_and(|keywords| keywords.plain.types != types::ALL);
            self.fault(Fault {
                rule: if wide == NOTHING { "NOTHING_TAKEN" } else { "TYPE_NARROWED" },
                narrow_at: at,
                wide_at: format!("{}{}", self.definitions.pointer(wide), if has_type { "/type" } else { "" }),
                taken: types::names(refused),
                remedy: "add the type to \"type\" here",
            });
            holds = false;
        }
        for of_type in types::each(flat.types & allowed) {
            if !holds && self.silent > 0 {
                return false;
            }
            holds &= self.within_for(narrow, at, of_type, wide);
        }
        holds
    }

    /// As [`Comparison::within`], for a part of the value.
    pub(super) fn part_within(&mut self, narrow: &Conjunction, at: &Rc<str>, wide: Id) -> bool {
        let at = narrow.all().first().map_or_else(|| Rc::clone(at), |&first| self.narrow_at(first, at));
        self.depth += 1;
        let holds = self.within(narrow, &at, wide);
        self.depth -= 1;
        holds
    }

    /// As [`Comparison::part_within`], without a word.
    pub(super) fn quietly_part_within(&mut self, narrow: &Conjunction, at: &Rc<str>, wide: Id) -> bool {
        self.quietly(|this| this.part_within(narrow, at, wide))
    }

    fn holds_already(&mut self, narrow: &Conjunction, wide: Id) -> bool {
        narrow.all().contains(&NOTHING)
            || narrow.none().contains(&ALL)
            || narrow.all().iter().any(|&id| id == wide || self.definitions.same(id, wide))
    }

    /// As [`Comparison::within`], for the values of one type.
    pub(super) fn within_for(&mut self, narrow: &Conjunction, at: &Rc<str>, of_type: u8, wide: Id) -> bool {
        let wide = self.definitions.resolve(wide);
        if wide == ALL || self.holds_already(narrow, wide) {
            return true;
        }
        let query = Query { narrow: narrow.clone(), of_type, goal: Goal::Within(wide), lenient: self.lenient };
        self.ask(query, |this| this.prove_within(narrow, at, of_type, wide))
    }

    /// Whether no value is taken by `narrow`. Strict, and without a word.
    pub(super) fn is_empty(&mut self, narrow: &Conjunction) -> bool {
        let flat = Flat::of(&self.definitions, narrow, types::ALL);
        types::each(flat.types).all(|of_type| self.is_empty_of(narrow, of_type))
    }

    /// As [`Comparison::is_empty`], for a part of the value.
    pub(super) fn is_part_empty(&mut self, narrow: &Conjunction) -> bool {
        if narrow.is_all() {
            return false;
        }
        self.depth += 1;
        let empty = self.is_empty(narrow);
        self.depth -= 1;
        empty
    }

    /// Whether no value of one type is taken by `narrow`. Strict, and without a word.
    pub(super) fn is_empty_of(&mut self, narrow: &Conjunction, of_type: u8) -> bool {
        if narrow.is_all() {
            return false;
        }
        let lenient = std::mem::replace(&mut self.lenient, false);
        let query = Query { narrow: narrow.clone(), of_type, goal: Goal::Empty, lenient: false };
        let empty = self.quietly(|this| this.ask(query, |this| this.prove_empty(narrow, of_type)));
        self.lenient = lenient;
        empty
    }

    /// Takes steps of the work that are not worth stopping for.
    pub(super) fn spend(&mut self, steps: usize) {
        self.work = self.work.saturating_sub(steps);
    }

    /// Takes one step of the work.
    pub(super) fn step(&mut self) -> bool {
        self.exhausted |= self.work == 0;
        self.work = self.work.saturating_sub(1);
        !self.exhausted
    }

    /// Does something of which only the answer counts.
    pub(super) fn quietly<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        self.silent += 1;
        let answer = act(self);
        self.silent -= 1;
        answer
    }

    fn ask(&mut self, query: Query, prove: impl FnOnce(&mut Self) -> bool) -> bool {
        if !self.step() {
            return false;
        }
        if self.proved.contains(&query) {
            return true;
        }
        let is_known = if self.silent > 0 { self.unproved.contains(&query) } else { self.reported.contains(&query) };
        if is_known {
            return false;
        }
        if let Some(asked) = self.open.iter().position(|(open, _)| *open == query) {
            let is_for_a_part = self.open[asked].1 < self.depth;
            if is_for_a_part {
                self.relied_on = self.relied_on.min(asked);
            }
            return is_for_a_part;
        }
        let own = self.open.len();
        if own >= OPEN_MAX {
            return false;
        }
        let before = std::mem::replace(&mut self.relied_on, usize::MAX);
        self.open.push((query, self.depth));
        let holds = prove(self);
        let (query, _) = self.open.pop().expect("it was pushed above");
        let relies_on_older = self.relied_on < own;
        if !holds {
            if self.silent == 0 {
                self.reported.insert(query.clone());
            }
            self.unproved.insert(query);
        } else if !relies_on_older {
            self.proved.insert(query);
        }
        self.relied_on = if relies_on_older { before.min(self.relied_on) } else { before };
        holds
    }

    fn prove_within(&mut self, narrow: &Conjunction, at: &Rc<str>, of_type: u8, wide: Id) -> bool {
        let flat = Flat::of(&self.definitions, narrow, of_type);
        self.spend(flat.parts.len());
        if flat.types & of_type == 0 {
            return true;
        }
        let side = Narrow { conjunction: narrow, flat: &flat, of_type, at };
        if let Some(finite) = self.finite(side) {
            let refused: Vec<_> = finite.values.iter().filter(|value| self.takes(wide, value) != Some(true)).collect();
            if refused.is_empty() {
                return true;
            }
            if finite.is_listed {
                self.refuse_values(side, wide, &refused);
                return false;
            }
        }
        if self.is_empty_of(narrow, of_type) {
            return true;
        }
        if self.quietly(|this| this.follows(side, wide)) {
            return true;
        }
        let Some(choice) = flat.choices.first() else { return self.silent == 0 && self.follows(side, wide) };
        let mut holds = true;
        for case in &choice.cases {
            if !holds && self.silent > 0 {
                return false;
            }
            let chosen = narrow.choosing(&self.definitions, choice.key, case);
            let at = self.narrow_at(case.all[0], at);
            holds &= self.within_for(&chosen, &at, of_type, wide);
        }
        holds
    }

    /// Whether a schema takes a value; `None`: it cannot be told.
    pub(super) fn takes(&mut self, schema: Id, value: &Value) -> Option<bool> {
        let mut question = Question::new(&self.definitions, &mut self.assertions);
        let taken = question.takes(schema, value);
        let visits = question.visits();
        self.spend(visits / VISITS_A_STEP);
        taken
    }

    /// Whether each assertion of `wide` follows.
    fn follows(&mut self, narrow: Narrow<'_>, wide: Id) -> bool {
        match self.definitions.schema(wide) {
            Schema::All => true,
            Schema::Nothing => self.refuse(narrow, "NOTHING_TAKEN", wide, "", "", "take something here"),
            Schema::Opaque | Schema::Reference(_) => self.refuse(
                narrow,
                "REFERENCE_NOT_PROVED",
                wide,
                "",
                "what this schema may refuse: it could not be read",
                "refer to \"#/definitions/...\", without an \"$id\" in between",
            ),
            Schema::Keywords(keywords) => {
                let mut holds = true;
                let checks: [Check; 4] =
                    [Self::kinds_follow, Self::contents_follow, Self::unions_follow, Self::negations_follow];
                for check in checks {
                    holds &= check(self, narrow, &keywords, wide);
                    if !holds && self.silent > 0 {
                        return false;
                    }
                }
                holds
            }
        }
    }

    fn contents_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        match narrow.of_type {
            types::INTEGER | types::FRACTION => self.numbers_follow(narrow, keywords, wide),
            types::STRING => self.strings_follow(narrow, keywords, wide),
            types::ARRAY => self.arrays_follow(narrow, keywords, wide),
            types::OBJECT => self.objects_follow(narrow, keywords, wide),
            _ => true,
        }
    }

    fn unions_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let mut holds = true;
        for &schema in &keywords.all_of {
            holds &= self.within_for(narrow.conjunction, narrow.at, narrow.of_type, schema);
        }
        if !keywords.any_of.is_empty() {
            holds &= self.any_follows(narrow, &keywords.any_of, wide);
        }
        if !keywords.one_of.is_empty() {
            holds &= self.one_follows(narrow, &keywords.one_of, wide);
        }
        holds
    }

    fn quietly_within_for(&mut self, narrow: Narrow<'_>, wide: Id) -> bool {
        self.quietly(|this| this.within_for(narrow.conjunction, narrow.at, narrow.of_type, wide))
    }

    fn any_follows(&mut self, narrow: Narrow<'_>, cases: &[Id], wide: Id) -> bool {
        if cases.iter().any(|&case| self.quietly_within_for(narrow, case)) {
            return true;
        }
        match self.only_case(narrow.of_type, cases) {
            Some(case) => self.within_for(narrow.conjunction, narrow.at, narrow.of_type, case),
            None => self.refuse(
                narrow,
                "ANY_OF_NOT_PROVED",
                wide,
                "anyOf",
                "values that no single case of \"anyOf\" was shown to take",
                "keep the cases as they were, and add new ones",
            ),
        }
    }

    fn one_follows(&mut self, narrow: Narrow<'_>, cases: &[Id], wide: Id) -> bool {
        for (index, &case) in cases.iter().enumerate() {
            let is_alone = |this: &mut Self| {
                cases.iter().enumerate().filter(|&(other, _)| other != index).all(|(_, &other)| {
                    let both = narrow.conjunction.and(&this.definitions, other);
                    this.is_empty_of(&both, narrow.of_type)
                })
            };
            if self.quietly_within_for(narrow, case) && is_alone(self) {
                return true;
            }
        }
        match self.only_case(narrow.of_type, cases) {
            Some(case) => self.within_for(narrow.conjunction, narrow.at, narrow.of_type, case),
            None => self.refuse(
                narrow,
                "ONE_OF_NOT_PROVED",
                wide,
                "oneOf",
                "values that no case of \"oneOf\" was shown to take, or more than one may take",
                "keep the cases as they were, tell them apart by \"type\" or \"const\", or use \"anyOf\"",
            ),
        }
    }

    /// The only case that may take values of a type: then it is the one to talk about.
    fn only_case(&self, of_type: u8, cases: &[Id]) -> Option<Id> {
        let mut fitting = cases.iter().filter(|&&case| types_of(&self.definitions, case, 0) & of_type != 0);
        match (fitting.next(), fitting.next()) {
            (Some(&case), None) if self.silent == 0 => Some(case),
            _ => None,
        }
    }

    fn negations_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let mut holds = true;
        if let Some(not) = keywords.not {
            let both = narrow.conjunction.and(&self.definitions, not);
            if !self.is_empty_of(&both, narrow.of_type) {
                holds = self.refuse(
                    narrow,
                    "NEGATION_NOT_PROVED",
                    wide,
                    "not",
                    "values that \"not\" may exclude",
                    "exclude no more than before",
                );
            }
        }
        if let Some([condition, then, otherwise]) = keywords.condition {
            let met = narrow.conjunction.and(&self.definitions, condition);
            let unmet = narrow.conjunction.and_not(&self.definitions, condition);
            let follows = self.quietly(|this| {
                this.within_for(&met, narrow.at, narrow.of_type, then)
                    && this.within_for(&unmet, narrow.at, narrow.of_type, otherwise)
            });
            if !follows {
                holds &= self.refuse(
                    narrow,
                    "IF_NOT_PROVED",
                    wide,
                    "if",
                    "values that \"if\", \"then\" and \"else\" were not shown to take",
                    "keep the condition and what follows from it as they were",
                );
            }
        }
        holds
    }

    /// Says what does not fit, and that it does not.
    pub(super) fn refuse(
        &mut self,
        narrow: Narrow<'_>,
        rule: &'static str,
        wide: Id,
        keyword: &str,
        taken: impl Into<String>,
        remedy: &'static str,
    ) -> bool {
        if self.silent == 0 {
            let wide_at = self.wide_at(wide, keyword);
            self.fault(Fault { rule, narrow_at: narrow.at, wide_at, taken: taken.into(), remedy });
        }
        false
    }

    /// Where a keyword of the wider side stands.
    pub(super) fn wide_at(&self, wide: Id, keyword: &str) -> String {
        let pointer = self.definitions.pointer(wide);
        if keyword.is_empty() { pointer.to_string() } else { format!("{pointer}/{keyword}") }
    }

    /// Where a schema of the narrower side stands; what stands nowhere is taken to stand around here.
    fn narrow_at(&self, schema: Id, around: &Rc<str>) -> Rc<str> {
        let pointer = self.definitions.pointer(schema);
        if pointer.is_empty() { Rc::clone(around) } else { pointer }
    }

    /// Whether nobody is to hear why.
    pub(super) fn is_silent(&self) -> bool {
        self.silent > 0
    }

    /// Says what does not fit.
    pub(super) fn fault(&mut self, fault: Fault<'_>) {
        if self.silent > 0 || self.faults.len() >= VIOLATIONS_MAX {
            return;
        }
        let key = (fault.rule, fault.narrow_at.to_owned(), fault.wide_at.clone(), fault.taken.clone());
        if !self.known_faults.insert(key) {
            return;
        }
        let (version, taken, remedy) = (self.version, fault.taken, fault.remedy);
        let reason = match self.direction {
            Direction::Backward => {
                format!("version {version} takes {taken}; the new definition does not, or not surely: {remedy}")
            }
            Direction::Forward => format!(
                "the new definition takes {taken}; version {version} does not, or not surely: take no more than version \
                 {version} does, or do without forward compatibility"
            ),
        };
        let (pointer, old_pointer) = match self.direction {
            Direction::Backward => (fault.wide_at, fault.narrow_at.to_owned()),
            Direction::Forward => (fault.narrow_at.to_owned(), fault.wide_at),
        };
        self.faults.push(Violation {
            rule: fault.rule,
            pointer,
            old_pointer,
            reason,
            against_version: version,
            direction: self.direction,
        });
    }
}

//! Whether a conjunction takes no value of a type. What takes nothing is within everything, and cases that take nothing
//! together exclude each other.

use std::rc::Rc;

use super::{
    comparison::{Comparison, Narrow},
    conjunction::{Conjunction, Flat},
    definitions::types,
};

impl Comparison {
    /// See [`Comparison::is_empty_of`].
    pub(super) fn prove_empty(&mut self, narrow: &Conjunction, of_type: u8) -> bool {
        let flat = Flat::of(&self.definitions, narrow, of_type);
        if flat.types & of_type == 0 {
            return true;
        }
        let at: Rc<str> = "".into();
        let side = Narrow { conjunction: narrow, flat: &flat, of_type, at: &at };
        if self.is_contradiction(side) || self.finite(side).is_some_and(|finite| finite.values.is_empty()) {
            return true;
        }
        for &not in &flat.none {
            let rest = narrow.without_not(not);
            if self.within_for(&rest, &at, of_type, not) {
                return true;
            }
        }
        let Some(choice) = flat.choices.first() else { return false };
        choice.cases.iter().all(|case| {
            let chosen = narrow.choosing(&self.definitions, choice.key, case);
            self.is_empty_of(&chosen, of_type)
        })
    }

    fn is_contradiction(&mut self, narrow: Narrow<'_>) -> bool {
        let flat = narrow.flat;
        match narrow.of_type {
            types::INTEGER | types::FRACTION => flat.range(narrow.of_type == types::INTEGER).is_empty(),
            types::STRING => {
                let (shortest, longest) = flat.lengths();
                shortest > longest
            }
            types::ARRAY => {
                let (fewest, most) = self.item_counts(flat);
                fewest > most || self.lacks_what_it_contains(flat)
            }
            types::OBJECT => {
                let (fewest, most) = self.member_counts(flat);
                fewest > most || self.lacks_what_it_requires(flat)
            }
            _ => false,
        }
    }

    fn lacks_what_it_contains(&mut self, flat: &Flat) -> bool {
        let contained = flat.parts.iter().filter_map(|part| part.contains);
        contained.into_iter().any(|contains| {
            let element = Conjunction::of(&self.definitions, [contains]);
            self.is_part_empty(&element)
        })
    }

    fn lacks_what_it_requires(&mut self, flat: &Flat) -> bool {
        let required = flat.parts.iter().flat_map(|part| &part.plain.required);
        required.into_iter().any(|name| self.is_absent(flat, name))
    }
}

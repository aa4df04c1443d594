//! Arrays: what follows for their elements and how many there are.

use super::{
    comparison::{Comparison, Narrow},
    conjunction::{Conjunction, Flat},
    definitions::{Id, Keywords, NOTHING},
};

impl Comparison {
    /// The fewest and the most elements of an array.
    pub(super) fn item_counts(&mut self, flat: &Flat) -> (u64, u64) {
        let fewest = flat.parts.iter().map(|part| part.plain.min_items.max(part.contains.is_some().into())).max();
        let mut most = flat.parts.iter().filter_map(|part| part.plain.max_items).min().unwrap_or(u64::MAX);
        // Where no value fits an element, the array ends before it.
        for index in 0..=flat.tuple_length() {
            if index as u64 >= most || !self.step() {
                break;
            }
            let element = flat.element(&self.definitions, index);
            if self.is_part_empty(&element) {
                most = index as u64;
            }
        }
        (fewest.unwrap_or(0), most)
    }

    /// `items`, `additionalItems`, `contains`, `minItems`, `maxItems` and `uniqueItems`.
    pub(super) fn arrays_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let wanted = &keywords.plain;
        let (fewest, most) = self.item_counts(narrow.flat);
        let mut holds = true;
        if fewest < wanted.min_items {
            holds = self.refuse(narrow, "MIN_ITEMS_RAISED", wide, "minItems", "shorter arrays", "lower the bound");
        }
        if wanted.max_items.is_some_and(|max| most > max) {
            holds = self.refuse(narrow, "MAX_ITEMS_LOWERED", wide, "maxItems", "longer arrays", "raise the bound");
        }
        let is_unique = most <= 1 || narrow.flat.parts.iter().any(|part| part.plain.unique_items);
        if wanted.unique_items && !is_unique {
            let taken = "arrays with equal elements";
            holds =
                self.refuse(narrow, "UNIQUE_ITEMS_ADDED", wide, "uniqueItems", taken, "leave \"uniqueItems\" out here");
        }
        if !holds && self.is_silent() {
            return false;
        }
        holds &= self.elements_follow(narrow, keywords, wide, most);
        if let Some(contains) = keywords.contains
            && !self.contains_follows(narrow, contains, fewest)
        {
            let taken = "arrays in which no element was shown to fit \"contains\"";
            holds = self.refuse(
                narrow,
                "CONTAINS_NOT_PROVED",
                wide,
                "contains",
                taken,
                "keep \"contains\", or leave it out",
            );
        }
        holds
    }

    fn elements_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id, most: u64) -> bool {
        let mut holds = true;
        let tuple = keywords.tuple.len().max(narrow.flat.tuple_length());
        // The last index stands for all that follow.
        for index in 0..=tuple {
            if index as u64 >= most || !self.step() || (!holds && self.is_silent()) {
                break;
            }
            let element = narrow.flat.element(&self.definitions, index);
            let wanted = self.definitions.resolve(keywords.tuple.get(index).copied().unwrap_or(keywords.rest));
            if wanted == NOTHING {
                let keyword = if keywords.tuple.is_empty() { "items" } else { "additionalItems" };
                let taken = format!("arrays with more than {index} elements");
                holds = self.refuse(narrow, "ITEMS_CLOSED", wide, keyword, taken, "take more elements here");
                break;
            }
            holds &= self.part_within(&element, narrow.at, wanted);
        }
        holds && self.step()
    }

    fn contains_follows(&mut self, narrow: Narrow<'_>, wanted: Id, fewest: u64) -> bool {
        let tuple = narrow.flat.tuple_length();
        for part in &narrow.flat.parts {
            let Some(contains) = part.contains else { continue };
            let some = Conjunction::of(&self.definitions, [contains]);
            let elements = narrow.flat.parts.iter().filter(|_| tuple == 0).map(|part| part.rest);
            let some = elements.fold(some, |some, schema| some.and(&self.definitions, schema));
            if self.quietly_part_within(&some, narrow.at, wanted) {
                return true;
            }
        }
        (0..=tuple).take_while(|&index| (index as u64) < fewest).any(|index| {
            let element = narrow.flat.element(&self.definitions, index);
            self.quietly_part_within(&element, narrow.at, wanted)
        })
    }
}

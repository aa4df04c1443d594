//! Objects: what follows for their members, the members' names and how many there are.
//!
//! Names that `properties` names on either side are decided one by one. All others are told apart only by the patterns that
//! match them: each set of patterns is decided as if some name were matched by exactly that set, unless no name can be.

use std::{collections::BTreeSet, rc::Rc};

use serde_json::Value;

use super::{
    comparison::{Check, Comparison, Fault, Narrow},
    conjunction::{Conjunction, Flat},
    definitions::{ALL, Id, Keywords, NOTHING, Plain, types},
    parse::step,
};

/// The most names in a reason.
const NAMES_SHOWN: usize = 5;

/// The most patterns whose sets are gone through.
const PATTERNS_MAX: usize = 6;

/// The schemas that one member must fit, on the narrower side.
struct Member {
    schemas: Conjunction,
    /// Whether `properties` or a pattern speaks of it.
    is_declared: bool,
}

impl Comparison {
    fn member(&mut self, flat: &Flat, name: &str) -> Member {
        let mut schemas = Vec::new();
        let mut is_declared = false;
        for part in &flat.parts {
            let mut is_other = true;
            if let Some(&schema) = part.properties.get(name) {
                schemas.push(schema);
                is_other = false;
            }
            for (pattern, &schema) in &part.patterns {
                match self.assertions.matches(pattern, name) {
                    Some(false) => {}
                    Some(true) => {
                        schemas.push(schema);
                        is_other = false;
                    }
                    // It may match: then it is no other, and whether this schema applies is not known.
                    None => is_other = false,
                }
            }
            if is_other {
                schemas.push(part.others);
            }
            is_declared |= !is_other;
        }
        Member { schemas: Conjunction::of(&self.definitions, schemas), is_declared }
    }

    /// Whether no object has a member `name`.
    pub(super) fn is_absent(&mut self, flat: &Flat, name: &str) -> bool {
        if !self.step() {
            return false;
        }
        let member = self.member(flat, name);
        let value = Value::from(name);
        self.is_part_empty(&member.schemas)
            || flat.parts.iter().any(|part| part.names != ALL && self.takes(part.names, &value) == Some(false))
    }

    /// The names that a `propertyNames` lists, if one does.
    fn listed_names(&mut self, flat: &Flat) -> Option<BTreeSet<Rc<str>>> {
        let names = Conjunction::of(&self.definitions, flat.parts.iter().map(|part| part.names));
        let names = Flat::of(&self.definitions, &names, types::STRING);
        let listed =
            names.parts.iter().filter_map(|part| part.plain.values.as_ref()).min_by_key(|listed| listed.len())?;
        Some(listed.values().filter_map(|name| name.as_str().map(Into::into)).collect())
    }

    /// The fewest and the most members of an object.
    pub(super) fn member_counts(&mut self, flat: &Flat) -> (u64, u64) {
        let required: BTreeSet<_> = flat.parts.iter().flat_map(|part| &part.plain.required).collect();
        let fewest = flat.parts.iter().map(|part| part.plain.min_properties).max().unwrap_or(0);
        let most = flat.parts.iter().filter_map(|part| part.plain.max_properties).min().unwrap_or(u64::MAX);
        let closed = flat.parts.iter().filter(|part| part.patterns.is_empty() && part.others == NOTHING);
        let declared = closed.map(|part| part.properties.len() as u64).min().unwrap_or(u64::MAX);
        let listed = self.listed_names(flat).map_or(u64::MAX, |names| names.len() as u64);
        (fewest.max(required.len() as u64), most.min(declared).min(listed))
    }

    /// All keywords of objects.
    pub(super) fn objects_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let mut holds = self.counts_follow(narrow, &keywords.plain, wide);
        self.spend(keywords.plain.required.len());
        let missing: Vec<_> = keywords.plain.required.iter().filter(|name| !narrow.flat.requires(name)).collect();
        if !missing.is_empty() {
            let shown: Vec<_> = missing.iter().take(NAMES_SHOWN).map(|name| format!("{name:?}")).collect();
            let more = if missing.len() > shown.len() { " and others" } else { "" };
            let taken = format!("objects without {}{more}", shown.join(", "));
            holds = self.refuse(narrow, "REQUIRED_ADDED", wide, "required", taken, "leave it out of \"required\"");
        }
        let checks: [Check; 4] =
            [Self::declared_follow, Self::others_follow, Self::names_follow, Self::dependencies_follow];
        for check in checks {
            if !holds && self.is_silent() {
                return false;
            }
            holds &= check(self, narrow, keywords, wide);
        }
        holds
    }

    fn counts_follow(&mut self, narrow: Narrow<'_>, wanted: &Plain, wide: Id) -> bool {
        if wanted.min_properties == 0 && wanted.max_properties.is_none() {
            return true;
        }
        let (fewest, most) = self.member_counts(narrow.flat);
        let mut holds = true;
        if fewest < wanted.min_properties {
            let taken = "objects with fewer members";
            holds = self.refuse(narrow, "MIN_PROPERTIES_RAISED", wide, "minProperties", taken, "lower the bound");
        }
        if wanted.max_properties.is_some_and(|max| most > max) {
            let taken = "objects with more members";
            holds = self.refuse(narrow, "MAX_PROPERTIES_LOWERED", wide, "maxProperties", taken, "raise the bound");
        }
        holds
    }

    /// `properties`, and what applies to the names in the narrower side's.
    fn declared_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        if keywords.properties.is_empty() && keywords.patterns.is_empty() && keywords.others == ALL {
            return true;
        }
        let mut names: BTreeSet<_> = narrow.flat.declared();
        names.extend(keywords.properties.keys().cloned());
        names.extend(self.listed_names(narrow.flat).into_iter().flatten());
        let by_choice = if self.lenient { narrow.flat.declared_by_choice(&self.definitions) } else { None };
        let mut holds = true;
        for name in &names {
            if !self.step() || (!holds && self.is_silent()) {
                return false;
            }
            let wanted = self.wanted(keywords, name);
            if wanted.iter().all(|&(schema, _)| schema == ALL) || self.is_absent(narrow.flat, name) {
                continue;
            }
            let member = self.member(narrow.flat, name);
            let is_new = !member.is_declared && member.schemas.is_all();
            let is_free = is_new && by_choice.as_ref().is_some_and(|declared| !declared.contains(name));
            for (schema, keyword) in wanted {
                // Lenient: nobody sent what was not declared. That says nothing on patterns and other members.
                if is_free && keyword == "properties" {
                    continue;
                }
                holds &= self.member_follows(narrow, (name, &member), (schema, keyword), wide);
            }
        }
        holds
    }

    /// What the wider side asks of the member `name`, and by which keyword.
    fn wanted(&mut self, keywords: &Keywords, name: &str) -> Vec<(Id, &'static str)> {
        let mut wanted = Vec::new();
        if let Some(&schema) = keywords.properties.get(name) {
            wanted.push((self.definitions.resolve(schema), "properties"));
        }
        let mut is_other = wanted.is_empty();
        for (pattern, &schema) in &keywords.patterns {
            let matches = self.assertions.matches(pattern, name);
            if matches != Some(false) {
                wanted.push((self.definitions.resolve(schema), "patternProperties"));
            }
            // Where it cannot be told whether a pattern matches, both must follow.
            is_other &= matches != Some(true);
        }
        if is_other {
            wanted.push((self.definitions.resolve(keywords.others), "additionalProperties"));
        }
        wanted
    }

    fn member_follows(
        &mut self,
        narrow: Narrow<'_>,
        (name, member): (&Rc<str>, &Member),
        (schema, keyword): (Id, &'static str),
        wide: Id,
    ) -> bool {
        let is_new = !member.is_declared && member.schemas.is_all();
        if self.is_silent() || !(is_new || schema == NOTHING) {
            return self.part_within(&member.schemas, narrow.at, schema);
        }
        if self.quietly_part_within(&member.schemas, narrow.at, schema) {
            return true;
        }
        let at = self.wide_at(wide, keyword);
        let (rule, wide_at, taken, remedy) = match keyword {
            "properties" if schema == NOTHING => (
                "PROPERTY_FORBIDDEN",
                format!("{at}{}", step(name)),
                format!("objects with a member {name:?}"),
                "take the member here as well",
            ),
            "properties" => (
                "PROPERTY_ADDED_TO_OPEN",
                format!("{at}{}", step(name)),
                format!("any value in {name:?}, which it did not declare, in an object open to other members"),
                "close the object with \"additionalProperties\": false before members are added, or use the lenient policy",
            ),
            "additionalProperties" if schema == NOTHING => (
                "PROPERTY_REMOVED_FROM_CLOSED",
                at,
                format!("objects with a member {name:?}"),
                "declare the member here as well, or leave the object open",
            ),
            _ => (
                "ADDITIONAL_PROPERTIES_NARROWED",
                at,
                format!("any value in {name:?}"),
                "declare the member here as well",
            ),
        };
        self.fault(Fault { rule, narrow_at: narrow.at, wide_at, taken, remedy });
        false
    }

    /// `patternProperties` and `additionalProperties`, for names that nobody declares.
    fn others_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let is_free = |id: &Id| self.definitions.resolve(*id) == ALL;
        if is_free(&keywords.others) && keywords.patterns.values().all(is_free) {
            return true;
        }
        if self.listed_names(narrow.flat).is_some() {
            return true;
        }
        let name_patterns = self.name_patterns(narrow.flat);
        let own = narrow.flat.parts.iter().flat_map(|part| part.patterns.keys());
        let patterns: BTreeSet<_> = own.chain(keywords.patterns.keys()).chain(&name_patterns).cloned().collect();
        let patterns: Vec<_> = patterns.into_iter().collect();
        if patterns.len() > PATTERNS_MAX {
            let taken = format!("objects whose members more than {PATTERNS_MAX} patterns speak of");
            let (rule, keyword) = ("PATTERN_PROPERTIES_NOT_PROVED", "");
            return self.refuse(narrow, rule, wide, keyword, taken, "use fewer patterns, or keep the object as it was");
        }
        let mut holds = true;
        for set in 0..1_u32 << patterns.len() {
            let matching: Vec<_> = patterns
                .iter()
                .enumerate()
                .filter(|&(bit, _)| set >> bit & 1 == 1)
                .map(|(_, pattern)| pattern)
                .collect();
            let exists = name_patterns.iter().all(|pattern| matching.contains(&pattern)) && may_meet(&matching);
            if exists && !self.matched_follow(narrow, keywords, wide, &matching) {
                holds = false;
                if self.is_silent() {
                    return false;
                }
            }
        }
        holds
    }

    /// The patterns that all names match.
    fn name_patterns(&mut self, flat: &Flat) -> BTreeSet<Rc<str>> {
        let names = Conjunction::of(&self.definitions, flat.parts.iter().map(|part| part.names));
        let names = Flat::of(&self.definitions, &names, types::STRING);
        names.parts.iter().filter_map(|part| part.plain.pattern.clone()).collect()
    }

    /// For a name that exactly the patterns in `matching` match.
    fn matched_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id, matching: &[&Rc<str>]) -> bool {
        if !self.step() {
            return false;
        }
        let by_pattern = |part: &Keywords| {
            let matched: Vec<_> = matching.iter().filter_map(|pattern| part.patterns.get(*pattern).copied()).collect();
            if matched.is_empty() { vec![part.others] } else { matched }
        };
        let own = Conjunction::of(&self.definitions, narrow.flat.parts.iter().flat_map(|part| by_pattern(part)));
        let is_other = !keywords.patterns.keys().any(|pattern| matching.contains(&pattern));
        let mut holds = true;
        for schema in by_pattern(keywords) {
            let schema = self.definitions.resolve(schema);
            if self.is_silent() || !own.is_all() && schema != NOTHING {
                holds &= self.part_within(&own, narrow.at, schema);
            } else if !self.quietly_part_within(&own, narrow.at, schema) {
                let (rule, keyword) = match (is_other, schema == NOTHING) {
                    (true, true) => ("ADDITIONAL_PROPERTIES_CLOSED", "additionalProperties"),
                    (true, false) => ("ADDITIONAL_PROPERTIES_NARROWED", "additionalProperties"),
                    (false, _) => ("PATTERN_PROPERTIES_NARROWED", "patternProperties"),
                };
                let taken = "objects with other members";
                holds = self.refuse(narrow, rule, wide, keyword, taken, "leave the object as open as it was");
            }
        }
        holds
    }

    fn names_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let wanted = self.definitions.resolve(keywords.names);
        if wanted == ALL {
            return true;
        }
        let strings = Keywords { plain: Plain { types: types::STRING, ..Plain::default() }, ..Keywords::default() };
        let string = self.definitions.made("string".into(), strings);
        let own = narrow.flat.parts.iter().map(|part| part.names).chain([string]);
        let names = Conjunction::of(&self.definitions, own);
        if self.quietly_part_within(&names, narrow.at, wanted) || self.known_names_follow(narrow, &names, wanted) {
            return true;
        }
        let (rule, keyword) = ("PROPERTY_NAMES_NOT_PROVED", "propertyNames");
        let taken = "objects with names that \"propertyNames\" may refuse";
        self.refuse(narrow, rule, wide, keyword, taken, "keep \"propertyNames\" as it was, or leave it out")
    }

    /// In a closed object, only what is declared is a name.
    fn known_names_follow(&mut self, narrow: Narrow<'_>, names: &Conjunction, wanted: Id) -> bool {
        let is_closed = |part: &&Rc<Keywords>| self.definitions.resolve(part.others) == NOTHING;
        let Some(closed) = narrow.flat.parts.iter().find(is_closed).cloned() else { return false };
        let declared = closed
            .properties
            .keys()
            .all(|name| self.takes(wanted, &Value::from(&**name)) == Some(true) || self.is_absent(narrow.flat, name));
        declared
            && closed.patterns.keys().all(|pattern| {
                let plain = Plain { types: types::STRING, pattern: Some(Rc::clone(pattern)), ..Plain::default() };
                let matched =
                    self.definitions.made(format!("like {pattern}"), Keywords { plain, ..Keywords::default() });
                let names = names.and(&self.definitions, matched);
                self.quietly_part_within(&names, narrow.at, wanted)
            })
    }

    fn dependencies_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let mut holds = true;
        for (name, &schema) in &keywords.dependencies {
            if !self.step() || (!holds && self.is_silent()) {
                return false;
            }
            let plain = Plain { required: [Rc::clone(name)].into(), ..Plain::default() };
            let present = self.definitions.made(format!("has {name}"), Keywords { plain, ..Keywords::default() });
            let with_it = narrow.conjunction.and(&self.definitions, present);
            if !self.quietly(|this| this.within_for(&with_it, narrow.at, narrow.of_type, schema)) {
                let at = format!("dependencies{}", step(name));
                let taken = format!("objects with {name:?} that may lack what it depends on");
                holds = self.refuse(narrow, "DEPENDENCY_ADDED", wide, &at, taken, "leave the dependency out");
            }
        }
        holds
    }
}

/// Whether one name may match all of `patterns`. Only told for two that begin with different text.
fn may_meet(patterns: &[&Rc<str>]) -> bool {
    let beginnings: Vec<_> = patterns.iter().filter_map(|pattern| beginning(pattern)).collect();
    beginnings
        .iter()
        .enumerate()
        .all(|(i, a)| beginnings[..i].iter().all(|b| a.starts_with(b.as_str()) || b.starts_with(a.as_str())))
}

/// The plain text that all that matches `pattern` begins with.
fn beginning(pattern: &str) -> Option<String> {
    let pattern = pattern.strip_prefix('^')?;
    if pattern.contains('|') {
        return None;
    }
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut plain: String = pattern.chars().take_while(is_plain).collect();
    // What may be repeated may be absent.
    if matches!(pattern[plain.len()..].chars().next(), Some('?' | '*' | '{')) {
        plain.pop();
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_begin_otherwise_never_meet() {
        let meet = |a: &str, b: &str| may_meet(&[&a.into(), &b.into()]);
        assert!(!meet("^x-", "^y-"));
        assert!(!meet("^x-[a-z]+$", "^ya?"));
        for (a, b) in
            [("^x", "^xy"), ("^x?", "^y"), ("^x|z", "^y"), ("x", "^y"), ("^x{0}", "^y"), ("^.x", "^y"), ("^", "^y")]
        {
            assert!(meet(a, b), "{a} {b}");
        }
    }
}

//! Types, values, numbers and strings: what follows without going into a value; and small sets of values, which are decided
//! value by value.

use serde_json::{Value, json};

use super::{
    canonical,
    comparison::{Comparison, Narrow},
    definitions::{Id, Keywords, types},
    numbers::{End, Num, multiples_within},
    values::type_of,
};

/// The most integers between two bounds that are decided one by one.
const INTEGERS_MAX: i128 = 64;

/// The longest value in a reason, in characters.
const SHOWN_MAX: usize = 60;

/// All values of one type that a conjunction takes, or a few more.
pub(super) struct Finite {
    /// The values.
    pub(super) values: Vec<Value>,
    /// Whether they are listed by an `enum` or `const`.
    pub(super) is_listed: bool,
}

impl Comparison {
    /// The values that `narrow` takes of its type, if they are few and known.
    pub(super) fn finite(&mut self, narrow: Narrow<'_>) -> Option<Finite> {
        let listed =
            narrow.flat.parts.iter().filter_map(|part| part.plain.values.as_ref()).min_by_key(|list| list.len());
        let is_listed = listed.is_some();
        let candidates = match listed {
            Some(listed) => listed.values().filter(|value| type_of(value) == narrow.of_type).cloned().collect(),
            None => self.few(narrow)?,
        };
        let (all, none) = (narrow.conjunction.all(), narrow.conjunction.none());
        let mut values = Vec::new();
        for value in candidates {
            if !self.step() {
                return None;
            }
            let is_out = all.iter().any(|&schema| self.takes(schema, &value) == Some(false))
                || none.iter().any(|&schema| self.takes(schema, &value) == Some(true));
            if !is_out {
                values.push(value);
            }
        }
        Some(Finite { values, is_listed })
    }

    fn few(&mut self, narrow: Narrow<'_>) -> Option<Vec<Value>> {
        match narrow.of_type {
            types::NULL => Some(vec![Value::Null]),
            types::BOOLEAN => Some(vec![json!(false), json!(true)]),
            types::INTEGER => {
                let (lower, upper) = narrow.flat.range(true).integers()?;
                let is_few = upper - lower < INTEGERS_MAX;
                let integers = || (lower..=upper).map(|int| i64::try_from(int).ok().map(Value::from)).collect();
                is_few.then(integers).flatten()
            }
            types::STRING => (narrow.flat.lengths().1 == 0).then(|| vec![json!("")]),
            types::ARRAY => (self.item_counts(narrow.flat).1 == 0).then(|| vec![json!([])]),
            types::OBJECT => (self.member_counts(narrow.flat).1 == 0).then(|| vec![json!({})]),
            _ => None,
        }
    }

    /// Says which values of a list are not taken any more.
    pub(super) fn refuse_values(&mut self, narrow: Narrow<'_>, wide: Id, refused: &[&Value]) {
        if self.is_silent() {
            return;
        }
        let shown: Vec<_> = refused.iter().take(5).map(|value| cut(&canonical::text(value))).collect();
        let more = if refused.len() > shown.len() { ", …" } else { "" };
        let keywords = self.definitions.keywords(wide);
        let keyword = keywords.filter(|keywords| keywords.plain.values.is_some()).map_or("", |_| "enum");
        let taken = format!("{}{more}", shown.join(", "));
        let rule = if keyword.is_empty() { "VALUE_REFUSED" } else { "ENUM_NARROWED" };
        self.refuse(narrow, rule, wide, keyword, taken, "take these values here as well");
    }

    /// `type`, `enum` and `const`.
    pub(super) fn kinds_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let plain = &keywords.plain;
        if plain.types & narrow.of_type == 0 {
            let taken = types::names(narrow.of_type);
            return self.refuse(narrow, "TYPE_NARROWED", wide, "type", taken, "add the type to \"type\" here");
        }
        let Some(allowed) = &plain.values else { return true };
        let finite = self.finite(narrow);
        let is_within =
            |finite: Finite| finite.values.iter().all(|value| allowed.contains_key(&canonical::text(value)));
        if finite.is_some_and(is_within) {
            return true;
        }
        let taken = format!("{} other than those listed", types::names(narrow.of_type));
        self.refuse(narrow, "ENUM_ADDED", wide, "enum", taken, "leave \"enum\" and \"const\" out here")
    }

    /// `minimum`, `maximum`, their exclusive kin and `multipleOf`.
    pub(super) fn numbers_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let is_integer = narrow.of_type == types::INTEGER;
        let range = narrow.flat.range(is_integer);
        let mut holds = true;
        for (end, rule, keyword, taken, remedy) in [
            (End::Lower, "MINIMUM_RAISED", "minimum", "smaller numbers", "lower the bound"),
            (End::Upper, "MAXIMUM_LOWERED", "maximum", "larger numbers", "raise the bound"),
        ] {
            let Some(bound) = keywords.plain.range.bound(end) else { continue };
            let wanted = if is_integer { bound.for_integers(end) } else { bound };
            if !range.bound(end).is_some_and(|own| own.tightness(wanted, end).is_ge()) {
                let keyword = match (bound.open, end) {
                    (false, _) => keyword,
                    (true, End::Lower) => "exclusiveMinimum",
                    (true, End::Upper) => "exclusiveMaximum",
                };
                holds = self.refuse(narrow, rule, wide, keyword, taken, remedy);
            }
        }
        let Some(wanted) = keywords.plain.multiple_of else { return holds };
        if is_integer && wanted == Num::Int(1) {
            return holds;
        }
        let own = narrow.flat.parts.iter().filter_map(|part| part.plain.multiple_of);
        let verdicts: Vec<_> = own.map(|own| multiples_within(own, wanted, &range)).collect();
        if verdicts.contains(&Some(true)) {
            return holds;
        }
        let (rule, remedy) = match verdicts.as_slice() {
            [] => ("MULTIPLE_OF_ADDED", "leave \"multipleOf\" out here"),
            _ if verdicts.contains(&None) => {
                ("MULTIPLE_OF_NOT_PROVED", "bound the numbers on both sides within 10^12, or keep the divisor")
            }
            _ => ("MULTIPLE_OF_NARROWED", "use a divisor of what was there before"),
        };
        self.refuse(narrow, rule, wide, "multipleOf", "numbers that are no multiples of this", remedy)
    }

    /// `minLength`, `maxLength`, `pattern`, `format` and the content keywords.
    pub(super) fn strings_follow(&mut self, narrow: Narrow<'_>, keywords: &Keywords, wide: Id) -> bool {
        let wanted = &keywords.plain;
        let (shortest, longest) = narrow.flat.lengths();
        let mut holds = true;
        if shortest < wanted.min_length {
            holds = self.refuse(narrow, "MIN_LENGTH_RAISED", wide, "minLength", "shorter strings", "lower the bound");
        }
        if wanted.max_length.is_some_and(|max| longest > max) {
            holds = self.refuse(narrow, "MAX_LENGTH_LOWERED", wide, "maxLength", "longer strings", "raise the bound");
        }
        let parts = || narrow.flat.parts.iter().map(|part| &part.plain);
        if wanted.pattern.is_some() && !parts().any(|own| own.pattern == wanted.pattern) {
            let is_new = parts().all(|own| own.pattern.is_none());
            let rule = if is_new { "PATTERN_ADDED" } else { "PATTERN_NOT_PROVED" };
            let taken = "strings that this pattern may not match: two patterns are only compared for equality";
            holds = self.refuse(narrow, rule, wide, "pattern", taken, "keep the pattern, or leave it out");
        }
        if wanted.format.is_some() && !parts().any(|own| own.format == wanted.format) {
            let is_new = parts().all(|own| own.format.is_none());
            let rule = if is_new { "FORMAT_ADDED" } else { "FORMAT_NOT_PROVED" };
            let taken = "strings that may not have this format";
            holds = self.refuse(narrow, rule, wide, "format", taken, "keep the format, or leave it out");
        }
        let (encoding, media) = &wanted.content;
        // What decodes to a medium decodes; but the medium is of the decoded bytes, so it does not stand alone.
        let content_follows = (encoding.is_none() && media.is_none())
            || parts().any(|own| own.content == wanted.content)
            || (media.is_none() && parts().any(|own| own.content.0 == *encoding));
        if !content_follows {
            let keyword = if encoding.is_some() { "contentEncoding" } else { "contentMediaType" };
            let taken = "strings that may not hold this content";
            holds = self.refuse(narrow, "CONTENT_CHANGED", wide, keyword, taken, "keep the content, or leave it out");
        }
        holds
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

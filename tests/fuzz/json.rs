//! JSON: what is taken as a record is what `serde_json` takes, but for what is refused by a stated policy.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use ttdust_shards::{
    ids::SchemaId,
    schema::{CompiledSchema, DEPTH_MAX},
    validate::{DUPLICATE_KEY, NOT_JSON, NUMBER_OUT_OF_RANGE, TOO_DEEP, TapeVerdict, Validator},
};

thread_local! {
    static ANY: CompiledSchema = CompiledSchema::compile(SchemaId::generate(), 1, "{}").expect("it compiles");
}

/// What policies look at, of a text that is JSON.
struct Seen {
    depth: usize,
    named_twice: bool,
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl Seen {
    const PLAIN: Self = Self { depth: 0, named_twice: false };
}

impl<'de> Visitor<'de> for Look {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::PLAIN)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::PLAIN)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::PLAIN)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::PLAIN)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Seen, E> {
        if number.is_finite() { Ok(Seen::PLAIN) } else { Err(E::custom("no JSON has it")) }
    }

    fn visit_str<E>(self, _: &str) -> Result<Seen, E> {
        Ok(Seen::PLAIN)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Seen, A::Error> {
        let mut all = Seen { depth: 1, named_twice: false };
        while let Some(one) = array.next_element::<Seen>()? {
            all.depth = all.depth.max(one.depth + 1);
            all.named_twice |= one.named_twice;
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Seen, A::Error> {
        let mut all = Seen { depth: 1, named_twice: false };
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            all.named_twice |= !names.insert(name);
            let one: Seen = members.next_value()?;
            all.depth = all.depth.max(one.depth + 1);
            all.named_twice |= one.named_twice;
        }
        if all.depth > 1 << 20 {
            return Err(A::Error::custom("nothing nests so deep"));
        }
        Ok(all)
    }
}

/// Any bytes.
pub fn json(input: &[u8]) {
    let mut validator = Validator::default();
    ANY.with(|schema| {
        let before = input.to_vec();
        let verdict = validator.check(schema, input);
        assert_eq!(input, before, "a record is never changed");
        assert_eq!(validator.accepts(schema, input), verdict.is_ok());
        let (tape, reference) = validator.check_both(schema, input);
        assert_eq!(verdict, reference, "the reference decides");
        assert!(tape != TapeVerdict::Accepted || reference.is_ok(), "accepted by the tape alone");
        let by_program = validator.check_program(schema, input) == Some(true);
        assert!(!by_program || reference.is_ok(), "accepted by the program alone");

        let seen = serde_json::from_slice::<Seen>(input);
        let code = verdict.as_ref().map_or_else(|invalid| invalid.code, |()| "");
        match &seen {
            Ok(seen) if seen.depth > DEPTH_MAX => assert_eq!(code, TOO_DEEP),
            Ok(seen) if seen.named_twice => assert_eq!(code, DUPLICATE_KEY),
            Ok(_) => assert_eq!(code, "", "{:?}", verdict),
            // A text that is no JSON may also have been given up for what stands before its fault.
            Err(error) => assert!(
                [NOT_JSON, NUMBER_OUT_OF_RANGE, TOO_DEEP, DUPLICATE_KEY].contains(&code),
                "{code:?}, but serde_json says: {error}"
            ),
        }
        if let Err(invalid) = verdict {
            assert!(invalid.message.len() <= 1100, "{} bytes of message", invalid.message.len());
            assert!(
                invalid.field_errors.iter().all(|error| error.pointer.len() <= 1100 && error.message.len() <= 1100)
            );
        }
    });
}

//! What a stream holds, as plain as can be: a list of its records, and what each query must answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

/// SplitMix64 (Steele et al., 2014): the same seed, the same history.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }

    /// Once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}

/// A record that was acked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub sequence: i64,
    pub time: i64,
    pub payload: Bytes,
    pub metadata: BTreeMap<String, String>,
}

impl Row {
    /// Its key in a field: what the README says that it is.
    fn key(&self, field: &str) -> Option<String> {
        let record: Value = serde_json::from_slice(&self.payload).expect("JSON");
        let value = if field.starts_with('/') { record.pointer(field) } else { record.get(field) };
        match value? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Number(number) => number.as_i64().map(|number| number.to_string()),
            _ => None,
        }
    }

    /// When its event was, if this field tells.
    pub fn event(&self, field: &str) -> Option<i64> {
        let record: Value = serde_json::from_slice(&self.payload).expect("JSON");
        record.get(field)?.as_i64()
    }
}

/// A stream.
#[derive(Debug, Default)]
pub struct Model {
    /// What is left, oldest first.
    pub rows: Vec<Row>,
    /// The last sequence number that was given; 0: none.
    pub last: i64,
    /// The field that tells when events were, if one does.
    pub event_field: Option<&'static str>,
}

impl Model {
    /// A batch was acked.
    pub fn acked(&mut self, first: i64, time: i64, payloads: Vec<Bytes>, metadata: &BTreeMap<String, String>) {
        assert_eq!(first, self.last + 1, "sequence numbers are dense");
        assert!(self.rows.last().is_none_or(|row| row.time <= time), "time never falls");
        for payload in payloads {
            self.last += 1;
            self.rows.push(Row { sequence: self.last, time, payload, metadata: metadata.clone() });
        }
    }

    /// Records before this one are past their retention.
    pub fn dropped_before(&mut self, first: i64) {
        self.rows.retain(|row| row.sequence >= first);
    }

    /// The first sequence number that is left, or the next that comes.
    pub fn first(&self) -> i64 {
        self.rows.first().map_or(self.last + 1, |row| row.sequence)
    }

    /// Records of a time range, oldest first.
    pub fn range(&self, start: i64, end: i64) -> Vec<Row> {
        self.rows.iter().filter(|row| (start..end).contains(&row.time)).cloned().collect()
    }

    /// Records whose event was in a time range, oldest first.
    pub fn events(&self, field: &str, start: i64, end: i64) -> Vec<Row> {
        let is_wanted = |row: &&Row| row.event(field).is_some_and(|time| (start..end).contains(&time));
        self.rows.iter().filter(is_wanted).cloned().collect()
    }

    /// The latest record with a key.
    pub fn latest(&self, field: &str, key: &str) -> Option<&Row> {
        self.rows.iter().rev().find(|row| row.key(field).as_deref() == Some(key))
    }

    /// The record with this sequence number.
    pub fn at(&self, sequence: i64) -> Option<&Row> {
        self.rows.iter().find(|row| row.sequence == sequence)
    }
}

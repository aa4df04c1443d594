//! Records → Arrow arrays, one pass over a simd-json tape a record.
//!
//! A number column takes `1.0` and `1e2` as the integers that they are; a value that is not of its column's type is null. Of
//! two members with the same name the last counts, as for `serde_json`.

use std::{fmt::Write as _, sync::Arc};

use ahash::AHashMap;
use arrow_array::{
    Array as _, ArrayRef, ListArray, StringArray, StructArray,
    builder::{
        BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, NullBufferBuilder, NullBuilder, StringBuilder,
    },
};
use arrow_schema::{DataType, FieldRef, Fields};
use simd_json::{Node, StaticNode};

use super::columns::{Column, Kind, fields};
use crate::record::{integer, span};

/// Fills typed columns, row by row.
pub struct RowBuilder {
    root: Members,
    fields: Fields,
}

impl RowBuilder {
    /// A builder for `columns`.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        let fields = fields(columns);
        Self { root: Members::new(columns, &fields), fields }
    }

    /// The fields, in order of the columns.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether there are no columns, and so nothing to add.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.columns.is_empty()
    }

    /// Adds the row of a record, as [`crate::record::Parser`] lays it out. What is no JSON object adds nulls.
    pub fn append(&mut self, nodes: &[Node<'_>]) {
        self.root.append(nodes, 0);
    }

    /// The columns of the rows since the last call.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.root.finish()
    }
}

/// The texts so far. The builder begins anew with as much memory as they took: the next rows' will take about that, too.
pub(crate) fn finish_texts(builder: &mut StringBuilder) -> StringArray {
    let texts = builder.finish();
    *builder = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    texts
}

/// The columns of an object's members.
struct Members {
    columns: Vec<Values>,
    by_key: AHashMap<Box<str>, usize>,
    keys: Vec<Box<str>>,
    /// By position in the object: the column that the member there had last time. Producers rarely change their order.
    guesses: Vec<usize>,
    /// By column: the node of its value in the object at hand. Scratch.
    found: Vec<Option<usize>>,
}

impl Members {
    fn new(columns: &[Column], fields: &Fields) -> Self {
        let keys: Vec<Box<str>> = columns.iter().map(|column| column.key.as_str().into()).collect();
        Self {
            columns: columns.iter().zip(fields).map(|(column, field)| Values::new(&column.kind, field)).collect(),
            by_key: keys.iter().cloned().enumerate().map(|(index, key)| (key, index)).collect(),
            guesses: vec![0; 2 * columns.len()],
            found: vec![None; columns.len()],
            keys,
        }
    }

    /// Adds a row from the value at node `at`; whether it was an object.
    fn append(&mut self, nodes: &[Node<'_>], at: usize) -> bool {
        let Node::Object { len, .. } = nodes[at] else {
            self.append_null();
            return false;
        };
        self.found.fill(None);
        let mut node = at + 1;
        for position in 0..len {
            let Node::String(key) = nodes[node] else { break };
            if let Some(column) = self.column_of(key, position) {
                self.found[column] = Some(node + 1);
            }
            node += 1 + span(&nodes[node + 1]);
        }
        for (column, found) in self.columns.iter_mut().zip(&self.found) {
            match found {
                Some(node) => column.append(nodes, *node),
                None => column.append_null(),
            }
        }
        true
    }

    fn column_of(&mut self, key: &str, position: usize) -> Option<usize> {
        let guess = self.guesses.get_mut(position);
        if let Some(&mut guess) = guess
            && *self.keys[guess] == *key
        {
            return Some(guess);
        }
        let column = *self.by_key.get(key)?;
        if let Some(guess) = self.guesses.get_mut(position) {
            *guess = column;
        }
        Some(column)
    }

    fn append_null(&mut self) {
        self.columns.iter_mut().for_each(Values::append_null);
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.columns.iter_mut().map(Values::finish).collect()
    }
}

/// The values of one column.
enum Values {
    Utf8(StringBuilder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Boolean(BooleanBuilder),
    Json { texts: StringBuilder, scratch: String },
    Struct { members: Box<Members>, fields: Fields, valid: NullBufferBuilder },
    // The list's shape over nothing; its elements stand apart.
    List { elements: Box<Values>, field: FieldRef, shape: ListBuilder<NullBuilder> },
}

impl Values {
    fn new(kind: &Kind, field: &FieldRef) -> Self {
        match (kind, field.data_type()) {
            (Kind::Int64, _) => Self::Int64(Int64Builder::new()),
            (Kind::Float64, _) => Self::Float64(Float64Builder::new()),
            (Kind::Boolean, _) => Self::Boolean(BooleanBuilder::new()),
            (Kind::Json, _) => Self::Json { texts: StringBuilder::new(), scratch: String::new() },
            (Kind::Struct(columns), DataType::Struct(fields)) => Self::Struct {
                members: Box::new(Members::new(columns, fields)),
                fields: fields.clone(),
                valid: NullBufferBuilder::new(0),
            },
            (Kind::List(element), DataType::List(field)) => Self::List {
                elements: Box::new(Self::new(element, field)),
                field: Arc::clone(field),
                shape: ListBuilder::new(NullBuilder::new()),
            },
            (Kind::Utf8 { .. } | Kind::Struct(_) | Kind::List(_), _) => Self::Utf8(StringBuilder::new()),
        }
    }

    fn append(&mut self, nodes: &[Node<'_>], at: usize) {
        match self {
            Self::Utf8(builder) => match nodes[at] {
                Node::String(text) => builder.append_value(text),
                _ => builder.append_null(),
            },
            Self::Int64(builder) => builder.append_option(integer(&nodes[at])),
            Self::Float64(builder) => builder.append_option(double(&nodes[at])),
            Self::Boolean(builder) => match nodes[at] {
                Node::Static(StaticNode::Bool(value)) => builder.append_value(value),
                _ => builder.append_null(),
            },
            Self::Json { texts, scratch } => {
                if matches!(nodes[at], Node::Static(StaticNode::Null)) {
                    texts.append_null();
                } else {
                    scratch.clear();
                    write_json(nodes, at, scratch);
                    texts.append_value(&scratch);
                }
            }
            Self::Struct { members, valid, .. } => valid.append(members.append(nodes, at)),
            Self::List { elements, shape, .. } => {
                let Node::Array { len, .. } = nodes[at] else {
                    shape.append(false);
                    return;
                };
                let mut node = at + 1;
                for _ in 0..len {
                    elements.append(nodes, node);
                    node += span(&nodes[node]);
                }
                shape.values().append_nulls(len);
                shape.append(true);
            }
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::Utf8(builder) | Self::Json { texts: builder, .. } => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Float64(builder) => builder.append_null(),
            Self::Boolean(builder) => builder.append_null(),
            Self::Struct { members, valid, .. } => {
                members.append_null();
                valid.append_null();
            }
            Self::List { shape, .. } => shape.append(false),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Utf8(builder) | Self::Json { texts: builder, .. } => Arc::new(finish_texts(builder)),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Struct { members, fields, valid } => {
                Arc::new(StructArray::new(fields.clone(), members.finish(), valid.finish()))
            }
            Self::List { elements, field, shape } => {
                let (_, offsets, _, valid) = shape.finish().into_parts();
                Arc::new(ListArray::new(Arc::clone(field), offsets, elements.finish(), valid))
            }
        }
    }
}

/// The node as a double: the nearest one.
fn double(node: &Node<'_>) -> Option<f64> {
    match node {
        Node::Static(StaticNode::I64(value)) => Some(*value as f64),
        Node::Static(StaticNode::U64(value)) => Some(*value as f64),
        Node::Static(StaticNode::F64(value)) => value.is_finite().then_some(*value),
        _ => None,
    }
}

/// Appends the value at node `at` as JSON text without spaces; returns the node after it. Recursion is bounded by the parsers'
/// depth limits.
fn write_json(nodes: &[Node<'_>], at: usize, text: &mut String) -> usize {
    match nodes[at] {
        Node::String(value) => write_json_string(value, text),
        Node::Static(value) => write_json_scalar(value, text),
        Node::Array { len, .. } => {
            let mut node = at + 1;
            text.push('[');
            for index in 0..len {
                if index > 0 {
                    text.push(',');
                }
                node = write_json(nodes, node, text);
            }
            text.push(']');
            return node;
        }
        Node::Object { len, .. } => {
            let mut node = at + 1;
            text.push('{');
            for index in 0..len {
                if index > 0 {
                    text.push(',');
                }
                node = write_json(nodes, node, text);
                text.push(':');
                node = write_json(nodes, node, text);
            }
            text.push('}');
            return node;
        }
    }
    at + 1
}

fn write_json_scalar(value: StaticNode, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match value {
        StaticNode::I64(value) => write!(text, "{value}"),
        StaticNode::U64(value) => write!(text, "{value}"),
        StaticNode::F64(value) => match serde_json::Number::from_f64(value) {
            Some(number) => write!(text, "{number}"),
            None => text.write_str("null"),
        },
        StaticNode::Bool(value) => write!(text, "{value}"),
        StaticNode::Null => text.write_str("null"),
    };
}

/// Appends `value` as a JSON string.
pub(crate) fn write_json_string(value: &str, text: &mut String) {
    text.push('"');
    let mut rest = value;
    while let Some(index) = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        text.push_str(&rest[..index]);
        match rest.as_bytes()[index] {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            byte => {
                let _ = write!(text, "\\u{byte:04x}");
            }
        }
        rest = &rest[index + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::Parser, transform::columns::typed_columns};
    use arrow_array::{Array, cast::AsArray, types::Float64Type, types::Int64Type};

    fn append(builder: &mut RowBuilder, payload: &[u8]) {
        Parser::default().with_nodes(payload, |nodes| builder.append(nodes));
    }

    /// The rows of one column `a` that follows `schema`, each as text.
    fn column(schema: &str, payloads: &[&str]) -> Vec<Option<String>> {
        let columns = typed_columns(&format!(r#"{{"properties":{{"a":{schema}}}}}"#), &[]);
        let mut builder = RowBuilder::new(&columns);
        payloads.iter().for_each(|payload| append(&mut builder, payload.as_bytes()));
        let array = builder.finish().remove(0);
        assert_eq!(array.len(), payloads.len());
        (0..array.len()).map(|row| text(&array, row)).collect()
    }

    fn text(array: &dyn Array, row: usize) -> Option<String> {
        array.is_valid(row).then(|| match array.data_type() {
            DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
            DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
            DataType::Boolean => array.as_boolean().value(row).to_string(),
            DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
            DataType::List(_) => {
                let list = array.as_list::<i32>().value(row);
                format!("{:?}", (0..list.len()).map(|row| text(&list, row)).collect::<Vec<_>>())
            }
            DataType::Struct(_) => {
                let members = array.as_struct().columns();
                format!("{:?}", members.iter().map(|member| text(member, row)).collect::<Vec<_>>())
            }
            other => panic!("{other}"),
        })
    }

    fn check(schema: &str, cases: &[(&str, Option<&str>)]) {
        let payloads: Vec<String> = cases.iter().map(|(value, _)| format!(r#"{{"a":{value}}}"#)).collect();
        let rows = column(schema, &payloads.iter().map(String::as_str).collect::<Vec<_>>());
        for ((value, expected), row) in cases.iter().zip(rows) {
            assert_eq!(row.as_deref(), *expected, "{value} as {schema}");
        }
    }

    #[test]
    fn integers() {
        check(
            r#"{"type":"integer"}"#,
            &[
                ("0", Some("0")),
                ("-7", Some("-7")),
                ("1.0", Some("1")),
                ("1e2", Some("100")),
                ("-0.0", Some("0")),
                ("1.5", None),
                ("9223372036854775807", Some("9223372036854775807")),
                ("-9223372036854775808", Some("-9223372036854775808")),
                ("-9223372036854775808.0", Some("-9223372036854775808")),
                ("9223372036854775808", None),
                ("18446744073709551615", None),
                ("18446744073709551616", None),
                ("123456789012345678901234567890", None),
                ("-123456789012345678901234567890", None),
                ("1e300", None),
                ("1e999", None),
                ("null", None),
                ("\"1\"", None),
                ("true", None),
                ("[1]", None),
                ("{}", None),
            ],
        );
    }

    #[test]
    fn doubles_booleans_and_text() {
        check(
            r#"{"type":"number"}"#,
            &[
                ("1", Some("1.0")),
                ("-2.5e-3", Some("-0.0025")),
                ("9007199254740993", Some("9007199254740992.0")),
                ("123456789012345678901234567890", Some("1.2345678901234568e29")),
                ("\"1\"", None),
                ("null", None),
            ],
        );
        check(
            r#"{"type":"boolean"}"#,
            &[("true", Some("true")), ("false", Some("false")), ("0", None), ("\"true\"", None)],
        );
        check(
            r#"{"type":"string"}"#,
            &[
                (r#""""#, Some("")),
                (r#""ü 漢 🦀""#, Some("ü 漢 🦀")),
                (r#""\u00fc\ud83e\udd80\n\"\\\/""#, Some("ü🦀\n\"\\/")),
                (r#""\u0000""#, Some("\0")),
                (r#""\ud800""#, None),
                ("1", None),
                ("null", None),
                ("[\"x\"]", None),
            ],
        );
    }

    #[test]
    fn json_text() {
        check(
            "{}",
            &[
                ("null", None),
                (" 1 ", Some("1")),
                (r#""x\ty\u0001\"""#, Some(r#""x\ty\u0001\"""#)),
                (
                    r#"{ "k" : [ 1 , -2.5 , null , true , { } , [ ] , "é" ] , "l" : {"m":1e2} }"#,
                    Some(r#"{"k":[1,-2.5,null,true,{},[],"é"],"l":{"m":100.0}}"#),
                ),
            ],
        );
    }

    #[test]
    fn structs_and_lists() {
        let point = r#"{"properties":{"x":{"type":"integer"},"y":{"type":"integer"}}}"#;
        check(
            point,
            &[
                (r#"{"x":1,"y":2}"#, Some(r#"[Some("1"), Some("2")]"#)),
                (r#"{"y":2,"other":{"x":[{"x":9}]},"x":1}"#, Some(r#"[Some("1"), Some("2")]"#)),
                (r#"{"x":1,"x":3}"#, Some(r#"[Some("3"), None]"#)),
                (r#"{"\u0078":1}"#, Some(r#"[Some("1"), None]"#)),
                ("{}", Some("[None, None]")),
                ("[]", None),
                ("null", None),
                ("1", None),
            ],
        );
        check(
            &format!(r#"{{"type":"array","items":{point}}}"#),
            &[
                (
                    r#"[{"x":1},2,null,{"y":{}}]"#,
                    Some(r#"[Some("[Some(\"1\"), None]"), None, None, Some("[None, None]")]"#),
                ),
                ("[]", Some("[]")),
                ("{}", None),
                (r#"[{"y":5}]"#, Some(r#"[Some("[None, Some(\"5\")]")]"#)),
            ],
        );
        check(
            r#"{"type":"array","items":{"type":"array","items":{"type":"string"}}}"#,
            &[(
                r#"[["a"],[],["b","c"]]"#,
                Some(r#"[Some("[Some(\"a\")]"), Some("[]"), Some("[Some(\"b\"), Some(\"c\")]")]"#),
            )],
        );
    }

    #[test]
    fn what_is_no_record_is_null_and_harms_no_other_row() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
        let deep_object = format!("{}1{}", r#"{"a":"#.repeat(20_000), "}".repeat(20_000));
        let bad = [
            "",
            " ",
            "null",
            "1",
            "\"a\"",
            "[]",
            "{",
            r#"{"a":"#,
            r#"{"a":1"#,
            "nan",
            r#"{"b":1}"#,
            &deep,
            &deep_object,
        ];
        for schema in [r#"{"type":"integer"}"#, "{}"] {
            let mut payloads = vec![r#"{"a":1}"#];
            for bad in bad {
                payloads.push(bad);
                payloads.push(r#"{"z":0,"a":2}"#);
            }
            for (payload, row) in payloads.iter().zip(column(schema, &payloads)) {
                let expected = match *payload {
                    r#"{"a":1}"# => Some("1"),
                    r#"{"z":0,"a":2}"# => Some("2"),
                    _ => None,
                };
                assert_eq!(row.as_deref(), expected, "{:.40}", payload);
            }
        }
        let mut builder = RowBuilder::new(&typed_columns(r#"{"properties":{"a":{}}}"#, &[]));
        append(&mut builder, b"{\"a\":\"\xff\"}");
        assert_eq!(builder.finish()[0].null_count(), 1);
    }

    #[test]
    fn a_builder_goes_on_after_finish() {
        let columns = typed_columns(r#"{"properties":{"l":{"type":"array","items":{"type":"integer"}}}}"#, &[]);
        let mut builder = RowBuilder::new(&columns);
        for round in 1..4 {
            for row in 0..round {
                append(&mut builder, format!(r#"{{"l":[{row}]}}"#).as_bytes());
            }
            let array = builder.finish().remove(0);
            assert_eq!(array.len(), round);
            assert_eq!(array.as_list::<i32>().values().len(), round);
        }
    }
}

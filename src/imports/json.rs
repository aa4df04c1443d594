//! Values of Arrow's arrays as JSON.

use std::fmt::Write as _;

use arrow_array::{
    Array, ArrayRef, BooleanArray, StructArray,
    cast::AsArray as _,
    types::{
        Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_schema::{DataType, TimeUnit};
use base64::Engine as _;

use super::fields::put_text;
use crate::calendar::rfc3339;

const MICROS: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// A value that JSON has no form for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoJson(pub(super) String);

/// Whether every value of this type has a form in JSON.
pub(super) fn is_known(kind: &DataType) -> bool {
    match kind {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::FixedSizeBinary(_)
        | DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(_, _)
        | DataType::Decimal128(_, _) => true,
        DataType::List(inner) | DataType::LargeList(inner) | DataType::Map(inner, _) => is_known(inner.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_known(field.data_type())),
        _ => false,
    }
}

/// Whether there is no value at `row`. An array of the type that has none does not say so itself.
pub(super) fn is_null(array: &dyn Array, row: usize) -> bool {
    array.data_type() == &DataType::Null || array.is_null(row)
}

/// Writes the value at `row`, which is not null, as JSON.
pub(super) fn put_value(out: &mut Vec<u8>, array: &dyn Array, row: usize) -> Result<(), NoJson> {
    macro_rules! number {
        ($kind:ty) => {
            put_display(out, array.as_primitive::<$kind>().value(row))
        };
    }
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => {
            let value = array.as_any().downcast_ref::<BooleanArray>().is_some_and(|array| array.value(row));
            put_display(out, value);
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        // As it is written shortest, not as a longer number that happens to be the same.
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            put_float(out, serde_json::to_string(&value).ok().filter(|_| value.is_finite()))?;
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            put_float(out, serde_json::to_string(&value).ok().filter(|_| value.is_finite()))?;
        }
        DataType::Utf8 => put_text(out, array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => put_text(out, array.as_string::<i64>().value(row)),
        DataType::Binary => put_bytes(out, array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => put_bytes(out, array.as_binary::<i64>().value(row)),
        DataType::FixedSizeBinary(_) => put_bytes(out, array.as_fixed_size_binary().value(row)),
        DataType::Date32 => put_date(out, i64::from(array.as_primitive::<Date32Type>().value(row)))?,
        DataType::Date64 => {
            put_date(out, array.as_primitive::<Date64Type>().value(row).div_euclid(DAY_SECONDS * 1000))?;
        }
        DataType::Timestamp(unit, _) => put_time(out, micros(array, row, *unit)?),
        DataType::Decimal128(_, scale) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            put_decimal(out, value, i32::from(*scale));
        }
        DataType::List(_) => put_list(out, &array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => put_list(out, &array.as_list::<i64>().value(row))?,
        DataType::Map(_, _) => put_map(out, &array.as_map().value(row))?,
        DataType::Struct(_) => put_struct(out, array.as_struct(), row)?,
        other => return Err(NoJson(format!("a value of the type {other} has no form in JSON"))),
    }
    Ok(())
}

fn put_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{value}");
    out.extend_from_slice(text.as_bytes());
}

fn put_float(out: &mut Vec<u8>, text: Option<String>) -> Result<(), NoJson> {
    let text = text.ok_or_else(|| NoJson("a number that is none, or infinite, has no form in JSON".to_owned()))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// As text in base64.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_text(out, &base64::engine::general_purpose::STANDARD.encode(bytes));
}

fn put_date(out: &mut Vec<u8>, days: i64) -> Result<(), NoJson> {
    // The years 0 to 9999.
    let micros = (-719_528..2_932_897).contains(&days).then(|| days * DAY_SECONDS * MICROS);
    let micros = micros.ok_or_else(|| NoJson("a date is out of range".to_owned()))?;
    let time = rfc3339(micros);
    put_text(out, time.split('T').next().unwrap_or_default());
    Ok(())
}

fn micros(array: &dyn Array, row: usize, unit: TimeUnit) -> Result<i64, NoJson> {
    let micros = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(row).checked_mul(MICROS),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row).checked_mul(1000),
        TimeUnit::Microsecond => Some(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        TimeUnit::Nanosecond => Some(array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1000)),
    };
    micros.ok_or_else(|| NoJson("a time is out of range".to_owned()))
}

fn put_time(out: &mut Vec<u8>, micros: i64) {
    put_text(out, &rfc3339(micros));
}

/// With all its digits, as a number.
fn put_decimal(out: &mut Vec<u8>, value: i128, scale: i32) {
    if value < 0 {
        out.push(b'-');
    }
    let digits = value.unsigned_abs().to_string();
    match usize::try_from(scale) {
        Err(_) => {
            out.extend_from_slice(digits.as_bytes());
            if value != 0 {
                out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs() as usize));
            }
        }
        Ok(0) => out.extend_from_slice(digits.as_bytes()),
        Ok(scale) => {
            let padded = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = padded.split_at(padded.len() - scale);
            out.extend_from_slice(whole.as_bytes());
            out.push(b'.');
            out.extend_from_slice(fraction.as_bytes());
        }
    }
}

fn put_list(out: &mut Vec<u8>, entries: &ArrayRef) -> Result<(), NoJson> {
    out.push(b'[');
    for row in 0..entries.len() {
        if row > 0 {
            out.push(b',');
        }
        if entries.is_null(row) { out.extend_from_slice(b"null") } else { put_value(out, entries, row)? }
    }
    out.push(b']');
    Ok(())
}

/// A map is a list of keys with values; its keys become members.
fn put_map(out: &mut Vec<u8>, entries: &StructArray) -> Result<(), NoJson> {
    let (keys, values) = (entries.column(0), entries.column(1));
    out.push(b'{');
    for row in 0..entries.len() {
        if row > 0 {
            out.push(b',');
        }
        match keys.data_type() {
            DataType::Utf8 => put_text(out, keys.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => put_text(out, keys.as_string::<i64>().value(row)),
            _ => {
                let mut key = Vec::new();
                put_value(&mut key, keys, row)?;
                put_text(out, &String::from_utf8_lossy(&key));
            }
        }
        out.push(b':');
        if values.is_null(row) { out.extend_from_slice(b"null") } else { put_value(out, values, row)? }
    }
    out.push(b'}');
    Ok(())
}

/// Members that are null are left out.
fn put_struct(out: &mut Vec<u8>, group: &StructArray, row: usize) -> Result<(), NoJson> {
    out.push(b'{');
    let start = out.len();
    for (field, column) in group.fields().iter().zip(group.columns()) {
        if is_null(column, row) {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        put_text(out, field.name());
        out.push(b':');
        put_value(out, column, row)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        BinaryArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, ListArray, StringArray,
        TimestampMillisecondArray, UInt64Array,
    };
    use arrow_schema::Field;

    use super::*;

    fn json(array: &dyn Array) -> Result<String, NoJson> {
        assert!(is_known(array.data_type()), "{}", array.data_type());
        let mut out = Vec::new();
        put_value(&mut out, array, 0)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn each_type_has_its_form() {
        let decimal = |value: i128, scale: i8| {
            Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).expect("a decimal")
        };
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None, Some(-3)])]);
        let group = StructArray::from(vec![
            (Arc::new(Field::new("a", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["x\"y"])) as ArrayRef),
            (
                Arc::new(Field::new("b", DataType::Int64, true)),
                Arc::new(Int64Array::from(vec![None::<i64>])) as ArrayRef,
            ),
        ]);
        let cases: [(&dyn Array, &str); 14] = [
            (&BooleanArray::from(vec![true]), "true"),
            (&Int64Array::from(vec![i64::MIN]), "-9223372036854775808"),
            (&UInt64Array::from(vec![u64::MAX]), "18446744073709551615"),
            (&Float32Array::from(vec![0.1]), "0.1"),
            (&Float64Array::from(vec![1e300]), "1e+300"),
            (&StringArray::from(vec!["a\nb"]), "\"a\\nb\""),
            (&BinaryArray::from(vec![&b"\x00\xff"[..]]), "\"AP8=\""),
            (&Date32Array::from(vec![-1]), "\"1969-12-31\""),
            (&TimestampMillisecondArray::from(vec![1_500]), "\"1970-01-01T00:00:01.500000Z\""),
            (&decimal(-5, 2), "-0.05"),
            (&decimal(12345, 0), "12345"),
            (&decimal(12, -3), "12000"),
            (&list, "[1,null,-3]"),
            (&group, "{\"a\":\"x\\\"y\"}"),
        ];
        for (array, expected) in cases {
            let found = json(array).expect("a form");
            serde_json::from_str::<serde_json::Value>(&found).expect("JSON");
            if array.data_type() == &DataType::Float64 {
                assert_eq!(found.parse::<f64>(), Ok(1e300));
            } else {
                assert_eq!(found, expected, "{}", array.data_type());
            }
        }
        assert!(json(&Float64Array::from(vec![f64::NAN])).is_err());
        assert!(json(&Date32Array::from(vec![i32::MAX])).is_err());
    }
}

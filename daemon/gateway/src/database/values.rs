//! Values of PostgreSQL as JSON, and back. Its manual, chapter 8, for the texts of types.
//!
//! Integers, floats, booleans, JSON and arrays of these become what they are in JSON; `numeric` stays a
//! text, so that no digit is lost, and times become RFC 3339. All else is the text that PostgreSQL writes.

use super::names::literal;
use serde_json::Value;
use tokio_postgres::types::{Kind, Type};

/// Deeper arrays stay text.
const MAX_DEPTH: usize = 16;

/// A value's text as JSON.
pub(super) fn to_json(kind: &Type, text: Option<&str>) -> Value {
    let Some(text) = text else { return Value::Null };
    match kind.kind() {
        Kind::Array(inner) => array(inner, text).unwrap_or_else(|| text.into()),
        Kind::Domain(inner) => to_json(inner, Some(text)),
        _ => scalar(kind, text),
    }
}

fn scalar(kind: &Type, text: &str) -> Value {
    match *kind {
        Type::BOOL => Value::Bool(text == "t"),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
        // NaN and the infinities have no number in JSON.
        Type::FLOAT4 | Type::FLOAT8 => match text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            Some(number) => number.into(),
            None => text.into(),
        },
        Type::JSON | Type::JSONB => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        Type::TIMESTAMP => rfc3339(text, "").into(),
        Type::TIMESTAMPTZ => rfc3339(text, "+00").into(),
        _ => text.into(),
    }
}

/// `2026-11-27 08:00:00.5+00` with a `T` and a full offset; the session's zone is UTC. Infinities and years
/// that RFC 3339 does not have stay as they are.
fn rfc3339(text: &str, offset: &str) -> String {
    let bytes = text.as_bytes();
    let plain = bytes.len() >= 19 && bytes[10] == b' ' && !text.ends_with("BC");
    match text.strip_suffix(offset) {
        Some(time) if plain => {
            let zone = if offset.is_empty() { "" } else { "+00:00" };
            format!("{}T{}{zone}", &time[..10], &time[11..])
        }
        _ => text.to_owned(),
    }
}

/// `{1,2,"a b",NULL}`; none when it has bounds of its own or is not an array's text.
fn array(inner: &Type, text: &str) -> Option<Value> {
    // The one type whose arrays are not written with commas.
    if *inner == Type::BOX {
        return None;
    }
    let mut rest = text;
    let value = elements(inner, &mut rest, 0)?;
    rest.is_empty().then_some(value)
}

fn elements(inner: &Type, rest: &mut &str, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    *rest = rest.strip_prefix('{')?;
    let mut values = Vec::new();
    if let Some(after) = rest.strip_prefix('}') {
        *rest = after;
        return Some(Value::Array(values));
    }
    loop {
        values.push(match rest.chars().next()? {
            '{' => elements(inner, rest, depth + 1)?,
            '"' => to_json(inner, Some(&quoted(rest)?)),
            _ => {
                let end = rest.find([',', '}'])?;
                let (word, after) = rest.split_at(end);
                *rest = after;
                if word == "NULL" { Value::Null } else { to_json(inner, Some(word)) }
            }
        });
        let next = rest.chars().next()?;
        *rest = &rest[next.len_utf8()..];
        match next {
            ',' => {}
            '}' => return Some(Value::Array(values)),
            _ => return None,
        }
    }
}

fn quoted(rest: &mut &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(value);
            }
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// A parameter as a literal of SQL, whose type the statement decides.
pub(super) fn to_literal(kind: &Type, value: &Value) -> String {
    match to_text(kind, value) {
        Some(text) => literal(&text),
        None => "NULL".to_owned(),
    }
}

fn to_text(kind: &Type, value: &Value) -> Option<String> {
    let inner = match kind.kind() {
        Kind::Array(inner) => Some(inner),
        _ => None,
    };
    Some(match (value, inner) {
        (Value::Null, _) => return None,
        // For a JSON parameter a text is JSON, as every client's is.
        (Value::String(text), _) => text.clone(),
        (Value::Array(values), Some(inner)) => {
            let element = |value: &Value| match value {
                // Arrays of arrays have the type of arrays.
                Value::Array(_) if !matches!(*inner, Type::JSON | Type::JSONB) => to_text(kind, value),
                value => {
                    to_text(inner, value).map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
                }
            };
            let texts: Vec<String> =
                values.iter().map(|value| element(value).unwrap_or_else(|| "NULL".to_owned())).collect();
            format!("{{{}}}", texts.join(","))
        }
        (value, _) => value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn texts_become_what_they_are_in_json() {
        let cases = [
            (Type::BOOL, "t", json!(true)),
            (Type::INT4, "-7", json!(-7)),
            (Type::INT8, "9223372036854775807", json!(9_223_372_036_854_775_807_i64)),
            (Type::FLOAT8, "1.5", json!(1.5)),
            (Type::FLOAT8, "NaN", json!("NaN")),
            (Type::NUMERIC, "1.10", json!("1.10")),
            (Type::TEXT, "t", json!("t")),
            (Type::JSONB, "{\"a\": [1, null]}", json!({"a": [1, null]})),
            (Type::TIMESTAMPTZ, "2026-11-27 08:00:00.5+00", json!("2026-11-27T08:00:00.5+00:00")),
            (Type::TIMESTAMP, "2026-11-27 08:00:00", json!("2026-11-27T08:00:00")),
            (Type::TIMESTAMPTZ, "infinity", json!("infinity")),
            (Type::TIMESTAMPTZ, "0044-03-15 00:00:00+00 BC", json!("0044-03-15 00:00:00+00 BC")),
            (Type::INT4_ARRAY, "{1,NULL,{2}}", json!([1, null, [2]])),
            (Type::INT4_ARRAY, "{}", json!([])),
            (Type::TEXT_ARRAY, r#"{a,"b \"c\\",NULL,"NULL",""}"#, json!(["a", "b \"c\\", null, "NULL", ""])),
            (Type::JSONB_ARRAY, r#"{"{\"a\": 1}"}"#, json!([{"a": 1}])),
            (Type::INT4_ARRAY, "[0:1]={1,2}", json!("[0:1]={1,2}")),
        ];
        for (kind, text, value) in cases {
            assert_eq!(to_json(&kind, Some(text)), value, "{kind}: {text}");
        }
        assert_eq!(to_json(&Type::TEXT, None), Value::Null);
    }

    #[test]
    fn parameters_become_texts_of_their_types() {
        let cases = [
            (Type::TEXT, json!(null), "NULL"),
            (Type::TEXT, json!("it's"), "'it''s'"),
            (Type::INT4, json!(5), "'5'"),
            (Type::INT4, json!("5); DROP TABLE t; --"), "'5); DROP TABLE t; --'"),
            (Type::BOOL, json!(true), "'true'"),
            (Type::JSONB, json!({"a": "b'"}), "'{\"a\":\"b''\"}'"),
            (Type::JSONB, json!([1, 2]), "'[1,2]'"),
            (Type::INT4_ARRAY, json!([1, null, 3]), "'{\"1\",NULL,\"3\"}'"),
            (Type::INT4_ARRAY, json!([[1], [2]]), "'{{\"1\"},{\"2\"}}'"),
            (Type::TEXT_ARRAY, json!(["a\"b", "\\"]), " E'{\"a\\\\\"b\",\"\\\\\\\\\"}'"),
            (Type::TEXT, json!({"a": 1}), "'{\"a\":1}'"),
        ];
        for (kind, value, text) in cases {
            assert_eq!(to_literal(&kind, &value), text, "{kind}: {value}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[{},\"\\\\NULa0-9\\[\\]=:é]{0,40}|\\PC{0,30}") {
            for kind in [Type::TEXT_ARRAY, Type::INT4_ARRAY, Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::JSONB] {
                let _value = to_json(&kind, Some(&text));
            }
        }
    }
}

//! A strict parser for the JSON of clients and webhooks.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Number, Value};
use std::{fmt, marker::PhantomData};

/// Why a text was not parsed.
#[derive(Debug)]
pub(crate) enum JsonError {
    /// The text is not JSON.
    Syntax(serde_json::Error),
    /// An object has two members of the same name. RFC 8259 leaves open which one applies, so another parser may return
    /// another value for the same text.
    DuplicateKey {
        /// The member's name.
        key: String,
        /// The member's JSON pointer.
        pointer: String,
    },
}

/// How the parser treats an object with a duplicate key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DuplicateKeys {
    /// The parser rejects the text, before the request has any effect.
    Reject,
    /// The last one applies, as in most parsers. For webhooks: their senders cannot change them, and a rejected webhook
    /// is lost.
    LastWins,
}

/// Parses any JSON.
///
/// [`Value`]'s own implementation never rejects a duplicate key. Also, if a crate of the build enables serde_json's
/// `raw_value`, it treats an object with the member `$serde_json::private::RawValue` as JSON in a string. Each such
/// string has its own depth limit, so a small body could nest deeper than the stack.
pub(crate) fn parse(bytes: &[u8], duplicate_keys: DuplicateKeys) -> Result<Value, JsonError> {
    let mut duplicate = None;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = DuplicateKeyReader { duplicate_keys, found: &mut duplicate }.deserialize(&mut deserializer);
    let read = read.and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| match duplicate {
        Some(Duplicate { key, path }) => {
            JsonError::DuplicateKey { key, pointer: path.iter().rev().map(String::as_str).collect() }
        }
        None => JsonError::Syntax(error),
    })
}

/// A duplicate key of an object.
struct Duplicate {
    key: String,
    /// The segments of its JSON pointer, the last one first: each level adds its own when it returns the error, so that
    /// a body without duplicates has no overhead.
    path: Vec<String>,
}

/// Parses a value and records the first duplicate key in it.
struct DuplicateKeyReader<'a> {
    duplicate_keys: DuplicateKeys,
    found: &'a mut Option<Duplicate>,
}

impl DuplicateKeyReader<'_> {
    fn inner(&mut self) -> DuplicateKeyReader<'_> {
        DuplicateKeyReader { duplicate_keys: self.duplicate_keys, found: self.found }
    }

    /// Adds a segment to the pointer of a duplicate that a deeper level found.
    fn push_segment(&mut self, step: impl FnOnce() -> String) {
        if let Some(duplicate) = self.found {
            duplicate.path.push(step());
        }
    }
}

impl<'de> DeserializeSeed<'de> for DuplicateKeyReader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DuplicateKeyReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        loop {
            match items.next_element_seed(self.inner()) {
                Ok(Some(item)) => read.push(item),
                Ok(None) => return Ok(Value::Array(read)),
                Err(error) => {
                    self.push_segment(|| format!("/{}", read.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if self.duplicate_keys == DuplicateKeys::Reject && read.contains_key(&name) {
                let path = vec![pointer_segment(&name)];
                *self.found = Some(Duplicate { key: name, path });
                return Err(serde::de::Error::custom("duplicate key"));
            }
            match fields.next_value_seed(self.inner()) {
                Ok(value) => read.insert(name, value),
                Err(error) => {
                    self.push_segment(|| pointer_segment(&name));
                    return Err(error);
                }
            };
        }
        Ok(Value::Object(read))
    }
}

/// A value that must be an object: by default, serde also deserializes a struct from an array of its fields.
#[derive(Debug)]
pub(crate) struct JsonObject<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(JsonObject)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// Returns the missing or duplicate field, which serde names only in its message.
pub(crate) fn field_in_message(message: &str) -> Option<&str> {
    let field = message.strip_prefix("missing field `").or_else(|| message.strip_prefix("duplicate field `"));
    field?.strip_suffix('`')
}

/// Converts a path to a JSON pointer (RFC 6901).
pub(crate) fn to_json_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => pointer_segment(key),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// Formats a segment of a JSON pointer.
pub(crate) fn pointer_segment(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
        super::parse(bytes, DuplicateKeys::Reject)
    }

    #[test]
    fn valid_json_is_read_unchanged() {
        for text in [
            r#"{"a":[1,-1,1.5,"é",null,true,{}],"b":18446744073709551615}"#,
            "[[]]",
            "null",
            "-9223372036854775808",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
        for (text, what) in [("[".repeat(200), "recursion"), ("{} {}".to_owned(), "trailing")] {
            let Err(JsonError::Syntax(error)) = parse(text.as_bytes()) else { panic!("{text} was parsed") };
            assert!(error.to_string().contains(what), "{error}");
        }
        let hidden = r#"{"$serde_json::private::RawValue":"[1]"}"#;
        assert!(parse(hidden.as_bytes()).unwrap().is_object(), "the string is not parsed as JSON");
    }

    #[test]
    fn duplicate_key_is_rejected() {
        for (text, key, pointer) in [
            (r#"{"a":1,"a":1}"#, "a", "/a"),
            (r#"{"a":1,"\u0061":2}"#, "a", "/a"),
            (r#"{"":0,"":0}"#, "", "/"),
            (r#"{"a":{"b":[0,[],{"c/d~e":0,"x":{"y":1},"c/d~e":0}]}}"#, "c/d~e", "/a/b/2/c~1d~0e"),
            (r#"[{"a":1},{"a":{"a":{"a":1,"b":2,"a":3}}}]"#, "a", "/1/a/a/a"),
        ] {
            let Err(JsonError::DuplicateKey { key: found, pointer: at }) = parse(text.as_bytes()) else {
                panic!("{text} was parsed");
            };
            assert_eq!((found.as_str(), at.as_str()), (key, pointer), "{text}");
        }
    }

    #[test]
    fn equal_keys_of_different_objects_are_accepted() {
        let text = r#"[{"a":{"a":1}},{"a":[{"a":2},{"a":3}]}]"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn last_of_equal_keys_wins_in_a_webhook() {
        let read = super::parse(br#"{"a":1,"b":{"c":1,"c":2},"a":3}"#, DuplicateKeys::LastWins).unwrap();
        assert_eq!(read, serde_json::json!({"a": 3, "b": {"c": 2}}));
    }
}

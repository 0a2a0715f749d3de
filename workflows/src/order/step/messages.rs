//! Decodes signals. A malformed signal is reported in the timeline and ignored: as a typed argument, one mistyped
//! signal from a terminal would fail the order's workflow tasks forever.

use serde::de::DeserializeOwned;
use temporalio_common::data_converters::RawValue;

/// Maximum number of characters of a text that the timeline stores.
const TEXT_CHARS_MAX: usize = 500;

pub(crate) fn decode<T: DeserializeOwned>(input: &RawValue) -> Result<T, String> {
    let payload = input.payloads.first().ok_or("the payload is missing")?;
    serde_json::from_slice(&payload.data).map_err(|e| sanitize(&e.to_string()))
}

/// Like [`decode`], but a missing payload means an empty object.
pub(crate) fn decode_or_default<T: DeserializeOwned>(input: &RawValue) -> Result<T, String> {
    match input.payloads.first() {
        Some(payload) if !payload.data.is_empty() && payload.data != b"null" => decode(input),
        _ => serde_json::from_str("{}").map_err(|e| e.to_string()),
    }
}

/// Returns a text as the timeline stores it: limited, and without control characters. Postgres cannot store a NUL, and
/// an event that cannot be stored would block everything after it.
pub(crate) fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bounded_and_stripped_of_control_characters() {
        assert_eq!(sanitize("a\u{0}b\u{7}c"), "abc");
        assert_eq!(sanitize(&"x".repeat(600)).len(), TEXT_CHARS_MAX);
    }
}

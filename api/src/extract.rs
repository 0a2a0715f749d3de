//! Extractors for bodies, paths, queries and headers; their errors name the field and the fix.

use crate::{
    answers::KEY_CHARS_MAX,
    json::{self, DuplicateKeys, JsonError, JsonObject, field_in_message, pointer_segment, to_json_pointer},
    problem::{FieldError, Problem},
    state::App,
};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_ENCODING, CONTENT_TYPE},
        request::Parts,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{error::Error, fmt::Display, str::FromStr, time::Duration};
use tokio::time::timeout;

/// The maximum size of a body: twice that of 200 lines with SKUs of 100 ASCII characters.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Timeout for receiving a body: a client that has disappeared would otherwise hold its permit indefinitely.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many characters of a JSON key an error message shows: more than any key of Waybill's has.
const KEY_CHARS_SHOWN_MAX: usize = 64;

/// Rejects a body with a content coding: the API decodes none, and an encoded body would only look like invalid JSON.
fn check_content_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let is_identity = |value: &HeaderValue| {
        let codings = value.to_str().unwrap_or("?");
        // An empty list names no coding.
        codings.split(',').map(str::trim).all(|name| name.is_empty() || name.eq_ignore_ascii_case("identity"))
    };
    if headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        Ok(())
    } else {
        Err(Problem::content_encoding())
    }
}

/// The raw body, at most [`BODY_BYTES_MAX`] long.
pub(crate) struct RawBody(pub(crate) Bytes);

impl FromRequest<App> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _app: &App) -> Result<Self, Problem> {
        let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
        let body = timeout(BODY_WAIT_MAX, body).await.map_err(|_| Problem::too_slow(BODY_WAIT_MAX))?;
        body.map(Self).map_err(|_| Problem::body_too_large(BODY_BYTES_MAX))
    }
}

/// A JSON body and its fingerprint.
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) fingerprint: [u8; 32],
}

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type != "application/json" && !media_type.ends_with("+json") {
            return Err(Problem::not_json());
        }
        check_content_encoding(request.headers())?;
        let RawBody(bytes) = RawBody::from_request(request, app).await?;
        Self::parse(&bytes, DuplicateKeys::Reject)
    }
}

impl<T: DeserializeOwned> JsonBody<T> {
    pub(crate) fn parse(bytes: &[u8], duplicate_keys: DuplicateKeys) -> Result<Self, Problem> {
        // The first pass parses any JSON, which distinguishes invalid JSON from an invalid field. The fingerprint and
        // the second pass use its value, so white space and the order of fields do not change the fingerprint.
        let any = json::parse(bytes, duplicate_keys).map_err(|error| match error {
            JsonError::Syntax(error) => Problem::malformed("", format!("the body is not JSON: {error}")),
            JsonError::DuplicateKey { key, pointer } => {
                let key: String = key.chars().take(KEY_CHARS_SHOWN_MAX).collect();
                Problem::malformed(pointer, format!("duplicate key {key:?}"))
            }
        })?;
        let fingerprint = Sha256::digest(any.to_string().as_bytes()).into();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(any, &mut track);
        let JsonObject(value) = JsonObject::<T>::deserialize(tracked).map_err(|error| {
            let detail = error.to_string();
            let pointer = to_json_pointer(&track.path())
                + &field_in_message(&detail).map(pointer_segment).unwrap_or_default();
            Problem::malformed(pointer, detail)
        })?;
        Ok(Self { value, fingerprint })
    }
}

/// A parsed path segment. One that cannot be parsed is a 404, whose detail states the rule that it breaks.
pub(crate) struct PathParam<T>(pub(crate) T);

impl<T: FromStr<Err: Display>> FromRequestParts<App> for PathParam<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|_| Problem::route_not_found())?;
        text.parse().map(Self).map_err(|error: T::Err| Problem::unreadable_id(&error))
    }
}

/// Query parameters; unknown ones are rejected by name.
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Query::<T>::from_request_parts(parts, app).await.map(|Query(value)| Self(value)).map_err(
            |rejection| match query_error(&rejection) {
                Some(field_errors) => {
                    let (path, detail) = (field_errors.path().to_string(), field_errors.inner().to_string());
                    Problem::malformed(field_in_message(&detail).unwrap_or(&path), detail.as_str())
                }
                None => Problem::malformed("query", rejection.to_string()),
            },
        )
    }
}

/// Returns the error of the invalid parameter, which axum has among the causes.
fn query_error<'e>(
    error: &'e (dyn Error + 'static),
) -> Option<&'e serde_path_to_error::Error<serde::de::value::Error>> {
    error.downcast_ref().or_else(|| query_error(error.source()?))
}

/// The maximum length of a reason: about as much as a timeline shows of it.
const REASON_CHARS_MAX: usize = 200;

/// Validates a free-text reason. Postgres cannot store NUL, so one would block an order.
pub(crate) fn validate_reason(reason: &str) -> Option<FieldError> {
    let field_errors = reason.trim().is_empty()
        || reason.chars().count() > REASON_CHARS_MAX
        || reason.chars().any(char::is_control);
    field_errors.then(|| FieldError {
        pointer: "/reason".into(),
        detail: format!("must have 1 to {REASON_CHARS_MAX} characters, none of them a control character"),
    })
}

/// The client's idempotency key.
pub(crate) struct IdempotencyKey(pub(crate) String);

impl FromRequestParts<App> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Problem> {
        header(&parts.headers, "idempotency-key")
            // The IETF draft specifies a quoted string; most clients send it bare. Both are the same key.
            .map(|key| key.trim_matches('"'))
            .filter(|key| {
                !key.is_empty() && key.len() <= KEY_CHARS_MAX && key.bytes().all(|b| (32..127).contains(&b))
            })
            .map(|key| Self(key.to_owned()))
            .ok_or_else(Problem::key_missing)
    }
}

/// Returns a header's text.
pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        quantity: u32,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        lines: Vec<Inner>,
    }

    fn problem_json(body: &str) -> serde_json::Value {
        let problem = JsonBody::<Outer>::parse(body.as_bytes(), DuplicateKeys::Reject).err().unwrap();
        serde_json::to_value(&problem).unwrap()
    }

    #[test]
    fn invalid_field_is_reported_with_its_pointer() {
        assert_eq!(
            problem_json(r#"{"lines":[{"quantity":1},{"quantity":"x"}]}"#)["errors"][0]["pointer"],
            "/lines/1/quantity"
        );
        let unknown = problem_json(r#"{"lines":[{"quantity":1,"colour":"red"}]}"#);
        assert!(unknown["detail"].as_str().unwrap().contains("colour"), "{unknown}");
        assert_eq!(unknown["errors"][0]["pointer"], "/lines/0/colour");
        assert_eq!(problem_json(r#"{"lines":[{}]}"#)["errors"][0]["pointer"], "/lines/0/quantity");
        assert_eq!(problem_json("[[]]")["errors"][0]["pointer"], "", "an array is not an object");
        assert!(problem_json("{").to_string().contains("not JSON"));
        let duplicate = problem_json(r#"{"lines":[{"quantity":1},{"quantity":1,"quantity":2}]}"#);
        assert_eq!(duplicate["errors"][0]["pointer"], "/lines/1/quantity");
        assert!(duplicate["detail"].as_str().unwrap().contains("\"quantity\""), "{duplicate}");
    }

    #[test]
    fn whitespace_and_key_order_keep_the_fingerprint() {
        let fingerprint_of = |body: &str| {
            let body = JsonBody::<serde_json::Value>::parse(body.as_bytes(), DuplicateKeys::Reject);
            body.ok().unwrap().fingerprint
        };
        assert_eq!(fingerprint_of(r#"{"a":1,"b":2}"#), fingerprint_of(r#"{ "b": 2, "a": 1 }"#));
        assert_ne!(fingerprint_of(r#"{"a":1}"#), fingerprint_of(r#"{"a":2}"#));
    }

    #[test]
    fn encoded_body_is_rejected() {
        let allowed = |values: &[&str]| {
            let values = values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_str(value).unwrap()));
            check_content_encoding(&values.collect()).is_ok()
        };
        for values in [&[][..], &[""], &["identity"], &["Identity, identity"], &["identity", "identity"]] {
            assert!(allowed(values), "{values:?}");
        }
        for values in [&["gzip"][..], &["x-gzip"], &["identity, br"], &["identity", "deflate"], &["é"]] {
            assert!(!allowed(values), "{values:?}");
        }
    }
}

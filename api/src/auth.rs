//! Authentication by API key. The cache finds a caller by the hash of its key; the key itself is never stored.

use crate::{problem::Problem, state::App};
use axum::{
    extract::FromRequestParts,
    http::{header::AUTHORIZATION, request::Parts},
};
use waybill_store::keys::{self, Caller, Scope};

/// A caller with a valid key.
pub(crate) struct Authenticated(pub(crate) Caller);

impl Authenticated {
    /// Returns the caller, if the key has the scope.
    pub(crate) fn require(&self, scope: Scope) -> Result<&Caller, Problem> {
        if self.0.has_scope(scope) { Ok(&self.0) } else { Err(Problem::forbidden(scope.as_str())) }
    }
}

impl FromRequestParts<App> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let key = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim())
            .ok_or_else(Problem::unauthorized)?;
        let hash = keys::hash(key);
        if let Some(caller) = app.key_cache.get(&hash) {
            return Ok(Self(caller));
        }
        let epoch = app.key_cache.epoch();
        // Unknown keys are not cached, so that a new key works immediately.
        let caller = keys::find(&app.pool, &hash).await?.ok_or_else(Problem::unauthorized)?;
        app.key_cache.insert(epoch, hash, caller.clone());
        Ok(Self(caller))
    }
}

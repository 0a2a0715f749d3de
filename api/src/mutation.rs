//! The opening of a mutation that the client can retry: its caller, target, idempotency key and body.

use crate::{
    auth::Authenticated,
    extract::{IdempotencyKey, JsonBody, PathParam},
    problem::Problem,
    state::App,
};
use axum::extract::{FromRequest, FromRequestParts, Request};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{fmt::Display, str::FromStr};
use uuid::Uuid;
use waybill_domain::ids::MerchantId;
use waybill_store::{inbox::idempotency::RequestKey, keys::Scope};

/// A request that changes the resource `id` of the path. Extraction fails for the first invalid part, in this order:
/// authentication, path, idempotency key, body.
pub(crate) struct Mutation<Id, B> {
    caller: Authenticated,
    pub(crate) id: Id,
    pub(crate) body: B,
    key: String,
    fingerprint: [u8; 32],
}

impl<Id: FromStr<Err: Display> + Send, B: DeserializeOwned> FromRequest<App> for Mutation<Id, B> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let caller = Authenticated::from_request_parts(&mut parts, app).await?;
        let PathParam(id) = PathParam::from_request_parts(&mut parts, app).await?;
        let IdempotencyKey(key) = IdempotencyKey::from_request_parts(&mut parts, app).await?;
        let request = Request::from_parts(parts, body);
        let JsonBody { value: body, fingerprint } = JsonBody::from_request(request, app).await?;
        Ok(Self { caller, id, body, key, fingerprint })
    }
}

impl<Id, B> Mutation<Id, B> {
    /// The merchant of the caller, if the caller's key has the scope.
    pub(crate) fn require(&self, scope: Scope) -> Result<MerchantId, Problem> {
        Ok(self.caller.require(scope)?.merchant_id)
    }

    /// The key of this request about the resource `target`.
    pub(crate) fn request_key(&self, merchant: MerchantId, route: &'static str, target: Uuid) -> RequestKey {
        request_key(merchant, route, self.key.clone(), target, &self.fingerprint)
    }
}

/// The key of a request about one resource: the same key for another resource is another request.
pub(crate) fn request_key(
    merchant_id: MerchantId,
    route: &'static str,
    key: String,
    target: Uuid,
    body: &[u8; 32],
) -> RequestKey {
    let fingerprint = Sha256::new().chain_update(target.as_bytes()).chain_update(body).finalize().into();
    RequestKey { merchant_id, route, key, fingerprint }
}

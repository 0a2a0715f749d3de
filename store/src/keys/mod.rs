//! Merchants and their API keys, with the keys' scopes. A key is stored as its hash.
//! Tables: `merchants`, `api_keys`.

use crate::{Result, parse, postgres::notify};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use waybill_domain::ids::MerchantId;

/// A permission of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Place, cancel, decide and amend orders.
    OrdersWrite,
    /// Read and list orders.
    OrdersRead,
    /// Set and adjust stock.
    StockWrite,
    /// Operate on stuck orders.
    Operate,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] =
        [Self::OrdersWrite, Self::OrdersRead, Self::StockWrite, Self::Operate, Self::Admin];

    /// The pinned name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrdersWrite => "orders:write",
            Self::OrdersRead => "orders:read",
            Self::StockWrite => "stock:write",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// A text that is not the name of a scope.
#[derive(Debug, thiserror::Error)]
#[error("unknown scope {0:?}; one of orders:write, orders:read, stock:write, operate, admin")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;
    fn from_str(text: &str) -> std::result::Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// The caller of the API, with its permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's id, for audits and logs.
    pub key_id: Uuid,
    /// The merchant whose orders it can access.
    pub merchant_id: MerchantId,
    /// Its permissions.
    pub scopes: Vec<Scope>,
}

impl Caller {
    /// Returns whether the key has the scope, or all of them.
    pub fn has_scope(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// A key as shown to an operator.
#[derive(Debug)]
pub struct ApiKey {
    /// For `revoke`.
    pub id: Uuid,
    /// The merchant's name.
    pub merchant: String,
    /// The purpose of the key.
    pub name: String,
    /// Its permissions.
    pub scopes: Vec<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// Hashes a key; only the hash is stored.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Returns the merchant with that name, and creates it with `new_id` if there is none.
///
/// # Errors
/// When Postgres fails.
pub async fn ensure_merchant(pool: &PgPool, name: &str, new_id: Uuid) -> Result<MerchantId> {
    let id = sqlx::query_scalar!(
        "insert into merchants (id, name) values ($1, $2)
         on conflict on constraint merchants_name_unique do update set name = excluded.name returning id",
        new_id,
        name
    )
    .fetch_one(pool)
    .await?;
    Ok(MerchantId(id))
}

/// Stores a new key by its hash.
///
/// # Errors
/// When Postgres fails.
pub async fn create(
    pool: &PgPool,
    id: Uuid,
    merchant: MerchantId,
    name: &str,
    key: &str,
    scopes: &[Scope],
) -> Result<()> {
    let scopes: Vec<String> = scopes.iter().map(|s| s.as_str().to_owned()).collect();
    sqlx::query!(
        "insert into api_keys (id, merchant_id, name, key_hash, scopes) values ($1, $2, $3, $4, $5)",
        id,
        merchant.0,
        name,
        &hash(key)[..],
        &scopes
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The caller that has the key with this [`hash`], unless it was revoked or does not exist.
///
/// # Errors
/// When Postgres fails or holds an unknown scope.
pub async fn find(pool: &PgPool, wanted: &[u8; 32]) -> Result<Option<Caller>> {
    let row = sqlx::query!(
        "select id, merchant_id, key_hash, scopes from api_keys where key_hash = $1 and revoked_at is null",
        &wanted[..]
    )
    .fetch_optional(pool)
    .await?;
    // The index found it by hash; the comparison that grants access takes the same time for every hash.
    let Some(row) = row.filter(|r| bool::from(r.key_hash.as_slice().ct_eq(wanted))) else { return Ok(None) };
    let scopes = row.scopes.iter().map(|s| parse("API key scope", s.parse())).collect::<Result<_>>()?;
    Ok(Some(Caller { key_id: row.id, merchant_id: MerchantId(row.merchant_id), scopes }))
}

/// Every key, newest first.
///
/// # Errors
/// When Postgres fails.
pub async fn list(pool: &PgPool) -> Result<Vec<ApiKey>> {
    let rows = sqlx::query!(
        r#"select k.id, m.name as merchant, k.name, k.scopes,
                  k.created_at as "created_at: jiff_sqlx::Timestamp", k.revoked_at as "revoked_at: jiff_sqlx::Timestamp"
           from api_keys k join merchants m on m.id = k.merchant_id order by k.created_at desc"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| ApiKey {
            id: r.id,
            merchant: r.merchant,
            name: r.name,
            scopes: r.scopes,
            created_at: r.created_at.to_jiff(),
            revoked_at: r.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
        })
        .collect())
}

/// Revokes a key, and notifies every process to evict it from its cache. Returns whether there was an active key.
///
/// # Errors
/// When Postgres fails.
pub async fn revoke(pool: &PgPool, id: Uuid) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    let done =
        sqlx::query!("update api_keys set revoked_at = now() where id = $1 and revoked_at is null", id)
            .execute(&mut *tx)
            .await?;
    notify::notify_keys(&mut tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected() == 1)
}

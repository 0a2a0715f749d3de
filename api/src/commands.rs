//! The subcommands other than `serve`; they print to the terminal.
#![allow(clippy::print_stdout, reason = "these commands are interactive")]

use crate::config::{DatabaseArgs, KeysArgs, KeysCommand};
use anyhow::bail;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;
use waybill_store::keys;

/// Random bytes in a key: the length of its hash.
const KEY_BYTES: usize = 32;

/// Applies this release's migrations.
///
/// # Errors
/// When Postgres is unavailable or a migration fails.
pub async fn migrate(args: &DatabaseArgs) -> anyhow::Result<()> {
    let pool = waybill_store::connect(&args.database_url, 2)?;
    waybill_store::migrate(&pool).await?;
    tracing::info!("migrations applied");
    Ok(())
}

/// Creates, lists or revokes API keys.
///
/// # Errors
/// When Postgres is unavailable, or the key to revoke is not an active one.
pub async fn keys(args: &KeysArgs) -> anyhow::Result<()> {
    let pool = waybill_store::connect(&args.database.database_url, 2)?;
    match &args.verb {
        KeysCommand::Create { merchant, name, scopes } => {
            let merchant = keys::ensure_merchant(&pool, merchant, Uuid::now_v7()).await?;
            let mut secret = [0; KEY_BYTES];
            getrandom::fill(&mut secret)
                .map_err(|e| anyhow::anyhow!("failed to generate random bytes: {e}"))?;
            let key = format!("wb_{}", URL_SAFE_NO_PAD.encode(secret));
            keys::create(&pool, Uuid::now_v7(), merchant, name, &key, scopes).await?;
            println!("{key}");
        }
        KeysCommand::List => {
            for key in keys::list(&pool).await? {
                let state = key.revoked_at.map_or_else(|| "in use".to_owned(), |at| format!("revoked {at}"));
                println!("{}  {}  {}  [{}]  {state}", key.id, key.merchant, key.name, key.scopes.join(","));
            }
        }
        KeysCommand::Revoke { id } => {
            if !keys::revoke(&pool, *id).await? {
                bail!("no active key {id}; see `waybill-api keys list`");
            }
        }
    }
    Ok(())
}

//! The payment provider ([`PaymentsSim`], a subset of Stripe's API) and the carrier ([`CarrierSim`]), simulated over
//! HTTP, with fault [`Rule`]s under `/_sim/`. Each stores an append-only ledger, so a restart loses nothing; rules,
//! webhook target, pace and authorization lifetime are not in it. Not simulated: TLS, accounts, fees, balances.

mod carrier;
mod courier;
mod exchange;
mod faults;
mod ledger;
mod payments;
mod server;
mod simulator;
#[cfg(test)]
mod tests;
mod webhooks;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use carrier::{AutoProgress, CarrierSim, CarrierSimConfig};
pub use faults::{Fault, Route, Rule};
pub use payments::{PaymentsSim, PaymentsSimConfig};

/// Locks, even after another holder panicked: every change is applied completely or not at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a new id such as `pi_0198…`: ids of one kind sort by creation time.
fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

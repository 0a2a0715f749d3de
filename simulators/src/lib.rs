//! The payment provider and the carrier, simulated over real HTTP.
//!
//! [`PaymentsSim`] speaks the part of Stripe's API that Waybill uses; [`CarrierSim`] is a carrier with labels
//! and tracking events. Both keep an append-only ledger, so that killing and restarting one loses nothing,
//! and both have fault switches ([`Rule`]) under `/_sim/`, which is how the rest of Waybill gets tested for
//! trouble.
//!
//! The ledger holds what happened. How a simulator is set up (fault rules, webhook target, automatic
//! progress, for how long money is held) is not in it: a restart takes that from the configuration.
//!
//! Absent on purpose: TLS, several accounts, fees, balances, and anything else money could be lost on for
//! real.

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

/// Locks, also after another holder panicked: every change is applied whole or not at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new id such as `pi_0198…`: ids of one kind sort by the time they were made.
fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

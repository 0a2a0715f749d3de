//! Why an order ends early, and its compensations.

use crate::order::Ctx;

/// Why an order ends early.
#[derive(Clone)]
pub(crate) enum StopReason {
    Cancelled { reason: String },
    Rejected { reason: String },
    Expired { reason: String },
}

/// A compensation to run if the order stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compensation {
    ReleaseStock,
    VoidAuthorization,
}

impl Compensation {
    /// Registers the compensation before its step runs: the step may have succeeded even if its response was lost.
    pub(crate) fn register(self, ctx: &Ctx) {
        ctx.state_mut(|s| {
            if !s.compensations.contains(&self) {
                s.compensations.push(self);
            }
        });
    }
}

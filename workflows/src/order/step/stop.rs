//! Why an order ends before its time, and what is undone then.

use crate::order::Ctx;

/// Why an order ends before its time.
#[derive(Clone)]
pub(crate) enum StopReason {
    Cancelled { reason: String },
    Rejected { reason: String },
    Expired { reason: String },
}

/// What has to be undone if the order stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compensation {
    ReleaseStock,
    VoidAuthorization,
}

impl Compensation {
    /// Registered before the step runs: the step may have happened even if nobody saw it happen.
    pub(crate) fn register(self, ctx: &Ctx) {
        ctx.state_mut(|s| {
            if !s.compensations.contains(&self) {
                s.compensations.push(self);
            }
        });
    }
}

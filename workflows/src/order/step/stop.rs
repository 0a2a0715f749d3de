//! Why an order ends early, and its compensations.

use crate::order::Ctx;

/// Why an order ends early.
#[derive(Clone)]
pub(crate) enum Stop {
    Cancelled { reason: String },
    Rejected { reason: String },
    Expired { reason: String },
}

/// A compensation to run if the order stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    ReleaseStock,
    VoidAuthorization,
}

impl Undo {
    /// Registers the compensation before its step runs: the step may have succeeded even if its response was lost.
    pub(crate) fn register(self, ctx: &Ctx) {
        ctx.state_mut(|s| {
            if !s.undo.contains(&self) {
                s.undo.push(self);
            }
        });
    }
}

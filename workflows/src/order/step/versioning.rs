//! What this release does otherwise than an earlier one, where it changes which activities, timers or search attributes
//! an order asks Temporal for. The old way stays for as long as orders that went it may be open.
//!
//! An order's first step is asked for with the edition of the code that asks, and its answer says the same: so each
//! order's history tells in which edition it began, at no cost, whichever worker took it up during an upgrade. One that
//! began in an earlier edition takes a change up where its history has not gone past it. Temporal keeps a marker of that
//! (`patched`), which costs an event and a search attribute each.

use crate::order::Ctx;

/// The edition that orders begin in now. 0 is release 0.1.0; it rises with changes that histories are there without.
pub(crate) const WORKFLOW_VERSION: u32 = 3;

/// A cancel undoes what a lost workflow task may have done, too.
pub(crate) const COMPENSATE_UNRECORDED_TASKS: Patch = Patch { name: "lost-tasks-are-undone", since: 1 };

/// One change.
#[derive(Clone, Copy)]
pub(crate) struct Patch {
    /// The marker's name in histories, for ever.
    name: &'static str,
    /// The first edition that has it.
    since: u32,
}

impl Patch {
    /// Whether orders of this edition began with it.
    pub(crate) fn is_included_in(self, edition: u32) -> bool {
        edition >= self.since
    }
}

/// Money is held anew before its hold lapses, and where it is found not to be held.
pub(crate) const RENEW_AUTHORIZATIONS: Patch = Patch { name: "holds-are-renewed", since: 1 };

/// That labels were stopped is in the history before money and goods are given back.
pub(crate) const RECORD_CANCELLED_LABELS: Patch = Patch { name: "stopped-is-recorded", since: 1 };

/// What the carrier says late is acted on: goods that left although they were cancelled, or that it brings back, have a
/// return opened; what was lost may turn up, and be lost or come back before its hand-over was told.
pub(crate) const HANDLE_LATE_CARRIER_EVENTS: Patch = Patch { name: "late-news", since: 1 };

/// What is held for a last shipment that the carrier cancels is given free at once.
pub(crate) const VOID_REMAINDER: Patch = Patch { name: "rest-is-voided", since: 1 };

/// An heir does not take what an operator wrote off before it.
pub(crate) const KEEP_SKIPPED_CAPTURES: Patch = Patch { name: "skipped-stays-skipped", since: 1 };

/// A shipment that takes over what is left of another is in the history before it has a label.
pub(crate) const RECORD_REPLACEMENTS: Patch = Patch { name: "successors-are-recorded", since: 2 };

/// What a message changes for good is in the history before anybody can see it, and nothing that could be seen is taken
/// back.
pub(crate) const SINGLE_OUTCOME: Patch = Patch { name: "one-ending", since: 3 };

/// A total of zero needs no payment, and a shipment that is worth nothing no capture.
pub(crate) const SKIP_ZERO_AMOUNTS: Patch = Patch { name: "nothing-to-pay", since: 3 };

/// Whether this order goes the new way.
pub(crate) fn is_patched(ctx: &Ctx, change: Patch) -> bool {
    ctx.state(|s| change.is_included_in(s.workflow_version)) || ctx.patched(change.name)
}

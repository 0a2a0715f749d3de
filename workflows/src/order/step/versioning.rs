//! Differences between this release and earlier ones that change which activities, timers or search attributes an order
//! requests from Temporal. The old path stays for as long as orders that took it may be open.

// The input of an order's first step contains the workflow version of the code, and the activity returns it. So the
// history records the version that the order began with, at no cost, regardless of which worker ran it during an
// upgrade. An order of an earlier version adopts a change if its history has not passed that point. Temporal records a
// marker for it (`patched`), which costs an event and a search attribute each.

use crate::order::Ctx;

/// The workflow version of new orders. 0 is release 0.1.0; it rises with changes that older histories do not have.
pub(crate) const WORKFLOW_VERSION: u32 = 3;

/// A cancellation also compensates the steps that a lost workflow task may have run.
pub(crate) const COMPENSATE_UNRECORDED_TASKS: Patch = Patch { name: "lost-tasks-are-undone", since: 1 };

/// One change of the workflow.
#[derive(Clone, Copy)]
pub(crate) struct Patch {
    /// The marker's name in histories. It never changes.
    name: &'static str,
    /// The first workflow version that has it.
    since: u32,
}

impl Patch {
    /// Returns whether orders of this version began with it.
    pub(crate) fn is_included_in(self, edition: u32) -> bool {
        edition >= self.since
    }
}

/// The workflow re-authorizes before an authorization expires, and when it finds that it has expired.
pub(crate) const RENEW_AUTHORIZATIONS: Patch = Patch { name: "holds-are-renewed", since: 1 };

/// The history has the cancelled labels before the payment is voided and the stock is released.
pub(crate) const RECORD_CANCELLED_LABELS: Patch = Patch { name: "stopped-is-recorded", since: 1 };

/// The workflow acts on late carrier events: it opens a return for cancelled items that have left, or that the carrier
/// brings back; a lost shipment may be found, and may be lost or returned before its hand-over was reported.
pub(crate) const HANDLE_LATE_CARRIER_EVENTS: Patch = Patch { name: "late-news", since: 1 };

/// The remainder is voided immediately when the carrier cancels the last shipment.
pub(crate) const VOID_REMAINDER: Patch = Patch { name: "rest-is-voided", since: 1 };

/// A successor run does not capture an amount that an operator skipped before it.
pub(crate) const KEEP_SKIPPED_CAPTURES: Patch = Patch { name: "skipped-stays-skipped", since: 1 };

/// The history has a replacement shipment before it has a label.
pub(crate) const RECORD_REPLACEMENTS: Patch = Patch { name: "successors-are-recorded", since: 2 };

/// The history has a message's irreversible effect before a client can read it, and no published state is reverted.
pub(crate) const SINGLE_OUTCOME: Patch = Patch { name: "one-ending", since: 3 };

/// A total of zero needs no payment, and a shipment without value no capture.
pub(crate) const SKIP_ZERO_AMOUNTS: Patch = Patch { name: "nothing-to-pay", since: 3 };

/// Returns whether this order takes the new path.
pub(crate) fn is_patched(ctx: &Ctx, change: Patch) -> bool {
    ctx.state(|s| change.is_included_in(s.workflow_version)) || ctx.patched(change.name)
}

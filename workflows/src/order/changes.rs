//! What this release does otherwise than an earlier one, where it changes which activities, timers or search attributes
//! an order asks Temporal for. The old way stays for as long as orders that went it may be open.
//!
//! An order is started in the edition of its time and does what that edition does, at no cost. One that was started in
//! an earlier edition takes a change up where its history has not gone past it: Temporal keeps a marker (`patched`) of
//! that, which costs an event and a search attribute each.

use super::Ctx;

/// The edition that orders are started in now. 0 is release 0.1.0; it rises by one with a release that has changes.
pub const EDITION: u32 = 1;

/// That labels were stopped is in the history before money and goods are given back.
pub(crate) const STOPPED_IS_RECORDED: Change = Change { name: "stopped-is-recorded", since: 1 };

/// A cancel undoes what a lost workflow task may have done, too.
pub(crate) const LOST_TASKS_ARE_UNDONE: Change = Change { name: "lost-tasks-are-undone", since: 1 };

/// One change.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// The marker's name in histories, for ever.
    name: &'static str,
    /// The first edition that has it.
    since: u32,
}

/// Whether this order goes the new way.
pub(crate) fn has(ctx: &Ctx, change: Change) -> bool {
    ctx.state(|s| s.input.edition >= change.since) || ctx.patched(change.name)
}

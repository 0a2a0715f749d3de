//! Operations that wait to be carried out.

use crate::payloads::*;

/// An operation that was accepted.
pub(crate) struct ShortfallCommand {
    pub(crate) operation: OperatorCommand,
    /// Whether the audit and the timeline have it: an order that restarts from the read model comes to it again.
    pub(crate) is_recorded: bool,
}

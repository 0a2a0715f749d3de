//! Operator commands that wait for processing.

use crate::payloads::*;

/// An accepted command.
pub(crate) struct ShortfallCommand {
    pub(crate) operation: OperatorCommand,
    /// Whether the audit record and the timeline have it: an order that restarts from the read model processes it
    /// again.
    pub(crate) is_recorded: bool,
}

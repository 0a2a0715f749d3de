//! Operator commands that wait for processing.

use crate::wire::*;

/// An accepted command.
pub(crate) struct ShortfallOperation {
    pub(crate) operation: Operation,
    /// Whether the audit record and the timeline have it: an order that restarts from the read model processes it
    /// again.
    pub(crate) is_recorded: bool,
}

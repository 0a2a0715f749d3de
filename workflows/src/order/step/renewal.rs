//! Reasons for a re-authorization.

/// The authorization expires soon.
pub(crate) const LAPSES: &str = "lapses";

/// The authorization has expired.
pub(crate) const LAPSED: &str = "lapsed";

/// The provider ended the authorization with its first capture.
pub(crate) const CAPTURED_ONCE: &str = "captured_once";

/// An operator requested it.
pub(crate) const ASKED_FOR: &str = "asked_for";

//! Reasons for a re-authorization.

/// The authorization expires soon.
pub(crate) const REASON_EXPIRES_SOON: &str = "lapses";

/// The authorization has expired.
pub(crate) const REASON_EXPIRED: &str = "lapsed";

/// The provider ended the authorization with its first capture.
pub(crate) const REASON_SINGLE_CAPTURE: &str = "captured_once";

/// An operator requested it.
pub(crate) const REASON_OPERATOR: &str = "asked_for";

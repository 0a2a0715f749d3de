//! Why money is held anew.

/// Why money is held anew: it will lapse soon.
pub(crate) const REASON_EXPIRES_SOON: &str = "lapses";

/// Why money is held anew: it has lapsed.
pub(crate) const REASON_EXPIRED: &str = "lapsed";

/// Why money is held anew: the provider ended the hold with its first capture.
pub(crate) const REASON_SINGLE_CAPTURE: &str = "captured_once";

/// Why money is held anew: an operator says so.
pub(crate) const REASON_OPERATOR: &str = "asked_for";

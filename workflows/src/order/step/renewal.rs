//! Why money is held anew.

/// Why money is held anew: it will lapse soon.
pub(crate) const LAPSES: &str = "lapses";

/// Why money is held anew: it has lapsed.
pub(crate) const LAPSED: &str = "lapsed";

/// Why money is held anew: the provider ended the hold with its first capture.
pub(crate) const CAPTURED_ONCE: &str = "captured_once";

/// Why money is held anew: an operator says so.
pub(crate) const ASKED_FOR: &str = "asked_for";

//! The one place that decides whether a failed attempt may be repeated.

use crate::{carrier::CarrierError, payments::ProviderError};
use temporalio_common::error::ApplicationFailure;
use temporalio_sdk::activities::ActivityError;
use waybill_store::StoreError;
use waybill_workflows::names;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// Nothing was done, and it may pass: repeat.
    #[error("{0} is not available")]
    Unavailable(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It may have been done: repeat with the same key, which tells.
    #[error("the outcome at {0} is not known")]
    UnknownOutcome(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It will never be done, however often it is asked. The text is a code that people search for.
    #[error("{0}")]
    Permanent(String),
}

impl StepFailure {
    /// A word for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unavailable(..) => "unavailable",
            Self::UnknownOutcome(..) => "unknown",
            Self::Permanent(_) => "refused",
        }
    }

    /// Of a step that there is no other way than to do: it is tried again by Temporal's policy, which costs the order's
    /// history nothing, until what was refused is mended.
    pub(crate) fn retry_permanent(self) -> Self {
        match self {
            Self::Permanent(code) => Self::Unavailable("what has to be mended", code.into()),
            other => other,
        }
    }

    /// A failure is logged once, here, with its whole chain of causes.
    pub(crate) fn log(&self) {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        tracing::warn!(outcome = self.outcome(), error = %self, causes = causes.join(": "), "an attempt failed");
    }
}

impl From<StoreError> for StepFailure {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            Self::Unavailable("Postgres", Box::new(error))
        } else {
            Self::Permanent(error.to_string())
        }
    }
}

impl From<ProviderError> for StepFailure {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Unavailable(source) => Self::Unavailable("the payment provider", source),
            ProviderError::UnknownOutcome(source) => Self::UnknownOutcome("the payment provider", source),
            ProviderError::Declined { code } | ProviderError::Permanent { code } => Self::Permanent(code),
            ProviderError::Lapsed => Self::Permanent(names::CODE_AUTHORIZATION_LAPSED.to_owned()),
        }
    }
}

impl From<CarrierError> for StepFailure {
    fn from(error: CarrierError) -> Self {
        match error {
            CarrierError::Unavailable(source) => Self::Unavailable("the carrier", source),
            CarrierError::Permanent { code } => Self::Permanent(code),
        }
    }
}

impl StepFailure {
    /// What Temporal is told.
    pub(crate) fn into_activity_error(self) -> ActivityError {
        let (name, non_retryable) = match &self {
            StepFailure::Unavailable(..) => (names::ERROR_UNAVAILABLE, false),
            StepFailure::UnknownOutcome(..) => (names::ERROR_UNKNOWN_OUTCOME, false),
            StepFailure::Permanent(_) => (names::ERROR_PERMANENT, true),
        };
        // The message alone, without its causes: they may quote a provider's reply, and the history is not the
        // place for it. The log has them.
        ActivityError::application(
            ApplicationFailure::builder(self.to_string())
                .type_name(name.to_owned())
                .non_retryable(non_retryable)
                .build(),
        )
    }
}

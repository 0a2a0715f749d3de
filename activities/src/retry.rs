//! Decides, for all activities, whether Temporal may retry a failed attempt.

use crate::{carrier::CarrierError, payments::ProviderError};
use temporalio_common::error::ApplicationFailure;
use temporalio_sdk::activities::ActivityError;
use waybill_store::StoreError;
use waybill_workflows::names;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// A transient failure before any operation was performed: retry.
    #[error("{0} is not available")]
    Unavailable(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operation may have been performed: retry with the same idempotency key, which returns its outcome.
    #[error("outcome unknown at {0}")]
    UnknownOutcome(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// A permanent failure. The text is a code that operators search for.
    #[error("{0}")]
    Permanent(String),
}

impl StepFailure {
    /// Returns the outcome as a metric label.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unavailable(..) => "unavailable",
            Self::UnknownOutcome(..) => "unknown",
            Self::Permanent(_) => "refused",
        }
    }

    /// Makes a permanent failure retryable, for a step without an alternative: Temporal's retry policy retries it
    /// without adding history events until the cause is fixed.
    pub(crate) fn retry_permanent(self) -> Self {
        match self {
            Self::Permanent(code) => Self::Unavailable("a fix for the rejected step", code.into()),
            other => other,
        }
    }

    /// Logs the failure with its chain of causes. This is the only place that logs it.
    pub(crate) fn log(&self) {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        tracing::warn!(outcome = self.outcome(), error = %self, causes = causes.join(": "), "activity attempt failed");
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
    /// Converts the failure into the error that Temporal records.
    pub(crate) fn into_activity_error(self) -> ActivityError {
        let (name, non_retryable) = match &self {
            StepFailure::Unavailable(..) => (names::ERROR_UNAVAILABLE, false),
            StepFailure::UnknownOutcome(..) => (names::ERROR_UNKNOWN_OUTCOME, false),
            StepFailure::Permanent(_) => (names::ERROR_PERMANENT, true),
        };
        // Only the message, without its causes: they may quote a provider's response, which must not be in the history.
        // The log has them.
        ActivityError::application(
            ApplicationFailure::builder(self.to_string())
                .type_name(name.to_owned())
                .non_retryable(non_retryable)
                .build(),
        )
    }
}

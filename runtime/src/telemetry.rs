//! Logs. A line has a message for operators and fields for queries; lines about an order have `order_id`. `RUST_LOG`
//! filters by target and level.

use std::str::FromStr;
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

/// Temporal's crates log only warnings and errors by default.
const DEFAULT_FILTER: &str = "info,temporalio_sdk_core=warn,temporalio_client=warn,temporalio_sdk=warn";

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// For a collector: one JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown log format {text:?}; one of: human, json")),
        }
    }
}

/// Starts logging to standard error. Later calls have no effect.
pub fn init(format: LogFormat) {
    let chosen = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, parse_error) = filter(&chosen);
    let registry = tracing_subscriber::registry().with(filter);
    // A second call in one process (tests) has no effect.
    let _ = match format {
        LogFormat::Human => registry.with(fmt::layer().with_writer(std::io::stderr)).try_init(),
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
    };
    if let Some(why) = parse_error {
        tracing::warn!(chosen, why, "RUST_LOG is invalid; using the default (example: `info,sqlx=debug`)");
    }
}

/// Parses the chosen filter; returns the default filter and the error if it is invalid.
///
/// Not an `EnvFilter`: that can also filter by a span's fields, and therefore looks up each span in a table behind a
/// lock whenever a request resumes.
fn filter(chosen: &str) -> (Targets, Option<String>) {
    let default = || DEFAULT_FILTER.parse().unwrap_or_default();
    let parts: Vec<&str> = chosen.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return (default(), None);
    }
    // The filter would parse it as a target's name.
    if chosen.contains('[') {
        return (default(), Some("filtering by span is not supported".to_owned()));
    }
    match parts.join(",").parse() {
        Ok(filter) => (filter, None),
        Err(why) => (default(), Some(why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn log_filter_selects_by_target_and_level() {
        for (chosen, is_read) in
            [("", true), (" ", true), ("debug", true), ("a=loud", false), ("a[b]=info", false)]
        {
            assert_eq!(filter(chosen).1.is_none(), is_read, "{chosen:?}");
        }
        let (default, _) = filter("");
        assert!(default.would_enable("waybill_api", &Level::INFO));
        assert!(!default.would_enable("waybill_api", &Level::DEBUG));
        assert!(!default.would_enable("temporalio_sdk_core::worker", &Level::INFO));
        assert!(filter("a=loud").0.would_enable("waybill_api", &Level::INFO), "the default applies");
        let (own, _) = filter(" warn, waybill_api=debug,");
        assert!(own.would_enable("waybill_store", &Level::WARN));
        assert!(own.would_enable("waybill_api::orders", &Level::DEBUG));
        assert!(!own.would_enable("waybill_store", &Level::INFO));
    }
}

//! Waybill end to end, on real Temporal and real Postgres: one binary, one start of the servers, one stack per test.
//!
//! A test waits for conditions, never for a fixed time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests need no time limit for beginning a transaction")]

mod accounting;
mod activity_memory;
mod api;
mod batching;
mod cancel_races;
mod carrier;
mod compensation;
mod connections;
mod disputes;
mod housekeeping;
mod ledger_drift;
mod lifecycle;
mod lines;
mod load;
mod localstripe;
mod messages_at_completion;
mod operator_actions;
mod outages;
mod payment;
mod payment_ledger;
mod projection;
mod provider_refunds;
mod provider_units;
mod reauthorization;
mod refunds;
mod refunds_and_returns;
mod replay;
mod retries;
mod shortfalls;
mod successor_runs;
mod support;
mod terminal_status;
mod unlisted_shipments;
mod unrecorded_tasks;
mod unresponsive_peers;
mod webhooks;

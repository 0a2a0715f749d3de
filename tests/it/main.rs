//! Waybill end to end, on real Temporal and real Postgres: one binary, one start of the servers, one stack per test.
//!
//! A test waits for conditions, never for a fixed time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests need no time limit for beginning a transaction")]

mod after_sales;
mod api;
mod books;
mod carrier;
mod connections;
mod contradictions;
mod disputes;
mod endings;
mod groups;
mod heirs;
mod holds;
mod housekeeping;
mod interleavings;
mod last_words;
mod lifecycle;
mod lines;
mod load;
mod localstripe;
mod lost_tasks;
mod memory;
mod payment;
mod payment_ledger;
mod people;
mod projection;
mod provider_refunds;
mod provider_units;
mod refunds;
mod replay;
mod retries;
mod shortfalls;
mod silence;
mod support;
mod trouble;
mod unlisted_shipments;
mod unwind;
mod webhooks;

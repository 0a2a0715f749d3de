//! `cargo dev load`: requests at a given rate.
//!
//! [`open_loop`] and [`stats`] know nothing of Waybill.

pub mod open_loop;
pub mod stats;

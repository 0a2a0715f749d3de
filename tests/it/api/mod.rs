//! The HTTP contract, as documented in `api.md`.

mod addresses;
mod bad_input;
mod bodies;
mod caches;
mod connections;
mod fuzz;
mod idempotency;
mod keys;
mod lists;
mod overload;
mod reads;
mod skus;
mod stock;

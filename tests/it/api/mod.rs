//! The HTTP contract, as documented in `api.md`.

mod addresses;
mod bad_input;
mod bodies;
mod caches;
mod connections;
mod keys;
mod lists;
mod mutations;
mod operations;
mod reads;
mod repeats;
mod skus;
mod stock;

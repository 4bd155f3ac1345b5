//! Where Tandem keeps things.
//!
//! [`db`] is the kit: one SQLite file with one writer, group commit, migrations and backup. On it stand the stores, one
//! trait each, which agents hold as `Arc<dyn ...>`. Nothing here asks a clock: the time is an argument of every call
//! that needs it. What people said is in columns and nowhere else, neither in an error nor in a log.

#![allow(clippy::result_large_err, reason = "a Fault says everything a caller needs; it is made when something failed")]

pub mod actions;
pub mod alerts;
pub mod db;
pub mod deliveries;
pub mod errors;
pub mod forecasts;
pub mod journal;
pub mod keys;
pub mod leases;
pub mod models;
pub mod paging;
pub mod personal;
pub mod requests;
pub mod reservations;
pub mod series;
pub mod sessions;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod twin;
mod words;

pub use words::reason;

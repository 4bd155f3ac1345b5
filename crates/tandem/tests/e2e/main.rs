//! The built programs with a real model: a node, its groups and their engine as processes, asked and disturbed.
//!
//! Every test has a data directory and ports of its own and ends everything it started. They take the model
//! `smollm2-135m` from the model store and fail, saying how to get it, where it is missing.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod clients;
mod commands;
mod disturbed;
mod harness;
mod top;
mod traces;
mod turns;
mod two_nodes;

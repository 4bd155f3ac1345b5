//! Agents that measure the fleet and say what is wrong with it.

pub mod observability_hub;

//! The hub's thinking: when to probe and what an answer means, what is known of whom, which errors are a flood, what a
//! page of metrics says. No IO; the time is an argument.

pub(super) mod exposition;
pub(super) mod floods;
pub(super) mod holding;
pub(super) mod latency;
pub(super) mod picture;
pub(super) mod probe;
pub(super) mod report;
pub(super) mod rolled_up;
pub(super) mod webhook;

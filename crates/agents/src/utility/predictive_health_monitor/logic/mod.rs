//! Thinking: what is usual, what stands out, how likely that ends badly, and what to do about it.

pub(crate) mod counters;
pub(crate) mod forecast;
pub(crate) mod logistic;
pub(crate) mod norm;
pub(crate) mod quantile;
pub(crate) mod remedy;
pub(crate) mod signals;
pub(crate) mod trend;
pub(crate) mod watch;

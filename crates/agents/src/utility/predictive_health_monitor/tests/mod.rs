//! The thinking in virtual time, and the agent through its contract.

mod contract;
mod worlds;

//! Agents that remember.

pub mod session_memory;

//! Agents that understand and answer in words.

pub mod chitchat;
pub mod responder;
pub(crate) mod tongue;

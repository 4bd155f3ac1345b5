//! Agents that understand and answer in words.

pub mod chitchat;
mod tongue;

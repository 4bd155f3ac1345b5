//! Words every part of Tandem shares: names, health states, error codes, ids.
//!
//! This crate has no async, no IO and no wire format, so that every other crate may depend on it.

mod error;
mod health;
mod ids;
mod names;
mod time;

pub use error::{Code, Fault, ParseCodeError, Violation, reason};
pub use health::{Health, State};
pub use ids::{IdError, IdempotencyKey, RequestId, SessionId, TurnId, UserId};
pub use names::{AgentId, AgentName, GroupId, GroupName, NameError, NodeName, Role};
pub use time::Timestamp;

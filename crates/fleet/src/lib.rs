//! The fleet file and its plan.
//!
//! `fleet.toml` says which machine runs which group, which agents a group holds and what it may use. [`Document::read`]
//! reads its text, [`check`] finds every problem in it at once, and [`plan`] makes of it a [`Plan`]: names resolved,
//! budgets in numbers, start order decided. [`render`] shows a plan as text, JSON or a diagram.
//!
//! Everything here is a plain function: callers bring the text and the facts about machines and code ([`Facts`]).

mod check;
mod facts;
mod finding;
mod gpu;
mod graph;
mod model;
mod plan;
mod read;
pub mod render;
mod schema;
mod wrap;

pub use check::{Refused, check, plan};
pub use facts::{AgentFacts, AgentRef, Facts, Known, Machine};
pub use finding::{Finding, Severity, Span, render_findings, summary};
pub use gpu::{CardPlan, SharePlan, has_mig, reserve_mib, share_sm, share_vram_mib};
pub use model::{
    AgentEntry, AgentSpec, Binding, BindingSpec, Card, Detect, Detectable, Device, Fleet, Group, Header, Node,
    Overflow, Ram, Rest, Share, Sharing, Web,
};
pub use plan::{AgentPlan, Caller, CriticalPath, GroupPlan, LinkPlan, NodePlan, Peer, Plan, Reach, RolePlan, WebPlan};
pub use read::Document;
pub use schema::json_schema;

/// The default fleet: one machine without a GPU, everything on loopback.
pub const SOLO: &str = include_str!("../../../fleets/solo.toml");

/// The fleet of two machines, `mainpc` and `pc2`.
pub const MAINPC_PC2: &str = include_str!("../../../fleets/mainpc-pc2.toml");

#[cfg(test)]
mod tests;

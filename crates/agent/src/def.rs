//! The constant that defines an agent.

use std::future::Future;
use std::pin::Pin;

use tandem_contract::rpc::RpcFacts;
use tandem_types::Fault;

use crate::{Ctx, Started};

/// What `start` returns.
pub type StartFuture = Pin<Box<dyn Future<Output = Result<Started, Fault>> + Send>>;

/// How long events of a topic are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// The last 256 in memory; a slow subscriber loses the oldest and learns how many.
    Live,
    /// On disk for 7 days, at most 100,000; delivered at least once, in order per key.
    Journal,
}

/// A topic an agent publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    /// Name, for example `turn.finished`.
    pub name: &'static str,
    /// How long its events are kept.
    pub kind: TopicKind,
}

/// Everything the house knows of an agent before it runs.
#[derive(Clone, Copy)]
pub struct AgentDef {
    /// Full name as in the fleet file, for example `ChitchatAgent`.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// RPCs it serves.
    pub provides: &'static [RpcFacts],
    /// Agents of the same node that gate its first start.
    pub needs: &'static [&'static str],
    /// Agents it asks when they are there.
    pub uses: &'static [&'static str],
    /// Model roles without which its main work is `unavailable`.
    pub roles: &'static [&'static str],
    /// Topics it publishes.
    pub publishes: &'static [Topic],
    /// Whether its group fails with it, unless the fleet file says otherwise.
    pub required: bool,
    /// Starts it. Called anew after each failure.
    pub start: fn(Ctx) -> StartFuture,
}

impl std::fmt::Debug for AgentDef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AgentDef({})", self.name)
    }
}

//! The live picture: what each machine measured, which agents are there, which models are loaded.

use std::collections::BTreeMap;

use tandem_store::reservations::Resource;
use tandem_types::{AgentId, Fault, GroupId, Health, NodeName, State, Timestamp};

use crate::control::NOT_BUILT;
use crate::load::figures::Measured;
use crate::load::ledger::Uses;
use crate::load::weighing::Basis;

/// What the registry says of a lease that was not renewed.
const EXPIRED: &str = "expired";

/// A loaded model and its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    /// The model.
    pub(super) model: String,
    /// The group that pays.
    pub(super) group: GroupId,
    /// Bytes promised.
    pub(super) leased: u64,
    /// Bytes measured.
    pub(super) measured: Option<u64>,
}

/// What is known of one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// Its load.
    pub(super) load: Measured,
    /// Models loaded there.
    pub(super) models: Vec<Lease>,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    Fleet,
    /// One machine.
    Node(NodeName),
    /// One group on it.
    Group(GroupId),
    /// One agent in it.
    Agent(AgentId),
}

impl Node {
    /// Bytes that the models of each group are measured to use, and the group of cards.
    pub(super) fn uses(&self) -> Uses {
        let mut uses: Uses = self.load.sample.iter().flat_map(|(_, figures)| figures.of_cards()).collect();
        for lease in &self.models {
            *uses.entry((None, lease.group.clone())).or_insert(0) += lease.measured.unwrap_or(0);
        }
        uses
    }

    /// Bytes leased to models that they do not use yet.
    fn leased_ahead(&self) -> u64 {
        self.models.iter().map(|lease| lease.leased.saturating_sub(lease.measured.unwrap_or(0))).sum()
    }
}

/// Everything the twin knows of the present.
#[derive(Debug)]
pub(super) struct Picture {
    /// The machine this agent runs on: what does not answer there is known not to run.
    own: NodeName,
    nodes: BTreeMap<NodeName, Node>,
    /// Agents of the plan, in its order, with what the registry says.
    agents: Vec<(AgentId, Option<Health>, bool)>,
}

impl Picture {
    /// The picture of a plan about which nothing is known yet; `built` says whether this build has the agent.
    pub(super) fn new(own: NodeName, nodes: impl IntoIterator<Item = NodeName>, agents: Vec<(AgentId, bool)>) -> Self {
        Self {
            own,
            nodes: nodes.into_iter().map(|node| (node, Node::default())).collect(),
            agents: agents.into_iter().map(|(agent, built)| (agent, None, built)).collect(),
        }
    }

    /// What is known of a machine.
    ///
    /// # Errors
    /// `not_found` for one that is not in the plan.
    pub(super) fn node(&self, name: &str) -> Result<(&NodeName, &Node), Fault> {
        self.nodes.iter().find(|(node, _)| node.as_str() == name).ok_or_else(|| self.no_node(name))
    }

    /// The same, to be changed.
    pub(super) fn node_mut(&mut self, name: &NodeName) -> Result<&mut Node, Fault> {
        if self.nodes.contains_key(name) {
            return Ok(self.nodes.entry(name.clone()).or_default());
        }
        Err(self.no_node(name.as_str()))
    }

    fn no_node(&self, name: &str) -> Fault {
        let known: Vec<&str> = self.nodes.keys().map(NodeName::as_str).collect();
        Fault::not_found(format!("no node `{name}` in the fleet file; known are {}", known.join(", ")))
    }

    /// What a text names: nothing for the fleet, node, node/group or node/group/agent.
    ///
    /// # Errors
    /// `not_found` for what the plan does not have; `invalid_argument` for what is no identity.
    pub(super) fn scope(&self, text: &str) -> Result<Scope, Fault> {
        let malformed = |e: tandem_types::NameError| Fault::invalid_field("scope", e.to_string());
        let unknown = || Fault::not_found(format!("the fleet file has no `{text}`"));
        match text.matches('/').count() {
            0 if text.is_empty() => Ok(Scope::Fleet),
            0 => Ok(Scope::Node(self.node(text)?.0.clone())),
            1 => {
                let group: GroupId = text.parse().map_err(malformed)?;
                let known = self.agents.iter().any(|(agent, ..)| agent.group_id() == group);
                if known { Ok(Scope::Group(group)) } else { Err(unknown()) }
            }
            _ => {
                let id: AgentId = text.parse().map_err(malformed)?;
                let known = self.agents.iter().any(|(agent, ..)| *agent == id);
                if known { Ok(Scope::Agent(id)) } else { Err(unknown()) }
            }
        }
    }

    /// Machines of a scope.
    pub(super) fn nodes(&self, scope: &Scope) -> Vec<(&NodeName, &Node)> {
        let node = match scope {
            Scope::Fleet => None,
            Scope::Node(node) => Some(node),
            Scope::Group(group) => Some(&group.node),
            Scope::Agent(agent) => Some(&agent.node),
        };
        self.nodes.iter().filter(|(name, _)| node.is_none_or(|node| node == *name)).collect()
    }

    /// Agents of a machine within a scope, with how they were last heard of.
    pub(super) fn agents(&self, node: &NodeName, scope: &Scope) -> Vec<(&AgentId, Health)> {
        let inside = |agent: &AgentId| {
            agent.node == *node
                && match scope {
                    Scope::Fleet | Scope::Node(_) => true,
                    Scope::Group(group) => agent.group_id() == *group,
                    Scope::Agent(id) => agent == id,
                }
        };
        let silent = |built: &bool| {
            let (state, cause) = match (*built, *node == self.own) {
                (false, _) => (State::Unavailable, NOT_BUILT),
                (true, true) => (State::Unavailable, "is not registered"),
                (true, false) => (State::Unknown, "nothing was heard of it yet"),
            };
            Health::new(state, cause, Timestamp::default())
        };
        self.agents
            .iter()
            .filter(|(agent, ..)| inside(agent))
            .map(|(agent, health, built)| (agent, health.clone().unwrap_or_else(|| silent(built))))
            .collect()
    }

    /// Notes how an agent is doing; false when that is not new, or the plan does not have it.
    pub(super) fn heard(&mut self, id: &AgentId, health: Health) -> bool {
        let Some((_, known, _)) = self.agents.iter_mut().find(|(agent, ..)| agent == id) else { return false };
        let new = known.as_ref() != Some(&health);
        *known = Some(health);
        new
    }

    /// Notes that the registry no longer counts on an agent; false when that is not new. Of another machine it cannot be
    /// known whether it is the agent that is gone or the way to it, unless it said farewell.
    pub(super) fn gone(&mut self, id: &AgentId, why: &str, now: Timestamp) -> bool {
        let silent = why == EXPIRED && id.node != self.own;
        let state = if silent { State::Unknown } else { State::Stopped };
        let known = self.agents.iter().find(|(agent, ..)| agent == id).and_then(|(_, health, _)| health.as_ref());
        if known.is_some_and(|known| known.state == state && known.cause == why) {
            return false;
        }
        self.heard(id, Health::new(state, why, now))
    }

    /// Notes what somebody else observed of an agent; false when what is known is not older, or the same.
    pub(super) fn observed(&mut self, id: &AgentId, health: Health) -> bool {
        let known = self.agents.iter().find(|(agent, ..)| agent == id).and_then(|(_, health, _)| health.as_ref());
        if known.is_some_and(|known| known.since >= health.since || known.state == health.state) {
            return false;
        }
        self.heard(id, health)
    }

    /// Who tells how agents are doing has gone silent, so nobody knows.
    pub(super) fn lose_agents(&mut self, now: Timestamp) {
        for health in self.agents.iter_mut().filter_map(|(_, health, _)| health.as_mut()) {
            if health.state != State::Unknown {
                *health =
                    Health::new(State::Unknown, format!("the registry is away; it was {} before", health.state), now);
            }
        }
    }

    /// Takes the models of a machine; false when they are what they were.
    pub(super) fn set_models(&mut self, node: &NodeName, models: Vec<Lease>) -> Result<bool, Fault> {
        let known = self.node_mut(node)?;
        let new = known.models != models;
        known.models = models;
        Ok(new)
    }

    /// What a projection for a machine rests on, where `outstanding` is what it has promised beside its models.
    ///
    /// # Errors
    /// `not_found` for an unknown machine; those of [`Measured::basis`].
    pub(super) fn basis(
        &self,
        node: &str,
        resource: Resource,
        card: Option<u32>,
        outstanding: f64,
        now: Timestamp,
    ) -> Result<Basis, Fault> {
        let (name, known) = self.node(node)?;
        let of_models = match resource {
            Resource::Ram => known.leased_ahead() as f64,
            Resource::Vram | Resource::Cpu | Resource::Disk => 0.0,
        };
        known.load.basis(name, resource, card, of_models + outstanding, now)
    }
}

//! The live picture: what each machine measured, which agents are there, which models are loaded.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tandem_store::reservations::{Reservation, Resource};
use tandem_types::{AgentId, Code, Fault, GroupId, Health, NodeName, State, Timestamp, reason};

use super::logic::{Basis, Recent, outstanding};
use super::machine::Figures;
use crate::control::NOT_BUILT;

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
    /// The last sample; none before the first.
    pub(super) sample: Option<(Timestamp, Figures)>,
    /// Processors; 0 when not said.
    pub(super) cpus: u32,
    /// Models loaded there.
    pub(super) models: Vec<Lease>,
    recent: BTreeMap<&'static str, Recent>,
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

/// Series of a machine, as they are kept and asked for.
pub(super) const SERIES: [&str; 6] =
    ["cpu_ratio", "ram_total_bytes", "ram_used_bytes", "memory_pressure_ratio", "disk_total_bytes", "disk_used_bytes"];

/// The figures of a sample by series; absent ones are left out.
pub(super) fn series(figures: &Figures) -> impl Iterator<Item = (&'static str, f64)> {
    let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
    let values = [
        figures.cpu_ratio,
        bytes(figures.ram_total),
        bytes(figures.ram_used),
        figures.memory_pressure,
        bytes(figures.disk_total),
        bytes(figures.disk_used),
    ];
    SERIES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)))
}

impl Node {
    /// Takes a sample; one that is older than the last is ignored.
    pub(super) fn take(&mut self, at: Timestamp, figures: Figures) -> bool {
        if self.sample.is_some_and(|(last, _)| last >= at) {
            return false;
        }
        for (name, value) in series(&figures) {
            self.remember(name, at, value);
        }
        self.sample = Some((at, figures));
        true
    }

    /// Takes a past value, so that the trend has something to look back on.
    pub(super) fn remember(&mut self, series: &'static str, at: Timestamp, value: f64) {
        self.recent.entry(series).or_default().push(at, value);
    }

    /// Busy share of the processors, mean of the last minute.
    pub(super) fn cpu_minute(&self) -> Option<f64> {
        self.recent.get("cpu_ratio").and_then(Recent::minute)
    }

    /// Bytes of video or main memory that models of a group are measured to use.
    fn used_by(&self, group: &GroupId) -> u64 {
        self.models.iter().filter(|lease| lease.group == *group).filter_map(|lease| lease.measured).sum()
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
    reservations: Vec<Reservation>,
    /// What the group of a promise's holder used when it was given.
    used_before: HashMap<String, u64>,
}

impl Picture {
    /// The picture of a plan about which nothing is known yet; `built` says whether this build has the agent.
    pub(super) fn new(own: NodeName, nodes: impl IntoIterator<Item = NodeName>, agents: Vec<(AgentId, bool)>) -> Self {
        Self {
            own,
            nodes: nodes.into_iter().map(|node| (node, Node::default())).collect(),
            agents: agents.into_iter().map(|(agent, built)| (agent, None, built)).collect(),
            reservations: Vec::new(),
            used_before: HashMap::new(),
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

    /// Takes the promises that hold now.
    pub(super) fn set_reservations(&mut self, reservations: Vec<Reservation>) {
        let before: HashMap<String, u64> = reservations
            .iter()
            .map(|r| (r.id.clone(), self.used_before.get(&r.id).copied().unwrap_or_else(|| self.holder_uses(r))))
            .collect();
        self.used_before = before;
        self.reservations = reservations;
    }

    /// The promises that hold at `now`, soonest to end first.
    pub(super) fn reservations(&self, node: Option<&NodeName>, now: Timestamp) -> Vec<&Reservation> {
        let holds = |r: &&Reservation| r.expires > now && node.is_none_or(|node| r.of.node == *node);
        let mut holding: Vec<&Reservation> = self.reservations.iter().filter(holds).collect();
        holding.sort_by_key(|r| r.expires);
        holding
    }

    fn holder_uses(&self, reservation: &Reservation) -> u64 {
        let holder = reservation.of.holder.parse::<AgentId>().map(|agent| agent.group_id());
        let node = self.nodes.get(&reservation.of.node);
        holder.ok().zip(node).map_or(0, |(group, node)| node.used_by(&group))
    }

    /// Promised on a machine and not in use yet.
    fn promised(&self, node: &NodeName, resource: Resource, now: Timestamp) -> f64 {
        let of_models = match resource {
            Resource::Ram => self.nodes.get(node).map_or(0, Node::leased_ahead) as f64,
            Resource::Vram | Resource::Cpu | Resource::Disk => 0.0,
        };
        let of_holders: f64 = self
            .reservations(Some(node), now)
            .into_iter()
            .filter(|r| r.of.resource == resource)
            .map(|r| {
                let used = match resource {
                    Resource::Ram => {
                        let before = self.used_before.get(&r.id).copied().unwrap_or(0);
                        self.holder_uses(r).saturating_sub(before) as f64
                    }
                    Resource::Vram | Resource::Cpu | Resource::Disk => 0.0,
                };
                outstanding(r.of.amount, used)
            })
            .sum();
        of_models + of_holders
    }

    /// What a projection for a machine rests on.
    ///
    /// # Errors
    /// `not_found` for an unknown machine, or for video memory where no card is known; `unavailable`, `no_sample`, when
    /// the figure was never measured.
    pub(super) fn basis(
        &self,
        node: &str,
        resource: Resource,
        card: Option<u32>,
        now: Timestamp,
    ) -> Result<Basis, Fault> {
        let (name, known) = self.node(node)?;
        if resource == Resource::Vram {
            let which = card.map(|card| format!(" {card}")).unwrap_or_default();
            return Err(Fault::not_found(format!("no graphics card{which} is known on {node}")));
        }
        let no_sample = || {
            let message = format!("{resource} of {node} was not measured yet; ask again in 10 s");
            Fault::new(Code::Unavailable, reason::NO_SAMPLE, message).retry_after(Duration::from_secs(10))
        };
        let (at, figures) = known.sample.as_ref().ok_or_else(no_sample)?;
        let (measured, capacity, series) = match resource {
            Resource::Ram => {
                (figures.ram_used.map(|b| b as f64), figures.ram_total.map(|b| b as f64), "ram_used_bytes")
            }
            Resource::Disk => {
                (figures.disk_used.map(|b| b as f64), figures.disk_total.map(|b| b as f64), "disk_used_bytes")
            }
            Resource::Cpu | Resource::Vram => (known.cpu_minute(), Some(1.0), "cpu_ratio"),
        };
        let (measured, capacity) = measured.zip(capacity).ok_or_else(no_sample)?;
        Ok(Basis {
            measured,
            outstanding: self.promised(name, resource, now),
            slope: known.recent.get(series).map_or(0.0, Recent::slope),
            capacity,
            age: now.since(*at),
        })
    }

    /// Bytes promised in all, by what they are of.
    pub(super) fn promised_bytes(&self, now: Timestamp) -> Vec<(Resource, f64)> {
        let of = |resource: Resource| {
            let amounts = self.reservations(None, now).into_iter().filter(|r| r.of.resource == resource);
            // The sum of nothing is -0 for floats.
            (resource, amounts.map(|r| r.of.amount).sum::<f64>() + 0.0)
        };
        [Resource::Ram, Resource::Vram, Resource::Disk].map(of).to_vec()
    }
}

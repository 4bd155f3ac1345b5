//! The plan: the fleet file with every name resolved, every budget in numbers, every order decided.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::{Map, Value};
use tandem_types::{AgentId, AgentName, GroupId, GroupName, NodeName, Role};

use crate::facts::AgentRef;
use crate::finding::Finding;
use crate::gpu::{CardPlan, SharePlan};
use crate::graph;
use crate::model::Device;

/// What runs where, within which budgets, in which order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The fleet's name.
    pub name: String,
    /// SHA-256, in hex, of what the fleet file means: the same for files that differ only in comments, order of keys and
    /// shorthands, on every machine and for every build.
    pub plan_hash: String,
    /// Seconds a start waits for a group's `needs` before it names what is missing and goes on.
    pub start_wait_s: u32,
    /// Seconds a start waits for its `after` on a peer that is alive.
    pub peer_wait_s: u32,
    /// Seconds a group has to finish or hand back its work when it is stopped.
    pub drain_s: u32,
    /// The machines.
    pub nodes: BTreeMap<NodeName, NodePlan>,
    /// Which model serves a role.
    pub roles: BTreeMap<Role, RolePlan>,
    /// Who may call a contract; one that is not here is open to the fleet.
    pub callers: BTreeMap<String, Vec<Caller>>,
    /// Where the page and the APIs for other programs listen.
    pub web: Option<WebPlan>,
    /// Warnings and notes; a file with errors has no plan.
    pub findings: Vec<Finding>,
}

/// A machine of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodePlan {
    /// Where other nodes reach it.
    pub address: IpAddr,
    /// Where nodes speak with it; absent in a fleet of one node.
    pub link: Option<LinkPlan>,
    /// MiB of RAM that its groups may use together; absent when it is to be detected and nobody has looked.
    pub ram_mib: Option<u64>,
    /// Its CPUs; absent as above.
    pub cpus: Option<u32>,
    /// Its groups in an order in which they can be started one after the other: by stage, then by name.
    pub groups: Vec<GroupPlan>,
    /// Its cards and who has which share.
    pub cards: Vec<CardPlan>,
    /// The longest chain of groups, each counted as one.
    pub critical_path: CriticalPath,
}

/// Where nodes speak with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LinkPlan {
    /// On the overlay network.
    pub overlay: SocketAddr,
    /// On the local network.
    pub lan: Option<SocketAddr>,
}

/// A group of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupPlan {
    /// Its identity.
    pub id: GroupId,
    /// Its place in the start order; stages are for people and checks, a start follows `needs`.
    pub stage: u32,
    /// Groups of its node that must be ready before its process starts.
    pub needs: Vec<GroupName>,
    /// Further groups of its node that hold agents which its agents need: its process starts without them and is ready
    /// after them.
    pub waits_for: Vec<GroupName>,
    /// Groups of other nodes that are waited for while their node is alive.
    pub after: Vec<GroupId>,
    /// Its agents, in the order of the file.
    pub agents: Vec<AgentPlan>,
    /// Ceiling in vCPU.
    pub cpu: Option<f64>,
    /// Weight against other groups when the CPUs are busy.
    pub cpu_weight: u32,
    /// Hard limit of RAM, engines included; absent for `"rest"` of a RAM that nobody has looked at.
    pub ram_mib: Option<u64>,
    /// Its own share of a card.
    pub gpu: Option<SharePlan>,
    /// Shares that its host runs for other groups.
    pub overflow: Vec<SharePlan>,
    /// Where it serves contracts and health to its own machine.
    pub contract: SocketAddr,
    /// Where it serves them to nodes that have joined the fleet, over mutual TLS; absent where the node's address is this machine alone.
    pub overlay: Option<SocketAddr>,
    /// Where it repeats health and metrics.
    pub scrape: SocketAddr,
    /// How readily the kernel ends it when memory is short: 0 last, 1000 first.
    pub oom_score_adj: u16,
    /// Environment variables of its process.
    pub env: BTreeMap<String, String>,
}

/// An agent of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentPlan {
    /// Its name.
    pub name: AgentName,
    /// Whether its group is unhealthy when it has failed.
    pub required: bool,
    /// Whether this program has code for it; what is not built is shown and never started.
    pub built: bool,
    /// Agents of its node that must have been ready once before it starts.
    pub needs: Vec<AgentName>,
    /// Agents it calls when they are there.
    pub uses: Vec<AgentRef>,
    /// The calls it serves, as its code says.
    pub provides: Vec<String>,
    /// The model roles it asks for, as its code says.
    pub roles: Vec<Role>,
    /// Its settings; absent when the file has none for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Map<String, Value>>,
}

/// The longest chain of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CriticalPath {
    /// The groups of the chain, first to start first.
    pub groups: Vec<GroupName>,
    /// What they take together, in the unit of the estimates.
    pub total: u64,
}

/// What serves a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolePlan {
    /// A model of the catalogue; `None`: the best that fits (`"auto"`).
    pub model: Option<String>,
    /// Another role whose model serves this one too; goes before `model`.
    pub alias: Option<Role>,
    /// Groups whose budget pays for it; empty: the group of the model manager.
    pub home: Vec<GroupId>,
    /// What it runs on.
    pub device: Device,
    /// It runs in its home's overflow share.
    pub overflow: bool,
    /// Most MiB it may take.
    pub max_mib: Option<u64>,
}

/// Someone who may call a contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// Anyone of the fleet.
    Any,
    /// The command line.
    Cli,
    /// The host of any group.
    Host,
    /// An agent, wherever it lives.
    Agent(AgentName),
    /// Everything in a group.
    Group(GroupId),
}

/// Where the outside comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WebPlan {
    /// Address and port.
    pub listen: SocketAddr,
    /// File that holds the access token.
    pub token_file: Option<String>,
}

impl Plan {
    /// All groups, node by node, in start order.
    pub fn groups(&self) -> impl Iterator<Item = &GroupPlan> {
        self.nodes.values().flat_map(|node| &node.groups)
    }

    /// The group with this identity.
    pub fn group(&self, id: &GroupId) -> Option<&GroupPlan> {
        self.nodes.get(&id.node)?.groups.iter().find(|g| g.id == *id)
    }

    /// All agents with their identities.
    pub fn agents(&self) -> impl Iterator<Item = (AgentId, &AgentPlan)> {
        self.groups().flat_map(|group| group.agents.iter().map(|a| (group.id.agent(a.name.clone()), a)))
    }

    /// The agent with this identity.
    pub fn agent(&self, id: &AgentId) -> Option<&AgentPlan> {
        self.group(&id.group_id())?.agents.iter().find(|a| a.name == id.agent)
    }

    /// Where a group serves contracts and health, as `node` reaches it.
    pub fn address(&self, group: &GroupId, node: &NodeName) -> Option<Reach> {
        self.group(group).map(|g| g.reach(node))
    }

    /// Every placement of an agent: first those on `from`, then those on other nodes.
    pub fn find(&self, agent: &AgentRef, from: &NodeName) -> Vec<AgentId> {
        let mut found: Vec<AgentId> = self
            .groups()
            .filter(|g| agent.node.as_ref().is_none_or(|node| *node == g.id.node))
            .filter(|g| g.agents.iter().any(|a| a.name == agent.agent))
            .map(|g| g.id.agent(agent.agent.clone()))
            .collect();
        found.sort_by_key(|id| id.node != *from);
        found
    }

    /// The agents that serve `call`, a contract (`session.v1.Sessions`) or one of its calls
    /// (`session.v1.Sessions/AppendTurn`): first those on `from`, in the order of the file.
    pub fn providers(&self, call: &str, from: &NodeName) -> Vec<AgentId> {
        let call = call.strip_prefix(PACKAGE).unwrap_or(call);
        let serves = |provided: &String| {
            let provided = provided.strip_prefix(PACKAGE).unwrap_or(provided);
            provided == call || provided.strip_prefix(call).is_some_and(|rest| rest.starts_with('/'))
        };
        let mut found: Vec<AgentId> =
            self.agents().filter(|(_, a)| a.provides.iter().any(serves)).map(|(id, _)| id).collect();
        found.sort_by_key(|id| id.node != *from);
        found
    }

    /// Whether the fleet file lets `caller` call `contract` (`session.v1.Sessions`).
    pub fn may_call(&self, contract: &str, caller: &Peer) -> bool {
        let contract = contract.strip_prefix(PACKAGE).unwrap_or(contract);
        let Some(allowed) = self.callers.get(contract) else { return true };
        allowed.iter().any(|one| match (one, caller) {
            (Caller::Any, _) | (Caller::Cli, Peer::Cli) | (Caller::Host, Peer::Host(_)) => true,
            (Caller::Agent(name), Peer::Agent(id)) => id.agent == *name,
            (Caller::Group(group), Peer::Agent(id)) => id.group_id() == *group,
            (Caller::Group(group), Peer::Host(host)) => host == group,
            _ => false,
        })
    }

    /// What serves a role, aliases followed.
    pub fn role(&self, role: &Role) -> Option<&RolePlan> {
        let mut bound = self.roles.get(role)?;
        while let Some(alias) = &bound.alias {
            bound = self.roles.get(alias)?;
        }
        Some(bound)
    }

    /// Every share that a group pays for: its own, and overflow shares that other groups' hosts run for it.
    pub fn shares(&self, owner: &GroupId) -> Vec<&SharePlan> {
        let cards = self.nodes.values().flat_map(|node| &node.cards);
        cards.flat_map(|card| &card.shares).filter(|share| share.owner == *owner).collect()
    }

    /// The longest chain of a node's start, where `ready` says how long a group takes from its start to being ready.
    pub fn critical_path(&self, node: &NodeName, ready: impl Fn(&GroupId) -> u64) -> Option<CriticalPath> {
        Some(self.nodes.get(node)?.longest_chain(ready))
    }
}

/// How a group is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On this machine, as it is.
    Here(SocketAddr),
    /// On another, over mutual TLS.
    Overlay(SocketAddr),
}

impl Reach {
    /// The address.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Here(address) | Self::Overlay(address) => address,
        }
    }
}

/// As a base address for calls.
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(address) => write!(f, "http://{address}"),
            Self::Overlay(address) => write!(f, "https://{address}"),
        }
    }
}

/// The contracts of Tandem live in packages under this name; the fleet file leaves it out.
const PACKAGE: &str = "tandem.";

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The command line.
    Cli,
    /// The host of a group, for itself.
    Host(GroupId),
    /// An agent.
    Agent(AgentId),
}

impl NodePlan {
    /// Its groups in an order in which they can be stopped one after the other.
    pub fn stop_order(&self) -> impl Iterator<Item = &GroupPlan> {
        self.groups.iter().rev()
    }

    /// For each group the places of the groups it is ready after.
    pub(crate) fn graph(&self) -> graph::Graph {
        let place = |name: &GroupName| self.groups.iter().position(|g| g.id.group == *name);
        self.groups.iter().map(|g| g.needs.iter().chain(&g.waits_for).filter_map(place).collect()).collect()
    }

    pub(crate) fn longest_chain(&self, ready: impl Fn(&GroupId) -> u64) -> CriticalPath {
        let weights: Vec<u64> = self.groups.iter().map(|g| ready(&g.id)).collect();
        let (chain, total) = graph::longest_chain(&self.graph(), &weights);
        CriticalPath { groups: chain.into_iter().map(|i| self.groups[i].id.group.clone()).collect(), total }
    }
}

impl GroupPlan {
    /// How `node` reaches it.
    pub fn reach(&self, node: &NodeName) -> Reach {
        match self.overlay {
            Some(overlay) if *node != self.id.node => Reach::Overlay(overlay),
            _ => Reach::Here(self.contract),
        }
    }

    /// Whether this program has code for any of its agents; a group without is never started.
    pub fn built(&self) -> bool {
        self.agents.iter().any(|a| a.built)
    }
}

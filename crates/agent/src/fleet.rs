//! The plan as agents see it: who is where, at what address, with what budget.

use std::collections::BTreeMap;

use tandem_types::{AgentId, AgentName, GroupId, NodeName};

/// The fleet's plan in plain data.
#[derive(Debug, Clone, Default)]
pub struct FleetView {
    /// Name of the fleet.
    pub name: String,
    /// Hash of the plan.
    pub plan_hash: String,
    /// Text of the fleet file.
    pub text: String,
    /// Name of the fleet file, for findings.
    pub file_name: String,
    /// Machines.
    pub nodes: Vec<FleetNode>,
    /// Groups in start order.
    pub groups: Vec<FleetGroup>,
    /// Role to model, as the fleet file binds them; `auto` lets the catalogue choose.
    pub roles: BTreeMap<String, String>,
    /// The door for people and their programs.
    pub web: FleetWeb,
}

/// The door for people and their programs.
#[derive(Debug, Clone, Default)]
pub struct FleetWeb {
    /// Address and port it listens at, for example `127.0.0.1:8280`; empty when there is no door.
    pub listen: String,
    /// File with the token that callers must know; without one the door opens on loopback only.
    pub token_file: Option<std::path::PathBuf>,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct FleetNode {
    /// Its name.
    pub name: NodeName,
    /// Its address.
    pub address: String,
}

/// A group with its place and budget.
#[derive(Debug, Clone)]
pub struct FleetGroup {
    /// node/group.
    pub id: GroupId,
    /// Base address for calls, for example `http://127.0.0.1:8200`.
    pub endpoint: String,
    /// Base address for scrapers.
    pub scrape_endpoint: String,
    /// Groups of the same node that start before it.
    pub needs: Vec<GroupId>,
    /// Memory it may use, engines included.
    pub ram_bytes: u64,
    /// Processors it may use.
    pub cpus: f64,
    /// Its agents, in fleet file order.
    pub agents: Vec<FleetAgent>,
    /// Who may call a contract of this group, by service such as `tandem.session.v1.Sessions`; one without an entry is
    /// open to the fleet.
    pub callers: BTreeMap<String, Vec<String>>,
}

/// An agent with what it serves.
#[derive(Debug, Clone)]
pub struct FleetAgent {
    /// Its name.
    pub name: AgentName,
    /// Whether its group fails with it.
    pub required: bool,
    /// Whether this build has code for it.
    pub built: bool,
    /// Agents that gate its first start.
    pub needs: Vec<AgentName>,
    /// Agents it asks when they are there.
    pub uses: Vec<AgentName>,
    /// RPC paths it serves; empty when not built.
    pub rpcs: Vec<&'static str>,
    /// Topics it publishes; empty when not built.
    pub topics: Vec<&'static str>,
    /// Its settings in the fleet file, as a JSON object.
    pub settings: serde_json::Value,
}

impl FleetView {
    /// The group of this identity.
    pub fn group(&self, id: &GroupId) -> Option<&FleetGroup> {
        self.groups.iter().find(|group| group.id == *id)
    }

    /// Where an agent of this name lives, its own node first.
    pub fn find(&self, agent: &AgentName, from: &NodeName) -> Option<AgentId> {
        let holds = |group: &&FleetGroup| group.agents.iter().any(|a| a.name == *agent);
        self.groups
            .iter()
            .filter(holds)
            .min_by_key(|group| group.id.node != *from)
            .map(|group| group.id.agent(agent.clone()))
    }

    /// The group whose agents publish a topic, the own node first.
    pub fn publisher(&self, topic: &str, from: &NodeName) -> Option<&FleetGroup> {
        let publishes = |group: &&FleetGroup| group.agents.iter().any(|a| a.topics.contains(&topic));
        self.groups.iter().filter(publishes).min_by_key(|group| group.id.node != *from)
    }

    /// Every agent with its group.
    pub fn agents(&self) -> impl Iterator<Item = (&FleetGroup, &FleetAgent)> {
        self.groups.iter().flat_map(|group| group.agents.iter().map(move |agent| (group, agent)))
    }
}

//! What a plan is made with besides the file: facts that only the caller can know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tandem_types::{AgentName, NameError, NodeName, Role};

use crate::model::Card;

/// What an agent's code says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Its name.
    pub name: AgentName,
    /// Agents of its node that must have been ready once before it starts.
    pub needs: Vec<AgentName>,
    /// Agents it calls when they are there.
    pub uses: Vec<AgentRef>,
    /// Whether its group is unhealthy when it has failed.
    pub required: bool,
    /// The calls it serves, as `session.v1.Sessions/AppendTurn`.
    pub provides: Vec<String>,
    /// The model roles it asks for.
    pub roles: Vec<Role>,
}

/// The agents this program has code for, by name. An agent of the file that is not here is `not built`.
pub type Known = BTreeMap<AgentName, AgentFacts>;

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// All of its RAM, in MiB.
    pub ram_mib: u64,
    /// CPUs that a process may use.
    pub cpus: u32,
    /// Its cards in the driver's order; `None` when nobody looked.
    pub cards: Option<Vec<Card>>,
}

/// What the caller knows. An empty value claims nothing and checks less.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The agents this program has code for.
    pub agents: Known,
    /// What the machines have, as far as anyone has looked; usually only the one this runs on.
    pub machines: BTreeMap<NodeName, Machine>,
    /// The models of the catalogue; `None` when there is none at hand.
    pub models: Option<BTreeSet<String>>,
    /// The contracts this program speaks, as `session.v1.Sessions`; `None` when nobody asked.
    pub contracts: Option<BTreeSet<String>>,
}

/// An agent by name, wherever it lives, or on one node: `CacheManager`, `pc2/ObservabilityHub`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentRef {
    /// The node, where it matters.
    pub node: Option<NodeName>,
    /// The agent.
    pub agent: AgentName,
}

impl From<AgentName> for AgentRef {
    fn from(agent: AgentName) -> Self {
        Self { node: None, agent }
    }
}

impl FromStr for AgentRef {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text.split_once('/') {
            Some((node, agent)) => Self { node: Some(node.parse()?), agent: agent.parse()? },
            None => Self { node: None, agent: text.parse()? },
        })
    }
}

impl TryFrom<String> for AgentRef {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AgentRef> for String {
    fn from(agent: AgentRef) -> Self {
        agent.to_string()
    }
}

impl fmt::Display for AgentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}/{}", self.agent),
            None => write!(f, "{}", self.agent),
        }
    }
}

//! What a node runs, taken from the plan.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tandem_fleet::{GroupPlan, Plan};
use tandem_types::{GroupId, GroupName, NodeName};

/// What a group may use, as the fleet file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// RAM in MiB, engines included.
    pub ram_mib: Option<u64>,
    /// Ceiling in vCPU.
    pub cpu: Option<f64>,
    /// Weight against other groups.
    pub cpu_weight: u32,
    /// What holds it to them.
    pub enforcement: String,
}

/// What is said of a limit that nothing was seen to enforce.
const NOT_ENFORCED: &str = "not enforced";

/// A group of another node that a start waits for while that node is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    /// Which.
    pub group: GroupId,
    /// Where it serves health.
    pub address: SocketAddr,
    /// Where the groups of its node listen; one that answers shows that the node is alive.
    pub node: Vec<SocketAddr>,
}

/// How a group's process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// Hash of what it reads when it starts. A process that read something else does not stand in for it.
    pub reads: String,
}

/// A group to run.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// Its identity.
    pub id: GroupId,
    /// Groups of this node that must be ready before its process starts.
    pub needs: Vec<GroupName>,
    /// Groups that hold agents which its agents need: it is ready after them.
    pub waits_for: Vec<GroupName>,
    /// Groups of other nodes.
    pub after: Vec<PeerSpec>,
    /// Whether there is code for any of its agents.
    pub built: bool,
    /// Where it serves contracts and health.
    pub contract: SocketAddr,
    /// Where it repeats health and metrics.
    pub scrape: SocketAddr,
    /// What it may use.
    pub limits: Limits,
    /// Environment variables of its process.
    pub env: BTreeMap<String, String>,
}

impl GroupSpec {
    /// The groups of a node in start order.
    pub fn of_plan(plan: &Plan, node: &NodeName) -> Vec<Self> {
        let groups = plan.nodes.get(node).map(|n| &n.groups[..]).unwrap_or_default();
        groups.iter().map(|group| Self::of(plan, group)).collect()
    }

    fn of(plan: &Plan, group: &GroupPlan) -> Self {
        let peer = |id: &GroupId| {
            let node = plan.nodes.get(&id.node)?;
            let addresses = node.groups.iter().map(|g| g.contract).collect();
            Some(PeerSpec { group: id.clone(), address: plan.address(id)?, node: addresses })
        };
        Self {
            id: group.id.clone(),
            needs: group.needs.clone(),
            waits_for: group.waits_for.clone(),
            after: group.after.iter().filter_map(peer).collect(),
            built: group.built(),
            contract: group.contract,
            scrape: group.scrape,
            limits: Limits {
                ram_mib: group.ram_mib,
                cpu: group.cpu,
                cpu_weight: group.cpu_weight,
                enforcement: NOT_ENFORCED.to_owned(),
            },
            env: group.env.clone(),
        }
    }
}

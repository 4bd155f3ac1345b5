//! What a node runs, taken from the plan.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tandem_fleet::{GroupPlan, Plan};
use tandem_process::Caps;
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

/// Processes and threads of a group; no group needs a tenth of it.
const TASKS: u64 = 2_048;

impl Limits {
    /// What the kernel is told of them.
    pub fn caps(&self) -> Caps {
        Caps {
            memory_bytes: self.ram_mib.map(|mib| mib << 20),
            cpus: self.cpu,
            cpu_weight: self.cpu_weight,
            tasks: TASKS,
        }
    }
}

/// What is said of a limit that nothing was seen to enforce.
const NOT_ENFORCED: &str = "not enforced";

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
    /// Groups of other nodes that its start waits for while their node is alive.
    pub after: Vec<GroupId>,
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
        groups.iter().map(Self::of).collect()
    }

    fn of(group: &GroupPlan) -> Self {
        Self {
            id: group.id.clone(),
            needs: group.needs.clone(),
            waits_for: group.waits_for.clone(),
            after: group.after.clone(),
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

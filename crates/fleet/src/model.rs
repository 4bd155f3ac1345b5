//! The fleet file as it is written: names are still text, nothing is resolved.
//!
//! These structures are the one definition of the format. The editor schema is generated from them, and the reader
//! checks a file against that schema, so that the doc comments below are also what editors show.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema::{AgentKey, ContractKey, GroupKey, NodeKey, RoleKey};

/// Which machine runs which group, which agents a group holds and what it may use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["fleet", "node", "group"]))]
pub struct Fleet {
    /// Name, format version and settings that hold for the whole fleet.
    pub fleet: Header,
    /// The machines, by name.
    #[schemars(with = "BTreeMap<NodeKey, Node>")]
    pub node: BTreeMap<String, Node>,
    /// The groups, by identity: `[group."node/group"]`.
    #[schemars(with = "BTreeMap<GroupKey, Group>")]
    pub group: BTreeMap<String, Group>,
    /// Which model serves a role; names with dots need quotes: `"llm.fast" = "auto"`.
    #[schemars(with = "BTreeMap<RoleKey, Binding>")]
    pub roles: BTreeMap<String, Binding>,
    /// Who may call a contract, such as `"session.v1.Sessions" = ["RequestCoordinator", "mainpc/speech_gpu", "cli"]`.
    /// Agents by name, groups by identity, and the words `host`, `cli` and `any`. A contract that is not listed is open
    /// to every agent, host and command line of the fleet.
    #[schemars(with = "BTreeMap<ContractKey, Vec<String>>")]
    pub callers: BTreeMap<String, Vec<String>>,
    /// Settings of agents, by the agent's name: `[settings.ChitchatAgent]`. They hold wherever the agent is placed; the
    /// agent checks them when it starts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<AgentKey, Map<String, Value>>")]
    pub settings: BTreeMap<String, Map<String, Value>>,
    /// The outside: where the page and the APIs for other programs listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web: Option<Web>,
}

/// Name, format version and settings that hold for the whole fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub struct Header {
    /// The fleet's name, for people.
    pub name: String,
    /// Version of this file format; this program reads version 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Ports that contracts may use, both ends included.
    #[schemars(regex(pattern = r"^[0-9]{1,5}-[0-9]{1,5}$"))]
    pub contract_ports: String,
    /// Ports that scrape endpoints may use, both ends included.
    #[schemars(regex(pattern = r"^[0-9]{1,5}-[0-9]{1,5}$"))]
    pub scrape_ports: String,
    /// Seconds a start waits for a group's `needs` before it names what is missing and goes on.
    #[schemars(range(max = 86400))]
    pub start_wait_s: u32,
    /// Seconds a start waits for its `after` on a peer that is alive.
    #[schemars(range(max = 86400))]
    pub peer_wait_s: u32,
    /// Seconds a group has to finish or hand back its work when it is stopped.
    #[schemars(range(max = 86400))]
    pub drain_s: u32,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            name: String::new(),
            version: 1,
            contract_ports: "8200-8300".into(),
            scrape_ports: "9100-9200".into(),
            start_wait_s: 60,
            peer_wait_s: 60,
            drain_s: 20,
        }
    }
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// The IP address at which other nodes reach it: loopback, or the machine's address on the overlay network. Its groups listen on
    /// loopback; here only for nodes that have joined the fleet, over mutual TLS.
    pub address: String,
    /// Its address on the local network, as a second way for nodes to reach each other: it tells a dead overlay from a dead machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan: Option<String>,
    /// Port where nodes speak with each other; left out: the last free one of `contract_ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub link_port: Option<u16>,
    /// MiB of RAM that all groups together may use, or `"detect"`: what the machine has, less a reserve of
    /// max(1,024 MiB, 20 %) for everything else on it.
    pub ram_mib: Detectable,
    /// Number of CPUs, or `"detect"`.
    pub cpus: Detectable,
    /// Its GPU cards; a share names a card by its place in this list, starting at 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpu: Vec<Card>,
}

impl Default for Node {
    fn default() -> Self {
        let detect = Detectable::Word(Detect::Detect);
        Self { address: "127.0.0.1".into(), lan: None, link_port: None, ram_mib: detect, cpus: detect, gpu: Vec::new() }
    }
}

/// A number, or `"detect"` to take what the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Detectable {
    /// As stated.
    Number(#[schemars(range(min = 1, max = 1_000_000_000))] u64),
    /// As found.
    Word(Detect),
}

/// The word `"detect"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Detect {
    /// Take what the machine has.
    Detect,
}

/// A GPU card.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "vram_mib", "sm"]))]
pub struct Card {
    /// The card's name as its driver says it.
    pub name: String,
    /// Its memory in MiB; what is detected at start wins.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub vram_mib: u64,
    /// Its streaming multiprocessors; what is detected at start wins.
    #[schemars(range(min = 1, max = 100_000))]
    pub sm: u32,
    /// Ways to divide the card, best first; the first that works is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sharing: Vec<Sharing>,
}

/// A way to divide a card between groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// NVIDIA's multi-process service: shares of compute and memory.
    Mps,
    /// Multi-instance GPU: hardware partitions, on data-centre cards only.
    Mig,
    /// The driver's time slices: memory is not divided.
    TimeSlice,
}

/// A unit of deployment: one process, one memory and CPU budget, one port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["agents", "ram_mib"]))]
pub struct Group {
    /// The agents it holds. Where several serve the same call, the first that is ready answers.
    pub agents: Vec<AgentEntry>,
    /// Groups of the same node that must be ready before this one starts; names without the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Groups of other nodes, as `node/group`, that are waited for while their node is alive, and not when it is away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Its place in the start order; must be later than those of its needs. Left out: one more than the latest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub stage: Option<u32>,
    /// Ceiling in vCPU; left out: none. Ceilings may add up to more than the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 4096.0))]
    pub cpu: Option<f64>,
    /// Weight against other groups when the CPUs are busy.
    #[schemars(range(min = 1, max = 10_000))]
    pub cpu_weight: u32,
    /// Hard limit of RAM in MiB, engines included, or `"rest"`: what the other groups leave of the node's RAM (one group
    /// per node).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_mib: Option<Ram>,
    /// Its share of a card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Share>,
    /// Port for contracts and health; left out: the first free one of `contract_ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Port that repeats only health and metrics; left out: the first free one of `scrape_ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub scrape_port: Option<u16>,
    /// How readily the kernel ends this group when memory is short: 0 last, 1000 first.
    #[schemars(range(max = 1000))]
    pub oom_score_adj: u16,
    /// Environment variables of its process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            agents: Vec::new(),
            needs: Vec::new(),
            after: Vec::new(),
            stage: None,
            cpu: None,
            cpu_weight: 100,
            ram_mib: None,
            gpu: None,
            port: None,
            scrape_port: None,
            oom_score_adj: 0,
            env: BTreeMap::new(),
        }
    }
}

/// A limit of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Ram {
    /// MiB.
    Mib(#[schemars(range(min = 1, max = 1_000_000_000))] u64),
    /// What the other groups leave.
    Word(Rest),
}

/// The word `"rest"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// What the other groups leave of the node's RAM.
    Rest,
}

/// A share of a card.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["share"]))]
pub struct Share {
    /// Which card of the node, by its place in the list.
    #[schemars(range(max = 63))]
    pub card: u32,
    /// Percentage of the card, after its reserve.
    #[schemars(range(min = 1, max = 100))]
    pub share: u32,
    /// Further shares of the same card that this group's host runs for other groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overflow: Vec<Overflow>,
}

/// A share that one group's host runs for another group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["for", "share"]))]
pub struct Overflow {
    /// The group it belongs to, as `node/group`.
    #[serde(rename = "for")]
    pub owner: String,
    /// Percentage of the card, after its reserve.
    #[schemars(range(min = 1, max = 100))]
    pub share: u32,
}

/// An agent of a group: its name, or a table that states more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AgentEntry {
    /// The name; everything else comes from the agent's code.
    Name(String),
    /// The name and facts that go before those of the agent's code.
    Stated(AgentSpec),
}

impl AgentEntry {
    /// The name as written.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Stated(spec) => &spec.name,
        }
    }

    /// The long form; a bare name states nothing else.
    pub fn spec(&self) -> AgentSpec {
        match self {
            Self::Name(name) => AgentSpec { name: name.clone(), ..AgentSpec::default() },
            Self::Stated(spec) => spec.clone(),
        }
    }
}

/// An agent with facts that go before those of its code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub struct AgentSpec {
    /// The agent's name.
    pub name: String,
    /// Whether the group is unhealthy when this agent has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// Agents of the same node that must have been ready once before this one starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<String>>,
    /// Agents it calls when they are there: `Name`, or `node/Name` for one of a certain node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<Vec<String>>,
}

/// What serves a role: a model's name, `"auto"`, or a table that states more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Binding {
    /// A model of the catalogue, or `"auto"`: the best that fits.
    Model(String),
    /// The model and what it may cost, to whom.
    Stated(BindingSpec),
}

impl Binding {
    /// The long form.
    pub fn spec(&self) -> BindingSpec {
        match self {
            Self::Model(model) => BindingSpec { model: model.clone(), ..BindingSpec::default() },
            Self::Stated(spec) => spec.clone(),
        }
    }
}

/// A model and what it may cost, to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BindingSpec {
    /// A model of the catalogue, or `"auto"`: the best that fits.
    pub model: String,
    /// Another role whose model serves this one too; goes before `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Groups, as `node/group`, whose budget pays for it. Left out: the group of the model manager.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub home: Vec<String>,
    /// Where it runs. Left out: on the GPU when its home has a share, else on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// It runs in its home's overflow share.
    pub overflow: bool,
    /// Most MiB it may take, of VRAM on a GPU, of RAM otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_mib: Option<u64>,
}

impl Default for BindingSpec {
    fn default() -> Self {
        Self { model: "auto".into(), alias: None, home: Vec::new(), device: None, overflow: false, max_mib: None }
    }
}

/// What a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    Cpu,
    /// A share of a card.
    Gpu,
}

/// Where the page and the APIs for other programs listen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["listen"]))]
pub struct Web {
    /// Address and port, such as `127.0.0.1:8280`.
    pub listen: String,
    /// File that holds the access token. Without one only loopback may be listened on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

impl Fleet {
    /// The same fleet with every shorthand written out; equal for files that mean the same.
    pub(crate) fn canonical(&self) -> Self {
        let mut fleet = self.clone();
        for group in fleet.group.values_mut() {
            for agent in &mut group.agents {
                *agent = AgentEntry::Stated(agent.spec());
            }
        }
        for binding in fleet.roles.values_mut() {
            *binding = Binding::Stated(binding.spec());
        }
        fleet
    }
}

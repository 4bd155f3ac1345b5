//! What `tandem top` shows, as data: nodes, their groups, and what groups are made of. Figures that nobody measured are absent.

use serde::Serialize;
use serde_json::Value;
use tandem_fleet::Plan;
use tandem_node::{GroupState, GroupStatus, MachineUse, NodeStatus, PeerGroup, PeerState, PeerStatus};
use tandem_types::{GroupId, NodeName, State, Timestamp};

use super::calls::{Rate, Window};

/// One moment of a fleet, as one of its nodes knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Picture {
    /// When it was taken.
    pub(super) at_us: i64,
    /// The fleet file as it was named.
    pub(super) fleet: String,
    /// Hash of the plan.
    pub(super) plan_hash: String,
    /// The node that was asked, then the others.
    pub(super) nodes: Vec<NodeLine>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NodeLine {
    pub(super) node: NodeName,
    pub(super) standing: Standing,
    /// Why, in words.
    pub(super) reason: String,
    /// How long it runs; known of the node that was asked.
    pub(super) up_ms: Option<u64>,
    /// How long ago another node was last heard.
    pub(super) heard_ms_ago: Option<u64>,
    /// How long its last answer took.
    pub(super) round_trip_us: Option<u64>,
    pub(super) cpus: Option<u32>,
    /// Busy share of all its processors, 0 to 1.
    pub(super) cpu_ratio: Option<f64>,
    pub(super) memory_total_bytes: Option<u64>,
    pub(super) memory_used_bytes: Option<u64>,
    pub(super) groups: Vec<GroupLine>,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// The node that was asked, while it starts its groups.
    Starting,
    /// The node that was asked.
    Up,
    /// The node that was asked, while it ends.
    Ending,
    /// Another node.
    #[serde(untagged)]
    Peer(PeerState),
}

impl Standing {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Ending => "ending",
            Self::Peer(state) => state.as_str(),
        }
    }

    /// Whether what is known of it may be otherwise by now.
    pub(super) fn is_stale(self) -> bool {
        matches!(self, Self::Peer(state) if !matches!(state, PeerState::Alive | PeerState::OverlayDead))
    }
}

/// A group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct GroupLine {
    pub(super) group: GroupId,
    pub(super) state: GroupState,
    /// Why, in words.
    pub(super) reason: String,
    /// How long it is in that state.
    pub(super) for_ms: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    /// Processors it keeps busy: 1 is one of them all the time.
    pub(super) cpu_ratio: Option<f64>,
    pub(super) restarts: u32,
    /// How long it took to answer the probe of this look.
    pub(super) probe_us: Option<u64>,
    #[serde(flatten)]
    pub(super) rate: Rate,
    pub(super) parts: Vec<PartLine>,
}

/// An agent of a group, or an engine that it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct PartLine {
    pub(super) name: String,
    pub(super) state: GroupState,
    /// Why, in words.
    pub(super) reason: String,
    pub(super) for_ms: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) restarts: u64,
    #[serde(flatten)]
    pub(super) rate: Rate,
}

/// What was seen of a group by asking it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen<'a> {
    /// Its `/health`.
    pub(super) health: Option<Value>,
    /// How long that took, microseconds.
    pub(super) probe_us: Option<u64>,
    /// Its calls of the last minute; none of one that does not answer.
    pub(super) calls: Option<&'a Window>,
}

impl Seen<'_> {
    fn rate(&self, agent: Option<&str>) -> Rate {
        self.calls.map(|calls| calls.rate(agent)).unwrap_or_default()
    }
}

/// Puts together what the node says and what was seen of each of its groups, in their order.
pub(super) fn picture(status: &NodeStatus, seen: &[Seen<'_>], plan: Option<&Plan>, now: Timestamp) -> Picture {
    let usage = status.usage.as_ref();
    let groups = status.groups.iter().zip(seen).map(|(group, seen)| own(group, seen, usage, plan, now));
    let standing = match (status.ending, status.settled) {
        (true, _) => Standing::Ending,
        (false, false) => Standing::Starting,
        (false, true) => Standing::Up,
    };
    let here =
        NodeLine { up_ms: Some(millis(status.since, now)), ..node(&status.node, standing, usage, groups.collect()) };
    let peers = status.peers.iter().map(|peer| other(peer, now));
    Picture {
        at_us: now.micros(),
        fleet: status.fleet.clone(),
        plan_hash: status.plan_hash.clone(),
        nodes: std::iter::once(here).chain(peers).collect(),
    }
}

fn node(name: &NodeName, standing: Standing, usage: Option<&MachineUse>, groups: Vec<GroupLine>) -> NodeLine {
    NodeLine {
        node: name.clone(),
        standing,
        reason: String::new(),
        up_ms: None,
        heard_ms_ago: None,
        round_trip_us: None,
        cpus: usage.map(|usage| usage.cpus).filter(|cpus| *cpus > 0),
        cpu_ratio: usage.and_then(|usage| usage.cpu_ratio),
        memory_total_bytes: usage.and_then(|usage| usage.memory_total_bytes),
        memory_used_bytes: usage.and_then(|usage| usage.memory_used_bytes),
        groups,
    }
}

fn other(peer: &PeerStatus, now: Timestamp) -> NodeLine {
    let groups = peer.groups.iter().map(|group| told(group, peer.usage.as_ref(), now)).collect();
    NodeLine {
        reason: peer.reason.clone(),
        heard_ms_ago: peer.heard_ms_ago,
        round_trip_us: peer.paths.iter().find_map(|path| path.round_trip_us),
        ..node(&peer.node, Standing::Peer(peer.state), peer.usage.as_ref(), groups)
    }
}

/// A group of another node, as that node told of it.
fn told(group: &PeerGroup, usage: Option<&MachineUse>, now: Timestamp) -> GroupLine {
    let used = usage.and_then(|usage| usage.groups.iter().find(|used| used.group == group.group.group));
    GroupLine {
        group: group.group.clone(),
        state: group.state,
        reason: group.reason.clone(),
        for_ms: (group.state != GroupState::NotBuilt).then(|| millis(group.since, now)),
        resident_bytes: used.map(|used| used.resident_bytes),
        cpu_ratio: used.and_then(|used| used.cpu_ratio),
        restarts: group.restarts,
        probe_us: None,
        rate: Rate::default(),
        parts: vec![],
    }
}

fn own(
    group: &GroupStatus,
    seen: &Seen<'_>,
    usage: Option<&MachineUse>,
    plan: Option<&Plan>,
    now: Timestamp,
) -> GroupLine {
    let used = usage.and_then(|usage| usage.groups.iter().find(|used| used.group == group.group.group));
    // The node knows nothing that its group does not say fresher, once it serves.
    let said = seen.health.as_ref().filter(|_| matches!(group.state, GroupState::Ready | GroupState::Degraded));
    let word = said.and_then(|health| health["state"].as_str()?.parse::<State>().ok()).map(GroupState::from);
    let cause = said.and_then(|health| health["cause"].as_str()).filter(|cause| !cause.is_empty());
    let state = word.unwrap_or(group.state);
    GroupLine {
        group: group.group.clone(),
        state,
        reason: match (cause, group.notice.is_empty()) {
            (Some(cause), true) => cause.to_owned(),
            (Some(cause), false) => format!("{cause}; {}", group.notice),
            (None, _) => group.reason.clone(),
        },
        for_ms: (group.state != GroupState::NotBuilt).then(|| millis(group.since, now)),
        resident_bytes: group.rss_bytes,
        cpu_ratio: used.and_then(|used| used.cpu_ratio),
        restarts: group.restarts,
        probe_us: seen.probe_us,
        rate: seen.rate(None),
        parts: match &seen.health {
            Some(health) => {
                ["agents", "engines"].iter().flat_map(|key| list(health, key)).map(|v| part(v, seen)).collect()
            }
            None => planned(group, plan),
        },
    }
}

fn list<'a>(health: &'a Value, key: &str) -> &'a [Value] {
    health[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// An agent or an engine, as its group's health has it.
fn part(value: &Value, seen: &Seen<'_>) -> PartLine {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let built = value["built"].as_bool().unwrap_or(true);
    let state = text("state").parse::<State>().map_or(GroupState::Unavailable, GroupState::from);
    let agent = text("agent").rsplit('/').next().unwrap_or_default();
    let (name, rate) = match value["model"].as_str() {
        Some(model) => (format!("engine {model}"), Rate::default()),
        None => (agent.to_owned(), seen.rate(Some(agent))),
    };
    PartLine {
        name,
        state: if built { state } else { GroupState::NotBuilt },
        reason: if built { text("cause").to_owned() } else { String::new() },
        for_ms: value["age_ms"].as_u64().filter(|_| built),
        resident_bytes: value["measured_bytes"].as_u64(),
        restarts: value["restarts"].as_u64().unwrap_or_default(),
        rate,
    }
}

/// The agents of a group that says nothing of them.
fn planned(group: &GroupStatus, plan: Option<&Plan>) -> Vec<PartLine> {
    let agents = plan.and_then(|plan| plan.group(&group.group)).map(|group| &group.agents[..]).unwrap_or_default();
    let state = match group.state {
        GroupState::Waiting | GroupState::Starting => GroupState::Waiting,
        // One that runs and does not answer may have agents in any state.
        state if state.runs() => return vec![],
        _ => GroupState::Stopped,
    };
    let part = |agent: &tandem_fleet::AgentPlan| PartLine {
        name: agent.name.to_string(),
        state: if agent.built { state } else { GroupState::NotBuilt },
        reason: String::new(),
        for_ms: None,
        resident_bytes: None,
        restarts: 0,
        rate: Rate::default(),
    };
    agents.iter().map(part).collect()
}

fn millis(since: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)
}

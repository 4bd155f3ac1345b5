//! What is known of every group of the fleet: the own node's from probes, other nodes' from their hubs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tandem_types::{AgentName, GroupId, Health, NodeName, State, Timestamp};

/// One agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agent {
    pub(crate) name: AgentName,
    pub(crate) health: Health,
    pub(crate) required: bool,
    pub(crate) built: bool,
    pub(crate) restarts: u32,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) endpoint: String,
    pub(crate) health: Health,
    pub(crate) agents: Vec<Agent>,
    /// When this was last known to be so.
    pub(crate) seen: Timestamp,
    /// How long it took to answer the last probe that it answered, microseconds.
    #[serde(default)]
    pub(crate) answer_us: Option<u32>,
    /// Grows with each change, over restarts of its hub too.
    pub(crate) version: u64,
}

/// Why a group or agent without any code is as it is.
const NOT_BUILT: &str = "not built: this program has no code for it";
const NONE_BUILT: &str = "none of its agents is built";
const NOT_HEARD_OF: &str = "not heard of yet";

impl Group {
    /// Whether this program has code for any of its agents; a group without is never started.
    pub(crate) fn built(&self) -> bool {
        self.agents.iter().any(|agent| agent.built)
    }

    /// What the fleet file says of a group that nobody has heard of yet.
    pub(crate) fn planned(id: GroupId, endpoint: String, agents: Vec<(AgentName, bool, bool)>, now: Timestamp) -> Self {
        let agents: Vec<Agent> = agents
            .into_iter()
            .map(|(name, required, built)| {
                let (state, cause) =
                    if built { (State::Starting, NOT_HEARD_OF) } else { (State::Unavailable, NOT_BUILT) };
                Agent { name, health: Health::new(state, cause, now), required, built, restarts: 0 }
            })
            .collect();
        let built = agents.iter().any(|agent| agent.built);
        let (state, cause) = if built { (State::Starting, NOT_HEARD_OF) } else { (State::Unavailable, NONE_BUILT) };
        Self {
            id,
            endpoint,
            health: Health::new(state, cause, now),
            agents,
            seen: now,
            answer_us: None,
            version: version_at(now, 0),
        }
    }

    /// The same group in another state that holds for all its agents alike.
    pub(crate) fn all(&self, state: State, cause: &str, of_agents: &str, now: Timestamp) -> (Health, Vec<Agent>) {
        let entered = |old: &Health, cause: &str| {
            let since = if old.state == state { old.since } else { now };
            Health::new(state, cause, since)
        };
        let agents = self
            .agents
            .iter()
            .map(|agent| match agent.built {
                true => Agent { health: entered(&agent.health, of_agents), ..agent.clone() },
                false => agent.clone(),
            })
            .collect();
        (entered(&self.health, cause), agents)
    }

    /// Identifies what is said of the group, whoever says it: SHA-256 of it, the first 16 hexadecimal digits.
    fn digest(&self) -> String {
        let said = serde_json::to_vec(&(&self.id, &self.health, &self.agents)).unwrap_or_default();
        Sha256::digest(said).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Versions are times, so that a hub that restarts goes on above what it said before.
fn version_at(now: Timestamp, former: u64) -> u64 {
    u64::try_from(now.micros()).unwrap_or(0).max(former + 1)
}

/// A group or agent entered a state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    /// node/group or node/group/agent.
    pub(crate) subject: String,
    pub(crate) from: State,
    pub(crate) to: Health,
    /// Whether the group is poorer without it; true for groups.
    pub(crate) required: bool,
    /// It is an agent whose whole group entered the state.
    pub(crate) with_group: bool,
}

/// A group about which something is known that was not known before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct News {
    pub(crate) group: Group,
    pub(crate) turns: Vec<Turn>,
}

fn news(before: &Group, after: Group) -> Option<News> {
    if (&before.health, &before.agents) == (&after.health, &after.agents) {
        return None;
    }
    let mut turns = Vec::new();
    let group_turned = before.health.state != after.health.state;
    if group_turned {
        turns.push(Turn {
            subject: after.id.to_string(),
            from: before.health.state,
            to: after.health.clone(),
            required: true,
            with_group: false,
        });
    }
    for agent in &after.agents {
        let former = before.agents.iter().find(|a| a.name == agent.name).map(|a| a.health.state);
        if let Some(from) = former.filter(|from| *from != agent.health.state) {
            let with_group = group_turned && agent.health.state == after.health.state;
            turns.push(Turn {
                subject: after.id.agent(agent.name.clone()).to_string(),
                from,
                to: agent.health.clone(),
                required: agent.required,
                with_group,
            });
        }
    }
    Some(News { group: after, turns })
}

/// A node that is not this hub's own.
#[derive(Debug, Clone, Default)]
struct Peer {
    /// When its hub last answered.
    heard: Option<Timestamp>,
    silent: bool,
    /// Its clock less ours, microseconds.
    clock_ahead: i64,
}

/// The whole fleet as this hub knows it.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    me: NodeName,
    silent_after: Duration,
    groups: BTreeMap<GroupId, Group>,
    peers: BTreeMap<NodeName, Peer>,
}

/// Clocks that differ by less than this are taken as equal.
pub(crate) const CLOCKS_EQUAL: Duration = Duration::from_secs(2);

impl Picture {
    /// The plan, of which nothing has been heard yet. `silent_after` is how long another node's hub may be silent.
    pub(crate) fn new(me: NodeName, groups: Vec<Group>, silent_after: Duration) -> Self {
        let others: BTreeSet<NodeName> = groups.iter().map(|g| g.id.node.clone()).filter(|node| *node != me).collect();
        let silent = |node| (node, Peer { silent: true, ..Peer::default() });
        let peers = others.into_iter().map(silent).collect();
        Self { me, silent_after, groups: groups.into_iter().map(|g| (g.id.clone(), g)).collect(), peers }
    }

    /// What was last known of a group of another node, from an earlier life of this hub.
    pub(crate) fn remember(&mut self, group: Group) {
        if group.id.node != self.me && self.groups.contains_key(&group.id) {
            self.groups.insert(group.id.clone(), group);
        }
    }

    /// The group as it is stored.
    pub(crate) fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// Takes what a probe of an own group brought. `answered` says that the group itself said so.
    pub(crate) fn see(
        &mut self,
        id: &GroupId,
        (health, agents): (Health, Vec<Agent>),
        answered: bool,
        now: Timestamp,
    ) -> Option<News> {
        let group = self.groups.get_mut(id)?;
        let seen = if answered { now } else { group.seen };
        let after = Group { health, agents, seen, ..group.clone() };
        let mut news = news(group, after);
        match &mut news {
            Some(news) => {
                news.group.version = version_at(now, group.version);
                *group = news.group.clone();
            }
            None => group.seen = seen,
        }
        news
    }

    /// Takes what the hub of another node says of its groups; whatever it does not mention is as it was. The time is
    /// when it answered.
    pub(crate) fn merge(&mut self, node: &NodeName, groups: Vec<Group>, now: Timestamp) -> Vec<News> {
        if *node == self.me {
            return vec![];
        }
        let before = self.of_node(node);
        let peer = self.peers.entry(node.clone()).or_default();
        (peer.heard, peer.silent) = (Some(now), false);
        for group in groups {
            // A hub is believed about its own node only, and about groups of the plan.
            if group.id.node == *node && self.groups.contains_key(&group.id) {
                self.groups.insert(group.id.clone(), group);
            }
        }
        self.changes(before)
    }

    /// An own group took so long to answer a probe.
    pub(crate) fn answered(&mut self, id: &GroupId, took: Duration) {
        if let Some(group) = self.groups.get_mut(id) {
            group.answer_us = Some(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Takes when the hub of another node last saw a group of its node, which may be as it was for long.
    pub(crate) fn seen_there(&mut self, id: &GroupId, seen: Timestamp, answer_us: Option<u32>) {
        if let Some(group) = self.groups.get_mut(id).filter(|group| group.id.node != self.me) {
            (group.seen, group.answer_us) = (seen, answer_us);
        }
    }

    /// Marks a node that cannot be reached; what is known of it is stale until its hub answers again.
    pub(crate) fn away(&mut self, node: &NodeName) -> Vec<News> {
        let before = self.of_node(node);
        match self.peers.get_mut(node).filter(|peer| !peer.silent) {
            Some(peer) => peer.silent = true,
            None => return vec![],
        }
        self.changes(before)
    }

    /// Marks nodes whose hub has been silent for too long; what is known of them is stale from there on.
    pub(crate) fn silence(&mut self, now: Timestamp) -> Vec<News> {
        let late = |peer: &Peer| peer.heard.is_some_and(|heard| now.since(heard) > self.silent_after);
        let late: Vec<NodeName> =
            self.peers.iter().filter(|(_, peer)| !peer.silent && late(peer)).map(|(node, _)| node.clone()).collect();
        late.iter().flat_map(|node| self.away(node)).collect()
    }

    fn of_node(&self, node: &NodeName) -> Vec<Group> {
        self.groups.keys().filter(|id| id.node == *node).filter_map(|id| self.view(id)).collect()
    }

    fn changes(&self, before: Vec<Group>) -> Vec<News> {
        before.into_iter().filter_map(|old| news(&old, self.view(&old.id)?)).collect()
    }

    /// Notes by how much another node's clock is ahead of ours, microseconds.
    pub(crate) fn clock_ahead(&mut self, node: &NodeName, micros: i64) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.clock_ahead = micros;
        }
    }

    /// A group as it is shown: stale where its node is silent, with times by our clock.
    pub(crate) fn view(&self, id: &GroupId) -> Option<Group> {
        let stored = self.groups.get(id)?;
        let Some(peer) = self.peers.get(&id.node) else { return Some(stored.clone()) };
        let mut group = stored.clone();
        if peer.clock_ahead.unsigned_abs() > CLOCKS_EQUAL.as_micros() as u64 {
            let ours = |health: &mut Health| health.since = Timestamp(health.since.micros() - peer.clock_ahead);
            ours(&mut group.health);
            group.agents.iter_mut().for_each(|agent| ours(&mut agent.health));
        }
        if peer.silent && group.built() {
            let stale = |health: &Health, heard: bool| match heard {
                true => {
                    Health::new(State::Unknown, format!("stale: was {} when last heard of", health.state), health.since)
                }
                false => Health::new(State::Unknown, NOT_HEARD_OF, health.since),
            };
            // Out of an earlier life of this hub counts as heard of, too.
            let heard = peer.heard.is_some() || group.health.state != State::Starting;
            group.health = stale(&group.health, heard);
            for agent in group.agents.iter_mut().filter(|agent| agent.built) {
                agent.health = stale(&agent.health, heard);
            }
        }
        Some(group)
    }

    /// Every group as it is shown, by node, in order of name.
    pub(crate) fn views(&self) -> BTreeMap<NodeName, Vec<Group>> {
        let mut nodes: BTreeMap<NodeName, Vec<Group>> = BTreeMap::new();
        for group in self.groups.keys().filter_map(|id| self.view(id)) {
            nodes.entry(group.id.node.clone()).or_default().push(group);
        }
        nodes
    }

    /// The own node's groups that are newer than `versions`.
    pub(crate) fn newer(&self, versions: &BTreeMap<GroupId, u64>) -> Vec<&Group> {
        let newer = |group: &&Group| versions.get(&group.id).is_none_or(|known| group.version > *known);
        self.groups.values().filter(|group| group.id.node == self.me).filter(newer).collect()
    }

    /// The versions of another node's groups that are known here. A group of which only the plan is known is left out.
    pub(crate) fn versions(&self, node: &NodeName) -> BTreeMap<GroupId, u64> {
        let heard = self.peers.get(node).is_some_and(|peer| peer.heard.is_some());
        self.groups
            .values()
            .filter(|group| heard && group.id.node == *node)
            .map(|group| (group.id.clone(), group.version))
            .collect()
    }

    /// One hash for each group of a node.
    pub(crate) fn digests(&self, node: &NodeName) -> BTreeMap<GroupId, String> {
        self.groups.values().filter(|g| g.id.node == *node).map(|g| (g.id.clone(), g.digest())).collect()
    }

    /// Compares with what another hub says of its node; where it differs everything is asked for again. How many
    /// groups differ.
    pub(crate) fn compare(&mut self, node: &NodeName, theirs: &BTreeMap<GroupId, String>) -> usize {
        let ours = self.digests(node);
        let differing = ours.iter().filter(|(id, digest)| theirs.get(id).is_some_and(|d| d != *digest)).count();
        if differing > 0 {
            self.groups.values_mut().filter(|group| group.id.node == *node).for_each(|group| group.version = 0);
        }
        differing
    }
}

/// How a node is doing, from its groups as they are shown. Groups without code in this build do not count.
pub(crate) fn roll_up(groups: &[Group], now: Timestamp) -> Health {
    let built: Vec<&Group> = groups.iter().filter(|group| group.built()).collect();
    let since = built.iter().map(|group| group.health.since).max().unwrap_or(now);
    let all = |state| built.iter().all(|group| group.health.state == state);
    let Some(first) = built.first() else { return Health::new(State::Unavailable, "none of its groups is built", now) };
    if [State::Ready, State::Failed, State::Unknown, State::Stopped].into_iter().any(all) {
        let cause = if first.health.state == State::Ready { "" } else { "all of its groups are" };
        return Health::new(first.health.state, cause, since);
    }
    let poorer = |group: &&&Group| group.health.state != State::Ready;
    let words: Vec<String> =
        built.iter().filter(poorer).map(|group| format!("{} is {}", group.id.group, group.health.state)).collect();
    let starting = built.iter().filter(poorer).all(|group| group.health.state == State::Starting);
    Health::new(if starting { State::Starting } else { State::Degraded }, words.join("; "), since)
}

#[cfg(test)]
mod tests;

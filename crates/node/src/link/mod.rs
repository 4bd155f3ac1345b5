//! The link between the nodes of a fleet.
//!
//! Every node tells every other, each second and whenever something changes, what is so on its side, and hears back the same. From
//! when it was heard each judges whether the other is there; nothing is decided together, and nothing is stopped because a peer is silent.
//! Before this machine belongs to a fleet, and while nobody can come to join, nothing listens.

mod desk;
mod dial;
mod difference;
mod join;
mod report;
mod serve;
#[cfg(test)]
mod sim;
mod state;
mod usage;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tandem_contract::Trust;
use tandem_fleet::LinkPlan;
use tandem_types::{Fault, GroupId, NodeName, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use desk::Path;
use desk::{Desk, Heard, Telling};
pub use join::join;
pub use report::PeerGroup;
pub(crate) use report::own;
pub use state::{PathStatus, PeerState, PeerStatus};

use crate::machine::MachineUse;
use crate::status::{GroupState, NodeStatus};

/// What a node's link needs to know.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// This node.
    pub node: NodeName,
    /// Version of the program, for people.
    pub program_version: String,
    /// Hash of the plan that it runs.
    pub plan_hash: String,
    /// The fleet file, for showing how another one differs.
    pub fleet_file: String,
    /// Where it listens.
    pub listen: LinkPlan,
    /// The other nodes.
    pub peers: Vec<(NodeName, LinkPlan)>,
    /// The folder of trust.
    pub trust: PathBuf,
    /// This life of the node: higher than that of any before.
    pub epoch: u64,
}

struct Shared {
    config: LinkConfig,
    trust: Trust,
    began: Instant,
    desk: Mutex<Desk>,
    /// The list of revoked certificates, with its number.
    crl: Mutex<(u64, Vec<u8>)>,
    /// Counts changes of our own facts.
    told: watch::Sender<u64>,
    /// Counts whatever was learned of peers.
    learned: watch::Sender<u64>,
}

/// A node's link to the others. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// A link that does nothing until [`Link::run`].
    pub fn new(config: LinkConfig) -> Self {
        let addresses = config.peers.iter().flat_map(|(node, link)| {
            let ips = std::iter::once(link.overlay.ip()).chain(link.lan.map(|lan| lan.ip()));
            ips.map(|ip| (ip, node.clone()))
        });
        let trust = Trust::new(config.trust.clone(), addresses);
        let desk = Desk::new(
            (config.node.clone(), config.program_version.clone()),
            (config.plan_hash.clone(), config.fleet_file.clone()),
            config.epoch,
            config.peers.iter().map(|(node, link)| (node.clone(), link.lan.is_some())),
        );
        let shared = Shared {
            config,
            trust,
            began: Instant::now(),
            desk: Mutex::new(desk),
            crl: Mutex::default(),
            told: watch::Sender::new(0),
            learned: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Keeps up the link; never ends by itself.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        let follow = self.shared.trust.clone();
        tasks.spawn(async move { follow.follow().await });
        tasks.spawn(serve::listen(self.clone()));
        tasks.spawn(join::stay_valid(self.clone()));
        for (node, plan) in self.shared.config.peers.clone() {
            let ways = std::iter::once((Path::Overlay, plan.overlay)).chain(plan.lan.map(|lan| (Path::Lan, lan)));
            for (path, address) in ways {
                tasks.spawn(dial::keep(self.clone(), node.clone(), path, address));
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the link broke");
            }
        }
    }

    /// Tells the peers what is so here.
    pub(crate) fn publish(&self, status: &NodeStatus) {
        let mut desk = self.desk();
        let mut news = false;
        for (key, value) in report::facts(status) {
            news |= desk.publish(&key, value);
        }
        drop(desk);
        if news {
            self.shared.told.send_modify(|count| *count += 1);
        }
    }

    /// Tells the peers what is used here. Nobody waits for it, so that it goes with the next word.
    pub(crate) fn publish_use(&self, usage: &MachineUse) {
        self.desk().publish(usage::USE, usage::to_wire(usage));
    }

    /// How every peer is.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let (now, is_member) = (self.shared.began.elapsed(), self.shared.trust.is_there());
        let desk = self.desk();
        let groups =
            |node: &NodeName| desk.facts(node).filter_map(|(key, value)| report::group(node, key, value)).collect();
        let usage = |node: &NodeName| desk.facts(node).find_map(|(key, value)| usage::of_wire(key, value));
        let ours = (self.shared.config.plan_hash.as_str(), self.shared.config.fleet_file.as_str());
        let seen = desk.seen(now);
        let told = |node: &NodeName| (groups(node), usage(node));
        seen.into_iter().map(|seen| state::of(&seen, is_member, ours, told(&seen.node), now)).collect()
    }

    /// Waits until each of these groups is ready, or its node is away; and not at all where this machine belongs to no fleet.
    pub(crate) async fn settled(&self, groups: &[GroupId]) {
        let mut learned = self.shared.learned.subscribe();
        loop {
            learned.borrow_and_update();
            if groups.iter().all(|group| self.is_settled(group)) {
                return;
            }
            // What makes a peer count as away is silence, which nobody tells.
            let (Ok(_) | Err(_)) = tokio::time::timeout(dial::PERIOD, learned.changed()).await;
        }
    }

    fn is_settled(&self, group: &GroupId) -> bool {
        let desk = self.desk();
        match desk.is_alive(&group.node, self.shared.began.elapsed()) {
            None => !self.shared.trust.is_there(),
            Some(false) => true,
            Some(true) => {
                let key = report::key(&group.group);
                let told = desk.facts(&group.node).find(|(known, _)| *known == key);
                let group = told.and_then(|(key, value)| report::group(&group.node, key, value));
                group.is_some_and(|group| {
                    matches!(group.state, GroupState::Ready | GroupState::Degraded | GroupState::NotBuilt)
                })
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // What it holds is whole between any two calls, so that a panic elsewhere does not spoil it.
        self.shared.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to tell a peer now.
    fn tell(&self, to: &NodeName) -> Result<Telling, Fault> {
        let crl = self.shared.crl.lock().unwrap_or_else(PoisonError::into_inner);
        let telling = self.desk().tell(to, SystemTime::now().into(), (crl.0, &crl.1));
        telling
            .ok_or_else(|| Fault::not_found(format!("the fleet file of {} has no node {to}", self.shared.config.node)))
    }

    /// A peer told something; whether there is more to say at once.
    fn heard(&self, telling: Telling, path: Path) -> bool {
        let crl_number = self.shared.crl.lock().unwrap_or_else(PoisonError::into_inner).0;
        let now = (self.shared.began.elapsed(), Timestamp::from(SystemTime::now()));
        let Heard { changed, more, crl } = self.desk().heard(telling, path, now, crl_number);
        if !changed.is_empty() {
            tracing::debug!(?changed, "a peer told something new");
        }
        if let Some(crl) = crl {
            join::take_crl(self.clone(), crl);
        }
        self.shared.learned.send_modify(|count| *count += 1);
        more
    }
}

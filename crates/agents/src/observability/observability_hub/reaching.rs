//! What this machine's node knows, beside what hubs know: the way to other nodes, and how often processes were started again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tandem_agent::{PeerNode, Reach};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_types::{Fault, GroupId, Health, NodeName, Timestamp};

use super::logic::picture::{Group, roll_up};
use super::{Hub, lock, wire};

/// Time between two looks.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// What the node said last.
#[derive(Default)]
pub(super) struct Known {
    at: Timestamp,
    peers: BTreeMap<NodeName, PeerNode>,
    restarts: BTreeMap<GroupId, u32>,
}

impl Known {
    /// The way to another node; none where the node does not say.
    fn link(&self, node: &NodeName, now: Timestamp) -> Option<pb::PeerLink> {
        let peer = self.peers.get(node)?;
        let heard = peer.heard.map(|heard| heard + now.since(self.at));
        Some(pb::PeerLink {
            reach: reach(peer.reach).into(),
            cause: peer.reason.clone(),
            heard_ms_ago: heard.map(|heard| u64::try_from(heard.as_millis()).unwrap_or(u64::MAX)),
            round_trip_us: peer.round_trip().map(|took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            ..Default::default()
        })
    }

    pub(super) fn group(&self, of: &Group, now: Timestamp) -> pb::GroupNode {
        pb::GroupNode { restarts: self.restarts.get(&of.id).copied(), ..wire::group(of, now) }
    }

    /// A change of a group.
    pub(super) fn change(&self, of: &Group, now: Timestamp) -> pb::WatchHealthResponse {
        let (node, group) = (of.id.node.to_string(), self.group(of, now).into());
        pb::WatchHealthResponse { node, group, ..Default::default() }
    }

    /// A node with its groups.
    pub(super) fn node(&self, name: &NodeName, groups: &[Group], now: Timestamp) -> pb::NodeNode {
        let health: Health = roll_up(groups, now);
        pb::NodeNode {
            node: name.to_string(),
            health: common::Health::from(&health).into(),
            groups: groups.iter().map(|group| self.group(group, now)).collect(),
            link: self.link(name, now).into(),
            ..Default::default()
        }
    }
}

fn reach(reach: Reach) -> pb::Reach {
    match reach {
        Reach::Ready => pb::Reach::REACH_READY,
        Reach::OverlayDown => pb::Reach::REACH_OVERLAY_DOWN,
        Reach::Differs => pb::Reach::REACH_DIFFERS,
        Reach::Away => pb::Reach::REACH_AWAY,
        Reach::Unheard => pb::Reach::REACH_UNHEARD,
        Reach::NotJoined => pb::Reach::REACH_NOT_JOINED,
    }
}

impl Hub {
    /// Asks the node, and tells watchers where the way to another node has changed. What was known of a node that is away is stale at
    /// once, before its hub has been silent for long.
    pub(super) async fn ask_node(self: Arc<Self>) -> Result<(), Fault> {
        let view = self.ctx.peers().node().await;
        let now = self.now();
        let known = view.as_ref().map(|view| Known {
            at: now,
            peers: view.peers.iter().map(|peer| (peer.node.clone(), peer.clone())).collect(),
            restarts: (view.groups.iter())
                .chain(view.peers.iter().flat_map(|peer| &peer.groups))
                .map(|group| (group.id.clone(), group.restarts))
                .collect(),
        });
        let before = std::mem::replace(&mut *lock(&self.known), known.unwrap_or_default());
        let peers = view?.peers;
        // The first round trip comes after the first word.
        let way = |peer: &PeerNode| (peer.reach, peer.round_trip().is_some());
        let turned = peers.iter().filter(|peer| before.peers.get(&peer.node).map(way) != Some(way(peer)));
        for peer in turned {
            let link = lock(&self.known).link(&peer.node, now).into();
            let change = pb::WatchHealthResponse { node: peer.node.to_string(), link, ..Default::default() };
            // An error only says that nobody watches.
            let _ = self.changes.send(Arc::new(change));
            if peer.reach == Reach::Away {
                let stale = self.picture().away(&peer.node);
                self.tell(stale).await;
            }
        }
        Ok(())
    }
}

//! What this machine's node knows, as agents see it.

use std::time::Duration;

use futures::future::BoxFuture;
use tandem_agent::{NodeGroup, NodeSource, NodeView, PeerNode, PeerPath, Reach};
use tandem_node::{Control, Layout, LinkStatus, PathStatus, PeerGroup, PeerState, PeerStatus};
use tandem_types::Fault;

/// Asks the node of a data directory.
pub(crate) struct Known {
    node: Control,
}

impl Known {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self { node: Control::new(layout) }
    }
}

impl NodeSource for Known {
    fn look(&self) -> BoxFuture<'_, Result<NodeView, Fault>> {
        Box::pin(async { Ok(view(self.node.link().await?)) })
    }
}

fn view(status: LinkStatus) -> NodeView {
    NodeView { groups: groups(&status.groups), peers: status.peers.into_iter().map(peer).collect() }
}

fn peer(peer: PeerStatus) -> PeerNode {
    PeerNode {
        groups: groups(&peer.groups),
        node: peer.node,
        reach: match peer.state {
            PeerState::Alive => Reach::Ready,
            PeerState::OverlayDead => Reach::OverlayDown,
            PeerState::Differs => Reach::Differs,
            PeerState::Unknown => Reach::Away,
            PeerState::Unheard => Reach::Unheard,
            PeerState::NotJoined => Reach::NotJoined,
        },
        // How long it is silent is told beside it, and grows meanwhile.
        reason: if peer.state == PeerState::Unknown { peer.trouble.unwrap_or_default() } else { peer.reason },
        heard: peer.heard_ms_ago.map(Duration::from_millis),
        paths: peer.paths.iter().map(path).collect(),
    }
}

fn path(path: &PathStatus) -> PeerPath {
    PeerPath {
        path: path.path.as_str(),
        suspicion: path.suspicion,
        round_trip: path.round_trip_us.map(Duration::from_micros),
    }
}

fn groups(groups: &[PeerGroup]) -> Vec<NodeGroup> {
    groups.iter().map(|group| NodeGroup { id: group.group.clone(), restarts: group.restarts }).collect()
}

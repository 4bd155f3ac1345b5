//! What this machine's node knows: its own groups, and the other nodes of the fleet over the link. Plain data; the binary, which
//! alone knows node and agents, makes it.

use std::time::Duration;

use futures::future::BoxFuture;
use tandem_types::{Fault, GroupId, NodeName};

/// How far another node can be reached from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is heard over the overlay.
    Ready,
    /// It is heard on the local network only.
    OverlayDown,
    /// It is heard, and runs what does not go together with this node.
    Differs,
    /// It is silent: away or cut off, which cannot be told from here.
    Away,
    /// It was not heard since this node began.
    Unheard,
    /// This machine belongs to no fleet.
    NotJoined,
}

impl Reach {
    /// The word that events carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::OverlayDown => "overlay_down",
            Self::Differs => "differs",
            Self::Away => "away",
            Self::Unheard => "unheard",
            Self::NotJoined => "not_joined",
        }
    }
}

/// A way to another node.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerPath {
    /// `overlay` or `lan`.
    pub path: &'static str,
    /// How much its silence there is suspected, φ; none while it was never heard there.
    pub suspicion: Option<f64>,
    /// How long its last answer there took; none while it does not answer.
    pub round_trip: Option<Duration>,
}

/// Another node of the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerNode {
    /// Which.
    pub node: NodeName,
    /// How far it can be reached.
    pub reach: Reach,
    /// Why, in words.
    pub reason: String,
    /// How long ago it was last heard; none when never.
    pub heard: Option<Duration>,
    /// What each way to it is like, the overlay first.
    pub paths: Vec<PeerPath>,
    /// Its groups, as it last told.
    pub groups: Vec<NodeGroup>,
}

impl PeerNode {
    /// How long its last answer took, on the first way on which it answers.
    pub fn round_trip(&self) -> Option<Duration> {
        self.paths.iter().find_map(|path| path.round_trip)
    }
}

/// A group as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeGroup {
    /// Which.
    pub id: GroupId,
    /// How often its process was started again.
    pub restarts: u32,
}

/// What a node knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    /// Its own groups.
    pub groups: Vec<NodeGroup>,
    /// The other nodes.
    pub peers: Vec<PeerNode>,
}

/// Where what the node knows is asked for.
pub trait NodeSource: Send + Sync {
    /// What it knows now.
    ///
    /// # Errors
    /// `unavailable` when no node answers.
    fn look(&self) -> BoxFuture<'_, Result<NodeView, Fault>>;
}

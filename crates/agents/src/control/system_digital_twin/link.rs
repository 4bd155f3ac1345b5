//! The link to the other nodes, as this machine's node knows it: measured, kept, and told when it turns.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::gauge;
use serde_json::{Value, json};
use tandem_agent::{PeerNode, Reach, Topic, TopicKind};
use tandem_store::paging::Page;
use tandem_store::series::{Happening, HappeningFilter, SeriesStore as _};
use tandem_types::{Fault, NodeName, Timestamp};

use super::{Twin, lock};

/// Another node came, went, or can be reached in another way.
pub(super) const NODE_LINK: Topic = Topic { name: "node.link", kind: TopicKind::Journal };

/// What was last told of each of the other nodes.
pub(super) type Told = BTreeMap<NodeName, String>;

/// Whether how a node can be reached is worth an event. One that was never heard has not gone.
pub(super) fn is_news(told: Option<&str>, now: Reach) -> bool {
    match now {
        Reach::Unheard | Reach::NotJoined => false,
        Reach::Ready | Reach::OverlayDown | Reach::Differs | Reach::Away => told != Some(now.as_str()),
    }
}

fn payload(peer: &PeerNode) -> Value {
    json!({
        "peer": peer.node,
        "state": peer.reach.as_str(),
        "cause": peer.reason,
        "round_trip_ms": peer.round_trip().map(|took| took.as_secs_f64() * 1e3),
    })
}

fn show(peer: &PeerNode) {
    for path in &peer.paths {
        let labels = [("node", peer.node.to_string()), ("path", path.path.to_owned())];
        if let Some(suspicion) = path.suspicion {
            gauge!("tandem_peer_phi", &labels).set(suspicion);
            // What was measured before it fell silent says nothing of now.
            let took = path.round_trip.map_or(f64::NAN, |took| took.as_secs_f64());
            gauge!("tandem_peer_rtt_seconds", &labels).set(took);
        }
    }
}

impl Twin {
    /// Takes up what an earlier life told last, so that it is not told again.
    pub(super) async fn restore_links(&self) -> Result<(), Fault> {
        let own = &self.ctx.id().node;
        let others = self.ctx.fleet().nodes.iter().map(|node| &node.name).filter(|name| *name != own);
        for node in others {
            let filter = HappeningFilter {
                kind: Some(NODE_LINK.name.into()),
                subject: Some(node.to_string()),
                from: Timestamp(0),
            };
            let last = self.stores.series.happenings(filter, Page { size: 1, token: String::new() }).await?;
            let detail = last.items.first().and_then(|last| serde_json::from_str::<Value>(&last.detail).ok());
            if let Some(state) = detail.and_then(|detail| detail["state"].as_str().map(str::to_owned)) {
                lock(&self.links).insert(node.clone(), state);
            }
        }
        Ok(())
    }

    /// Looks at the link: gauges each time, an event where it has turned.
    pub(super) async fn look_at_link(self: Arc<Self>) -> Result<(), Fault> {
        for peer in self.ctx.peers().node().await?.peers {
            show(&peer);
            let told = lock(&self.links).get(&peer.node).cloned();
            if !is_news(told.as_deref(), peer.reach) {
                continue;
            }
            let (at, payload) = (self.now(), payload(&peer));
            self.ctx.publisher().publish(NODE_LINK, peer.node.as_str(), payload.clone()).await?;
            let (kind, subject) = (NODE_LINK.name.to_owned(), peer.node.to_string());
            lock(&self.links).insert(peer.node, peer.reach.as_str().to_owned());
            self.stores.series.note(vec![Happening { kind, subject, detail: payload.to_string(), at }]).await?;
        }
        Ok(())
    }
}

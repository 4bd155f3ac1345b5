//! The exchange with the hubs of other nodes: each is the authority on its own node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use metrics::{counter, gauge};
use serde_json::json;
use tandem_agent::{Ctx, FleetAgent, FleetGroup};
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::telemetry;
use tandem_contract::{Call, Client};
use tandem_store::alerts::{Alert, AlertStore as _};
use tandem_store::errors::Severity;
use tandem_store::paging::Page;
use tandem_store::series::{Happening, HappeningFilter, SeriesCopy, SeriesStore as _};
use tandem_types::{AgentName, Fault, GroupId, NodeName, Timestamp};

use super::logic::picture::{CLOCKS_EQUAL, Group};
use super::logic::rolled_up::MetricsPage;
use super::{DEF, Hub, Settings, lock, ms, wire};
use crate::fields::Fields;
use crate::opening::open;

/// The hub of another node.
pub(super) struct PeerHub {
    pub(super) node: NodeName,
    group: GroupId,
    pub(super) at: Client,
    pub(super) hub: AgentName,
    pub(super) state: Mutex<Contact>,
    /// What that node measured.
    pub(super) past: SeriesCopy,
}

#[derive(Default)]
pub(super) struct Contact {
    /// When it last answered or called.
    heard: Option<Timestamp>,
    compared: Option<Timestamp>,
    /// When its metrics were asked for last.
    measured: Option<Timestamp>,
    /// When it had no more samples than were taken over.
    pub(super) taken: Option<Timestamp>,
    /// The versions of our groups that it has.
    has: BTreeMap<GroupId, u64>,
}

/// Kind under which what other hubs said is kept over a restart.
const ENTRY: &str = "peer.entry";
/// How long changes are kept for a hub that is away, and how many it gets at once.
pub(super) const UNSENT: Duration = Duration::from_hours(24);
const MOST_ALERTS: u32 = 500;
/// How long another hub may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The hubs of the other nodes in the plan.
pub(super) async fn peers(ctx: &Ctx, settings: &Settings) -> Result<Vec<PeerHub>, Fault> {
    let mut found = Vec::new();
    for (group, hub) in planned(ctx) {
        let node = group.node.clone();
        let elsewhere = node.as_str() == "mainpc" && !settings.mainpc_hub_endpoint.is_empty();
        let at = match elsewhere {
            true => ctx.peers().at(&settings.mainpc_hub_endpoint)?,
            false => ctx.peers().group(&group)?,
        };
        let path = ctx.data_file(&format!("telemetry.{node}.db"));
        let past = open(move || SeriesCopy::open(path)).await?;
        found.push(PeerHub { node, group, at, hub, state: Mutex::default(), past });
    }
    Ok(found)
}

fn planned(ctx: &Ctx) -> Vec<(GroupId, AgentName)> {
    let is_hub = |group: &FleetGroup, agent: &FleetAgent| {
        agent.name.as_str() == DEF.name && agent.built && group.id.node != ctx.id().node
    };
    let agents = ctx.fleet().agents().filter(|(group, agent)| is_hub(group, agent));
    agents.map(|(group, agent)| (group.id.clone(), agent.name.clone())).collect()
}

impl Hub {
    /// Takes up what other hubs said in an earlier life of this one; it counts as stale until they say it again.
    pub(super) async fn remember(&self) -> Result<(), Fault> {
        let others = self.ctx.fleet().groups.iter().map(|group| &group.id).filter(|id| id.node != self.me);
        for id in others {
            let filter =
                HappeningFilter { kind: Some(ENTRY.into()), subject: Some(id.to_string()), from: Timestamp(0) };
            let page = Page { size: 1, token: String::new() };
            let last = self.store.series.happenings(filter, page).await?.items.into_iter().next();
            // An entry of an older form is as good as none: its hub will say it again.
            if let Some(group) = last.and_then(|happening| serde_json::from_str::<Group>(&happening.detail).ok()) {
                self.picture().remember(group);
            }
        }
        let others = self.ctx.fleet().nodes.iter().filter(|node| node.name != self.me).count();
        if others > self.peers.len() {
            self.trouble("peer", Some("no peer configured: another node of the fleet has no hub".into()));
        }
        Ok(())
    }

    /// One exchange with every other hub.
    pub(super) async fn sync(self: Arc<Self>) -> Result<(), Fault> {
        let outcomes = join_all(self.peers.iter().map(|peer| self.sync_with(peer))).await;
        let silent = self.picture().silence(self.now());
        self.tell(silent).await;
        for peer in &self.peers {
            self.show_silence(peer).await;
        }
        outcomes.into_iter().collect()
    }

    /// Away is no failure of this hub: it is counted and shown. What comes back is a failure to keep what was said.
    async fn sync_with(&self, peer: &PeerHub) -> Result<(), Fault> {
        let call = || self.ctx.call().to(peer.hub.clone()).within(PATIENCE, Instant::now());
        let (versions, now) = (self.picture().versions(&peer.node), self.now());
        let alerts_after_us = self.store.alerts.taken(&peer.node).await?.map_or(0, Timestamp::micros);
        let metrics = lock(&peer.state).measured.is_none_or(|at| now.since(at) >= ms(self.settings.scrape_ms));
        let request = pb::SyncDeltaRequest {
            alerts_after_us,
            metrics,
            node: self.me.to_string(),
            versions: versions.into_iter().map(|(id, version)| (id.to_string(), version)).collect(),
            ..Default::default()
        };
        let delta = match peer.at.unary(telemetry::SYNC_DELTA, request, &call()).await {
            Ok(delta) => delta,
            Err(fault) => {
                counter!("tandem_sync_failures_total").increment(1);
                tracing::debug!(node = %peer.node, %fault, "the hub of another node did not answer");
                return Ok(());
            }
        };
        let now = self.now();
        {
            let mut contact = lock(&peer.state);
            contact.heard = Some(now);
            if metrics {
                contact.measured = Some(now);
                let page = MetricsPage::of(&peer.group, &delta.metrics_page, true);
                lock(&self.peer_pages).insert(peer.group.clone(), page);
            }
        }
        let alerts: Vec<Alert> = delta.alerts.iter().filter_map(|alert| wire::read_alert(&peer.node, alert)).collect();
        if !alerts.is_empty() {
            self.store.alerts.take(&peer.node, alerts).await?;
        }
        let groups: Vec<Group> = delta.groups.iter().filter_map(|g| wire::read_group(&peer.node, g, now)).collect();
        let kept = self.keep(&groups, now).await;
        let news = {
            let mut picture = self.picture();
            let news = picture.merge(&peer.node, groups, now);
            for (name, seen) in &delta.seen {
                if let Ok(group) = name.parse() {
                    let at = now - Duration::from_millis(seen.age_ms.into());
                    picture.seen_there(&GroupId::new(peer.node.clone(), group), at, seen.answer_us);
                }
            }
            news
        };
        self.tell(news).await;
        let due = lock(&peer.state).compared.is_none_or(|at| now.since(at) >= ms(self.settings.digest_ms));
        if due {
            self.compare(peer, call()).await;
        }
        kept
    }

    /// Whether the plan has a hub on another node.
    pub(super) fn has_peer(&self, node: &NodeName) -> bool {
        self.peers.iter().any(|peer| peer.node == *node)
    }

    pub(super) fn peer(&self, node: &NodeName) -> Result<&PeerHub, Fault> {
        let peer = self.peers.iter().find(|peer| peer.node == *node);
        peer.ok_or_else(|| Fault::not_found(format!("the plan has no hub on {node}")))
    }

    /// Tells the hub of another node that somebody has seen an alert of that node.
    pub(super) async fn ack_at(&self, node: &NodeName, request: pb::AckAlertRequest, call: &Call) -> Result<(), Fault> {
        let peer = self.peer(node)?;
        let call = call.next(self.ctx.id()).to(peer.hub.clone());
        peer.at.unary(telemetry::ACK_ALERT, request, &call).await.map(drop)
    }

    async fn compare(&self, peer: &PeerHub, call: Call) {
        let began = self.now();
        let Ok(theirs) = peer.at.unary(telemetry::SYNC_DIGEST, Default::default(), &call).await else { return };
        let ended = self.now();
        lock(&peer.state).compared = Some(ended);
        let digests: BTreeMap<GroupId, String> =
            theirs.digests.into_iter().filter_map(|(id, digest)| Some((id.parse().ok()?, digest))).collect();
        let differing = self.picture().compare(&peer.node, &digests);
        if differing > 0 {
            tracing::info!(node = %peer.node, groups = differing, "pictures differ; asking for all of it again");
        }
        if theirs.now_us > 0 {
            let middle = began.micros() + (ended.micros() - began.micros()) / 2;
            self.clocks(&peer.node, theirs.now_us - middle).await;
        }
    }

    async fn clocks(&self, node: &NodeName, ahead: i64) {
        self.picture().clock_ahead(node, ahead);
        let apart = u128::from(ahead.unsigned_abs());
        if apart <= CLOCKS_EQUAL.as_micros() {
            // Between the two an alert that stands goes on, and none begins.
            if apart <= CLOCKS_EQUAL.as_micros() / 2 {
                self.better("clocks_apart", node.as_str());
            }
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "for people, to a tenth of a second")]
        let seconds = ahead as f64 / 1e6;
        let message = format!(
            "the clock of {node} is {seconds:+.1} s from that of {}; set both by a time server. Times are shown corrected",
            self.me
        );
        self.raise("clocks_apart", node.as_str(), Severity::Warning, message, json!({ "ahead_us": ahead }), 1).await;
    }

    async fn keep(&self, groups: &[Group], now: Timestamp) -> Result<(), Fault> {
        let happening = |group: &Group| {
            let detail = serde_json::to_string(group)
                .map_err(|e| Fault::internal(format!("what is known of {} cannot be written: {e}", group.id)))?;
            Ok(Happening { kind: ENTRY.into(), subject: group.id.to_string(), detail, at: now })
        };
        let entries = groups.iter().map(happening).collect::<Result<Vec<_>, Fault>>()?;
        if entries.is_empty() { Ok(()) } else { self.store.series.note(entries).await }
    }

    async fn show_silence(&self, peer: &PeerHub) {
        let now = self.now();
        // Before its first word, silence counts from the first look.
        let heard = *lock(&peer.state).heard.get_or_insert(now);
        let silent = now.since(heard);
        gauge!("tandem_peer_state_age_seconds", "node" => peer.node.to_string()).set(silent.as_secs_f64());
        let lacks = u32::try_from(self.picture().newer(&lock(&peer.state).has).len()).unwrap_or(u32::MAX);
        gauge!("tandem_sync_backlog_deltas", "node" => peer.node.to_string()).set(lacks);
        if silent > ms(self.settings.peer_silent_ms) {
            // What it measured is too old to be shown as if it were so.
            lock(&self.peer_pages).remove(&peer.group);
            let message = format!("nothing was heard of the hub of {} for {} s", peer.node, silent.as_secs());
            let evidence = json!({ "heard_us": heard });
            self.raise("peer_silent", peer.node.as_str(), Severity::Warning, message, evidence, 1).await;
        } else {
            self.better("peer_silent", peer.node.as_str());
        }
    }

    pub(super) async fn sync_delta(
        self: Arc<Self>,
        _: Call,
        request: pb::SyncDeltaRequest,
    ) -> Result<pb::SyncDeltaResponse, Fault> {
        let mut fields = Fields::default();
        let node = fields.parse::<NodeName>("node", &request.node);
        let mut versions = BTreeMap::new();
        for (id, version) in &request.versions {
            if let Some(id) = fields.parse::<GroupId>("versions", id) {
                versions.insert(id, *version);
            }
        }
        let node = fields.all(node)?;
        let now = self.now();
        let (newer, seen) = {
            let picture = self.picture();
            let newer: Vec<Group> = picture.newer(&versions).into_iter().cloned().collect();
            let all = picture.newer(&BTreeMap::new());
            (newer, all.into_iter().map(|group| (group.id.group.to_string(), wire::seen(group, now))).collect())
        };
        if let Some(peer) = self.peers.iter().find(|peer| peer.node == node) {
            let mut contact = lock(&peer.state);
            contact.heard = Some(now);
            contact.has = versions;
            contact.has.extend(newer.iter().map(|group| (group.id.clone(), group.version)));
        }
        // What is older than a day the other side may have forgotten, or never known.
        let after = Timestamp(request.alerts_after_us).max(now - UNSENT);
        let alerts = self.store.alerts.changed(after, MOST_ALERTS).await?;
        Ok(pb::SyncDeltaResponse {
            node: self.me.to_string(),
            groups: newer.iter().map(|group| wire::group(group, now)).collect(),
            seen,
            alerts: alerts.into_iter().map(|alert| wire::alert(alert, &self.me)).collect(),
            metrics_page: if request.metrics { self.page_for_peers() } else { String::new() },
            ..Default::default()
        })
    }

    pub(super) async fn sync_digest(
        self: Arc<Self>,
        _: Call,
        _: pb::SyncDigestRequest,
    ) -> Result<pb::SyncDigestResponse, Fault> {
        let digests = self.picture().digests(&self.me);
        Ok(pb::SyncDigestResponse {
            node: self.me.to_string(),
            digests: digests.into_iter().map(|(id, digest)| (id.to_string(), digest)).collect(),
            now_us: self.now().micros(),
            ..Default::default()
        })
    }
}

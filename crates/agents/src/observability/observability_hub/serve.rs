//! What the hub answers about health and measurements.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::{Map, json};
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::{Call, Reply};
use tandem_store::series::{Query, SeriesStore as _};
use tandem_types::{Code, Fault, GroupId, Health, NodeName, Timestamp, reason};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::logic::picture::{Agent, Group, roll_up};
use super::{Hub, lock, wire};
use crate::draining::draining;
use crate::fields::Fields;

/// The label under which a series' group is asked for and shown.
pub(super) const GROUP_LABEL: &str = "group";

impl Hub {
    pub(super) async fn get_fleet_health(
        self: Arc<Self>,
        _: Call,
        _: pb::GetFleetHealthRequest,
    ) -> Result<pb::GetFleetHealthResponse, Fault> {
        let now = self.now();
        let views = self.picture().views();
        let known = lock(&self.known);
        let node = |(name, groups): (_, Vec<_>)| known.node(&name, &groups, now);
        Ok(pb::GetFleetHealthResponse { nodes: views.into_iter().map(node).collect(), ..Default::default() })
    }

    /// The tree for `/health`: every node, group and agent with state, cause and age.
    pub(super) fn fleet_page(&self) -> serde_json::Value {
        let now = self.now();
        let said = |health: &Health| json!({ "state": health.state, "cause": health.cause, "since_us": health.since.micros() });
        let agent = |agent: &Agent| (agent.name.to_string(), said(&agent.health));
        let group = |group: &Group| {
            let mut page = said(&group.health);
            page["age_ms"] = u64::try_from(now.since(group.seen).as_millis()).unwrap_or(u64::MAX).into();
            page["agents"] = group.agents.iter().map(agent).collect::<Map<_, _>>().into();
            (group.id.group.to_string(), page)
        };
        let node = |(name, groups): (NodeName, Vec<Group>)| {
            let mut page = said(&roll_up(&groups, now));
            page["groups"] = groups.iter().map(group).collect::<Map<_, _>>().into();
            (name.to_string(), page)
        };
        self.picture().views().into_iter().map(node).collect::<Map<_, _>>().into()
    }

    /// Sends every group as it is, then each change.
    pub(super) async fn watch_health(
        self: Arc<Self>,
        _: Call,
        _: pb::WatchHealthRequest,
    ) -> Result<Reply<pb::WatchHealthResponse>, Fault> {
        // Subscribed before the picture is taken: a change between the two comes twice rather than never.
        let live = self.changes.subscribe();
        let now = self.now();
        let views = self.picture().views();
        let known = lock(&self.known);
        let first: VecDeque<_> = views.into_values().flatten().map(|group| known.change(&group, now)).collect();
        drop(known);
        Ok(Box::pin(stream::unfold(Some((first, live)), follow).take_until(draining(&self.ctx))))
    }

    pub(super) async fn query_series(
        self: Arc<Self>,
        call: Call,
        request: pb::QuerySeriesRequest,
    ) -> Result<pb::QuerySeriesResponse, Fault> {
        let node = request.labels.get(GROUP_LABEL).and_then(|group| group.parse::<GroupId>().ok()).map(|id| id.node);
        let to = if request.to_us == 0 { self.now() + Duration::from_micros(1) } else { Timestamp(request.to_us) };
        let mut fields = Fields::default();
        fields.require(!request.name.is_empty(), "name", "is missing");
        fields.require(request.from_us < to.micros(), "from_us", "is not before to_us");
        fields.all(Some(()))?;
        let mut labels: std::collections::BTreeMap<String, String> = request.labels.clone().into_iter().collect();
        let query = Query {
            name: request.name.clone(),
            owner: labels.remove(GROUP_LABEL),
            labels,
            from: Timestamp(request.from_us),
            to,
            step: Duration::from_millis(request.step_ms.into()),
        };
        if let Some(node) = node.filter(|node| *node != self.me && self.has_peer(node)) {
            return self.past_of(&node, request, query, &call).await;
        }
        let series = self.store.series.query(query).await?.into_iter().map(wire::series).collect();
        Ok(pb::QuerySeriesResponse { series, ..Default::default() })
    }
}

type Following = (VecDeque<pb::WatchHealthResponse>, broadcast::Receiver<Arc<pb::WatchHealthResponse>>);

async fn follow(state: Option<Following>) -> Option<(Result<pb::WatchHealthResponse, Fault>, Option<Following>)> {
    let (mut first, mut live) = state?;
    if let Some(group) = first.pop_front() {
        return Some((Ok(group), Some((first, live))));
    }
    match live.recv().await {
        Ok(change) => Some((Ok(Arc::unwrap_or_clone(change)), Some((first, live)))),
        Err(RecvError::Closed) => None,
        Err(RecvError::Lagged(missed)) => {
            let message = format!("this watcher did not read {missed} changes in time; watch again to get the picture");
            Some((Err(Fault::new(Code::ResourceExhausted, reason::BEHIND, message)), None))
        }
    }
}

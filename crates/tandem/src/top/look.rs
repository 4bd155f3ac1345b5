//! Looks at the node and its groups, again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use serde_json::Value;
use tandem_fleet::Plan;
use tandem_node::{GroupStatus, get};
use tandem_types::{Fault, GroupId};
use tokio::sync::watch;

use super::calls::{self, Calls, Window};
use super::picture::{Picture, Seen, picture};
use crate::fleet;
use crate::place::Place;

/// How long a group has to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// What the group's own process has counted; where a hub shows more, that is left out.
const OWN_METRICS: &str = "/metrics?own";

/// What a look led to.
pub(super) type Look = Result<Picture, Fault>;

/// Looks at the node of a data directory, and remembers what groups had counted before.
pub(super) struct Looker {
    place: Place,
    began: Instant,
    /// The plan of the node, by its hash; none where it cannot be read.
    plan: Option<(String, Option<Plan>)>,
    windows: BTreeMap<GroupId, Window>,
}

impl Looker {
    pub(super) fn new(place: Place) -> Self {
        Self { place, began: Instant::now(), plan: None, windows: BTreeMap::new() }
    }

    /// Looks now.
    ///
    /// # Errors
    /// `unavailable` with reason `peer_away` when no node runs.
    pub(super) async fn look(&mut self) -> Look {
        let status = self.place.control().status().await?;
        if self.plan.as_ref().is_none_or(|(hash, _)| *hash != status.plan_hash) {
            let plan = fleet::running(&self.place, &status).ok().map(|running| running.plan);
            self.plan = Some((status.plan_hash.clone(), plan));
        }
        let plan = self.plan.as_ref().and_then(|(_, plan)| plan.as_ref());
        let mut answers = join_all(status.groups.iter().map(|group| ask(group, plan))).await;
        for (group, answer) in status.groups.iter().zip(&mut answers) {
            if let (Some(pid), Some(calls)) = (group.pid, answer.calls.take()) {
                self.windows.entry(group.group.clone()).or_default().push(self.began.elapsed(), pid, calls);
            }
        }
        let seen = |(group, answer): (&GroupStatus, Asked)| {
            let (health, probe_us) = answer.health.unzip();
            // One that does not answer serves nothing now.
            let calls = health.is_some().then(|| self.windows.get(&group.group)).flatten();
            Seen { health, probe_us, calls }
        };
        let seen: Vec<Seen<'_>> = status.groups.iter().zip(answers).map(seen).collect();
        Ok(picture(&status, &seen, plan, SystemTime::now().into()))
    }

    /// Looks now and every so often; never ends by itself, except that nobody waits for what it sees.
    pub(super) async fn follow(mut self, every: Duration, told: watch::Sender<Option<Look>>) {
        while !told.is_closed() {
            let began = Instant::now();
            let look = self.look().await;
            told.send_replace(Some(look));
            tokio::time::sleep(every.saturating_sub(began.elapsed())).await;
        }
    }
}

/// What a group answered.
#[derive(Default)]
struct Asked {
    /// Its `/health`, and how many microseconds that took.
    health: Option<(Value, u64)>,
    calls: Option<BTreeMap<String, Calls>>,
}

async fn ask(group: &GroupStatus, plan: Option<&Plan>) -> Asked {
    let planned = plan.and_then(|plan| plan.group(&group.group)).filter(|_| group.state.runs());
    let Some(address) = planned.map(|planned| planned.contract) else { return Asked::default() };
    let health = async {
        let began = Instant::now();
        let answer = get(address, "/health", LIMIT).await.ok()?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Some((serde_json::from_slice(&answer.body).ok()?, took))
    };
    let (health, page) = tokio::join!(health, get(address, OWN_METRICS, LIMIT));
    let page = page.ok().filter(|page| page.status == 200);
    Asked { health, calls: page.map(|page| calls::read(&String::from_utf8_lossy(&page.body), &group.group)) }
}

//! Probing the groups of the own node, and hearing from the registry when to look at once.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::StatusCode;
use futures::StreamExt as _;
use metrics::{gauge, histogram};
use serde_json::json;
use tandem_agent::{Ctx, backoff};
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::rpc::registry;
use tandem_types::{GroupId, State, Timestamp};
use tokio::sync::Notify;

use super::logic::picture::{News, Turn};
use super::logic::probe::{Heard, Phase, Prober, Rules};
use super::logic::report::{self, Report};
use super::{HEALTH_CHANGED, Hub, lock};

/// A group of the own node.
pub(super) struct Watched {
    pub(super) id: GroupId,
    /// Where its health and metrics are.
    pub(super) at: String,
    prober: Mutex<Prober>,
    /// The process it last answered from; 0 before that.
    pid: AtomicU32,
    /// The registry said something about it.
    look: Notify,
}

impl Watched {
    pub(super) fn new(ctx: &Ctx, id: &GroupId, rules: Rules, now: Timestamp) -> Self {
        let at = ctx.fleet().group(id).map(|group| group.scrape_endpoint.clone()).unwrap_or_default();
        let prober = Mutex::new(Prober::new(rules, now));
        Self { id: id.clone(), at, prober, pid: AtomicU32::new(0), look: Notify::new() }
    }

    /// What the probes say of it.
    pub(super) fn phase(&self) -> Phase {
        lock(&self.prober).phase()
    }

    /// Whether it runs in this process. Metrics are counted by the process, so all of its groups show the same ones.
    pub(super) fn is_in_this_process(&self) -> bool {
        self.pid.load(Ordering::Relaxed) == std::process::id()
    }
}

impl Hub {
    /// Probes one group until the hub ends; each has its own task, so that one that hangs holds up no other.
    pub(super) async fn watch_group(self: Arc<Self>, group: Arc<Watched>) {
        let mut began = Instant::now();
        loop {
            let wait = lock(&group.prober).pace().saturating_sub(began.elapsed());
            if !wait.is_zero() && tokio::time::timeout(wait, group.look.notified()).await.is_ok() {
                continue;
            }
            began = Instant::now();
            let (within, late) = {
                let prober = lock(&group.prober);
                (prober.timeout(), prober.late())
            };
            let mut probe = pin!(self.probe(&group, within));
            // A probe that ends when it would be late is one miss, not two.
            let patience = if within > late { late } else { Duration::MAX };
            let outcome = match tokio::time::timeout(patience, &mut probe).await {
                Ok(outcome) => outcome,
                Err(_) => self.ask_again(&group, late, probe).await,
            };
            self.probed(&group, outcome).await;
        }
    }

    /// Asks a group beside a first probe that is late, at the pace for suspects, until one of both is answered or the
    /// first has used up its time.
    async fn ask_again(
        &self,
        group: &Watched,
        late: Duration,
        mut first: Pin<&mut impl Future<Output = Result<Report, String>>>,
    ) -> Result<Report, String> {
        self.probed(group, Err(format!("no answer within {late:?}"))).await;
        loop {
            let pace = tokio::time::sleep(lock(&group.prober).pace());
            let again = async {
                let outcome = self.probe(group, late).await;
                if outcome.is_err() {
                    pace.await;
                }
                outcome
            };
            tokio::select! {
                outcome = &mut first => return outcome,
                outcome = again => match outcome {
                    Ok(report) => return Ok(report),
                    Err(cause) => self.probed(group, Err(cause)).await,
                },
            }
        }
    }

    pub(super) async fn probe(&self, group: &Watched, within: Duration) -> Result<Report, String> {
        let began = Instant::now();
        let answer = self.http.get(&group.at, "/health", within).await;
        let took = began.elapsed();
        histogram!("tandem_probe_seconds", "group" => group.id.to_string()).record(took);
        if answer.is_ok() {
            self.picture().answered(&group.id, took);
        }
        // A group that has failed or drains answers 503 and says so in the page.
        match answer? {
            (StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE, page) => report::read(&group.id, &page),
            (status, _) => Err(format!("`/health` answers {status}")),
        }
    }

    pub(super) async fn probed(&self, group: &Watched, outcome: Result<Report, String>) {
        let now = self.now();
        if let Ok(report) = &outcome {
            group.pid.store(report.pid, Ordering::Relaxed);
        }
        let phase = {
            let mut prober = lock(&group.prober);
            match &outcome {
                Ok(_) => prober.answered(now),
                Err(_) => prober.missed(now),
            }
            prober.phase()
        };
        gauge!("tandem_group_up", "group" => group.id.to_string()).set(if outcome.is_ok() { 1.0 } else { 0.0 });
        let news = {
            let mut picture = self.picture();
            match (phase, outcome) {
                (Phase::Good | Phase::Suspect, Ok(report)) => {
                    picture.see(&group.id, (report.health, report.agents), true, now)
                }
                (Phase::Failed, Err(cause)) => {
                    let cause = format!("does not answer: {cause}");
                    let said = picture
                        .group(&group.id)
                        .map(|known| known.all(State::Failed, &cause, "its group does not answer", now));
                    said.and_then(|said| picture.see(&group.id, said, false, now))
                }
                // Nothing is decided by a first miss, or by the first answer of a group that had failed.
                _ => None,
            }
        };
        self.tell(news).await;
    }

    /// Follows the registry, which knows of comings and goings at once. Without it probes go on in their own time.
    pub(super) async fn listen(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let request = registry_pb::WatchRequest::default();
            if let Ok(mut changes) = self.ctx.peers().server_stream(registry::WATCH, request, &self.ctx.call()).await {
                while let Some(Ok(change)) = changes.next().await {
                    failures = 0;
                    self.hear(&change).await;
                }
            }
            failures += 1;
            tokio::time::sleep(backoff(failures, 1.0)).await;
        }
    }

    async fn hear(&self, change: &registry_pb::WatchResponse) {
        let Some(lease) = change.lease.as_option() else { return };
        let Some(group) = lease.group.parse().ok().and_then(|id: GroupId| self.watched.get(&id)) else { return };
        let heard = match change.kind.as_known() {
            Some(registry_pb::ChangeKind::CHANGE_KIND_ADDED) => Heard::Came,
            Some(registry_pb::ChangeKind::CHANGE_KIND_REMOVED) if lease.ended == EXPIRED => Heard::Silent,
            Some(registry_pb::ChangeKind::CHANGE_KIND_REMOVED) => Heard::Left,
            _ => Heard::Changed,
        };
        let now = self.now();
        lock(&group.prober).heard(heard, now);
        if heard == Heard::Left {
            let news = {
                let mut picture = self.picture();
                let said =
                    picture.group(&group.id).map(|known| known.all(State::Stopped, &lease.ended, &lease.ended, now));
                said.and_then(|said| picture.see(&group.id, said, false, now))
            };
            self.tell(news).await;
        }
        group.look.notify_one();
    }

    /// Tells watchers, subscribers and, where a person should know, the alerts.
    pub(super) async fn tell(&self, news: impl IntoIterator<Item = News>) {
        for news in news {
            // An error only says that nobody watches.
            let change = lock(&self.known).change(&news.group, self.now());
            let _ = self.changes.send(Arc::new(change));
            for turn in &news.turns {
                self.publish(&news, turn).await;
                if news.group.id.node == self.me {
                    self.alert_of_turn(turn).await;
                }
            }
        }
    }

    async fn publish(&self, news: &News, turn: &Turn) {
        let payload = json!({
            "node": news.group.id.node,
            "group": news.group.id,
            "subject": turn.subject,
            "from": turn.from,
            "state": turn.to.state,
            "cause": turn.to.cause,
            "since_us": turn.to.since,
        });
        if let Err(fault) = self.ctx.publisher().publish(HEALTH_CHANGED, &turn.subject, payload).await {
            tracing::warn!(subject = turn.subject, %fault, "a change of health could not be published");
        }
    }
}

/// What the registry says of a lease that was not renewed.
const EXPIRED: &str = "expired";

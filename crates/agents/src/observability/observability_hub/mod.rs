//! Measures its node, keeps errors, raises alerts, and trades its picture with the hubs of other nodes.
//!
//! Each node has one hub, the authority on that node. It probes the groups of its node, hears from the registry when to
//! look at once, keeps what their metrics say, and asks the hubs of other nodes for what they know. What is known of a
//! silent node is stale, never failed.

mod alerts;
mod errors;
mod http;
mod logic;
mod past;
mod reaching;
mod scraping;
mod serve;
mod sync;
#[cfg(test)]
mod tests;
mod watching;
mod webhooks;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, Topic, TopicKind, bind};
use tandem_contract::Service;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::telemetry;
use tandem_store::alerts::AlertStore as _;
use tandem_store::errors::ErrorStore as _;
use tandem_store::series::SeriesStore as _;
use tandem_store::telemetry::Telemetry;
use tandem_types::{Fault, GroupId, NodeName, Timestamp};
use tokio::sync::broadcast;

use crate::opening::open;
use http::Http;
use logic::floods::Floods;
use logic::holding::Holding;
use logic::picture::{Group, Picture};
use logic::probe::Rules;
use logic::rolled_up::MetricsPage;
use logic::webhook::Webhook;
use watching::Watched;
use webhooks::Outside;

/// A group or agent entered another state.
const HEALTH_CHANGED: Topic = Topic { name: "health.changed", kind: TopicKind::Journal };
/// A person should know about something.
const ALERT_RAISED: Topic = Topic { name: "alert.raised", kind: TopicKind::Journal };

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "ObservabilityHub",
    about: "Measures its node, keeps errors, raises alerts, and trades its picture with the other hub.",
    provides: &[
        telemetry::REPORT_ERRORS.facts(),
        telemetry::QUERY_ERRORS.facts(),
        telemetry::QUERY_SERIES.facts(),
        telemetry::GET_FLEET_HEALTH.facts(),
        telemetry::WATCH_HEALTH.facts(),
        telemetry::LIST_ALERTS.facts(),
        telemetry::ACK_ALERT.facts(),
        telemetry::SYNC_DELTA.facts(),
        telemetry::SYNC_DIGEST.facts(),
        telemetry::SYNC_SERIES.facts(),
    ],
    // On a node without these two the fleet file says `needs = []`: the hub then knows its agents from the plan and from
    // their hosts alone.
    needs: &["ServiceRegistry", "SystemDigitalTwin"],
    uses: &["UnifiedMemoryReasoningAgent", "ObservabilityHub"],
    roles: &[],
    publishes: &[HEALTH_CHANGED, ALERT_RAISED],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Time between two probes of a group that answers, and how long it may take.
    probe_ms: u32,
    probe_timeout_ms: u32,
    /// The same for a group that is suspected.
    suspect_ms: u32,
    suspect_timeout_ms: u32,
    /// Misses in a row that make a group failed.
    retries: u32,
    /// How long a group that was not heard of yet may take to come.
    start_grace_ms: u32,
    /// Time between two readings of metrics.
    scrape_ms: u32,
    /// Time between two exchanges with other hubs.
    sync_ms: u32,
    /// Time between two comparisons of everything with other hubs.
    digest_ms: u32,
    /// A hub that is silent for this long makes what it said stale.
    peer_silent_ms: u32,
    /// Changes that a watcher may fall behind before it is told to begin anew.
    watch_buffer: usize,
    /// How long the cause of an alert must be gone before the alert ends.
    clear_after_ms: u32,
    /// Addresses outside that hear of alerts.
    webhooks: Vec<Webhook>,
    /// Address of the hub of `mainpc`, where it is not the one in the fleet file.
    mainpc_hub_endpoint: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe_ms: 30_000,
            probe_timeout_ms: 10_000,
            suspect_ms: 1_000,
            suspect_timeout_ms: 2_000,
            retries: 3,
            start_grace_ms: 60_000,
            scrape_ms: 30_000,
            sync_ms: 5_000,
            digest_ms: 60_000,
            peer_silent_ms: 15_000,
            watch_buffer: 256,
            clear_after_ms: 60_000,
            webhooks: Vec::new(),
            mainpc_hub_endpoint: std::env::var("mainpc_hub_endpoint").unwrap_or_default(),
        }
    }
}

fn ms(number: u32) -> Duration {
    Duration::from_millis(number.into())
}

impl Settings {
    fn rules(&self) -> Rules {
        Rules {
            steady: ms(self.probe_ms),
            timeout: ms(self.probe_timeout_ms),
            suspect: ms(self.suspect_ms),
            suspect_timeout: ms(self.suspect_timeout_ms),
            misses: self.retries.max(1),
            answers: 2,
            grace: ms(self.start_grace_ms),
        }
    }
}

/// How often floods are looked at whether they are over, and old rows are removed.
const CALM: Duration = Duration::from_secs(10);
const RETENTION: Duration = Duration::from_hours(1);
/// How often it is looked whether something is to be sent again.
const DELIVER: Duration = Duration::from_secs(5);

struct Hub {
    ctx: Ctx,
    settings: Settings,
    me: NodeName,
    store: Telemetry,
    http: Http,
    picture: Mutex<Picture>,
    floods: Mutex<Floods>,
    /// Causes of alerts that are gone.
    holding: Mutex<Holding>,
    outside: Outside,
    peers: Vec<sync::PeerHub>,
    watched: BTreeMap<GroupId, Arc<Watched>>,
    /// What each group's page of metrics said when it was read last.
    pages: Mutex<BTreeMap<GroupId, scraping::Shown>>,
    /// What the hubs of other nodes showed of theirs last, by the hub's group.
    peer_pages: Mutex<BTreeMap<GroupId, MetricsPage>>,
    /// Groups that had more series than are kept when they were read last.
    over_limit: Mutex<BTreeSet<String>>,
    /// Shared pieces: the channel has room for all it may hold from the beginning.
    changes: broadcast::Sender<Arc<pb::WatchHealthResponse>>,
    /// What this machine's node said last.
    known: Mutex<reaching::Known>,
    /// What makes this hub poorer, by what it is about.
    troubles: Mutex<BTreeMap<&'static str, String>>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let hub = Hub::open(&ctx).await?;
    hub.clear_former().await?;
    hub.tell_standing().await?;
    hub.remember().await?;
    for group in hub.watched.values() {
        ctx.spawn(hub.clone().watch_group(group.clone()));
    }
    if !ctx.peers().providers(tandem_contract::rpc::registry::WATCH.path()).is_empty() {
        ctx.spawn(hub.clone().listen());
    }
    let scrape_every = ms(hub.settings.scrape_ms);
    let sync_every = ms(hub.settings.sync_ms);
    let (scraping, syncing, calming, pruning) = (hub.clone(), hub.clone(), hub.clone(), hub.clone());
    let (rolling, showing, asking, delivering) = (hub.clone(), hub.clone(), hub.clone(), hub.clone());
    let taking = hub.clone();
    let waiting = hub.outside.wake.clone();
    Ok(Started::serve(service(&hub))
        .reconcile("scrape", scrape_every, move || scraping.clone().scrape())
        .reconcile("sync", sync_every, move || syncing.clone().sync())
        .reconcile("past", sync_every, move || taking.clone().take_past())
        .reconcile("calm", CALM, move || calming.clone().calm())
        .reconcile("node", reaching::LOOK, move || asking.clone().ask_node())
        .reconcile("retention", RETENTION, move || pruning.clone().prune())
        .reconcile_on("webhooks", DELIVER, waiting, move || delivering.clone().deliver())
        .metrics(move |own| rolling.fleet_metrics(own))
        .detail("fleet", move || showing.fleet_page())
        .store(Arc::new(hub.store.alerts.clone())))
}

fn service(hub: &Arc<Hub>) -> Service {
    Service::new()
        .unary(telemetry::REPORT_ERRORS, bind(hub, Hub::report_errors))
        .unary(telemetry::QUERY_ERRORS, bind(hub, Hub::query_errors))
        .unary(telemetry::QUERY_SERIES, bind(hub, Hub::query_series))
        .unary(telemetry::GET_FLEET_HEALTH, bind(hub, Hub::get_fleet_health))
        .server_stream(telemetry::WATCH_HEALTH, bind(hub, Hub::watch_health))
        .unary(telemetry::LIST_ALERTS, bind(hub, Hub::list_alerts))
        .unary(telemetry::ACK_ALERT, bind(hub, Hub::ack_alert))
        .unary(telemetry::SYNC_DELTA, bind(hub, Hub::sync_delta))
        .unary(telemetry::SYNC_DIGEST, bind(hub, Hub::sync_digest))
        .unary(telemetry::SYNC_SERIES, bind(hub, Hub::sync_series))
}

impl Hub {
    /// The hub with its store, before it looks at anything.
    async fn open(ctx: &Ctx) -> Result<Arc<Self>, Fault> {
        let settings: Settings = ctx.settings()?;
        let now = ctx.clock().now();
        let me = ctx.id().node.clone();
        let path = ctx.data_file("telemetry.db");
        let store = open(move || Telemetry::open(path)).await?;
        let planned = planned(ctx, now);
        let rules = settings.rules();
        let own = planned.iter().filter(|group| group.id.node == me && group.built());
        let watched = own.map(|group| (group.id.clone(), Arc::new(Watched::new(ctx, &group.id, rules, now)))).collect();
        Ok(Arc::new(Self {
            peers: sync::peers(ctx, &settings).await?,
            picture: Mutex::new(Picture::new(me.clone(), planned, ms(settings.peer_silent_ms))),
            changes: broadcast::channel(settings.watch_buffer.max(1)).0,
            floods: Mutex::default(),
            holding: Mutex::default(),
            outside: Outside::open(&settings.webhooks)?,
            pages: Mutex::default(),
            peer_pages: Mutex::default(),
            over_limit: Mutex::default(),
            known: Mutex::default(),
            troubles: Mutex::default(),
            http: Http::new(),
            watched,
            store,
            me,
            settings,
            ctx: ctx.clone(),
        }))
    }
}

/// Every group of the plan, as nobody has heard of it yet.
fn planned(ctx: &Ctx, now: Timestamp) -> Vec<Group> {
    let group = |group: &tandem_agent::FleetGroup| {
        let agents = group.agents.iter().map(|agent| (agent.name.clone(), agent.required, agent.built)).collect();
        Group::planned(group.id.clone(), group.endpoint.clone(), agents, now)
    };
    ctx.fleet().groups.iter().map(group).collect()
}

/// What is behind these locks is whole after each operation, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    fn now(&self) -> Timestamp {
        self.ctx.clock().now()
    }

    fn picture(&self) -> MutexGuard<'_, Picture> {
        lock(&self.picture)
    }

    /// Says or takes back what makes the hub poorer; whether that changed anything.
    fn trouble(&self, about: &'static str, what: Option<String>) -> bool {
        let mut troubles = lock(&self.troubles);
        let former = match &what {
            Some(what) => troubles.insert(about, what.clone()),
            None => troubles.remove(about),
        };
        if former == what {
            return false;
        }
        match troubles.is_empty() {
            true => self.ctx.health().ready(),
            false => self.ctx.health().degraded(troubles.values().cloned().collect::<Vec<_>>().join("; ")),
        }
        true
    }

    async fn prune(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.now();
        self.store.series.prune(now).await?;
        self.store.errors.prune(now).await?;
        self.store.alerts.prune(now).await?;
        self.forget_addresses().await?;
        self.prune_past(now).await
    }
}

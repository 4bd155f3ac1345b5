//! Holds the live picture of the machines and answers "what if I add this load?".
//!
//! It measures its own machine every 5 s and takes what others report of theirs; agents come from the registry, models
//! from their manager. Of graphics cards it knows what their driver tells; without one no machine lists a card and
//! questions about video memory are answered with `not_found`. The link to other nodes is measured by this machine's node;
//! when it turns, `node.link` says so. A figure that was not measured is absent, never guessed.

mod link;
mod logic;
mod picture;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use metrics::gauge;
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Event, Started, bind};
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::rpc::{registry, twin};
use tandem_contract::{Service, state_of};
use tandem_store::reservations::{ReservationStore, Resource};
use tandem_store::series::{Happening, SeriesStore};
use tandem_store::twin::Twin as Stores;
use tandem_types::{AgentId, Fault, Health, NodeName, State, Timestamp};
use tokio::sync::broadcast;

use crate::load::desk::Desk;
use crate::load::figures::{self, Figures, Measured};
use crate::load::machine::Machine;
use crate::load::processes::Processes;
use crate::load::weighing::Limits;
use crate::opening::open;
use link::NODE_LINK;
use picture::{Picture, Scope};

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "SystemDigitalTwin",
    about: "Holds the live picture of the machines and says what adding a load would lead to.",
    provides: &[
        twin::GET_STATE.facts(),
        twin::GET_HISTORY.facts(),
        twin::WATCH.facts(),
        twin::SIMULATE_LOAD.facts(),
        twin::RESERVE.facts(),
        twin::RELEASE_RESERVATION.facts(),
        twin::LIST_RESERVATIONS.facts(),
        twin::SET_LIMITS.facts(),
        twin::REPORT_NODE.facts(),
        twin::REPORT_LEASES.facts(),
    ],
    needs: &["ServiceRegistry"],
    uses: &["ObservabilityHub", "ModelManagerSuite", "ResourceManager", "MemoryOrchestratorService", "MemoryClient"],
    roles: &[],
    publishes: &[NODE_LINK],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Time between two samples.
    sample_ms: u64,
    /// Changes a watcher may fall behind before it gets the present picture instead of each of them.
    watch_buffer: usize,
    /// Time between two looks at the link to other nodes.
    link_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sample_ms: 5_000, watch_buffer: 64, link_ms: 400 }
    }
}

/// How often what is past its time is removed.
const TIDY: Duration = Duration::from_secs(60);
/// Pause before the registry is watched again.
const AGAIN: Duration = Duration::from_secs(1);
/// Events whose ids are remembered, so that one delivered twice is noted once.
const REMEMBERED_EVENTS: usize = 256;

struct Twin {
    ctx: Ctx,
    stores: Stores,
    machine: Mutex<Machine>,
    picture: Mutex<Picture>,
    limits: Mutex<BTreeMap<NodeName, Limits>>,
    desk: Desk,
    changes: broadcast::Sender<NodeName>,
    events: Mutex<logic::Seen>,
    links: Mutex<link::Told>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let Settings { sample_ms, watch_buffer, link_ms } = ctx.settings()?;
    let path = ctx.data_file("twin.db");
    let stores = open(move || Stores::open(path)).await?;
    let fleet = ctx.fleet().clone();
    let nodes = fleet.nodes.iter().map(|node| node.name.clone());
    let agents = fleet.agents().map(|(group, agent)| (group.id.agent(agent.name.clone()), agent.built)).collect();
    let twin = Arc::new(Twin {
        machine: Mutex::new(Machine::new(ctx.data_dir().to_owned())),
        picture: Mutex::new(Picture::new(ctx.id().node.clone(), nodes, agents)),
        limits: Mutex::default(),
        desk: Desk::new(stores.reservations.clone()),
        changes: broadcast::channel(watch_buffer.max(1)).0,
        events: Mutex::new(logic::Seen::new(REMEMBERED_EVENTS)),
        links: Mutex::default(),
        stores,
        ctx: ctx.clone(),
    });
    twin.restore().await?;
    twin.clone().sample().await?;
    ctx.spawn(twin.clone().follow_registry());
    let service = Service::new()
        .unary(twin::GET_STATE, bind(&twin, Twin::get_state))
        .unary(twin::GET_HISTORY, bind(&twin, Twin::get_history))
        .server_stream(twin::WATCH, bind(&twin, Twin::watch))
        .unary(twin::SIMULATE_LOAD, bind(&twin, Twin::simulate_load))
        .unary(twin::RESERVE, bind(&twin, Twin::reserve))
        .unary(twin::RELEASE_RESERVATION, bind(&twin, Twin::release))
        .unary(twin::LIST_RESERVATIONS, bind(&twin, Twin::list_reservations))
        .unary(twin::SET_LIMITS, bind(&twin, Twin::set_limits))
        .unary(twin::REPORT_NODE, bind(&twin, Twin::report_node))
        .unary(twin::REPORT_LEASES, bind(&twin, Twin::report_leases));
    let (sampling, tidying, hearing) = (twin.clone(), twin.clone(), twin.clone());
    let (watching, linking, closing) = (twin.clone(), twin.clone(), twin);
    let started = Started::serve(service)
        .reconcile("sample", Duration::from_millis(sample_ms.max(100)), move || sampling.clone().sample())
        .reconcile("tidy", TIDY, move || tidying.clone().tidy())
        .on("model.changed", move |event| hearing.clone().note(event))
        .on("health.changed", move |event| watching.clone().note_health(event))
        .on_drain(move || {
            let db = closing.stores.db.clone();
            async move { db.close().await }
        });
    if fleet.nodes.len() < 2 {
        return Ok(started);
    }
    Ok(started.reconcile("link", Duration::from_millis(link_ms.max(100)), move || linking.clone().look_at_link()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each operation leaves what is inside whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Twin {
    fn picture(&self) -> MutexGuard<'_, Picture> {
        lock(&self.picture)
    }

    fn now(&self) -> Timestamp {
        self.ctx.clock().now()
    }

    /// Takes up what an earlier life knew: limits, promises, and the last five minutes.
    async fn restore(&self) -> Result<(), Fault> {
        let now = self.now();
        let names: Vec<NodeName> = self.ctx.fleet().nodes.iter().map(|node| node.name.clone()).collect();
        for node in names {
            let stored = self.stores.reservations.limits(&node).await?;
            lock(&self.limits).insert(node.clone(), logic::LIMITS.with(&stored));
            let load = Measured::look_back(&self.stores.series, &node, now).await?;
            self.picture().node_mut(&node)?.load = load;
        }
        self.restore_links().await?;
        self.desk.reload(now).await?;
        self.show_promises();
        Ok(())
    }

    /// Charges what models are measured to use, and what groups use of cards, to what the groups were promised.
    fn charge(&self) {
        let uses = self.picture().nodes(&Scope::Fleet).into_iter().flat_map(|(_, node)| node.uses()).collect();
        self.desk.uses(uses);
    }

    fn show_promises(&self) {
        for (resource, amount) in self.desk.promised(self.now()) {
            if resource != Resource::Cpu {
                gauge!("tandem_reservations_bytes", "kind" => resource.as_str()).set(amount);
            }
        }
    }

    /// Measures this machine.
    async fn sample(self: Arc<Self>) -> Result<(), Fault> {
        let twin = self.clone();
        let look = move || {
            let processes = LazyCell::new(|| Processes::here(&twin.ctx.id().node));
            lock(&twin.machine).measure(&processes)
        };
        let figures = tokio::task::spawn_blocking(look)
            .await
            .map_err(|e| Fault::internal(format!("the thread that measures this machine ended: {e}")))?;
        let node = self.ctx.id().node.clone();
        figures::show(&node, &figures);
        self.picture().node_mut(&node)?.load.cpus = crate::machine::cpus();
        self.take(&node, self.now(), figures).await
    }

    /// Takes a sample of a machine: into the picture, to watchers, to disk.
    async fn take(&self, node: &NodeName, at: Timestamp, figures: Figures) -> Result<(), Fault> {
        if !self.picture().node_mut(node)?.load.take(at, figures.clone()) {
            return Ok(());
        }
        if !figures.cards.is_empty() {
            self.charge();
        }
        self.changed(node);
        self.stores.series.append(figures.samples(node, at), self.now()).await.map(drop)
    }

    fn changed(&self, node: &NodeName) {
        // Nobody watches: nobody to tell.
        let _ = self.changes.send(node.clone());
    }

    /// Removes what is past its time.
    async fn tidy(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.now();
        self.stores.series.prune(now).await?;
        self.desk.tidy(now).await?;
        self.show_promises();
        Ok(())
    }

    /// Follows the registry for as long as the agent lives.
    async fn follow_registry(self: Arc<Self>) {
        loop {
            let ended = self.watch_registry().await;
            self.picture().lose_agents(self.now());
            if let Err(fault) = ended {
                tracing::debug!(%fault, "the registry cannot be watched; trying again");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn watch_registry(&self) -> Result<(), Fault> {
        let request = registry_pb::WatchRequest::default();
        let mut changes = self.ctx.peers().server_stream(registry::WATCH, request, &self.ctx.call()).await?;
        while let Some(change) = changes.next().await {
            if let Some(lease) = change?.lease.as_option() {
                self.heard(lease);
            }
        }
        Ok(())
    }

    fn heard(&self, lease: &registry_pb::Lease) {
        let now = self.now();
        let mut picture = self.picture();
        let mut nodes: Vec<NodeName> = Vec::new();
        for report in &lease.agents {
            let Ok(agent) = report.agent.parse::<AgentId>() else { continue };
            let new = match report.health.as_option() {
                _ if !lease.ended.is_empty() => picture.gone(&agent, &lease.ended, now),
                Some(health) => picture.heard(&agent, Health { state: state_of(health.state), ..Health::from(health) }),
                None => picture.heard(&agent, Health::new(State::Unknown, "it did not say how it is doing", now)),
            };
            if new && !nodes.contains(&agent.node) {
                nodes.push(agent.node);
            }
        }
        drop(picture);
        nodes.iter().for_each(|node| self.changed(node));
    }

    /// Takes what the hub observed of an agent, and notes it.
    async fn note_health(self: Arc<Self>, event: Event) -> Result<(), Fault> {
        let said = |name: &str| event.payload[name].as_str().unwrap_or_default();
        let since = event.payload["since_us"].as_i64().map_or(event.at, Timestamp);
        // A group has no line of its own in the picture.
        if let (Ok(agent), Ok(state)) = (event.key.parse::<AgentId>(), said("state").parse::<State>())
            && self.picture().observed(&agent, Health::new(state, said("cause"), since))
        {
            self.changed(&agent.node);
        }
        self.note(event).await
    }

    /// Keeps an event of a node, a group, an agent or a model.
    async fn note(self: Arc<Self>, event: Event) -> Result<(), Fault> {
        if lock(&self.events).contains(&event.id) {
            return Ok(());
        }
        let happening = Happening {
            kind: event.topic.clone(),
            subject: event.key.clone(),
            detail: event.payload.to_string(),
            at: event.at,
        };
        self.stores.series.note(vec![happening]).await?;
        lock(&self.events).insert(event.id);
        Ok(())
    }
}

//! The authority on the processors, memory, disk and cards of its machine: what is used, what is promised, what may still be
//! taken.
//!
//! It measures every 5 s and tells SystemDigitalTwin, which holds the picture of the fleet. A promise is given when what
//! is measured, what is promised and not in use, and what is asked fit below the limit together, and no task has to wait
//! for memory. What a group's processes take beyond its promises is shown with them. Of graphics cards it knows what their
//! driver tells; where there is none, video memory is `not_found`.

mod logic;
mod serve;
#[cfg(test)]
mod tests;

use std::cell::LazyCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, bind};
use tandem_contract::Service;
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_contract::rpc::twin;
use tandem_store::reservations::ReservationStore;
use tandem_store::series::SeriesStore;
use tandem_store::twin::Twin as Stores;
use tandem_types::{Fault, NodeName, Timestamp};
use tokio::sync::watch;

use crate::load::desk::Desk;
use crate::load::figures::{self, Measured};
use crate::load::machine::Machine;
use crate::load::processes::Processes;
use crate::load::weighing::Limits;
use crate::opening::open;

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "ResourceManager",
    about: "The authority on its machine: what is used, what is promised, what may still be taken.",
    provides: &[
        twin::GET_STATE.facts(),
        twin::GET_HISTORY.facts(),
        twin::WATCH.facts(),
        twin::SIMULATE_LOAD.facts(),
        twin::RESERVE.facts(),
        twin::RELEASE_RESERVATION.facts(),
        twin::LIST_RESERVATIONS.facts(),
        twin::SET_LIMITS.facts(),
    ],
    needs: &["ObservabilityHub"],
    uses: &["SystemDigitalTwin"],
    roles: &[],
    publishes: &[],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Time between two samples, and between two reports to SystemDigitalTwin.
    sample_ms: u64,
    report_ms: u64,
    /// Share of time, 10 s mean, in which tasks may wait for memory before nothing more is promised.
    most_pressure_ratio: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sample_ms: 5_000, report_ms: 5_000, most_pressure_ratio: 0.10 }
    }
}

/// How often what is past its time is removed.
const TIDY: Duration = Duration::from_secs(60);

struct Manager {
    ctx: Ctx,
    settings: Settings,
    node: NodeName,
    stores: Stores,
    desk: Desk,
    machine: Mutex<Machine>,
    measured: Mutex<Measured>,
    limits: Mutex<Limits>,
    /// Changes with each sample.
    news: watch::Sender<u64>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let path = ctx.data_file("resources.db");
    let stores = open(move || Stores::open_resources(path)).await?;
    let (node, now) = (ctx.id().node.clone(), ctx.clock().now());
    let limits = logic::LIMITS.with(&stores.reservations.limits(&node).await?);
    let manager = Arc::new(Manager {
        desk: Desk::new(stores.reservations.clone()),
        machine: Mutex::new(Machine::new(ctx.data_dir().to_owned())),
        measured: Mutex::new(Measured::look_back(&stores.series, &node, now).await?),
        limits: Mutex::new(limits),
        news: watch::Sender::new(0),
        node,
        stores,
        settings,
        ctx,
    });
    manager.desk.reload(now).await?;
    manager.clone().sample().await?;
    let service = Service::new()
        .unary(twin::GET_STATE, bind(&manager, Manager::get_state))
        .unary(twin::GET_HISTORY, bind(&manager, Manager::get_history))
        .server_stream(twin::WATCH, bind(&manager, Manager::watch))
        .unary(twin::SIMULATE_LOAD, bind(&manager, Manager::simulate_load))
        .unary(twin::RESERVE, bind(&manager, Manager::reserve))
        .unary(twin::RELEASE_RESERVATION, bind(&manager, Manager::release))
        .unary(twin::LIST_RESERVATIONS, bind(&manager, Manager::list_reservations))
        .unary(twin::SET_LIMITS, bind(&manager, Manager::set_limits));
    let pause = |ms: u64| Duration::from_millis(ms.max(100));
    let (every, report_every) = (pause(manager.settings.sample_ms), pause(manager.settings.report_ms));
    let (sampling, reporting, tidying, closing) = (manager.clone(), manager.clone(), manager.clone(), manager);
    Ok(Started::serve(service)
        .reconcile("sample", every, move || sampling.clone().sample())
        .reconcile("report", report_every, move || reporting.clone().report())
        .reconcile("tidy", TIDY, move || tidying.clone().tidy())
        .on_drain(move || {
            let db = closing.stores.db.clone();
            async move { db.close().await }
        }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each operation leaves what is inside whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Manager {
    fn now(&self) -> Timestamp {
        self.ctx.clock().now()
    }

    /// Measures the machine and what each group on it uses.
    async fn sample(self: Arc<Self>) -> Result<(), Fault> {
        let manager = self.clone();
        let look = move || {
            let processes = LazyCell::new(|| Processes::here(&manager.node));
            (lock(&manager.machine).measure(&processes), processes.uses())
        };
        let (figures, uses) = tokio::task::spawn_blocking(look)
            .await
            .map_err(|e| Fault::internal(format!("the thread that measures this machine ended: {e}")))?;
        let now = self.now();
        let of_memory = uses.into_iter().map(|(group, bytes)| ((None, group), bytes));
        self.desk.uses(of_memory.chain(figures.of_cards()).collect());
        figures::show(&self.node, &figures);
        if let Some(pressure) = figures.memory_pressure {
            gauge!("tandem_pressure_ratio", "node" => self.node.to_string()).set(pressure);
        }
        self.show_promises();
        {
            let mut measured = lock(&self.measured);
            measured.cpus = crate::machine::cpus();
            if !measured.take(now, figures.clone()) {
                return Ok(());
            }
        }
        self.news.send_modify(|count| *count += 1);
        self.stores.series.append(figures.samples(&self.node, now), now).await.map(drop)
    }

    /// Tells SystemDigitalTwin. That it is away makes nothing here poorer; it measures its own machine itself.
    async fn report(self: Arc<Self>) -> Result<(), Fault> {
        let twins = self.ctx.peers().providers(twin::REPORT_NODE.path());
        if twins.first().is_none_or(|twin| twin.agent.node == self.node) {
            return Ok(());
        }
        let node = lock(&self.measured).told(&self.node, self.now());
        let report = pb::ReportNodeRequest { node: node.into(), ..Default::default() };
        if let Err(fault) = self.ctx.peers().unary(twin::REPORT_NODE, report, &self.ctx.call()).await {
            tracing::debug!(%fault, "SystemDigitalTwin does not take samples");
        }
        Ok(())
    }

    fn show_promises(&self) {
        for (resource, amount) in self.desk.promised(self.now()) {
            // A promised share of the processor is no bytes.
            if resource != tandem_store::reservations::Resource::Cpu {
                gauge!("tandem_reserved_bytes", "kind" => resource.as_str()).set(amount);
            }
        }
    }

    fn count(outcome: &'static str) {
        counter!("tandem_admission_total", "outcome" => outcome).increment(1);
    }

    /// Removes what is past its time.
    async fn tidy(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.now();
        self.stores.series.prune(now).await?;
        self.desk.tidy(now).await?;
        self.show_promises();
        Ok(())
    }
}

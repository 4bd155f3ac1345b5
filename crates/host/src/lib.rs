//! Runs one group in this process.
//!
//! [`GroupHost::open`] takes the ports and starts every agent under a supervisor; from there on routing, health,
//! registration, events, engines and drain happen here, and no agent is named anywhere in this crate.

mod dispatch;
mod engines;
mod events;
mod log_rules;
mod logic;
mod ops;
mod own;
mod registration;
mod reports;
mod roster;
mod server;
mod supervise;
#[cfg(test)]
mod tests;
mod traces;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tandem_agent::{AgentDef, Clock, FleetView, Peers, PersonalData, Sockets};
use tandem_contract::{Ended, Observer, TraceParent, Trust};
use tandem_types::{AgentId, Code, Fault, GroupId, Health, reason};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use engines::EnginePrograms;
pub use log_rules::LogEvents;

use reports::Severity;

/// Changes what is logged; answers the former filter or what is wrong with the new one.
pub type SetLogFilter = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// What a group needs of its process.
pub struct HostConfig {
    /// Which group of the plan.
    pub group: GroupId,
    /// The plan.
    pub fleet: Arc<FleetView>,
    /// Finds an agent's code by its name.
    pub find: fn(&str) -> Option<&'static AgentDef>,
    /// Folder of the group's stores; made when missing.
    pub data: PathBuf,
    /// Where nodes that have joined the fleet reach the group, and who they are; none for a group that is for this machine only.
    pub members: Option<(SocketAddr, Trust)>,
    /// The directory that all groups of this process share.
    pub peers: Peers,
    /// The clock.
    pub clock: Clock,
    /// Programs for engines.
    pub engines: EnginePrograms,
    /// Renders the process's metrics.
    pub metrics: PrometheusHandle,
    /// Changes what is logged.
    pub set_log_filter: SetLogFilter,
    /// What this process logged that means an error.
    pub log_events: LogEvents,
    /// Hears of every call besides the metrics, for example to export spans.
    pub spans: Option<Arc<dyn Observer>>,
    /// Listening sockets of this process.
    pub sockets: Sockets,
}

/// What the parts of a group share.
pub(crate) struct Shared {
    pub(crate) roster: Arc<roster::Roster>,
    pub(crate) peers: Peers,
    pub(crate) events: Arc<events::Events>,
    pub(crate) journal_data: Option<Arc<dyn PersonalData>>,
    pub(crate) topics: BTreeSet<&'static str>,
    pub(crate) engines: engines::Engines,
    pub(crate) own: own::Own,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) traces: Arc<traces::Traces>,
    pub(crate) spans: Option<Arc<dyn Observer>>,
    pub(crate) sockets: Sockets,
    pub(crate) reports: Arc<reports::Reports>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) set_log_filter: SetLogFilter,
    pub(crate) log_events: LogEvents,
    pub(crate) data: PathBuf,
    pub(crate) instance: String,
    pub(crate) generation: u64,
    pub(crate) endpoint: String,
    pub(crate) host_id: AgentId,
    pub(crate) callers: BTreeMap<String, Vec<String>>,
    pub(crate) cancel: CancellationToken,
}

impl Shared {
    /// An agent's own work went wrong.
    fn note_fault(&self, agent: &AgentId, fault: &Fault, severity: Severity) {
        self.reports.note(agent, fault, severity, self.roster.clock.now());
        let (agent, code) = (agent.to_string(), fault.code.as_str());
        metrics::counter!("tandem_agent_faults_total", "agent" => agent, "code" => code).increment(1);
    }
}

/// Counts and times every call that an agent serves, and hands its error and its span on.
struct CallMetrics {
    spans: Option<Arc<dyn Observer>>,
    reports: Arc<reports::Reports>,
    traces: Arc<traces::Traces>,
    clock: Clock,
}

impl Observer for CallMetrics {
    fn began(&self, span: TraceParent) {
        self.traces.began(span.trace);
    }

    fn finished(&self, ended: &Ended<'_>) {
        if let Some(span) = ended.span {
            self.traces.ended(span.trace);
        }
        let rpc = ended.path.trim_start_matches("/tandem.").to_owned();
        let code = ended.outcome.map_or_else(|fault| fault.code.as_str(), |()| "ok");
        let labels = [("agent", ended.agent.to_string()), ("rpc", rpc)];
        metrics::histogram!("tandem_rpc_duration_seconds", &labels).record(ended.took);
        let [agent, rpc] = labels;
        metrics::counter!("tandem_rpc_requests_total", &[agent, rpc, ("code", code.to_owned())]).increment(1);
        if let Err(fault) = ended.outcome
            && fault.code == Code::Internal
        {
            // A bug stops here: the caller gets a code and a trace id, the log gets the rest.
            let (agent, path) = (&ended.agent.agent, ended.path);
            tracing::error!(%agent, path, trace_id = fault.trace_id, %fault, "a call failed");
        }
        self.reports.ended(ended, self.clock.now());
        if let Some(spans) = &self.spans {
            spans.finished(ended);
        }
    }
}

/// A running group.
pub struct GroupHost {
    shared: Arc<Shared>,
    /// What the contract port serves.
    routes: axum::Router,
    tasks: JoinSet<()>,
    servers: CancellationToken,
}

impl GroupHost {
    /// Takes the ports, makes the data folder, starts the agents. Returns before they are ready.
    ///
    /// # Errors
    /// A group the plan does not have, a port that is taken, a folder that cannot be written: each said in full.
    pub async fn open(config: HostConfig) -> Result<Self, Fault> {
        let planned = config.fleet.group(&config.group).ok_or_else(|| {
            let known = config.fleet.groups.iter().map(|g| g.id.to_string()).collect::<Vec<_>>().join(", ");
            Fault::not_found(format!("the fleet file has no group {}; it has {known}", config.group))
        })?;
        let contract = server::bind(&planned.endpoint, &format!("group {}", config.group)).await?;
        let scrape = server::bind(&planned.scrape_endpoint, &format!("scrapers of group {}", config.group)).await?;
        std::fs::create_dir_all(&config.data).map_err(|e| {
            Fault::unavailable(
                reason::DISK,
                format!("cannot make the data folder {}: {e}; check who owns its parent", config.data.display()),
            )
        })?;
        let defs: Vec<&'static AgentDef> =
            planned.agents.iter().filter_map(|agent| (config.find)(agent.name.as_str())).collect();
        let (roster, queues) = roster::Roster::new(planned, config.find, config.clock.clone());
        let cancel = CancellationToken::new();
        let host_id = config.group.agent("Host".parse().map_err(|e| Fault::internal(format!("{e}")))?);
        let events = Arc::new(events::Events::open(&defs, &config.data, config.clock.clone())?);
        let peers = config.peers.for_agent(host_id.clone());
        let reports = Arc::new(reports::Reports::new(reports::hub(&peers, &host_id).is_some()));
        let traces = Arc::new(traces::Traces::default());
        let observer = CallMetrics {
            spans: config.spans.clone(),
            reports: reports.clone(),
            traces: traces.clone(),
            clock: config.clock.clone(),
        };
        let shared = Arc::new(Shared {
            peers,
            journal_data: events.journal_data(),
            events,
            topics: defs.iter().flat_map(|def| def.publishes.iter().map(|t| t.name)).collect(),
            engines: engines::Engines::new(
                config.engines,
                host_id.clone(),
                config.clock.clone(),
                cancel.clone(),
                reports.clone(),
            ),
            own: own::Own::new(),
            observer: Arc::new(observer),
            traces,
            spans: config.spans,
            sockets: config.sockets,
            reports,
            metrics: config.metrics,
            set_log_filter: config.set_log_filter,
            log_events: config.log_events,
            data: config.data,
            instance: uuid::Uuid::new_v4().simple().to_string(),
            // Time moves on between two starts of a group, which is all that fencing needs.
            generation: u64::try_from(config.clock.now().micros()).unwrap_or_default(),
            endpoint: planned.endpoint.clone(),
            host_id,
            callers: planned.callers.clone(),
            roster,
            cancel,
        });
        shared.own.open(&shared);
        let rpcs = dispatch::service(shared.clone());
        config.peers.add_local(config.group.clone(), rpcs.clone());
        config.peers.set_ending(&config.group, false);

        let (mut tasks, servers) = (JoinSet::new(), CancellationToken::new());
        let routes = server::contract_routes(&shared, rpcs);
        if let Some((address, trust)) = config.members {
            tasks.spawn(server::serve_members(address, trust, routes.clone(), servers.clone()));
        }
        tasks.spawn(server::serve(contract, routes.clone(), servers.clone()));
        tasks.spawn(server::serve(scrape, ops::routes(shared.clone()), servers.clone()));
        tasks.spawn(registration::keep(shared.clone()));
        tasks.spawn(registration::listen(shared.clone()));
        tasks.spawn(reports::report(shared.clone()));
        for (slot, orders) in shared.roster.slots.iter().zip(queues) {
            tasks.spawn(supervise::supervise(shared.clone(), slot.clone(), orders));
        }
        Ok(Self { shared, routes, tasks, servers })
    }

    /// Which group.
    pub fn group(&self) -> &GroupId {
        &self.shared.roster.group
    }

    /// How the group is doing.
    pub fn health(&self) -> Health {
        self.shared.roster.health()
    }

    /// Hears of every change of the group's health, and of some that change nothing.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.roster.changes()
    }

    /// Returns once the group has answered itself the way it answers others, without a connection in between.
    pub async fn answers(&self) {
        server::ask(&self.routes, "/livez").await;
    }

    /// Waits until every required agent has left `starting`.
    pub async fn started(&self) {
        let mut changes = self.shared.roster.changes();
        while !self.shared.roster.has_started() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Stops admitting calls, lets running ones finish within `grace`, ends agents and engines, gives the lease back.
    /// Answers how many calls were cut off.
    pub async fn close(mut self, grace: Duration) -> u32 {
        let cut_off = drain(&self.shared, grace).await;
        self.shared.cancel.cancel();
        self.shared.engines.ended().await;
        self.servers.cancel();
        let ended =
            tokio::time::timeout(Duration::from_secs(10), async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(group = %self.shared.roster.group, "tasks of the group did not end in time");
        }
        cut_off
    }
}

/// Stops admitting and waits for running calls; how many were still running at the end of the time.
pub(crate) async fn drain(shared: &Shared, within: Duration) -> u32 {
    shared.peers.set_ending(&shared.roster.group, true);
    shared.roster.begin_drain();
    let end = Instant::now() + within;
    while shared.roster.calls() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    u32::try_from(shared.roster.calls()).unwrap_or(u32::MAX)
}

//! Runs groups inside this process: one, as the node starts it, or all of them for a small machine.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use tandem_agent::{Clock, FleetView, Peers, SocketKeeper, Sockets};
use tandem_contract::Trust;
use tandem_fleet::Plan;
use tandem_host::{EnginePrograms, GroupHost, HostConfig};
use tandem_node::{End, GroupSpec, Hung, Layout, Run, Runner, Signs};
use tandem_process::{ControlGroup, Enforcement, Heart, hand_over, inherited, notify};
use tandem_telemetry::Exporter;
use tandem_types::{Fault, GroupId, Health, NodeName, reason};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::ServeArgs;
use crate::fleet::Source;
use crate::logging::Log;
use crate::place::Place;
use crate::{FAILED, Outcome, fleet, known, logging, memory, view};

/// Threads of a group's process. Its agents wait most of the time; models think in processes of their own.
const THREADS: usize = 2;
/// Stack of such a thread: what is not touched costs nothing, and builds that are not optimised touch much.
const STACK_BYTES: usize = 4 << 20;
/// Time between two heartbeats of a group's process.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// At least so long is between two, also when the group's health changes.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(100);
/// How often finished measurements are folded together, so that they do not pile up between two scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(30);

/// An open group, and where its spans go.
struct Open {
    host: GroupHost,
    exporter: Option<Exporter>,
}

impl Open {
    /// Ends the group; how many calls were cut off.
    async fn close(self, drain: Duration) -> u32 {
        let cut_off = self.host.close(drain).await;
        if let Some(exporter) = self.exporter {
            exporter.finish().await;
        }
        cut_off
    }
}

/// Sockets that the node keeps while it starts this process anew.
struct OfNode;

impl SocketKeeper for OfNode {
    fn take(&self, name: &str) -> Option<TcpListener> {
        inherited(name).map(TcpListener::from)
    }

    fn keep(&self, name: &str, listener: &TcpListener) -> io::Result<()> {
        hand_over(name, listener.as_fd())
    }
}

/// What every group of a process shares.
struct Home {
    fleet: Arc<FleetView>,
    /// Where nodes that have joined reach each group; none for groups of which this machine is all there is.
    overlay: BTreeMap<GroupId, SocketAddr>,
    trust: Trust,
    layout: Layout,
    engines: EnginePrograms,
    metrics: PrometheusHandle,
    log: Log,
    clock: Clock,
    sockets: Sockets,
}

impl Home {
    /// What the node `here` shares of the plan.
    fn new(plan: &Plan, source: &Source, here: &NodeName, place: &Place, log: Log) -> Result<Self, Fault> {
        let by_kind = BTreeMap::from([("llama".to_owned(), Place::engine(&Place::program()?))]);
        let layout = place.layout.clone();
        Ok(Self {
            fleet: Arc::new(view::of(plan, source, here)),
            overlay: plan.groups().filter_map(|group| Some((group.id.clone(), group.overlay?))).collect(),
            trust: fleet::trust(plan, place),
            engines: EnginePrograms { by_kind, logs: layout.logs(), run: layout.run().to_owned() },
            layout,
            metrics: logging::collect_metrics()?,
            log,
            clock: Clock::system(),
            sockets: Sockets::default(),
        })
    }

    fn peers(&self, group: &GroupId) -> Result<Peers, Fault> {
        let host = "Host".parse().map_err(|e| Fault::internal(format!("{e}")))?;
        let peers = Peers::of_member(self.fleet.clone(), group.agent(host), self.trust.clone());
        peers.ask_node(Arc::new(known::Known::new(&self.layout)));
        Ok(peers)
    }

    async fn open(&self, group: GroupId, peers: Peers) -> Result<Open, Fault> {
        let exporter = tandem_telemetry::spans(&group.to_string())?;
        let host = GroupHost::open(HostConfig {
            data: self.layout.stores(&group),
            members: self.overlay.get(&group).map(|address| (*address, self.trust.clone())),
            group,
            fleet: self.fleet.clone(),
            find: tandem_agents::find,
            peers,
            clock: self.clock.clone(),
            engines: self.engines.clone(),
            metrics: self.metrics.clone(),
            spans: exporter.as_ref().map(Exporter::observer),
            set_log_filter: self.log.set_filter.clone(),
            log_events: self.log.events.clone(),
            sockets: self.sockets.clone(),
        })
        .await?;
        Ok(Open { host, exporter })
    }

    /// Never ends by itself.
    async fn upkeep(&self) {
        tokio::join!(self.trust.follow(), self.fold());
    }

    async fn fold(&self) {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            self.metrics.run_upkeep();
        }
    }
}

/// `tandem serve NODE/GROUP`: one group until it is told to end.
pub(crate) fn run(args: &ServeArgs, place: Place) -> Outcome {
    memory::be_frugal();
    let log = logging::start(std::io::stderr)?;
    let source = Source::running(&args.fleet, &args.fleet_name)?;
    let plan = source.plan(Some(&args.group.node))?;
    lower_in_need(&plan, &args.group);
    let specs = GroupSpec::of_plan(&plan, &args.group.node);
    let sockets = Sockets::kept_by(Arc::new(OfNode));
    let home = Home { sockets, ..Home::new(&plan, &source, &args.group.node, &place, log)? };
    specs.iter().find(|spec| spec.id == args.group).into_iter().for_each(show_limits);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|e| Fault::unavailable(reason::BUG, format!("cannot start the group's runtime: {e}")))?;
    runtime.block_on(serve(&home, &args.group, Duration::from_secs(plan.drain_s.into())))
}

async fn serve(home: &Home, group: &GroupId, drain: Duration) -> Outcome {
    let mut ended = pin(signals()?);
    let open = home.open(group.clone(), home.peers(group)?).await?;
    let told = tokio::select! {
        () = open.host.started() => false,
        () = &mut ended => true,
    };
    if !told {
        say(&[("READY", "1")]);
        tracing::info!(%group, "ready");
        tokio::select! {
            () = &mut ended => {}
            () = home.upkeep() => {}
            () = memory::stay_small() => {}
            () = live(&open.host) => {}
        }
    }
    say(&[("STOPPING", "1")]);
    tracing::info!(%group, "told to end");
    let cut_off = open.close(drain).await;
    if cut_off > 0 {
        tracing::warn!(%group, cut_off, "calls were cut off");
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says again and again that the group lives, each time after it has answered itself: a runtime or a server that hangs
/// says nothing. When its health changes it says so at once. Never ends by itself.
async fn live(host: &GroupHost) {
    let heart = match Heart::of_environment() {
        Ok(Some(heart)) => heart,
        Ok(None) => return std::future::pending().await,
        Err(error) => {
            tracing::warn!(%error, "no heartbeats are sent: the group is watched by probes alone");
            return std::future::pending().await;
        }
    };
    let mut changes = host.changes();
    let mut due = Instant::now();
    loop {
        host.answers().await;
        changes.borrow_and_update();
        heart.beat_marked(&mark(&host.health()));
        metrics::histogram!("tandem_heartbeat_late_seconds").record(due.elapsed());
        due = Instant::now() + HEARTBEAT;
        tokio::time::sleep(LEAST_HEARTBEAT).await;
        tokio::select! {
            Ok(()) = changes.changed() => due = Instant::now(),
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

/// A word for what the group says of its health, another one when it says something else.
fn mark(health: &Health) -> String {
    let mut hasher = DefaultHasher::new();
    (health.state.as_str(), &health.cause).hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

fn pin<F: Future>(future: F) -> std::pin::Pin<Box<F>> {
    Box::pin(future)
}

/// Waits for the order to end: SIGTERM, SIGINT, or the end of the terminal.
pub(crate) fn signals() -> Result<impl Future<Output = ()>, Fault> {
    let listen =
        |kind| signal(kind).map_err(|e| Fault::unavailable(reason::BUG, format!("cannot listen to signals: {e}")));
    let (mut term, mut int, mut hup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hup.recv() => {}
        }
    })
}

fn say(lines: &[(&str, &str)]) {
    if let Err(error) = notify(lines) {
        tracing::warn!(%error, "whoever started this process does not listen");
    }
}

/// Counts each limit of the group that the kernel keeps, as its control group has it now. The node put this process there
/// before its program began.
fn show_limits(spec: &GroupSpec) {
    let own = ControlGroup::of(std::process::id(), spec.id.group.as_str(), &spec.limits.caps());
    let enforcement = own.map_or_else(|why| Enforcement::none(&why), |group| group.enforcement().clone());
    for (limit, kept) in enforcement.parts() {
        metrics::gauge!("tandem_limit_enforced", "limit" => limit).set(f64::from(u8::from(kept)));
    }
}

/// Tells the kernel how readily it may end this group, and the engines it starts, when memory is short.
fn lower_in_need(plan: &Plan, group: &GroupId) {
    let adjustment = plan.group(group).map_or(0, |g| g.oom_score_adj);
    let write = |value: u16| {
        std::fs::File::options().write(true).open("/proc/self/oom_score_adj")?.write_all(value.to_string().as_bytes())
    };
    if adjustment > 0
        && let Err(error) = write(adjustment)
    {
        tracing::warn!(%group, adjustment, %error, "oom_score_adj is not enforced");
    }
}

/// Runs every group inside this process; calls between them stay in memory.
pub(crate) struct InProcess {
    home: Arc<Home>,
    peers: Peers,
}

impl InProcess {
    /// For the groups of `plan` that `first` is one of.
    pub(crate) fn new(plan: &Plan, source: &Source, place: &Place, first: &GroupId, log: Log) -> Result<Self, Fault> {
        let home = Home::new(plan, source, &first.node, place, log)?;
        let peers = home.peers(first)?;
        Ok(Self { home: Arc::new(home), peers })
    }

    /// Keeps the process's measurements small; never ends by itself.
    pub(crate) fn upkeep(&self) -> impl Future<Output = ()> + use<> {
        let home = self.home.clone();
        async move { home.upkeep().await }
    }
}

fn note(hung: &Hung) {
    tracing::warn!(how = hung.how, "the process hangs");
}

impl Runner for InProcess {
    fn run(&self, run: Run) -> BoxFuture<'static, End> {
        let (home, peers) = (self.home.clone(), self.peers.clone());
        Box::pin(async move {
            let open = match home.open(run.spec().id.clone(), peers).await {
                Ok(open) => open,
                Err(fault) => {
                    return End { how: "could not be started".into(), evidence: vec![fault.message], ..End::default() };
                }
            };
            let enforcement = Enforcement::none("all groups are one process").to_string();
            run.spawned(std::process::id(), enforcement).await;
            tokio::select! {
                () = open.host.started() => {
                    run.ready().await;
                    tokio::select! {
                        () = run.stopped() => {}
                        // A hang is the process's own: it is noted, and there is nothing else that could be ended.
                        () = async { loop { note(&run.watch(None, Signs::Changes(open.host.changes())).await) } } => {}
                    }
                }
                () = run.stopped() => {}
            }
            let cut_off = open.close(run.drain()).await;
            let how =
                if cut_off == 0 { "ended in order".into() } else { format!("ended, {cut_off} calls were cut off") };
            End { how, ..End::default() }
        })
    }
}

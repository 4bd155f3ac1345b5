//! One supervisor per agent: waits for its needs, starts it, notices errors, panics and hangs, starts it again.
//!
//! The supervisor never awaits an agent without a limit, so a stuck agent costs itself and nobody else.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tandem_agent::{Ctx, CtxParts, Heartbeat, Peers, Publisher, Reconciler, Started};
use tandem_contract::{Call, local, pb::tandem::system::v1 as pb, rpc, state_of};
use tandem_types::{AgentName, Fault, State, reason};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::Shared;
use crate::logic::{Next, RestartPolicy, lost_needs};
use crate::reports::Severity;
use crate::roster::{Live, Order, Slot};

/// Longest time `start` may take. Engines load on their own, so this is about stores and first reads.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A reconciler that neither ends nor beats for this long is stuck.
const HANG_LIMIT: Duration = Duration::from_secs(30);
/// How long an ended agent's tasks get before they are left behind.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Asks a group directly whether a needed agent is ready, in case the registry is silent.
const ASK_EVERY: Duration = Duration::from_millis(500);

enum Ended {
    Failed(String),
    Ordered(Order),
    Shutdown,
}

/// Runs one agent until the group ends.
pub(crate) async fn supervise(shared: Arc<Shared>, slot: Arc<Slot>, mut orders: mpsc::Receiver<Order>) {
    let Some(def) = slot.def else { return };
    let mut policy = RestartPolicy::default();
    // A series that appears only when something has happened looks as if nothing was measured.
    metrics::counter!("tandem_agent_restarts_total", "agent" => slot.id.to_string()).increment(0);
    let peers = shared.peers.for_agent(slot.id.clone());
    if wait_for_needs(&shared, &slot, &peers).await.is_err() {
        return;
    }
    loop {
        set(&shared, &slot, State::Starting, "");
        let ended = life(&shared, &slot, def.start, &peers, &mut orders).await;
        slot.set_live(None);
        let order = match ended {
            Ended::Shutdown => {
                set(&shared, &slot, State::Stopped, "");
                return;
            }
            Ended::Ordered(order) => order,
            Ended::Failed(cause) => {
                error!(agent = %slot.id, cause, "an agent failed");
                let next = policy.failed(shared.roster.clock.now());
                let gone = next == Next::GiveUp && slot.facts.required;
                let severity = if gone { Severity::Critical } else { Severity::Error };
                shared.note_fault(&slot.id, &Fault::internal(&cause), severity);
                match next {
                    Next::Restart(wait) => {
                        let cause = format!("starting again in {} s after: {cause}", wait.as_secs());
                        set(&shared, &slot, State::Starting, &cause);
                        tokio::select! {
                            () = tokio::time::sleep(wait) => Order::Restart,
                            order = orders.recv() => order.unwrap_or(Order::Restart),
                            () = shared.cancel.cancelled() => continue,
                        }
                    }
                    Next::GiveUp => {
                        set(&shared, &slot, State::Failed, &cause);
                        tokio::select! {
                            order = orders.recv() => order.unwrap_or(Order::Stop),
                            () = shared.cancel.cancelled() => return,
                        }
                    }
                }
            }
        };
        let mut order = order;
        while order == Order::Stop {
            set(&shared, &slot, State::Stopped, "stopped by a person or another agent");
            order = tokio::select! {
                order = orders.recv() => match order { Some(order) => order, None => return },
                () = shared.cancel.cancelled() => return,
            };
        }
        if order == Order::Start {
            // A person's start forgives what was.
            policy = RestartPolicy::default();
        }
        slot.restarts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        metrics::counter!("tandem_agent_restarts_total", "agent" => slot.id.to_string()).increment(1);
    }
}

fn set(shared: &Shared, slot: &Slot, state: State, cause: &str) {
    slot.health.set(state, cause);
    shared.peers.heard(&slot.id, state);
    shared.roster.changed();
}

async fn wait_for_needs(shared: &Shared, slot: &Slot, peers: &Peers) -> Result<(), Fault> {
    let mut missing: Vec<AgentName> = slot.facts.needs.clone();
    let mut news = peers.news();
    let mut changes = shared.roster.changes();
    while !missing.is_empty() {
        missing.retain(|name| match shared.roster.slot(name) {
            Some(slot) => !slot.health().is_some_and(|h| h.state.serves()),
            None => match peers.fleet().find(name, &slot.id.node) {
                Some(id) => !peers.state_of(&id).is_some_and(State::serves),
                // The plan's checks have refused a need that exists nowhere.
                None => false,
            },
        });
        if missing.is_empty() {
            break;
        }
        let names = missing.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
        set_waiting(shared, slot, &names);
        tokio::select! {
            _ = news.changed() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(ASK_EVERY) => ask_directly(shared, slot, peers, &missing).await,
            () = shared.cancel.cancelled() => {
                return Err(Fault::unavailable(reason::DRAINING, "the group ends"));
            }
        }
    }
    Ok(())
}

fn set_waiting(shared: &Shared, slot: &Slot, names: &str) {
    let cause = format!("waiting for {names}");
    if slot.health.get().cause != cause {
        set(shared, slot, State::Starting, &cause);
    }
}

async fn ask_directly(shared: &Shared, slot: &Slot, peers: &Peers, names: &[AgentName]) {
    for id in names.iter().filter_map(|name| peers.fleet().find(name, &slot.id.node)) {
        if id.group_id() == shared.roster.group {
            continue;
        }
        let Ok(client) = peers.group(&id.group_id()) else { continue };
        let call = Call::by(&slot.id).within(Duration::from_millis(400), std::time::Instant::now());
        if let Ok(answer) = client.unary(rpc::host::GET_HEALTH, pb::GetHealthRequest::default(), &call).await {
            for agent in &answer.agents {
                if let (Ok(id), Some(health)) = (agent.agent.parse(), agent.health.as_option()) {
                    peers.heard(&id, state_of(health.state));
                }
            }
        }
    }
}

/// One life of an agent, from `start` to its end.
async fn life(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    start: fn(Ctx) -> tandem_agent::StartFuture,
    peers: &Peers,
    orders: &mut mpsc::Receiver<Order>,
) -> Ended {
    let (cancel, tasks, heartbeat) = (shared.cancel.child_token(), TaskTracker::new(), Heartbeat::default());
    let ctx = Ctx::new(CtxParts {
        id: slot.id.clone(),
        peers: peers.clone(),
        health: slot.health.clone(),
        publisher: Publisher::new(shared.events.clone()),
        clock: shared.roster.clock.clone(),
        data: shared.data.clone(),
        settings: slot.facts.settings.clone(),
        cancel: cancel.clone(),
        tasks: tasks.clone(),
        instance: shared.instance.clone(),
        heartbeat: heartbeat.clone(),
        spans: shared.spans.clone(),
        sockets: shared.sockets.clone(),
        in_flight: slot.calls.clone(),
    });
    let starting = AssertUnwindSafe(async move { start(ctx).await }).catch_unwind();
    let mut started = tokio::select! {
        started = tokio::time::timeout(START_LIMIT, starting) => match started {
            Ok(Ok(Ok(started))) => started,
            Ok(Ok(Err(fault))) => return Ended::Failed(fault.message),
            Ok(Err(panic)) => return Ended::Failed(format!("panicked at its start: {}", panic_words(&*panic))),
            Err(_) => return Ended::Failed(format!("did not start within {} s", START_LIMIT.as_secs())),
        },
        () = shared.cancel.cancelled() => return Ended::Shutdown,
    };
    let service = std::mem::take(&mut started.service).into_http_at(slot.id.clone(), shared.observer.clone());
    slot.set_live(Some(Live {
        service: local(service),
        stores: std::mem::take(&mut started.stores),
        shows: std::mem::take(&mut started.shows),
    }));
    if slot.health.get().state == State::Starting {
        slot.health.ready();
    }
    tell(shared, slot);
    info!(agent = %slot.id, "an agent is ready");
    let ended = run(shared, slot, &started, cancel.clone(), &heartbeat, orders).await;
    // Routing stops before the agent does.
    slot.set_live(None);
    if let Some(drain) = &started.drain {
        match tokio::time::timeout(END_LIMIT, drain()).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => warn!(agent = %slot.id, %fault, "an agent could not finish"),
            Err(_) => warn!(agent = %slot.id, "an agent took too long to finish"),
        }
    }
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(END_LIMIT, tasks.wait()).await.is_err() {
        warn!(agent = %slot.id, tasks = tasks.len(), "an agent left tasks behind");
    }
    ended
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

async fn run(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    started: &Started,
    cancel: CancellationToken,
    heartbeat: &Heartbeat,
    orders: &mut mpsc::Receiver<Order>,
) -> Ended {
    let mut work: JoinSet<String> = JoinSet::new();
    for reconciler in &started.reconcilers {
        work.spawn(reconcile(shared.clone(), slot.clone(), copy(reconciler), heartbeat.clone()));
    }
    for subscription in &started.subscriptions {
        work.spawn(crate::events::follow(
            shared.clone(),
            slot.id.clone(),
            subscription.topic,
            subscription.handler.clone(),
        ));
    }
    let mut health = slot.health.watch();
    let mut news = shared.peers.news();
    let ended = loop {
        watch_needs(shared, slot);
        tokio::select! {
            Some(ended) = work.join_next() => break match ended {
                Ok(cause) => Ended::Failed(cause),
                Err(e) if e.is_panic() => Ended::Failed(format!("panicked: {}", panic_words(&*e.into_panic()))),
                Err(_) => Ended::Shutdown,
            },
            changed = health.changed() => if changed.is_ok() {
                tell(shared, slot);
            },
            // The sender lives as long as `shared`.
            _ = news.changed(), if !slot.facts.needs.is_empty() => {}
            order = orders.recv() => match order {
                // It runs already.
                Some(Order::Start) | None => {}
                Some(order) => break Ended::Ordered(order),
            },
            () = cancel.cancelled() => break Ended::Shutdown,
        }
    };
    work.shutdown().await;
    ended
}

/// An agent whose need was lost goes on as well as it can, and says so; it is never started again for that.
fn watch_needs(shared: &Shared, slot: &Slot) {
    let needs = slot.facts.needs.iter().map(|name| {
        let state = match shared.roster.slot(name) {
            Some(needed) => needed.health().map(|health| health.state),
            None => shared.peers.fleet().find(name, &slot.id.node).and_then(|id| shared.peers.state_of(&id)),
        };
        (name, state)
    });
    if slot.set_lost(lost_needs(needs), shared.roster.clock.now()) {
        tell(shared, slot);
    }
}

/// Tells everybody how the agent is doing.
fn tell(shared: &Shared, slot: &Slot) {
    if let Some(health) = slot.health() {
        shared.peers.heard(&slot.id, health.state);
    }
    shared.roster.changed();
}

fn copy(reconciler: &Reconciler) -> Reconciler {
    Reconciler { wake: reconciler.wake.clone(), run: reconciler.run.clone(), ..*reconciler }
}

/// Runs a reconciler until it gets stuck; says so. Its errors are logged once per cause and tried again, slower and
/// slower up to ten periods, because looking again is its whole purpose.
async fn reconcile(shared: Arc<Shared>, slot: Arc<Slot>, reconciler: Reconciler, heartbeat: Heartbeat) -> String {
    let mut last_error = String::new();
    let mut slow = 1;
    loop {
        let began = shared.roster.clock.now();
        heartbeat.beat(began);
        let run = (reconciler.run)();
        tokio::pin!(run);
        let outcome = loop {
            match tokio::time::timeout(HANG_LIMIT, &mut run).await {
                Ok(outcome) => break outcome,
                Err(_)
                    if heartbeat.last() > began && shared.roster.clock.now().since(heartbeat.last()) < HANG_LIMIT => {}
                Err(_) => return format!("{} was silent for {} s", reconciler.name, HANG_LIMIT.as_secs()),
            }
        };
        match outcome {
            Ok(()) => {
                last_error.clear();
                slow = 1;
            }
            Err(fault) => {
                slow = (slow * 2).min(10);
                if last_error != fault.message {
                    warn!(agent = %slot.id, reconciler = reconciler.name, %fault, "a reconciler failed");
                    last_error.clone_from(&fault.message);
                }
                if fault.agent.as_ref().is_none_or(|agent| *agent == slot.id) {
                    shared.note_fault(&slot.id, &fault, Severity::Warning);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(reconciler.period * slow) => {}
            () = reconciler.wake.notified() => {}
        }
    }
}

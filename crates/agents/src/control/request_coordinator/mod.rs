//! The front door: takes every request, decides who answers, and returns the answer as a stream.
//!
//! A request is accepted once its row is in `coordinator.db`; from then on it ends in exactly one final or error, also
//! across a restart. `queue` says who runs next, `walk` leads a turn from the queue to its answer, `finish` ends it.
//!
//! A caller that drops its stream may come back with Resume: the turn goes on for ten seconds (`grace_s`) and is cancelled
//! when nobody listens by then. A background turn goes on without anybody; its result waits for GetResult.

mod ask;
mod choice;
mod conversation;
mod finish;
mod handlers;
mod presence;
mod queue;
mod segments;
mod serve;
mod submit;
#[cfg(test)]
mod tests;
mod turn;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, Topic, TopicKind, bind};
use tandem_contract::Service;
use tandem_contract::rpc::coordinator;
use tandem_store::requests::{RequestStore, SqliteRequests};
use tandem_types::{AgentId, Fault, IdempotencyKey, SessionId, Timestamp, TurnId};
use tokio::sync::oneshot;

use crate::opening::open;
use handlers::Handlers;
use presence::Presence;
use queue::{Limits, Queue, Standing};
use turn::{Common, Turn};

const FILE: &str = "coordinator.db";
/// The depth of every answer while nobody chooses another.
const TIER: &str = "fast";
/// The status of a turn that begins anew after a restart.
const RESTARTED: &str = "restarted";
/// Everybody's word on what they are good at is refreshed this often.
const REFRESH: Duration = Duration::from_secs(10);
/// A turn number is remembered this long; later the clock has passed it.
const NUMBERS_KEPT: Duration = Duration::from_mins(10);
/// Who became idle within this time before a start may not have been told of.
const UNTOLD: Duration = Duration::from_mins(10);
/// Rows past their time are looked for this often.
const PRUNE: Duration = Duration::from_hours(1);

const TURN_STATE: Topic = Topic { name: "turn.state", kind: TopicKind::Live };
const TURN_FINISHED: Topic = Topic { name: "turn.finished", kind: TopicKind::Journal };
const USER_ACTIVE: Topic = Topic { name: "user.active", kind: TopicKind::Journal };
const USER_IDLE: Topic = Topic { name: "user.idle", kind: TopicKind::Journal };

/// RequestCoordinator.
pub const DEF: AgentDef = AgentDef {
    name: "RequestCoordinator",
    about: "The front door: takes every request, decides who answers, and returns the answer as a stream.",
    provides: &[
        coordinator::PREPARE.facts(),
        coordinator::SUBMIT.facts(),
        coordinator::RESUME.facts(),
        coordinator::GET_RESULT.facts(),
        coordinator::CONFIRM.facts(),
        coordinator::CANCEL.facts(),
        coordinator::INTERRUPT.facts(),
        coordinator::QUEUE_STATUS.facts(),
    ],
    needs: &["ServiceRegistry", "SystemDigitalTwin"],
    uses: &[
        "SessionMemoryAgent",
        "NLUAgent",
        "IntentionValidatorAgent",
        "ContextManager",
        "AdvancedRouter",
        "TieredResponder",
        "ToneDetector",
        "EmotionEngine",
        "DynamicIdentityAgent",
        "UnifiedMemoryReasoningAgent",
        "MemoryClient",
        "KnowledgeBase",
        "FeedbackHandler",
        "Responder",
        "AgentTrustScorer",
        "ObservabilityHub",
        "ChitchatAgent",
        "AdvancedCommandHandler",
        "ModelOrchestrator",
        "GoalManager",
        "TutorAgent",
        "ChainOfThoughtAgent",
        "GoTToTAgent",
        "CognitiveModelAgent",
    ],
    roles: &[],
    publishes: &[TURN_STATE, TURN_FINISHED, USER_ACTIVE, USER_IDLE],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Requests that may wait.
    pub queued: usize,
    /// Requests that may run; fewer where handlers say that they cannot answer so many side by side.
    pub running: usize,
    /// Running requests of one person.
    pub per_user: usize,
    /// Share of the running requests that may be background work; one may be in any case.
    pub background_share: f64,
    /// Standing, urgency, ageing and load count beside the way a request came.
    pub dynamic_priority: bool,
    /// What people are: `owner`, `adult`, `child` or `guest`; who is not named is a guest.
    user_roles: BTreeMap<String, Standing>,
    /// Seconds a turn goes on while nobody listens to it.
    pub grace_s: f64,
    /// Seconds without a request after which a person counts as idle.
    pub idle_s: u64,
    /// Milliseconds a turn waits for the session's keeper.
    pub session_ms: u64,
    /// Milliseconds a look at the handlers waits for each to describe itself.
    pub describe_ms: u64,
    /// Milliseconds the last segments may take after the last delta.
    pub compose_ms: u64,
    /// Seconds a handler may be silent.
    pub silence_s: u64,
    /// Seconds a turn may take, waiting included, when its caller sets no deadline.
    pub turn_s: u64,
    /// Seconds a turn that a former process left behind waits for somebody who answers.
    pub restore_s: u64,
    /// Seconds running turns get to end when the group drains.
    pub drain_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queued: 100,
            running: 8,
            per_user: 2,
            background_share: 0.25,
            dynamic_priority: true,
            user_roles: [("owner".to_owned(), Standing::Owner)].into_iter().collect(),
            grace_s: 10.0,
            idle_s: 300,
            session_ms: 200,
            describe_ms: 100,
            compose_ms: 1_000,
            silence_s: 60,
            turn_s: 600,
            restore_s: 60,
            drain_s: 15,
        }
    }
}

impl Settings {
    fn limits(&self) -> Limits {
        Limits {
            queued: self.queued,
            running: self.running,
            per_user: self.per_user,
            background_share: self.background_share,
        }
    }
}

/// The running agent.
struct Coordinator {
    ctx: Ctx,
    settings: Settings,
    store: Arc<dyn RequestStore>,
    handlers: Handlers,
    presence: Presence,
    desk: Mutex<Desk>,
}

/// Everything that lives; one lock, held only for what takes no time.
struct Desk {
    queue: Queue,
    turns: HashMap<TurnId, Arc<Turn>>,
    keys: HashMap<IdempotencyKey, TurnId>,
    /// Places that were told last.
    places: HashMap<TurnId, usize>,
    /// Turn number of sessions that were interrupted lately, and when that was.
    numbers: HashMap<SessionId, (u64, Timestamp)>,
    /// Nothing new is taken.
    draining: bool,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let path = ctx.data_file(FILE);
    let store: Arc<dyn RequestStore> = Arc::new(open(move || SqliteRequests::open(path)).await?);
    let queue = Queue::new(settings.limits(), settings.dynamic_priority);
    let agent = Arc::new(Coordinator {
        handlers: Handlers::new(&ctx, Duration::from_millis(settings.describe_ms)),
        presence: Presence::start(&ctx, Duration::from_secs(settings.idle_s)),
        ctx,
        settings,
        store: store.clone(),
        desk: Mutex::new(Desk {
            queue,
            turns: HashMap::new(),
            keys: HashMap::new(),
            places: HashMap::new(),
            numbers: HashMap::new(),
            draining: false,
        }),
    });
    let now = agent.ctx.clock().now();
    let here = store.last_requests(now - Duration::from_secs(agent.settings.idle_s) - UNTOLD).await?;
    agent.presence.resume(here, now);
    agent.restore().await?;
    let service = Service::new()
        .unary(coordinator::PREPARE, bind(&agent, Coordinator::prepare))
        .server_stream(coordinator::SUBMIT, bind(&agent, Coordinator::submit))
        .server_stream(coordinator::RESUME, bind(&agent, Coordinator::resume))
        .unary(coordinator::GET_RESULT, bind(&agent, Coordinator::get_result))
        .unary(coordinator::CONFIRM, bind(&agent, Coordinator::confirm))
        .unary(coordinator::CANCEL, bind(&agent, Coordinator::cancel))
        .unary(coordinator::INTERRUPT, bind(&agent, Coordinator::interrupt))
        .unary(coordinator::QUEUE_STATUS, bind(&agent, Coordinator::queue_status));
    let (asking, idling, pruning, draining) = (agent.clone(), agent.clone(), agent.clone(), agent);
    Ok(Started::serve(service)
        .reconcile("handlers", REFRESH, move || asking.clone().look_at_handlers())
        .reconcile("idle", REFRESH, move || idling.clone().look_for_idle())
        .reconcile("prune", PRUNE, move || pruning.clone().prune())
        .store(store)
        .on_drain(move || draining.clone().drain()))
}

impl Coordinator {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Each change of the desk is complete before anything that could panic.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work that ends with the agent and not with who waits for it.
    fn run<T: Clone + Send + Sync + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Common<T> {
        let (done, result) = oneshot::channel();
        self.ctx.spawn(async move {
            // Nobody may be waiting any more.
            let _ = done.send(work.await);
        });
        result.map(Result::ok).boxed().shared()
    }

    /// The turn's number in the queue, as it would be now.
    fn number(&self, turn: &Turn) -> u8 {
        self.desk().queue.number(&turn.known.asked.claim, turn.known.at, self.ctx.clock().now())
    }

    /// The share of running turns that an agent has.
    fn load(&self, agent: &AgentId) -> f64 {
        let desk = self.desk();
        let has = desk.turns.values().filter(|turn| turn.progress().handler.as_ref() == Some(agent)).count();
        has as f64 / desk.queue.limits().running.max(has).max(1) as f64
    }

    /// Lets as many turns run as can be answered.
    fn fit_queue(self: &Arc<Self>) {
        let answerable = self.handlers.parallel();
        let more = self.desk().queue.fit(answerable);
        if more {
            self.pump();
        }
    }

    /// Asks handlers what they are good at, and says in health when those that were there are gone.
    async fn look_at_handlers(self: Arc<Self>) -> Result<(), Fault> {
        self.handlers.refresh().await;
        self.fit_queue();
        let providers = self.handlers.providers();
        let away = |provider: &tandem_agent::Provider| provider.state.is_some_and(|state| !state.serves());
        if !providers.is_empty() && providers.iter().all(away) {
            let names: Vec<&str> = providers.iter().map(|provider| provider.agent.agent.as_str()).collect();
            self.ctx.health().degraded(format!("nobody can answer turns: {} cannot serve", names.join(", ")));
        } else {
            self.ctx.health().ready();
        }
        Ok(())
    }

    async fn look_for_idle(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.ctx.clock().now();
        self.presence.look_for_idle(now);
        self.desk().numbers.retain(|_, (_, at)| now.since(*at) < NUMBERS_KEPT);
        Ok(())
    }

    async fn prune(self: Arc<Self>) -> Result<(), Fault> {
        self.store.prune(self.ctx.clock().now()).await.map(drop)
    }

    /// Takes nothing new and lets what runs come to its end; what waits goes on after the next start.
    async fn drain(self: Arc<Self>) -> Result<(), Fault> {
        self.desk().draining = true;
        let until = tokio::time::Instant::now() + Duration::from_secs(self.settings.drain_s);
        while self.desk().queue.running() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

//! Foresees trouble from what the hubs measure and applies the gentlest remedy that fits, within a budget.
//!
//! Each minute it looks at every agent: how long its calls take, how many fail, how long its group takes to answer
//! probes, what waits, how much memory there is left, how often it was started again. What stands out becomes a
//! probability by a map that is fitted on failures of this fleet; until there are enough of them it says that it is not
//! calibrated. It acts only when it is told to, only on agents of the plan that are failing already, and only through
//! UnifiedSystemAgent.

mod gather;
mod logic;
mod serve;
mod tend;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{gauge, histogram};
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Event, Started, bind};
use tandem_contract::Service;
use tandem_contract::rpc::telemetry;
use tandem_store::forecasts::{Example, ForecastStore, RecoveryMode, SqliteForecasts};
use tandem_types::{AgentId, Fault, Timestamp};

use crate::opening::open;
use logic::counters::Counters;
use logic::forecast::{Forecast, Level};
use logic::logistic::{Map, Point};
use logic::remedy::Budget;
use logic::signals::Signal;
use logic::watch::{Lesson, TICK, Watch};

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "PredictiveHealthMonitor",
    about: "Foresees trouble from what is measured and applies the gentlest remedy that fits, within a budget.",
    provides: &[
        telemetry::GET_FORECAST.facts(),
        telemetry::LIST_RECOVERIES.facts(),
        telemetry::SET_RECOVERY_MODE.facts(),
    ],
    needs: &["ObservabilityHub"],
    uses: &["UnifiedSystemAgent", "ObservabilityHub"],
    roles: &[],
    publishes: &[],
    required: false,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// What may be done as long as nobody has said otherwise: `off`, `advise` or `act`.
    mode: String,
    /// Pause between two restarts of one agent.
    cooldown_ms: u64,
    /// Restarts of one agent in `agent_window_ms`.
    agent_restarts: usize,
    agent_window_ms: u64,
    /// Restarts of all agents in `all_window_ms`.
    all_restarts: usize,
    all_window_ms: u64,
    /// How long a remedy that was refused is not repeated.
    refused_ms: u64,
    /// How long after a remedy another failure calls for the next tier.
    escalate_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: RecoveryMode::Advise.to_string(),
            cooldown_ms: 60_000,
            agent_restarts: 5,
            agent_window_ms: 600_000,
            all_restarts: 20,
            all_window_ms: 3_600_000,
            refused_ms: 600_000,
            escalate_ms: 1_800_000,
        }
    }
}

impl Settings {
    fn budget(&self) -> Budget {
        Budget {
            cooldown: Duration::from_millis(self.cooldown_ms),
            per_agent: self.agent_restarts,
            agent_window: Duration::from_millis(self.agent_window_ms),
            all: self.all_restarts,
            all_window: Duration::from_millis(self.all_window_ms),
            refused: Duration::from_millis(self.refused_ms),
            escalate: Duration::from_millis(self.escalate_ms),
        }
    }

    fn mode(&self) -> Result<RecoveryMode, Fault> {
        let wrong = |_| Fault::invalid_field("mode", format!("is `{}`; it must be off, advise or act", self.mode));
        self.mode.parse().map_err(wrong)
    }
}

/// How often what is usual goes to disk, the map is fitted anew, and past rows are removed.
const KEEP: Duration = Duration::from_secs(600);
const FIT: Duration = Duration::from_hours(1);
/// Of what passed without a failure one look in this many is kept, and stands for all of them.
const THINNED: i64 = 10;

/// An agent as it is known here.
#[derive(Debug, Default)]
struct Known {
    watch: Watch,
    /// What is foreseen; none while there are too few samples.
    forecast: Option<Forecast>,
    /// Whether it was failing when it was looked at last.
    failing: bool,
}

struct Monitor {
    ctx: Ctx,
    budget: Budget,
    store: SqliteForecasts,
    known: Mutex<BTreeMap<AgentId, Known>>,
    counters: Mutex<Counters>,
    /// The map and how many failures it rests on.
    map: Mutex<(Map, usize)>,
    mode: Mutex<RecoveryMode>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let planned = settings.mode()?;
    let path = ctx.data_file("forecast.db");
    let store = open(move || SqliteForecasts::open(path)).await?;
    let mode = store.mode().await?.unwrap_or(planned);
    let (agents, mut known) = (built(&ctx), BTreeMap::new());
    for (agent, state) in store.norms().await? {
        // What was written in an older form is as good as none: it is learnt again.
        if let (true, Ok(watch)) = (agents.contains(&agent), serde_json::from_str(&state)) {
            known.insert(agent, Known { watch, ..Known::default() });
        }
    }
    let monitor = Arc::new(Monitor {
        budget: settings.budget(),
        known: Mutex::new(known),
        counters: Mutex::default(),
        map: Mutex::default(),
        mode: Mutex::new(mode),
        store,
        ctx,
    });
    monitor.settle().await?;
    monitor.clone().fit().await?;
    let service = Service::new()
        .unary(telemetry::GET_FORECAST, bind(&monitor, Monitor::get_forecast))
        .unary(telemetry::LIST_RECOVERIES, bind(&monitor, Monitor::list_recoveries))
        .unary(telemetry::SET_RECOVERY_MODE, bind(&monitor, Monitor::set_recovery_mode));
    let (looking, keeping, fitting) = (monitor.clone(), monitor.clone(), monitor.clone());
    let (hearing, closing) = (monitor.clone(), monitor);
    Ok(Started::serve(service)
        .reconcile("forecast", TICK, move || looking.clone().tick())
        .reconcile("keep", KEEP, move || keeping.clone().keep())
        .reconcile("fit", FIT, move || fitting.clone().fit())
        .on("health.changed", move |event| hearing.clone().heard(event))
        .on_drain(move || closing.clone().keep()))
}

/// Agents of the plan that this program has code for.
fn built(ctx: &Ctx) -> Vec<AgentId> {
    let id = |(group, agent): (&tandem_agent::FleetGroup, &tandem_agent::FleetAgent)| {
        agent.built.then(|| group.id.agent(agent.name.clone()))
    };
    ctx.fleet().agents().filter_map(id).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each operation leaves what is inside whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    fn now(&self) -> Timestamp {
        self.ctx.clock().now()
    }

    /// Looks at every agent once, and does for one of them what is to be done.
    async fn tick(self: Arc<Self>) -> Result<(), Fault> {
        let seen = self.gather().await;
        let now = self.now();
        let (mut lessons, mut news) = (Vec::new(), Vec::new());
        {
            let (map, mut known) = (lock(&self.map).0, lock(&self.known));
            for agent in built(&self.ctx) {
                let one = known.entry(agent.clone()).or_default();
                let Some(signals) = seen.signals.get(&agent) else {
                    // Nobody knows how it is, and what it was is no forecast.
                    one.forecast = None;
                    continue;
                };
                let failing = seen.failing.contains(&agent);
                let again = signals.get(&Signal::Restarts).is_some_and(|times| *times > 0.0);
                if (failing && !one.failing) || again {
                    lessons.extend(self.failed(&agent, one, now));
                }
                one.failing = failing;
                let limit = self.ctx.fleet().group(&agent.group_id()).map(|group| group.ram_bytes as f64);
                let reading = one.watch.look(now, signals, limit.filter(|bytes| *bytes > 0.0), failing);
                lessons.extend(one.watch.passed(now).into_iter().map(|lesson| (agent.clone(), lesson)));
                let forecast = reading.map(|reading| Forecast::after(one.forecast.as_ref(), reading, &map));
                let level = |of: Option<&Forecast>| of.map_or(Level::Normal, |forecast| forecast.level);
                if let Some(new) = forecast.as_ref().filter(|new| new.level != level(one.forecast.as_ref())) {
                    news.push((agent.clone(), new.clone()));
                }
                show(&agent, forecast.as_ref());
                one.forecast = forecast;
            }
        }
        for (agent, forecast) in news {
            let causes = forecast.reading.causes.join("; ");
            match forecast.level {
                Level::Normal => tracing::info!(%agent, "no failure is foreseen any more"),
                level => {
                    tracing::warn!(%agent, ?level, causes, calibrated = forecast.calibrated, "a failure is foreseen")
                }
            }
            self.store.note(&agent, text(&forecast)?, now).await?;
        }
        self.learn(lessons).await?;
        self.tend(now).await
    }

    /// Takes what the hub observed of an agent between two looks.
    async fn heard(self: Arc<Self>, event: Event) -> Result<(), Fault> {
        let failed = event.payload["state"].as_str() == Some("failed");
        let Ok(agent) = event.key.parse::<AgentId>() else { return Ok(()) };
        if !failed || !built(&self.ctx).contains(&agent) {
            return Ok(());
        }
        let at = event.payload["since_us"].as_i64().map_or(event.at, Timestamp);
        let lessons = self.failed(&agent, lock(&self.known).entry(agent.clone()).or_default(), at);
        self.learn(lessons).await
    }

    /// Notes a failure: what was seen before it is a lesson, and a warning that stood was right.
    fn failed(&self, agent: &AgentId, one: &mut Known, at: Timestamp) -> Vec<(AgentId, Lesson)> {
        let Some(lessons) = one.watch.failed(at) else { return Vec::new() };
        if let Some(warned) = one.forecast.as_ref().and_then(|forecast| forecast.warned) {
            histogram!("tandem_forecast_lead_seconds").record(at.since(warned));
        }
        lessons.into_iter().map(|lesson| (agent.clone(), lesson)).collect()
    }

    async fn learn(&self, lessons: Vec<(AgentId, Lesson)>) -> Result<(), Fault> {
        let kept = |(_, lesson): &(AgentId, Lesson)| {
            let minute = lesson.reading.at.micros() / i64::try_from(TICK.as_micros()).unwrap_or(i64::MAX);
            lesson.failed_after.is_some() || minute % THINNED == 0
        };
        let example = |(agent, lesson): (AgentId, Lesson)| Example {
            agent,
            at: lesson.reading.at,
            anomaly: lesson.reading.anomaly,
            urgency: lesson.reading.urgency,
            weight: if lesson.failed_after.is_some() { 1.0 } else { THINNED as f64 },
            failed_after: lesson.failed_after,
        };
        let examples: Vec<Example> = lessons.into_iter().filter(kept).map(example).collect();
        if examples.is_empty() { Ok(()) } else { self.store.learn(examples).await }
    }

    /// Fits the map anew on what was learnt, and removes what is past its time.
    async fn fit(self: Arc<Self>) -> Result<(), Fault> {
        self.store.prune(self.now()).await?;
        let examples = self.store.examples().await?;
        let mut failures: Vec<(&AgentId, i64)> =
            examples.iter().filter_map(|one| Some((&one.agent, (one.at + one.failed_after?).micros()))).collect();
        failures.sort_unstable();
        failures.dedup();
        let failures = failures.len();
        let points: Vec<Point> = examples
            .iter()
            .map(|one| Point {
                anomaly: one.anomaly,
                urgency: one.urgency,
                weight: one.weight,
                failed_after: one.failed_after,
            })
            .collect();
        let fitted = tokio::task::spawn_blocking(move || Map::fit(&points, failures)).await;
        let map = fitted.map_err(|e| Fault::internal(format!("the thread that fits the forecast ended: {e}")))?;
        *lock(&self.map) = (map, failures);
        Ok(())
    }

    /// Keeps what is usual of each agent.
    async fn keep(self: Arc<Self>) -> Result<(), Fault> {
        let norms: Result<Vec<(AgentId, String)>, Fault> =
            lock(&self.known).iter().map(|(agent, one)| Ok((agent.clone(), text(&one.watch)?))).collect();
        self.store.set_norms(norms?).await
    }
}

fn text(of: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(of).map_err(|e| Fault::internal(format!("writing a forecast: {e}")))
}

/// Without a forecast there is no probability to show.
fn show(agent: &AgentId, forecast: Option<&Forecast>) {
    let [_, probability] = forecast.map_or([f64::NAN; 2], |forecast| forecast.probabilities);
    gauge!("tandem_failure_probability", "agent" => agent.to_string()).set(probability);
}

//! The agent between a hub and UnifiedSystemAgent that say what the test wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tandem_agent::Event;
use tandem_contract::Service;
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::system::v1 as system_pb;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::{system, telemetry};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, Health, State, Timestamp, reason};

use super::super::DEF;

const AGENT: &str = "solo/memory_stack/SessionMemoryAgent";
const MINUTE: Duration = Duration::from_secs(60);

/// What the hub measured of the agent.
#[derive(Debug, Clone)]
struct Measured {
    answers: bool,
    p95: f64,
    served: f64,
    failed: f64,
    memory: f64,
    health: State,
}

impl Default for Measured {
    fn default() -> Self {
        Self { answers: true, p95: 0.03, served: 0.0, failed: 0.0, memory: 3e8, health: State::Ready }
    }
}

fn series(labels: &[(&str, &str)], value: f64) -> pb::Series {
    pb::Series {
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        samples: vec![pb::Sample { at_us: 1, value, ..Default::default() }],
        ..Default::default()
    }
}

fn hub(measured: Arc<Mutex<Measured>>) -> Service {
    let health = measured.clone();
    Service::new()
        .unary(telemetry::QUERY_SERIES, move |_, request: pb::QuerySeriesRequest| {
            let now = measured.lock().unwrap().clone();
            async move {
                if !now.answers {
                    return Err(Fault::unavailable(reason::PEER_AWAY, "away"));
                }
                let calls = |code, value| series(&[("agent", AGENT), ("code", code), ("rpc", "x")], value);
                let found = match request.name.as_str() {
                    "tandem_rpc_p95_seconds" => vec![series(&[("agent", AGENT)], now.p95)],
                    "tandem_rpc_requests_total" => vec![calls("ok", now.served), calls("internal", now.failed)],
                    "process_resident_memory_bytes" => vec![series(&[("group", "solo/memory_stack")], now.memory)],
                    name => return Err(Fault::not_found(format!("no series {name}"))),
                };
                Ok(pb::QuerySeriesResponse { series: found, ..Default::default() })
            }
        })
        .unary(telemetry::GET_FLEET_HEALTH, move |_, _: pb::GetFleetHealthRequest| {
            let state = health.lock().unwrap().health;
            async move {
                let agent = pb::AgentNode {
                    agent: "SessionMemoryAgent".into(),
                    health: common::Health::from(&Health::new(state, "", Timestamp(0))).into(),
                    ..Default::default()
                };
                let group = pb::GroupNode { group: "memory_stack".into(), agents: vec![agent], ..Default::default() };
                let node = pb::NodeNode { node: "solo".into(), groups: vec![group], ..Default::default() };
                Ok(pb::GetFleetHealthResponse { nodes: vec![node], ..Default::default() })
            }
        })
        .unary(telemetry::QUERY_ERRORS, move |_, _: pb::QueryErrorsRequest| async move {
            let error =
                pb::ErrorReport { code: "internal".into(), evidence: vec!["disk I/O".into()], ..Default::default() };
            Ok(pb::QueryErrorsResponse { errors: vec![error], ..Default::default() })
        })
}

/// What UnifiedSystemAgent was asked for: what, and on whom.
type Orders = Arc<Mutex<Vec<(&'static str, String)>>>;

fn hand(orders: Orders, refuses: bool) -> Service {
    let answer = move || match refuses {
        true => Err(Fault::new(Code::PermissionDenied, reason::NOT_ALLOWED, "the owner said no")),
        false => Ok(system_pb::Action { outcome: "done".into(), detail: "it is ready".into(), ..Default::default() }),
    };
    let recycled = orders.clone();
    Service::new()
        .unary(system::RESTART_AGENT, move |_, request: system_pb::RestartAgentRequest| {
            orders.lock().unwrap().push(("restart", request.agent));
            async move { Ok(system_pb::RestartAgentResponse { action: answer()?.into(), ..Default::default() }) }
        })
        .unary(system::RECYCLE_GROUP, move |_, request: system_pb::RecycleGroupRequest| {
            recycled.lock().unwrap().push(("recycle", request.group));
            async move { Ok(system_pb::RecycleGroupResponse { action: answer()?.into(), ..Default::default() }) }
        })
}

struct Stage {
    rig: Running,
    measured: Arc<Mutex<Measured>>,
    orders: Orders,
}

impl Stage {
    async fn new(settings: serde_json::Value, refuses: bool) -> Self {
        let (measured, orders) = (Arc::<Mutex<Measured>>::default(), Orders::default());
        let rig = Rig::new(&DEF)
            .settings(settings)
            .peer_in("solo/observability".parse().unwrap(), "ObservabilityHub", hub(measured.clone()))
            .peer_in("solo/infra_core".parse().unwrap(), "UnifiedSystemAgent", hand(orders.clone(), refuses))
            .peer_in("solo/memory_stack".parse().unwrap(), "SessionMemoryAgent", Service::new())
            .start()
            .await;
        Self { rig, measured, orders }
    }

    /// Minutes go by, in which the agent serves calls; `failing` of a hundred fail.
    async fn minutes(&self, count: u32, failing: f64) {
        for _ in 0..count {
            {
                let mut now = self.measured.lock().unwrap();
                (now.served, now.failed) = (now.served + 100.0 - failing, now.failed + failing);
                now.p95 = if failing > 50.0 { 5.0 } else { 0.03 };
                now.health = if failing > 50.0 { State::Failed } else { State::Ready };
            }
            self.rig.clock.advance(MINUTE);
            self.rig.reconcile("forecast").await.unwrap();
        }
    }

    async fn forecast(&self, agent: &str) -> Result<pb::GetForecastResponse, Fault> {
        let request = pb::GetForecastRequest { agent: agent.into(), ..Default::default() };
        self.rig.client().unary(telemetry::GET_FORECAST, request, &self.rig.call()).await
    }

    async fn of_agent(&self) -> pb::Forecast {
        self.forecast(AGENT).await.unwrap().forecasts.remove(0)
    }

    async fn set(&self, mode: pb::RecoveryMode) -> Result<pb::SetRecoveryModeResponse, Fault> {
        let request = pb::SetRecoveryModeRequest { mode: mode.into(), ..Default::default() };
        self.rig.client().unary(telemetry::SET_RECOVERY_MODE, request, &self.rig.call()).await
    }

    /// Oldest first.
    async fn recoveries(&self) -> Vec<pb::Recovery> {
        let request = pb::ListRecoveriesRequest { page_size: 500, ..Default::default() };
        let answer = self.rig.client().unary(telemetry::LIST_RECOVERIES, request, &self.rig.call()).await;
        answer.unwrap().recoveries.into_iter().rev().collect()
    }
}

#[tokio::test]
async fn a_forecast_needs_samples_and_says_that_it_is_not_calibrated() {
    let stage = Stage::new(json!(null), false).await;
    let none = stage.of_agent().await;
    assert!(none.probability_15m.is_none() && none.missing.starts_with("there are fewer than 10 samples"), "{none:?}");
    stage.minutes(12, 0.0).await;
    let normal = stage.of_agent().await;
    assert_eq!(normal.level, pb::ForecastLevel::FORECAST_LEVEL_NORMAL);
    assert!(normal.probability_15m.unwrap() < 0.1 && !normal.calibrated && normal.missing.is_empty(), "{normal:?}");

    stage.minutes(6, 100.0).await;
    let critical = stage.of_agent().await;
    assert_eq!(critical.level, pb::ForecastLevel::FORECAST_LEVEL_CRITICAL, "{critical:?}");
    assert!(critical.causes.iter().any(|cause| cause == "100 % of its calls fail"), "{:?}", critical.causes);
    assert!(critical.since_us > normal.since_us && !critical.calibrated);
    let all = stage.forecast("").await.unwrap();
    assert_eq!((all.forecasts[0].agent.as_str(), all.mode), (AGENT, pb::RecoveryMode::RECOVERY_MODE_ADVISE.into()));
    assert_eq!(all.forecasts.len(), 4, "of everybody, with or without a forecast");

    stage.measured.lock().unwrap().answers = false;
    stage.minutes(1, 0.0).await;
    assert_eq!(stage.of_agent().await.probability_15m, None, "a gap is no forecast");
    for (agent, code) in [("solo/memory_stack/Nobody", Code::NotFound), ("x", Code::InvalidArgument)] {
        assert_eq!(stage.forecast(agent).await.unwrap_err().code, code, "{agent}");
    }
}

#[tokio::test]
async fn it_advises_unless_it_is_told_to_act() {
    let mut stage = Stage::new(json!(null), false).await;
    stage.minutes(12, 0.0).await;
    stage.minutes(9, 100.0).await;
    let advised = stage.recoveries().await;
    assert_eq!(advised.len(), 1, "once, not each minute");
    assert_eq!((advised[0].outcome.as_str(), advised[0].tier, advised[0].agent.as_str()), ("advised", 1, AGENT));
    assert_eq!(advised[0].detail, format!("restart {AGENT}"));
    assert!(
        advised[0].evidence_json.contains("disk I/O") && advised[0].evidence_json.contains("100 % of its calls fail")
    );
    assert!(stage.orders.lock().unwrap().is_empty());

    let fault = stage.set(pb::RecoveryMode::RECOVERY_MODE_UNSPECIFIED).await.unwrap_err();
    assert_eq!(fault.violations[0].field, "mode");
    stage.set(pb::RecoveryMode::RECOVERY_MODE_OFF).await.unwrap();
    stage.minutes(20, 100.0).await;
    assert_eq!(stage.recoveries().await, advised);
    stage.rig.restart().await;
    assert_eq!(stage.forecast("").await.unwrap().mode, pb::RecoveryMode::RECOVERY_MODE_OFF, "kept over a restart");
}

#[tokio::test]
async fn an_agent_that_fails_whatever_is_done_never_passes_the_budget() {
    let stage = Stage::new(json!({ "mode": "act" }), false).await;
    stage.minutes(12, 0.0).await;
    let mut ordered: Vec<usize> = Vec::new();
    for _ in 0..240 {
        stage.minutes(1, 100.0).await;
        ordered.push(stage.orders.lock().unwrap().len());
        let before = |minutes: usize| ordered.len().checked_sub(minutes + 1).map_or(0, |n| ordered[n]);
        let now = ordered.last().unwrap();
        assert!(now - before(10) <= 5 && now - before(60) <= 20 && now - before(1) <= 1, "{ordered:?}");
    }
    let orders = stage.orders.lock().unwrap().clone();
    // It is alone in its group and needs nobody, so that each tier restarts it once.
    let begins: Vec<&str> = orders.iter().map(|(what, _)| *what).take(3).collect();
    assert_eq!(begins, ["restart", "restart", "recycle"]);
    assert!(orders.iter().all(|(_, whom)| whom == AGENT || whom == "solo/memory_stack"), "{orders:?}");
    let recoveries = stage.recoveries().await;
    let tiers: Vec<u32> = recoveries.iter().map(|one| one.tier).take(4).collect();
    assert_eq!((tiers, recoveries[0].outcome.as_str()), (vec![1, 3, 4, 4], "done"));
}

#[tokio::test]
async fn a_failing_agent_that_was_not_foreseen_and_one_foreseen_that_does_not_fail_are_left_alone() {
    let stage = Stage::new(json!({ "mode": "act" }), false).await;
    stage.minutes(12, 0.0).await;
    // Calls fail, and its probes are well.
    for _ in 0..12 {
        {
            let mut now = stage.measured.lock().unwrap();
            (now.failed, now.p95) = (now.failed + 100.0, 5.0);
        }
        stage.rig.clock.advance(MINUTE);
        stage.rig.reconcile("forecast").await.unwrap();
    }
    assert_eq!(stage.of_agent().await.level, pb::ForecastLevel::FORECAST_LEVEL_CRITICAL);
    assert!(stage.orders.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_is_kept_and_not_repeated_for_ten_minutes() {
    let stage = Stage::new(json!({ "mode": "act" }), true).await;
    stage.minutes(12, 0.0).await;
    while stage.orders.lock().unwrap().is_empty() {
        stage.minutes(1, 100.0).await;
    }
    stage.minutes(9, 100.0).await;
    let [refused] = &stage.recoveries().await[..] else { panic!("one recovery") };
    assert_eq!((refused.outcome.as_str(), refused.detail.contains("the owner said no")), ("refused", true));
    stage.minutes(1, 100.0).await;
    assert_eq!(stage.recoveries().await.len(), 2);
}

#[tokio::test]
async fn failures_that_are_recorded_are_counted_once_and_show_the_lead() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _here = ::metrics::set_default_local_recorder(&recorder);
    let stage = Stage::new(json!(null), false).await;
    stage.minutes(12, 0.0).await;
    // Critical before it fails: calls fail first.
    for _ in 0..7 {
        {
            let mut now = stage.measured.lock().unwrap();
            (now.failed, now.p95) = (now.failed + 100.0, 5.0);
        }
        stage.rig.clock.advance(MINUTE);
        stage.rig.reconcile("forecast").await.unwrap();
    }
    let at = stage.rig.clock.now();
    let failed = |id: &str| Event {
        id: id.into(),
        topic: "health.changed".into(),
        key: AGENT.into(),
        cursor: 1,
        at,
        payload: json!({ "state": "failed", "since_us": at.micros() }),
        lost: 0,
    };
    stage.rig.deliver(failed("1")).await.unwrap();
    stage.rig.deliver(failed("1")).await.unwrap();
    stage.rig.reconcile("fit").await.unwrap();
    let forecast = stage.forecast("").await.unwrap();
    assert_eq!((forecast.failures, forecast.forecasts[0].calibrated), (1, false));
    let page = recorder.handle().render();
    for line in
        ["tandem_forecast_lead_seconds_count 1", &format!("tandem_failure_probability{{agent=\"{AGENT}\"}} 0.8")]
    {
        assert!(page.lines().any(|l| l.starts_with(line)), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn what_is_usual_outlives_a_restart() {
    let mut stage = Stage::new(json!(null), false).await;
    stage.minutes(12, 0.0).await;
    stage.rig.reconcile("keep").await.unwrap();
    stage.rig.restart().await;
    assert!(stage.of_agent().await.probability_15m.is_none());
    // Counters begin anew, what they were is gone; the rest goes on.
    stage.minutes(1, 0.0).await;
    assert!(stage.of_agent().await.probability_15m.is_some());
}

#[tokio::test]
async fn an_unknown_mode_is_refused_at_the_start() {
    let Err(fault) = Rig::new(&DEF).settings(json!({ "mode": "heal" })).try_start().await else {
        panic!("it started");
    };
    assert!(
        fault.message.contains("must be off, advise or act") || fault.violations[0].problem.contains("must be off"),
        "{fault}"
    );
}

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::StatusCode;
use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tandem_agent::{FleetAgent, FleetGroup, FleetNode, FleetView};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::{registry, telemetry};
use tandem_contract::{FaultStream, Reply, Service};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, Health, State, Timestamp, reason};
use tokio::sync::mpsc;

use super::DEF;

const GROUP: &str = "solo/memory_stack";
const AGENT: &str = "solo/memory_stack/SessionMemoryAgent";

/// What a group does when it is asked.
#[derive(Debug, Clone)]
enum Act {
    Say(State),
    Hang,
    Break,
}

/// A group with its two pages, at an address of its own.
struct Toy {
    act: Arc<Mutex<Act>>,
    metrics: Arc<Mutex<String>>,
    at: String,
}

fn page(state: State) -> Value {
    json!({
        "group": GROUP, "state": state, "cause": "because", "since_us": 5,
        "agents": [{"agent": AGENT, "state": state, "since_us": 5, "required": true, "built": true, "restarts": 1}],
    })
}

impl Toy {
    async fn start(act: Act) -> Self {
        let (act, metrics) = (Arc::new(Mutex::new(act)), Arc::new(Mutex::new(String::new())));
        let (acts, values) = (act.clone(), metrics.clone());
        let health = move || {
            let act = acts.lock().unwrap().clone();
            async move {
                match act {
                    Act::Say(state) => axum::Json(page(state)).into_response(),
                    Act::Break => StatusCode::IM_A_TEAPOT.into_response(),
                    Act::Hang => std::future::pending().await,
                }
            }
        };
        let routes = Router::new()
            .route("/health", get(health))
            .route("/metrics", get(move || std::future::ready(values.lock().unwrap().clone())));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { act, metrics, at }
    }

    fn does(&self, act: Act) {
        *self.act.lock().unwrap() = act;
    }
}

fn group(id: &str, agent_name: &str, scrape: &str) -> FleetGroup {
    let rpcs = match agent_name {
        "ServiceRegistry" => vec![registry::WATCH.path()],
        "ObservabilityHub" => DEF.provides.iter().map(|rpc| rpc.path).collect(),
        _ => vec![],
    };
    let agent = |name: &str, built| FleetAgent {
        name: name.parse().unwrap(),
        required: built,
        built,
        needs: vec![],
        uses: vec![],
        rpcs: if built { rpcs.clone() } else { vec![] },
        topics: vec![],
        settings: Value::Null,
    };
    FleetGroup {
        id: id.parse().unwrap(),
        endpoint: "http://127.0.0.1:1".into(),
        scrape_endpoint: scrape.into(),
        needs: vec![],
        ram_bytes: 0,
        cpus: 1.0,
        callers: Default::default(),
        agents: vec![agent(agent_name, true), agent("NotBuiltAgent", false)],
    }
}

fn fleet(groups: Vec<FleetGroup>) -> FleetView {
    let node = |name: &str| FleetNode { name: name.parse().unwrap(), address: String::new() };
    let mut nodes: Vec<&str> = groups.iter().map(|g| g.id.node.as_str()).collect();
    nodes.dedup();
    FleetView { nodes: nodes.into_iter().map(node).collect(), groups, ..FleetView::default() }
}

/// Probing in quick time.
fn quick() -> Value {
    json!({ "probe_ms": 20, "probe_timeout_ms": 300, "suspect_ms": 10, "suspect_timeout_ms": 100 })
}

async fn watch(rig: &Running) -> FaultStream<pb::WatchHealthResponse> {
    rig.client().server_stream(telemetry::WATCH_HEALTH, Default::default(), &rig.call()).await.unwrap()
}

/// Reads on until the group is in a state.
async fn until(changes: &mut FaultStream<pb::WatchHealthResponse>, state: State) -> pb::GroupNode {
    let wanted = async {
        loop {
            let change = changes.next().await.expect("the stream goes on").unwrap();
            let group = change.group.as_option().unwrap().clone();
            if group.group == "memory_stack" && health(&group).state == state {
                return group;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wanted).await.unwrap_or_else(|_| panic!("never {state}"))
}

fn health(group: &pb::GroupNode) -> Health {
    Health::from(group.health.as_option().unwrap())
}

async fn alerts(rig: &Running, only_open: bool) -> Vec<pb::Alert> {
    let request = pb::ListAlertsRequest { only_open, ..Default::default() };
    rig.client().unary(telemetry::LIST_ALERTS, request, &rig.call()).await.unwrap().alerts
}

async fn group_now(rig: &Running, node: &str, group: &str) -> pb::GroupNode {
    let tree = rig.client().unary(telemetry::GET_FLEET_HEALTH, Default::default(), &rig.call()).await.unwrap();
    let node = tree.nodes.into_iter().find(|n| n.node == node).expect("the node");
    node.groups.into_iter().find(|g| g.group == group).expect("the group")
}

async fn rig(toy: &Toy, settings: Value) -> Running {
    let groups =
        vec![group("solo/under_test", DEF.name, "http://127.0.0.1:1"), group(GROUP, "SessionMemoryAgent", &toy.at)];
    Rig::new(&DEF).settings(settings).fleet(fleet(groups)).start().await
}

#[tokio::test]
async fn a_group_comes_fails_and_comes_back() {
    for bad in [Act::Break, Act::Hang] {
        let toy = Toy::start(Act::Say(State::Ready)).await;
        let rig = rig(&toy, quick()).await;
        let mut changes = watch(&rig).await;
        let ready = until(&mut changes, State::Ready).await;
        let brief: Vec<(&str, bool, u32)> =
            ready.agents.iter().map(|a| (a.agent.as_str(), a.built, a.restarts)).collect();
        assert_eq!(brief, [("SessionMemoryAgent", true, 1)]);
        toy.does(bad);
        let failed = until(&mut changes, State::Failed).await;
        assert!(health(&failed).cause.starts_with("does not answer"), "{}", health(&failed).cause);
        assert!(failed.version > ready.version);
        toy.does(Act::Say(State::Degraded));
        let back = until(&mut changes, State::Degraded).await;
        assert_eq!(health(&back).cause, "because");
        // The alert is closed before the next change is told.
        toy.does(Act::Say(State::Ready));
        until(&mut changes, State::Ready).await;
        assert_eq!(alerts(&rig, true).await, []);
        let raised = alerts(&rig, false).await;
        assert_eq!((raised.len(), raised[0].kind.as_str(), raised[0].subject.as_str()), (1, "group_failed", GROUP));
        let events: Vec<(String, String, Value)> = rig
            .events()
            .into_iter()
            .map(|event| (event.topic, event.key, event.payload["state"].clone()))
            .filter(|(_, key, _)| key == GROUP)
            .collect();
        let event = |topic: &str, state: Value| (topic.to_owned(), GROUP.to_owned(), state);
        assert_eq!(
            events[..4],
            [
                event("health.changed", json!("ready")),
                event("health.changed", json!("failed")),
                event("alert.raised", Value::Null),
                event("health.changed", json!("degraded")),
            ]
        );
    }
}

#[tokio::test]
async fn what_is_not_built_or_not_there_yet_is_said_so() {
    let toy = Toy::start(Act::Break).await;
    let mut groups =
        vec![group("solo/under_test", DEF.name, "http://127.0.0.1:1"), group(GROUP, "SessionMemoryAgent", &toy.at)];
    groups.push(group("solo/vision", "Seer", ""));
    groups[2].agents.remove(0);
    let rig = Rig::new(&DEF).fleet(fleet(groups)).start().await;
    let starting = group_now(&rig, "solo", "memory_stack").await;
    assert_eq!((health(&starting).state, starting.agents[1].built), (State::Starting, false));
    let absent = group_now(&rig, "solo", "vision").await;
    assert_eq!((health(&absent).state, absent.agents[0].built), (State::Unavailable, false));
}

/// A registry that says what the test sends.
fn registry(mut changes: mpsc::Receiver<registry_pb::WatchResponse>) -> Service {
    let (once, taken) = std::sync::mpsc::channel();
    once.send(futures::stream::poll_fn(move |cx| changes.poll_recv(cx)).map(Ok)).unwrap();
    let taken = Mutex::new(taken);
    Service::new().server_stream(registry::WATCH, move |_, _: registry_pb::WatchRequest| {
        let stream = taken.lock().unwrap().try_recv();
        async move {
            let stream = stream.map_err(|_| Fault::unavailable(reason::PEER_AWAY, "only one watches"))?;
            Ok(Box::pin(stream) as Reply<_>)
        }
    })
}

fn lease(kind: registry_pb::ChangeKind, ended: &str) -> registry_pb::WatchResponse {
    let lease = registry_pb::Lease { group: GROUP.into(), ended: ended.into(), ..Default::default() };
    registry_pb::WatchResponse { kind: kind.into(), lease: lease.into(), ..Default::default() }
}

#[tokio::test]
async fn the_registry_makes_it_look_at_once() {
    use registry_pb::ChangeKind::{CHANGE_KIND_ADDED, CHANGE_KIND_CHANGED, CHANGE_KIND_REMOVED};
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let (tell, changes) = mpsc::channel(8);
    let groups = vec![
        group("solo/under_test", DEF.name, "http://127.0.0.1:1"),
        group(GROUP, "SessionMemoryAgent", &toy.at),
        group("solo/infra_core", "ServiceRegistry", "http://127.0.0.1:1"),
    ];
    // Steady probes are a minute apart, so that only what is heard explains what is seen.
    let rig = Rig::new(&DEF)
        .settings(json!({ "probe_ms": 60_000, "suspect_ms": 10, "suspect_timeout_ms": 100 }))
        .peer_in("solo/infra_core".parse().unwrap(), "ServiceRegistry", registry(changes))
        .fleet(fleet(groups))
        .start()
        .await;
    let mut changes = watch(&rig).await;
    until(&mut changes, State::Ready).await;
    toy.does(Act::Say(State::Degraded));
    tell.send(lease(CHANGE_KIND_CHANGED, "")).await.unwrap();
    until(&mut changes, State::Degraded).await;
    toy.does(Act::Hang);
    tell.send(lease(CHANGE_KIND_REMOVED, "expired")).await.unwrap();
    until(&mut changes, State::Failed).await;
    toy.does(Act::Say(State::Ready));
    tell.send(lease(CHANGE_KIND_ADDED, "")).await.unwrap();
    until(&mut changes, State::Ready).await;
    toy.does(Act::Break);
    tell.send(lease(CHANGE_KIND_REMOVED, "stopped")).await.unwrap();
    let stopped = until(&mut changes, State::Stopped).await;
    assert_eq!(health(&stopped).cause, "stopped");
    assert_eq!(alerts(&rig, false).await.len(), 1, "it hung once; saying good-bye is no failure");
}

#[tokio::test]
async fn metrics_are_kept_and_asked_for() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let began = rig.clock.now();
    for (n, page) in
        ["turns_total{kind=\"text\"} 4\n", "turns_total{kind=\"text\"} 6\n", "not a page"].iter().enumerate()
    {
        *toy.metrics.lock().unwrap() = (*page).to_owned();
        rig.reconcile("scrape").await.unwrap_or_else(|fault| panic!("{n}: {fault}"));
        rig.clock.advance(Duration::from_secs(30));
    }
    let ask = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request =
            pb::QuerySeriesRequest { name: name.into(), labels, from_us: began.micros(), ..Default::default() };
        async { rig.client().unary(telemetry::QUERY_SERIES, request, &rig.call()).await }
    };
    let found = ask("turns_total", &[("kind", "text"), ("group", GROUP)]).await.unwrap().series;
    let values: Vec<f64> = found[0].samples.iter().map(|s| s.value).collect();
    assert_eq!((found.len(), values, found[0].labels["group"].as_str()), (1, vec![4.0, 6.0], GROUP));
    for (name, labels) in [("unheard_of", vec![]), ("turns_total", vec![("group", "solo/other")])] {
        assert_eq!(ask(name, &labels).await.unwrap_err().code, Code::NotFound, "{name}");
    }
}

fn error(count: u32) -> pb::ErrorReport {
    pb::ErrorReport {
        agent: AGENT.into(),
        code: "internal".into(),
        reason: "bug".into(),
        severity: pb::Severity::SEVERITY_CRITICAL.into(),
        count,
        at_us: 1_790_000_000_000_000,
        ..Default::default()
    }
}

async fn report(rig: &Running, key: u32, errors: Vec<pb::ErrorReport>) -> Result<u32, Fault> {
    let mut idempotency_key = vec![0; 12];
    idempotency_key.extend(key.to_be_bytes());
    let request = pb::ReportErrorsRequest { idempotency_key, errors, ..Default::default() };
    rig.client().unary(telemetry::REPORT_ERRORS, request, &rig.call()).await.map(|answer| answer.thinned)
}

#[tokio::test]
async fn ten_thousand_equal_errors_make_one_alert_and_a_right_count() {
    let toy = Toy::start(Act::Break).await;
    let rig = rig(&toy, json!({})).await;
    for key in 0..100 {
        report(&rig, key, vec![error(60), error(40)]).await.unwrap();
        rig.clock.advance(Duration::from_millis(100));
    }
    report(&rig, 99, vec![error(60), error(40)]).await.unwrap();
    let raised = alerts(&rig, true).await;
    assert_eq!((raised.len(), raised[0].kind.as_str(), raised[0].count), (1, "error_flood", 10_000));
    let found = rig.client().unary(telemetry::QUERY_ERRORS, Default::default(), &rig.call()).await.unwrap().errors;
    assert_eq!(found.iter().map(|e| e.count).sum::<u32>(), 10_000);
    assert_eq!(rig.events().iter().filter(|event| event.topic == "alert.raised").count(), 1);

    let ack =
        pb::AckAlertRequest { alert_id: raised[0].alert_id.clone(), user_id: "juan".into(), ..Default::default() };
    rig.client().unary(telemetry::ACK_ALERT, ack, &rig.call()).await.unwrap();
    assert_eq!(alerts(&rig, true).await, []);
    rig.clock.advance(Duration::from_secs(120));
    rig.reconcile("calm").await.unwrap();
    report(&rig, 1_000, vec![error(5)]).await.unwrap();
    assert_eq!(alerts(&rig, true).await.len(), 1, "a flood after a calm is a new one");

    let wrong = [
        pb::ErrorReport { agent: "solo/nowhere/X".into(), ..error(1) },
        pb::ErrorReport {
            code: "oops".into(),
            severity: Default::default(),
            count: 0,
            at_us: 0,
            reason: String::new(),
            ..error(1)
        },
    ];
    let fault = report(&rig, 1_001, wrong.to_vec()).await.unwrap_err();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fault.code, Code::InvalidArgument);
    for field in ["[0].agent", "[1].code", "[1].reason", "[1].count", "[1].severity", "[1].at_us"] {
        assert!(named.contains(&format!("errors{field}").as_str()), "{field} is not in {named:?}");
    }
}

/// The hub of `pc2`, which has one group of its own.
fn other_hub(said: Arc<Mutex<Option<State>>>) -> Service {
    let clock_ahead = 60_000_000;
    let at = Timestamp(1_790_000_000_000_000 + clock_ahead);
    let (delta, digest) = (said.clone(), said);
    let away = || Fault::unavailable(reason::PEER_AWAY, "the network is cut");
    Service::new()
        .unary(telemetry::SYNC_DELTA, move |_, request: pb::SyncDeltaRequest| {
            let state = *delta.lock().unwrap();
            async move {
                let state = state.ok_or_else(away)?;
                let version = state as u64 + 1;
                let group = pb::GroupNode {
                    group: "infra_core".into(),
                    health: common::Health::from(&Health::new(state, "", at)).into(),
                    agents: vec![pb::AgentNode {
                        agent: "ObservabilityHub".into(),
                        health: common::Health::from(&Health::new(state, "", at)).into(),
                        built: true,
                        ..Default::default()
                    }],
                    version,
                    ..Default::default()
                };
                let known = request.versions.get("pc2/infra_core") == Some(&version);
                let groups = if known { vec![] } else { vec![group] };
                Ok(pb::SyncDeltaResponse { node: "pc2".into(), groups, ..Default::default() })
            }
        })
        .unary(telemetry::SYNC_DIGEST, move |_, _: pb::SyncDigestRequest| {
            let state = *digest.lock().unwrap();
            async move {
                state.ok_or_else(away)?;
                Ok(pb::SyncDigestResponse { now_us: at.micros(), ..Default::default() })
            }
        })
}

#[tokio::test]
async fn another_node_is_followed_and_goes_stale_but_never_failed() {
    let toy = Toy::start(Act::Break).await;
    let said = Arc::new(Mutex::new(Some(State::Ready)));
    let groups =
        vec![group("solo/under_test", DEF.name, &toy.at), group("pc2/infra_core", DEF.name, "http://127.0.0.1:1")];
    let mut rig = Rig::new(&DEF)
        .peer_in("pc2/infra_core".parse().unwrap(), DEF.name, other_hub(said.clone()))
        .fleet(fleet(groups))
        .start()
        .await;
    let state = async |rig: &Running| health(&group_now(rig, "pc2", "infra_core").await);
    assert_eq!(state(&rig).await.state, State::Unknown);
    rig.reconcile("sync").await.unwrap();
    let seen = state(&rig).await;
    assert_eq!((seen.state, seen.since), (State::Ready, rig.clock.now()), "times are shown by the own clock");
    assert_eq!(alerts(&rig, true).await.iter().map(|a| a.kind.as_str()).collect::<Vec<_>>(), ["clocks_apart"]);
    *said.lock().unwrap() = Some(State::Degraded);
    rig.reconcile("sync").await.unwrap();
    assert_eq!(state(&rig).await.state, State::Degraded);

    *said.lock().unwrap() = None;
    rig.clock.advance(Duration::from_secs(16));
    rig.reconcile("sync").await.unwrap();
    let stale = state(&rig).await;
    assert_eq!((stale.state, stale.cause.as_str()), (State::Unknown, "stale: was degraded when last heard of"));
    assert!(alerts(&rig, true).await.iter().any(|alert| alert.kind == "peer_silent" && alert.subject == "pc2"));
    rig.restart().await;
    assert_eq!(state(&rig).await.cause, "stale: was degraded when last heard of", "kept over a restart");

    *said.lock().unwrap() = Some(State::Failed);
    rig.reconcile("sync").await.unwrap();
    assert_eq!(state(&rig).await.state, State::Failed);
    assert!(!alerts(&rig, true).await.iter().any(|alert| alert.kind == "peer_silent"));
}

#[tokio::test]
async fn the_own_node_is_told_to_other_hubs_once() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let ask = |versions| {
        let request = pb::SyncDeltaRequest { node: "pc2".into(), versions, ..Default::default() };
        async { rig.client().unary(telemetry::SYNC_DELTA, request, &rig.call()).await.unwrap().groups }
    };
    let all = ask(Default::default()).await;
    assert_eq!(all.len(), 2);
    let known = all.iter().map(|group| (format!("solo/{}", group.group), group.version)).collect();
    assert_eq!(ask(known).await, []);
    let digest = rig.client().unary(telemetry::SYNC_DIGEST, Default::default(), &rig.call()).await.unwrap();
    assert_eq!((digest.node.as_str(), digest.digests.len(), digest.now_us), ("solo", 2, rig.clock.now().micros()));
}

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::StatusCode;
use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tandem_agent::{FleetAgent, FleetGroup, FleetNode, FleetView, NodeGroup, NodeView, PeerNode, PeerPath, Reach};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::{registry, telemetry};
use tandem_contract::{FaultStream, Reply, Service};
use tandem_testkit::{FakeNode, Rig, Running};
use tandem_types::{Code, Fault, Health, State, reason};
use tokio::sync::mpsc;

use super::DEF;

mod errors_and_peers;
mod metrics;
mod past;
mod webhooks;

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

/// Alerts about the toy.
async fn of_group(rig: &Running, only_open: bool) -> Vec<pb::Alert> {
    alerts(rig, only_open).await.into_iter().filter(|alert| alert.subject.starts_with(GROUP)).collect()
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
        toy.does(Act::Say(State::Ready));
        until(&mut changes, State::Ready).await;
        assert_eq!(of_group(&rig, true).await.len(), 1, "it may fail again at once");
        rig.clock.advance(Duration::from_secs(60));
        rig.reconcile("calm").await.unwrap();
        assert_eq!(of_group(&rig, true).await, []);
        let raised = of_group(&rig, false).await;
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

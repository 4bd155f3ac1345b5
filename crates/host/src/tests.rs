//! A group of toy agents through the host's real ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use metrics_exporter_prometheus::PrometheusBuilder;
use tandem_agent::{AgentDef, Clock, FleetAgent, FleetGroup, FleetView, Peers, StartFuture, Started, Topic, TopicKind};
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::pb::tandem::session::v1::{GetWindowRequest, GetWindowResponse, ListSessionsRequest};
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::{Call, Client, Service, TraceParent, rpc};
use tandem_types::{Code, Fault, State, reason};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::{EnginePrograms, GroupHost, HostConfig};

const TICKED: Topic = Topic { name: "toy.ticked", kind: TopicKind::Journal };

const BASE: AgentDef = AgentDef {
    name: "Echo",
    about: "Answers.",
    provides: &[rpc::sessions::GET_WINDOW.facts()],
    needs: &[],
    uses: &[],
    roles: &[],
    publishes: &[TICKED],
    required: true,
    start: echo,
};

fn echo(ctx: tandem_agent::Ctx) -> StartFuture {
    Box::pin(async move {
        let publisher = ctx.publisher().clone();
        Ok(Started::serve(Service::new().unary(rpc::sessions::GET_WINDOW, move |call: Call, r: GetWindowRequest| {
            let publisher = publisher.clone();
            async move {
                assert_ne!(r.user_id, "boom", "planted");
                if r.user_id == "slow" {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                if r.user_id == "publish" {
                    publisher.publish(TICKED, "k", serde_json::json!({"n": 1})).await?;
                }
                if r.user_id == "deadline" && call.deadline.is_none() {
                    return Err(Fault::internal("a call came without a deadline"));
                }
                Ok(GetWindowResponse { summary: r.user_id, ..Default::default() })
            }
        }))
        .metrics(|own| format!("{own}echoes 1\n"))
        .detail("echoes", || serde_json::json!(["a", "b"])))
    })
}

static FAILS: AtomicU32 = AtomicU32::new(0);
static ECHO: AgentDef = BASE;
static FRAGILE: AgentDef = AgentDef {
    name: "Fragile",
    provides: &[],
    publishes: &[],
    required: false,
    needs: &["Echo"],
    start: |_| {
        Box::pin(async {
            if FAILS.fetch_add(1, Ordering::SeqCst) == 0 {
                panic!("planted at start");
            }
            Ok(Started::default())
        })
    },
    ..BASE
};

static REGISTERED: Notify = Notify::const_new();
static REGISTRY: AgentDef = AgentDef {
    name: "Registry",
    provides: &[rpc::registry::REGISTER.facts()],
    publishes: &[],
    start: |_| {
        Box::pin(async {
            let register = |_: Call, request: registry_pb::RegisterRequest| async move {
                if request.group == "solo/toys" {
                    REGISTERED.notify_one();
                }
                Ok(registry_pb::RegisterResponse { lease_id: request.group, ..Default::default() })
            };
            Ok(Started::serve(Service::new().unary(rpc::registry::REGISTER, register)))
        })
    },
    ..BASE
};

fn find(name: &str) -> Option<&'static AgentDef> {
    [&ECHO, &FRAGILE, &REGISTRY, &NEEDY, &telling::ENGINE].into_iter().find(|def| def.name == name)
}

/// Needs an agent of another group.
static NEEDY: AgentDef = AgentDef {
    name: "Needy",
    provides: &[],
    publishes: &[],
    needs: &["Far"],
    start: |_| Box::pin(async { Ok(Started::default()) }),
    ..BASE
};

mod telling;

struct Toy {
    host: GroupHost,
    client: Client,
    fleet: Arc<FleetView>,
    peers: Peers,
    data: TempDir,
}

/// Bound by this process for its life, so that no other test's process gets it; see `tandem_testkit::free_port`.
fn free_endpoint() -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let endpoint = format!("http://{}", socket.local_addr().unwrap());
    // Nobody closes it but the end of the process.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
    endpoint
}

fn config(fleet: &Arc<FleetView>, peers: &Peers, data: &TempDir) -> HostConfig {
    HostConfig {
        group: fleet.groups[0].id.clone(),
        fleet: fleet.clone(),
        find,
        data: data.path().join("toys"),
        members: None,
        peers: peers.clone(),
        clock: Clock::system(),
        engines: EnginePrograms { by_kind: [].into(), logs: data.path().into(), run: data.path().into() },
        metrics: PrometheusBuilder::new().build_recorder().handle(),
        set_log_filter: Arc::new(|filter| Err(format!("`{filter}` is refused here"))),
        spans: None,
        log_events: Default::default(),
        sockets: Default::default(),
    }
}

fn group(id: &str, agents: &[(&str, bool)]) -> FleetGroup {
    let agents = agents
        .iter()
        .map(|(name, required)| FleetAgent {
            name: name.parse().unwrap(),
            required: *required,
            built: find(name).is_some(),
            needs: find(name).map(|d| d.needs.iter().map(|n| n.parse().unwrap()).collect()).unwrap_or_default(),
            uses: vec![],
            rpcs: find(name).map(|d| d.provides.iter().map(|r| r.path).collect()).unwrap_or_default(),
            topics: vec![],
            settings: serde_json::Value::Null,
        })
        .collect();
    FleetGroup {
        id: id.parse().unwrap(),
        endpoint: free_endpoint(),
        scrape_endpoint: free_endpoint(),
        needs: vec![],
        ram_bytes: 1 << 30,
        cpus: 1.0,
        agents,
        callers: Default::default(),
    }
}

async fn toys(agents: &[(&str, bool)]) -> Toy {
    toys_among(vec![group("solo/toys", agents)]).await
}

/// The first group runs; the others are in the plan.
async fn toys_among(groups: Vec<FleetGroup>) -> Toy {
    let toy = opened(groups).await;
    toy.host.started().await;
    toy
}

/// Toys that are not waited for, in a fleet that has other groups too, which do not run.
async fn toys_beside(agents: &[(&str, bool)], others: Vec<FleetGroup>) -> Toy {
    opened([group("solo/toys", agents)].into_iter().chain(others).collect()).await
}

async fn opened(groups: Vec<FleetGroup>) -> Toy {
    let fleet = Arc::new(FleetView { groups, ..FleetView::default() });
    let peers = Peers::new(fleet.clone(), "solo/test/Tester".parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    let host = GroupHost::open(config(&fleet, &peers, &data)).await.unwrap();
    let client = peers.at(&fleet.groups[0].endpoint).unwrap();
    Toy { host, client, fleet, peers, data }
}

fn window(user: &str) -> GetWindowRequest {
    GetWindowRequest { user_id: user.into(), ..Default::default() }
}

fn call() -> Call {
    Call::from_door("test")
}

#[tokio::test]
async fn calls_over_the_network_and_inside_agree() {
    let toy = toys(&[("Echo", true)]).await;
    let outside = toy.client.unary(rpc::sessions::GET_WINDOW, window("deadline"), &call()).await.unwrap();
    let inside = toy.peers.unary(rpc::sessions::GET_WINDOW, window("deadline"), &call()).await.unwrap();
    assert_eq!(outside.summary, inside.summary);
    for client in [&toy.client, &toy.peers.group(&toy.fleet.groups[0].id).unwrap()] {
        // Where panics print their stack, that alone may take longer than the call has by default.
        let patient = call().within(Duration::from_secs(20), Instant::now());
        let fault = client.unary(rpc::sessions::GET_WINDOW, window("boom"), &patient).await.unwrap_err();
        assert_eq!(fault.code, Code::Internal);
        let other = ListSessionsRequest::default();
        let fault = client.unary(rpc::sessions::LIST_SESSIONS, other, &call()).await.unwrap_err();
        assert_eq!(fault.code, Code::Unimplemented, "{fault}");
        let wrong = call().to("Fragile".parse().unwrap());
        let fault = client.unary(rpc::sessions::GET_WINDOW, window(""), &wrong).await.unwrap_err();
        assert_eq!(fault.code, Code::NotFound, "{fault}");
    }
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn an_optional_agent_that_panics_at_its_start_comes_back() {
    let toy = toys(&[("Echo", true), ("Fragile", false), ("Unheard", false)]).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = toy.client.unary(rpc::host::GET_HEALTH, Default::default(), &call()).await.unwrap();
        let state = |i: usize| tandem_contract::state_of(answer.agents[i].health.state);
        assert_eq!(state(0), State::Ready, "the required agent is not touched");
        assert!(!answer.agents[2].built);
        if state(1) == State::Ready {
            assert_eq!(answer.agents[1].restarts, 1);
            assert_eq!(tandem_contract::state_of(answer.health.state), State::Degraded, "one agent is not built");
            break;
        }
        assert!(Instant::now() < deadline, "the agent did not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_required_agent_stops_only_by_force_and_starts_again() {
    let toy = toys(&[("Echo", true)]).await;
    let stop =
        |force| pb::HostStopAgentRequest { agent: "Echo".into(), reason: "test".into(), force, ..Default::default() };
    let fault = toy.client.unary(rpc::host::STOP_AGENT, stop(false), &call()).await.unwrap_err();
    assert_eq!(fault.code, Code::FailedPrecondition);
    let stopped = toy.client.unary(rpc::host::STOP_AGENT, stop(true), &call()).await.unwrap();
    assert_eq!(tandem_contract::state_of(stopped.health.state), State::Stopped);
    let fault = toy.client.unary(rpc::sessions::GET_WINDOW, window("x"), &call()).await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable);
    let start = pb::HostStartAgentRequest { agent: "Echo".into(), ..Default::default() };
    toy.client.unary(rpc::host::START_AGENT, start, &call()).await.unwrap();
    toy.client.unary(rpc::sessions::GET_WINDOW, window("x"), &call()).await.unwrap();
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_refuses_new_ones() {
    let toy = toys(&[("Echo", true)]).await;
    let client = toy.client.clone();
    let turn: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let slow = tokio::spawn(async move {
        let patient = call().traced(turn).within(Duration::from_secs(5), Instant::now());
        client.unary(rpc::sessions::GET_WINDOW, window("slow"), &patient).await
    });
    while toy.host.shared.roster.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let shared = toy.host.shared.clone();
    let drained = tokio::spawn(async move { crate::drain(&shared, Duration::from_secs(5)).await });
    while toy.host.health().state != State::Draining {
        tokio::task::yield_now().await;
    }
    let other = call().traced("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap());
    for new in [call(), other] {
        let fault = toy.client.unary(rpc::sessions::GET_WINDOW, window("x"), &new).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::DRAINING));
    }
    let needed = toy.client.unary(rpc::sessions::GET_WINDOW, window("x"), &call().traced(turn)).await;
    assert_eq!(needed.unwrap().summary, "x", "what the slow call needs to end");
    assert_eq!(slow.await.unwrap().unwrap().summary, "slow");
    assert_eq!(drained.await.unwrap(), 0);
    assert_eq!(toy.host.close(Duration::ZERO).await, 0);
}

#[tokio::test]
async fn whoever_has_just_connected_to_a_group_that_ends_is_answered() {
    let toy = toys(&[("Echo", true)]).await;
    let at = toy.fleet.groups[0].endpoint.trim_start_matches("http://").to_owned();
    let socket = tokio::net::TcpStream::connect(&at).await.unwrap();
    let ends = tokio::spawn(toy.host.close(Duration::ZERO));
    while tokio::net::TcpStream::connect(&at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let (status, _) = send_on(socket, "GET /livez HTTP/1.0\r\nhost: x\r\n\r\n".into()).await;
    assert_eq!(status, 200);
    assert_eq!(ends.await.unwrap(), 0);
}

#[tokio::test]
async fn a_group_registers_soon_after_a_long_absence_of_the_registry() {
    let directory = group("solo/directory", &[("Registry", true)]);
    let toy = toys_among(vec![group("solo/toys", &[("Echo", true)]), directory]).await;
    // As if it had been away for long: nobody in this process calls it any more.
    loop {
        let call = call().within(Duration::from_millis(200), Instant::now());
        let answer = toy.peers.unary(rpc::registry::REGISTER, Default::default(), &call).await;
        if answer.unwrap_err().reason == reason::BREAKER_OPEN {
            break;
        }
    }
    let peers = Peers::new(toy.fleet.clone(), "solo/test/Other".parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let back = HostConfig { group: toy.fleet.groups[1].id.clone(), ..config(&toy.fleet, &peers, &folder) };
    let back = GroupHost::open(back).await.unwrap();
    // Less than the breaker stays open.
    tokio::time::timeout(Duration::from_secs(20), REGISTERED.notified()).await.expect("the group registers");
    toy.host.close(Duration::from_secs(5)).await;
    back.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_taken_port_is_said_in_full() {
    let toy = toys(&[("Echo", true)]).await;
    let second = GroupHost::open(config(&toy.fleet, &toy.peers, &toy.data)).await;
    let Err(fault) = second else { panic!("two groups on one port") };
    assert_eq!(fault.reason, reason::PORT_TAKEN);
    assert!(fault.message.contains("solo/toys") && fault.message.contains("ss -ltnp"), "{fault}");
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn journal_events_come_again_from_the_cursor() {
    let toy = toys(&[("Echo", true)]).await;
    for _ in 0..3 {
        toy.client.unary(rpc::sessions::GET_WINDOW, window("publish"), &call()).await.unwrap();
    }
    let read = |after_cursor| {
        let topics = vec![TICKED.name.to_owned()];
        let request = pb::SubscribeRequest { topics, after_cursor, ..Default::default() };
        let client = toy.client.clone();
        async move {
            let stream = client.server_stream(rpc::host::SUBSCRIBE, request, &call()).await.unwrap();
            stream.take(2).map(|e| e.unwrap()).collect::<Vec<_>>().await
        }
    };
    let first = read(0).await;
    let again = read(first[0].cursor).await;
    assert_eq!(first[1].event_id, again[0].event_id, "the same event keeps its id");
    assert_eq!(again[0].payload_json, r#"{"n":1}"#);
    let topics = vec!["toy.unheard".to_owned()];
    let request = pb::SubscribeRequest { topics, ..Default::default() };
    let mut stream = toy.client.server_stream(rpc::host::SUBSCRIBE, request, &call()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap_err().code, Code::InvalidArgument);
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn the_ops_endpoints_tell_one_story() {
    let toy = toys(&[("Echo", true), ("Unheard", false)]).await;
    for base in [&toy.fleet.groups[0].endpoint, &toy.fleet.groups[0].scrape_endpoint] {
        let (status, body) = get(base, "/livez").await;
        assert_eq!((status, body.as_str()), (200, "alive\n"));
        assert_eq!(get(base, "/readyz").await.0, 200);
        let (status, body) = get(base, "/health").await;
        let health: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &health["state"]), (200, &serde_json::json!("degraded")));
        assert_eq!(health["agents"][1]["built"], false);
        assert_eq!(health["agents"][0]["echoes"], serde_json::json!(["a", "b"]), "what an agent adds is there");
        assert_eq!(get(base, "/health/Echo").await.0, 200);
        let (status, body) = get(base, "/health/Nobody").await;
        assert_eq!(status, 404);
        assert!(body.contains("it has Echo, Unheard"), "{body}");
        assert_eq!(get(base, "/metrics").await, (200, "echoes 1\n".to_owned()));
        assert_eq!(get(base, "/metrics?own").await, (200, String::new()));
    }
    toy.host.close(Duration::ZERO).await;
}

async fn get(base: &str, path: &str) -> (u16, String) {
    send(base, format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n")).await
}

async fn post(base: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    let head = format!("host: x\r\ncontent-type: {kind}\r\ncontent-length: {}", body.len());
    send(base, format!("POST {path} HTTP/1.0\r\n{head}\r\n\r\n{body}")).await
}

/// HTTP/1.0 knows no chunks: the answer is what comes until the connection ends.
async fn send(base: &str, request: String) -> (u16, String) {
    send_on(tokio::net::TcpStream::connect(base.trim_start_matches("http://")).await.unwrap(), request).await
}

async fn send_on(mut socket: tokio::net::TcpStream, request: String) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

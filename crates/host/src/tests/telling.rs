//! What a group tells others of itself: errors to the hub, lost needs, and the services that every gRPC tool knows.

use std::sync::Mutex;

use connectrpc::client::{CallOptions, ClientConfig, call_bidi_stream};
use connectrpc::spec::{Spec, StreamType};
use connectrpc::{HasMessageView, Protocol};
use connectrpc_reflection::wire::v1::server_reflection_request::MessageRequest;
use connectrpc_reflection::wire::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tandem_contract::pb::tandem::model::v1::{GetInfoRequest, GetInfoResponse};
use tandem_contract::pb::tandem::telemetry::v1::{ReportErrorsRequest, ReportErrorsResponse};
use tandem_contract::{Channel, local};
use tandem_types::{AgentId, Timestamp};

use super::*;
use crate::reports::{Sender, Severity};

const JSON: &str = "application/json";
const LIMIT: Duration = Duration::from_secs(5);

/// A group that holds one agent.
fn group(name: &str, agent: &str, rpcs: Vec<&'static str>) -> FleetGroup {
    FleetGroup {
        id: format!("solo/{name}").parse().unwrap(),
        endpoint: "http://127.0.0.1:1".into(),
        scrape_endpoint: "http://127.0.0.1:1".into(),
        needs: vec![],
        ram_bytes: 0,
        cpus: 1.0,
        agents: vec![FleetAgent {
            name: agent.parse().unwrap(),
            required: true,
            built: true,
            needs: vec![],
            uses: vec![],
            rpcs,
            topics: vec![],
            settings: serde_json::Value::Null,
        }],
        callers: Default::default(),
    }
}

/// A hub that takes what it is told, or answers with a fault as long as there is one.
#[derive(Clone, Default)]
struct Hub {
    taken: Arc<Mutex<Vec<ReportErrorsRequest>>>,
    away: Arc<Mutex<Option<Fault>>>,
}

impl Hub {
    async fn beside(agents: &[(&str, bool)]) -> (Toy, Self) {
        let (rpc, hub) = (rpc::telemetry::REPORT_ERRORS, Self::default());
        let there = group("observability", "Hub", vec![rpc.path()]);
        let (id, heard) = (there.id.clone(), hub.clone());
        let toy = toys_beside(agents, vec![there]).await;
        let service = Service::new().unary(rpc, move |call: Call, request| {
            assert_eq!(call.caller.as_deref(), Some("solo/toys/Host"));
            let fault = heard.away.lock().unwrap().clone();
            if fault.is_none() {
                heard.taken.lock().unwrap().push(request);
            }
            async move { fault.map_or_else(|| Ok(ReportErrorsResponse::default()), Err) }
        });
        toy.peers.add_local(id, local(service.into_http()));
        toy.host.started().await;
        (toy, hub)
    }

    fn taken(&self) -> Vec<ReportErrorsRequest> {
        self.taken.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn errors_of_a_group_reach_the_hub_of_its_node() {
    let (toy, hub) = Hub::beside(&[("Echo", true)]).await;
    for user in ["boom", "fine", "boom"] {
        // What comes of it is the hub's to tell.
        let (Ok(_) | Err(_)) = toy.client.unary(rpc::sessions::GET_WINDOW, window(user), &call()).await;
    }
    let missing = toy.client.unary(rpc::sessions::LIST_SESSIONS, ListSessionsRequest::default(), &call()).await;
    assert!(missing.is_err(), "a caller's mistake, which is not reported");
    // At its end a group tells what it has not told yet.
    toy.host.close(Duration::ZERO).await;
    let errors: Vec<_> = hub.taken().into_iter().flat_map(|batch| batch.errors).collect();
    assert!(errors.iter().all(|e| e.agent == "solo/toys/Echo" && e.code == "internal" && e.at_us > 0), "{errors:?}");
    assert_eq!(errors.iter().map(|e| e.count).sum::<u32>(), 2, "{errors:?}");
    assert!(!format!("{errors:?}").contains("planted"), "messages stay at home");
}

#[tokio::test]
async fn a_batch_that_did_not_arrive_is_sent_again_with_its_key() {
    let (toy, hub) = Hub::beside(&[]).await;
    let (shared, mut sender) = (&toy.host.shared, Sender::default());
    let (agent, hub_id): (AgentId, AgentId) =
        ("solo/toys/Echo".parse().unwrap(), "solo/observability/Hub".parse().unwrap());
    let note = |reason: &str| {
        shared.reports.note(&agent, &Fault::unavailable(reason, ""), Severity::Warning, Timestamp(1));
    };
    *hub.away.lock().unwrap() = Some(Fault::unavailable(reason::DRAINING, "away"));
    note("first");
    sender.round(shared, &hub_id, LIMIT).await;
    note("second");
    sender.round(shared, &hub_id, LIMIT).await;
    assert!(hub.taken().is_empty());
    *hub.away.lock().unwrap() = None;
    sender.round(shared, &hub_id, LIMIT).await;
    sender.round(shared, &hub_id, LIMIT).await;
    sender.round(shared, &hub_id, LIMIT).await;
    let reasons: Vec<_> =
        hub.taken().iter().map(|b| b.errors.iter().map(|e| e.reason.clone()).collect::<Vec<_>>()).collect();
    assert_eq!(reasons, [["first"], ["second"]]);
    assert_ne!(hub.taken()[0].idempotency_key, hub.taken()[1].idempotency_key);
    // What the hub refuses for good is not kept for ever.
    *hub.away.lock().unwrap() = Some(Fault::invalid_field("errors", "no"));
    note("third");
    sender.round(shared, &hub_id, LIMIT).await;
    *hub.away.lock().unwrap() = None;
    sender.round(shared, &hub_id, LIMIT).await;
    assert_eq!(hub.taken().len(), 2);
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_lost_need_makes_its_dependent_poorer_and_restarts_nothing() {
    let far: AgentId = "solo/far/Far".parse().unwrap();
    let toy = toys_beside(&[("Needy", true)], vec![group("far", "Far", vec![])]).await;
    let roster = toy.host.shared.roster.clone();
    let slot = roster.slots[0].clone();
    let mut changes = roster.changes();
    let until = async |changes: &mut tokio::sync::watch::Receiver<u64>, wanted: State| {
        let reached = async {
            while slot.health().map(|h| h.state) != Some(wanted) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("not {wanted}"));
    };
    toy.peers.heard(&far, State::Ready);
    until(&mut changes, State::Ready).await;
    toy.peers.heard(&far, State::Failed);
    until(&mut changes, State::Degraded).await;
    assert_eq!(slot.health().unwrap().cause, "Far, which it needs, is failed");
    assert_eq!(toy.host.health().state, State::Degraded);
    toy.peers.heard(&far, State::Ready);
    until(&mut changes, State::Ready).await;
    assert_eq!(slot.restarts.load(Ordering::Relaxed), 0);
    toy.host.close(Duration::ZERO).await;
}

/// When the engine below last answered.
static LAST_ANSWER: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

/// Says of itself what an engine says.
pub(super) static ENGINE: AgentDef = AgentDef {
    name: "Engine",
    provides: &[rpc::engine::GET_INFO.facts()],
    publishes: &[],
    start: |_| {
        Box::pin(async {
            Ok(Started::serve(Service::new().unary(rpc::engine::GET_INFO, |_, _: GetInfoRequest| async {
                let last_answer_us = LAST_ANSWER.load(Ordering::Relaxed);
                Ok(GetInfoResponse { last_answer_us, ..Default::default() })
            })))
        })
    },
    ..BASE
};

#[tokio::test]
async fn health_says_of_each_role_whether_its_engine_has_answered_lately() {
    let toy = toys(&[("Engine", true)]).await;
    let base = &toy.fleet.groups[0].endpoint;
    let info = |id: &str, endpoint: &str| pb::EngineProcess {
        engine_id: id.into(),
        model: "toy".into(),
        endpoint: endpoint.into(),
        ..Default::default()
    };
    toy.host.shared.engines.adopt(info("alive", base), &["llm.fast", "llm.tiny"]);
    toy.host.shared.engines.adopt(info("gone", "http://127.0.0.1:1"), &["llm.judge"]);
    let now = tandem_types::Timestamp::from(std::time::SystemTime::now()).micros();
    for (last, capable) in [(0, false), (now, true), (now - 601_000_000, false)] {
        LAST_ANSWER.store(last, Ordering::Relaxed);
        let health: serde_json::Value = serde_json::from_str(&get(base, "/health").await.1).unwrap();
        let roles = serde_json::json!({
            "llm.fast": {"model": "toy", "capable": capable},
            "llm.tiny": {"model": "toy", "capable": capable},
            "llm.judge": {"model": "toy", "capable": false},
        });
        assert_eq!(health["roles"], roles);
    }
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn one_port_speaks_json_and_grpc_web_besides_grpc() {
    let toy = toys(&[("Echo", true)]).await;
    let (base, path) = (toy.fleet.groups[0].endpoint.clone(), rpc::sessions::GET_WINDOW.path());
    assert_eq!(post(&base, path, JSON, r#"{"userId":"ana"}"#).await, (200, r#"{"summary":"ana"}"#.into()));
    let (status, body) = post(&base, path, JSON, r#"{"userId":3,"sesion":"s"}"#).await;
    assert_eq!(status, 400);
    for words in ["sesion is not a field", "userId takes a text"] {
        assert!(body.contains(words), "{body}");
    }
    // A frame of no bytes is a request of nothing but defaults; the status comes in a frame of its own.
    let (status, body) = post(&base, path, "application/grpc-web+proto", "\0\0\0\0\0").await;
    assert!(status == 200 && body.replace(": ", ":").contains("grpc-status:0"), "{status} {body}");
    toy.host.close(Duration::ZERO).await;
}

#[tokio::test]
async fn grpc_tools_find_health_and_reflection() {
    let toy = toys(&[("Echo", true)]).await;
    let base = toy.fleet.groups[0].endpoint.clone();
    for (service, status, answer) in [
        ("", 200, r#""SERVING""#),
        ("tandem.session.v1.Sessions", 200, r#""SERVING""#),
        ("tandem.registry.v1.Registry", 404, "not served here"),
    ] {
        let asked = format!(r#"{{"service":"{service}"}}"#);
        let (code, body) = post(&base, "/grpc.health.v1.Health/Check", JSON, &asked).await;
        assert!(code == status && body.contains(answer), "{service}: {code} {body}");
    }
    type Answer = <ServerReflectionResponse as HasMessageView>::View<'static>;
    let config = ClientConfig::new(base.parse().unwrap()).with_protocol(Protocol::Grpc);
    let spec = Spec::client("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", StreamType::BidiStream);
    let network = Channel::network();
    let stream =
        call_bidi_stream::<_, ServerReflectionRequest, Answer>(&network, &config, spec, CallOptions::default()).await;
    let (mut sender, mut receiver) = stream.unwrap().into_split();
    let listed = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    sender.send(listed).await.unwrap();
    let answer = receiver.message::<ServerReflectionResponse>().await.unwrap().unwrap().to_owned_message();
    assert!(format!("{answer:?}").contains("tandem.session.v1.Sessions"), "{answer:?}");
    toy.host.close(Duration::ZERO).await;
}

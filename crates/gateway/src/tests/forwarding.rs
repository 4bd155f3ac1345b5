//! The page's calls.

use std::sync::atomic::{AtomicBool, Ordering};

use tandem_agent::{FleetAgent, FleetGroup, FleetView};
use tandem_contract::pb::tandem::session::v1::{ListSessionsRequest, ListSessionsResponse};
use tandem_contract::pb::tandem::telemetry::v1::{WatchHealthRequest, WatchHealthResponse};
use tandem_contract::rpc::{sessions, telemetry};

use super::*;

/// Says who called in place of a page token.
fn sessions_agent() -> Service {
    Service::new().unary(sessions::LIST_SESSIONS, |call: Call, request: ListSessionsRequest| async move {
        if request.user_id == "slow" {
            std::future::pending::<()>().await;
        }
        if request.user_id == "nobody" {
            return Err(Fault::not_found("no such person"));
        }
        let next_page_token = format!("{} for {}", call.caller.unwrap_or_default(), request.user_id);
        Ok(ListSessionsResponse { next_page_token, ..Default::default() })
    })
}

async fn list(house: &House, headers: &[(&str, &str)], user: &str) -> Response<Incoming> {
    let body = json!({"userId": user}).to_string();
    house.send("POST", sessions::LIST_SESSIONS.path(), &[&[JSON], headers].concat(), &body).await
}

async fn is_served(house: &House) {
    // Whatever a page says about who it is, we are the caller.
    let headers = [("tandem-caller", "cli"), ("tandem-agent", "Somebody"), ("connect-timeout-ms", "5000")];
    let response = list(house, &headers, "owner").await;
    assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, "application/json"));
    let caller = house.rig.id();
    assert_eq!(value(response).await, json!({"nextPageToken": format!("{caller} for owner")}));
}

#[tokio::test]
async fn a_call_reaches_an_agent_of_the_same_process() {
    let house = House::start(Rig::new(&DEF).peer("SessionMemoryAgent", sessions_agent())).await;
    is_served(&house).await;
    let refused = list(&house, &[], "nobody").await;
    assert_eq!(refused.status(), 404);
    assert_eq!(value(refused).await["code"], "not_found");
}

#[tokio::test]
async fn a_call_reaches_an_agent_over_the_network() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = sessions_agent();
    let agent = FleetAgent {
        name: "SessionMemoryAgent".parse().unwrap(),
        required: true,
        built: true,
        needs: vec![],
        uses: vec![],
        rpcs: service.paths().to_vec(),
        topics: vec![],
        settings: json!(null),
    };
    let group = FleetGroup {
        id: "solo/memory_stack".parse().unwrap(),
        endpoint,
        scrape_endpoint: String::new(),
        needs: vec![],
        ram_bytes: 0,
        cpus: 1.0,
        callers: Default::default(),
        agents: vec![agent],
    };
    let app = axum::Router::new().fallback_service(service.into_http());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let house = House::start(Rig::new(&DEF).fleet(FleetView { groups: vec![group], ..Default::default() })).await;
    is_served(&house).await;
    // Once it is away, the page hears that.
    server.abort();
    let _ = server.await;
}

#[tokio::test]
async fn time_runs_out_for_who_does_not_answer() {
    let house = House::start(Rig::new(&DEF).peer("SessionMemoryAgent", sessions_agent())).await;
    let response = list(&house, &[("connect-timeout-ms", "50")], "slow").await;
    assert_eq!(response.status(), 504);
    assert_eq!(value(response).await["code"], "deadline_exceeded");
}

#[tokio::test]
async fn what_is_not_for_people_is_refused_in_their_protocol() {
    let house = House::start(Rig::new(&DEF).peer("SessionMemoryAgent", sessions_agent())).await;
    for (path, status, code) in [
        ("/tandem.model.v1.Models/Acquire", 403, "permission_denied"),
        ("/tandem.system.v1.Host/StopAgent", 403, "permission_denied"),
        ("/tandem.system.v1.Host/Nothing", 501, "unimplemented"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 501, "unimplemented"),
        // Open to people, and nobody serves it here.
        (telemetry::GET_FLEET_HEALTH.path(), 503, "unavailable"),
    ] {
        let response = house.send("POST", path, &[JSON], "{}").await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(value(response).await["code"], code, "{path}");
    }
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    assert_eq!(house.send("POST", sessions::LIST_SESSIONS.path(), &grpc, "").await.status(), 415);
    assert_eq!(house.send("GET", sessions::LIST_SESSIONS.path(), &[], "").await.status(), 405);
}

/// Sets its flag when it is dropped.
struct Gone(watch::Sender<bool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Tells of one node, then nothing more.
fn hub(gone: watch::Sender<bool>) -> Service {
    let opened = AtomicBool::new(false);
    Service::new().server_stream(telemetry::WATCH_HEALTH, move |_call, _request: WatchHealthRequest| {
        assert!(!opened.swap(true, Ordering::SeqCst), "asked once");
        let held = Gone(gone.clone());
        async move {
            let first = WatchHealthResponse { node: "solo".into(), ..Default::default() };
            let rest = futures::stream::once(async move {
                let _held = held;
                std::future::pending().await
            });
            Ok(futures::stream::iter([Ok(first)]).chain(rest).boxed() as Reply<_>)
        }
    })
}

async fn watch_health(house: &House) -> Incoming {
    let headers = [("content-type", "application/connect+json"), ("connect-protocol-version", "1")];
    let response = house.send("POST", telemetry::WATCH_HEALTH.path(), &headers, "\0\0\0\0\u{2}{}").await;
    assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, "application/connect+json"));
    let mut body = response.into_body();
    let message = piece(&mut body).await.unwrap().unwrap();
    assert_eq!(&message[..], b"\0\0\0\0\x0f{\"node\":\"solo\"}");
    body
}

#[tokio::test]
async fn a_stream_comes_as_it_is_told_and_ends_with_its_reader() {
    let gone = watch::Sender::new(false);
    let house = House::start(Rig::new(&DEF).peer("ObservabilityHub", hub(gone.clone()))).await;
    let body = watch_health(&house).await;
    assert!(!*gone.borrow());
    drop(body);
    let mut left = gone.subscribe();
    tokio::time::timeout(SOON, left.wait_for(|gone| *gone)).await.expect("the provider hears it soon").unwrap();
}

#[tokio::test]
async fn closing_ends_a_stream_with_an_error_in_its_protocol() {
    let house = House::start(Rig::new(&DEF).peer("ObservabilityHub", hub(watch::Sender::new(false)))).await;
    let body = watch_health(&house).await;
    let (rest, ()) = tokio::join!(body.collect(), house.close());
    let rest = rest.unwrap().to_bytes();
    let end: serde_json::Value = serde_json::from_slice(&rest[5..]).unwrap();
    assert_eq!((rest[0], &end["error"]["code"]), (2, &json!("unavailable")));
}

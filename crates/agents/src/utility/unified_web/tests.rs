use std::path::PathBuf;

use serde_json::json;
use tandem_agent::{FleetAgent, FleetGroup, FleetView, FleetWeb};
use tandem_contract::Service;
use tandem_testkit::Rig;
use tandem_types::{State, reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[test]
fn what_is_missing_is_said_with_its_cause() {
    let agent = |state| Some(("solo/coordination/RequestCoordinator".to_owned(), state));
    for (server, expected) in [
        (agent(Some(State::Ready)), ""),
        (agent(Some(State::Degraded)), ""),
        (agent(None), ""),
        (agent(Some(State::Failed)), "no chat: solo/coordination/RequestCoordinator is failed"),
        (None, "no chat: nobody serves it in this fleet"),
    ] {
        for beginning in [true, false] {
            assert_eq!(logic::missing([("no chat", server.clone())], beginning), expected, "{server:?}");
        }
    }
    let starting = || [("no chat", agent(Some(State::Starting)))];
    assert_eq!(logic::missing(starting(), true), "");
    assert_eq!(logic::missing(starting(), false), "no chat: solo/coordination/RequestCoordinator is starting");
    assert_eq!(
        logic::missing([("no chat", None), ("no models", agent(None)), ("no sessions", None)], false)
            .matches("; ")
            .count(),
        1
    );
}

/// An address nobody listens at.
fn free_address() -> String {
    format!("127.0.0.1:{}", tandem_testkit::free_port())
}

fn fleet(listen: &str, token_file: Option<PathBuf>, groups: Vec<FleetGroup>) -> FleetView {
    FleetView { groups, web: FleetWeb { listen: listen.to_owned(), token_file }, ..FleetView::default() }
}

/// A group whose one agent serves everything the page offers.
fn everything() -> FleetGroup {
    FleetGroup {
        id: "solo/everything".parse().unwrap(),
        endpoint: "http://127.0.0.1:1".into(),
        scrape_endpoint: String::new(),
        needs: vec![],
        ram_bytes: 0,
        cpus: 1.0,
        callers: Default::default(),
        agents: vec![FleetAgent {
            name: "Everything".parse().unwrap(),
            required: true,
            built: true,
            needs: vec![],
            uses: vec![],
            rpcs: logic::OFFERS.iter().map(|(path, _)| *path).collect(),
            topics: vec![],
            settings: json!(null),
        }],
    }
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_page_is_there_and_its_health_follows_who_serves_it() {
    let address = free_address();
    let rig = Rig::new(&DEF).fleet(fleet(&address, None, vec![everything()])).start().await;
    let page = get(&address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<title>Tandem</title>"), "{page}");
    rig.wait_for(|health| health.state == State::Ready).await;
    let agent = "solo/everything/Everything".parse().unwrap();
    rig.peers().heard(&agent, State::Failed);
    let health = rig.wait_for(|health| health.state == State::Degraded).await;
    assert!(health.cause.starts_with("no chat: solo/everything/Everything is failed"), "{}", health.cause);
    rig.peers().heard(&agent, State::Ready);
    rig.wait_for(|health| health.state == State::Ready).await;
}

#[tokio::test]
async fn who_serves_the_page_is_asked_in_its_name() {
    use tandem_contract::pb::tandem::model::v1::{ListModelsResponse, ListRolesResponse};
    use tandem_contract::rpc::models;
    let manager = Service::new()
        .unary(models::LIST_ROLES, |call: tandem_contract::Call, _request| async move {
            assert_eq!(call.caller.as_deref(), Some("solo/under_test/UnifiedWebAgent"));
            Ok(ListRolesResponse::default())
        })
        .unary(models::LIST_MODELS, |_call, _request| async { Ok(ListModelsResponse::default()) });
    let address = free_address();
    let mut group = everything();
    group.agents[0].rpcs.push(models::LIST_MODELS.path());
    let rig = Rig::new(&DEF).fleet(fleet(&address, None, vec![group.clone()])).peer_in(group.id, "Everything", manager);
    let _rig = rig.start().await;
    let models = get(&address, "/v1/models").await;
    assert!(models.starts_with("HTTP/1.1 200") && models.contains("\"id\":\"tandem\""), "{models}");
}

#[tokio::test]
async fn without_a_place_to_listen_there_is_no_page() {
    let rig = Rig::new(&DEF).fleet(fleet("", None, vec![])).start().await;
    assert_eq!(rig.health().state, State::Unavailable);
    assert!(rig.health().cause.contains("[web]"), "{}", rig.health().cause);
}

#[tokio::test]
async fn a_door_that_cannot_or_may_not_open_is_said() {
    let held = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for (listen, token_file, expected) in [
        (taken.as_str(), None, reason::PORT_TAKEN),
        ("127.0.0.1", None, reason::BAD_ADDRESS),
        ("0.0.0.0:0", None, reason::SETTING_MISSING),
        ("127.0.0.1:0", Some(PathBuf::from("/nowhere/token")), reason::SETTING_MISSING),
    ] {
        let rig = Rig::new(&DEF).fleet(fleet(listen, token_file, vec![]));
        let fault = rig.try_start().await.err().unwrap_or_else(|| panic!("{listen} opened"));
        assert_eq!(fault.reason, expected, "{listen}: {fault}");
    }
}

#[tokio::test]
async fn unknown_settings_are_refused() {
    let rig = Rig::new(&DEF).fleet(fleet("127.0.0.1:0", None, vec![])).settings(json!({"nmaes": []}));
    assert!(rig.try_start().await.err().unwrap().message.contains("nmaes"));
}

//! What every agent must do, whatever it is for: become ready or say why not, answer each RPC it promises, refuse
//! unknown fields, survive a restart by its host, and end with its group.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::{self, Flow};
use tandem_contract::{Call, state_of};
use tandem_testkit::{Fleet, FleetBuilder, http};
use tandem_types::State;

/// The default fleet's groups, with no model on the machine.
async fn fleet() -> Fleet {
    let models = tempfile::tempdir().unwrap().keep();
    // SAFETY: set once, before any thread of this test process reads it; each test is a process of its own.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("TANDEM_CACHE", models)
    };
    FleetBuilder::new(tandem_agents::find)
        .group("infra_core", &["ServiceRegistry", "SystemDigitalTwin", "UnifiedSystemAgent"])
        .group("coordination", &["RequestCoordinator", "ModelManagerSuite"])
        .group("observability", &["ObservabilityHub"])
        // Of another node, in a plan with two; here it is one more that may be asked.
        .group("resources", &["ResourceManager"])
        .group("memory_stack", &["SessionMemoryAgent"])
        .group("language_stack", &["ChitchatAgent", "Responder"])
        .group("utility_cpu", &["PredictiveHealthMonitor"])
        .group("web_interface", &["UnifiedWebAgent"])
        .role("llm.tiny", "smollm2-135m")
        .role("llm.fast", "auto")
        .start()
        .await
}

#[tokio::test]
async fn every_agent_complies() {
    let fleet = fleet().await;
    let settled = |s: State| !matches!(s, State::Starting);
    for def in tandem_agents::ALL {
        let state = fleet.wait_for(def.name, settled).await;
        assert!(matches!(state, State::Ready | State::Degraded | State::Unavailable), "{} is {state}", def.name);
    }
    for (group, agent) in fleet.view.agents() {
        for path in &agent.rpcs {
            let facts = rpc::find(path).unwrap();
            if facts.flow != Flow::Unary {
                continue;
            }
            let (status, body) = http::post_json(&group.endpoint, path, r#"{"thisFieldIsUnknown": 1}"#).await;
            assert_eq!(status, 400, "{path}: {body}");
            assert!(body.contains("thisFieldIsUnknown"), "{path} does not name the field: {body}");
            let (status, body) = http::post_json(&group.endpoint, path, "{}").await;
            assert_ne!(status, 501, "{} promises {path} and does not serve it", agent.name);
            assert!(!body.contains("panicked"), "{path} panics on an empty request: {body}");
        }
    }
    assert_eq!(fleet.close().await, 0, "no call was cut off");
}

#[tokio::test]
async fn every_agent_comes_back_and_leaves_its_neighbours_alone() {
    let fleet = fleet().await;
    for (group, agent) in fleet.view.agents() {
        fleet.wait_for(agent.name.as_str(), |s| s != State::Starting).await;
        let host = fleet.peers.group(&group.id).unwrap();
        let order =
            pb::HostRestartAgentRequest { agent: agent.name.to_string(), reason: "test".into(), ..Default::default() };
        let patient = Call::from_door("test").within(Duration::from_secs(20), std::time::Instant::now());
        let answer = host.unary(rpc::host::RESTART_AGENT, order, &patient).await.unwrap();
        let state = state_of(answer.health.state);
        assert!(matches!(state, State::Ready | State::Degraded | State::Unavailable), "{} is {state}", agent.name);
        let health = host.unary(rpc::host::GET_HEALTH, pb::GetHealthRequest::default(), &patient).await.unwrap();
        for neighbour in health.agents.iter().filter(|a| !a.agent.ends_with(agent.name.as_str())) {
            assert_eq!(neighbour.restarts.min(1), u32::from(restarted_before(&fleet, agent.name.as_str(), neighbour)));
        }
    }
    fleet.close().await;
}

/// Agents before `agent` in the plan have been restarted by the test already.
fn restarted_before(fleet: &Fleet, agent: &str, neighbour: &pb::AgentHealth) -> bool {
    let names: Vec<String> = fleet.view.agents().map(|(g, a)| g.id.agent(a.name.clone()).to_string()).collect();
    let place = |wanted: &str| names.iter().position(|n| n.ends_with(wanted)).unwrap();
    place(&neighbour.agent) < place(agent)
}

//! With real hosts behind real ports, beside the agents it relies on.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::pb::tandem::telemetry::v1 as telemetry_pb;
use tandem_contract::rpc::{host, system, telemetry};
use tandem_testkit::{Fleet, FleetBuilder};
use tandem_types::{Health, State};

use super::DEF;

const AGENTS: [&str; 5] = [
    "solo/memory_stack/SessionMemoryAgent",
    "solo/observability/ObservabilityHub",
    "solo/infra_core/SystemDigitalTwin",
    "solo/infra_core/ServiceRegistry",
    "solo/infra_core/UnifiedSystemAgent",
];

async fn fleet() -> Fleet {
    FleetBuilder::new(crate::find)
        .group("infra_core", &["ServiceRegistry", "SystemDigitalTwin", "UnifiedSystemAgent"])
        .group("observability", &["ObservabilityHub"])
        .group("memory_stack", &["SessionMemoryAgent"])
        .start()
        .await
}

fn name(agent: &str) -> &str {
    agent.rsplit('/').next().unwrap()
}

async fn restart(fleet: &Fleet, n: u8, agent: &str) -> Option<pb::Action> {
    let request = pb::RestartAgentRequest {
        idempotency_key: vec![n; 16],
        agent: agent.into(),
        reason: "to see it come back".into(),
        // Longer than the test waits: whoever holds up a drain for no reason fails it.
        drain_ms: 60_000,
        ..Default::default()
    };
    // The answer about its own restart gets lost with the one who would give it.
    let answer = fleet.peers.unary(system::RESTART_AGENT, request, &fleet.call()).await;
    answer.ok().map(|answer| answer.action.as_option().unwrap().clone())
}

/// The other agents with their restarts. One that lost what it needs may be degraded for a moment.
async fn neighbours_of(fleet: &Fleet, agent: &str) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for group in &fleet.view.groups {
        let host = fleet.peers.group(&group.id).unwrap();
        let answer = host.unary(host::GET_HEALTH, Default::default(), &fleet.call()).await.unwrap();
        let others = answer.agents.into_iter().filter(|other| other.agent != agent);
        found.extend(others.map(|a| {
            assert!(Health::from(a.health.as_option().unwrap()).state.serves(), "{a:?}");
            (a.agent, a.restarts)
        }));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agent_comes_back_from_a_restart_and_the_action_is_kept() {
    let fleet = fleet().await;
    for agent in AGENTS {
        fleet.wait_for(name(agent), State::serves).await;
    }
    for (n, agent) in AGENTS.into_iter().enumerate() {
        let before = neighbours_of(&fleet, agent).await;
        let action = restart(&fleet, u8::try_from(n).unwrap(), agent).await;
        fleet.wait_for(name(agent), State::serves).await;
        assert_eq!(neighbours_of(&fleet, agent).await, before, "the restart of {agent} restarted somebody else");
        // Nobody is left to say how its own restart ended, until it is there again.
        if let Some(action) = action.filter(|_| name(agent) != DEF.name) {
            assert_eq!((action.outcome.as_str(), action.target.as_str()), ("done", agent), "{}", action.detail);
        }
    }
    ends_with(&fleet, &AGENTS).await;
    let request =
        pb::RecycleGroupRequest { idempotency_key: vec![9; 16], group: "solo/infra_core".into(), ..Default::default() };
    fleet.peers.unary(system::RECYCLE_GROUP, request, &fleet.call()).await.unwrap();
    ends_with(&fleet, &[&AGENTS[..], &["solo/infra_core"]].concat()).await;
    fleet.close().await;
}

/// Waits until all that was done, in this order, is kept as done.
async fn ends_with(fleet: &Fleet, targets: &[&str]) {
    let wanted: Vec<(&str, &str)> = targets.iter().rev().map(|target| (*target, "done")).collect();
    let mut news = fleet.peers.news();
    let kept = async {
        loop {
            news.mark_unchanged();
            let listed = fleet.peers.unary(system::LIST_ACTIONS, Default::default(), &fleet.call()).await;
            let listed = listed.map(|answer| answer.actions).unwrap_or_default();
            let kept: Vec<(&str, &str)> = listed.iter().map(|a| (a.target.as_str(), a.outcome.as_str())).collect();
            if kept == wanted {
                break;
            }
            news.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.expect("every action ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_sees_groups_come_and_go_and_the_doctor_finds_no_fault_in_them() {
    let mut fleet = fleet().await;
    let state = async |fleet: &Fleet, wanted: State| {
        let request = telemetry_pb::WatchHealthRequest::default();
        let mut changes = fleet.peers.server_stream(telemetry::WATCH_HEALTH, request, &fleet.call()).await.unwrap();
        let seen = async {
            loop {
                let change = futures::StreamExt::next(&mut changes).await.expect("the stream goes on").unwrap();
                let group = change.group.as_option().unwrap();
                if group.group == "memory_stack" && Health::from(group.health.as_option().unwrap()).state == wanted {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap_or_else(|_| panic!("never {wanted}"));
    };
    state(&fleet, State::Ready).await;
    let checks = fleet.peers.unary(system::DOCTOR, Default::default(), &fleet.call()).await.unwrap().checks;
    for name in ["group: solo/memory_stack", "message sizes: solo", "plan and contract", "clock: here"] {
        let check = checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name} in {checks:#?}"));
        assert_eq!(check.outcome, "pass", "{check:?}");
    }
    fleet.stop("solo/memory_stack").await;
    state(&fleet, State::Stopped).await;
    fleet.close().await;
}

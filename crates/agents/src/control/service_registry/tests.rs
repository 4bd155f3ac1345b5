use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::json;
use tandem_agent::{FleetGroup, FleetNode, FleetView};
use tandem_contract::pb::tandem::registry::v1 as pb;
use tandem_contract::rpc::{RpcFacts, registry, sessions};
use tandem_contract::{FaultStream, pb::tandem::common::v1 as common};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Health, State, Timestamp, reason};

use super::DEF;

mod with_hosts;

const RPC: &str = "/tandem.session.v1.Sessions/GetWindow";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

const GROUP: &str = "solo/memory_stack";

fn fleet() -> FleetView {
    let group = |id: &str, agent: &str, rpcs: &[RpcFacts]| FleetGroup {
        id: id.parse().unwrap(),
        endpoint: format!("http://{id}"),
        scrape_endpoint: String::new(),
        needs: vec![],
        ram_bytes: 0,
        cpus: 1.0,
        callers: BTreeMap::new(),
        agents: vec![tandem_agent::FleetAgent {
            name: agent.parse().unwrap(),
            required: true,
            built: true,
            needs: vec![],
            uses: vec![],
            rpcs: rpcs.iter().map(|rpc| rpc.path).collect(),
            topics: vec![],
            settings: json!(null),
        }],
    };
    FleetView {
        plan_hash: "plan".into(),
        nodes: vec![FleetNode { name: "solo".parse().unwrap(), address: "127.0.0.1".into() }],
        groups: vec![
            group("solo/under_test", "ServiceRegistry", DEF.provides),
            group(GROUP, "SessionMemoryAgent", &[sessions::GET_WINDOW.facts()]),
        ],
        ..FleetView::default()
    }
}

fn request(instance: &str, generation: u64) -> pb::RegisterRequest {
    pb::RegisterRequest {
        group: GROUP.into(),
        instance_id: instance.into(),
        generation,
        endpoint: format!("http://{GROUP}/"),
        version: "0.1.0".into(),
        contract_hash: tandem_contract::contract_hash().into(),
        plan_hash: "plan".into(),
        agents: vec![agent_report(State::Ready)],
        ..Default::default()
    }
}

fn agent_report(state: State) -> pb::AgentReport {
    pb::AgentReport {
        agent: format!("{GROUP}/SessionMemoryAgent"),
        rpcs: vec![RPC.into()],
        health: common::Health::from(&Health::new(state, "", at(0))).into(),
        load: 0.5,
        ..Default::default()
    }
}

async fn registered(rig: &Running, instance: &str, generation: u64) -> pb::RegisterResponse {
    rig.client().unary(registry::REGISTER, request(instance, generation), &rig.call()).await.unwrap()
}

async fn renewed(rig: &Running, lease: &str, state: State) -> Result<(), Code> {
    let request = pb::RenewRequest { lease_id: lease.into(), agents: vec![agent_report(state)], ..Default::default() };
    rig.client().unary(registry::RENEW, request, &rig.call()).await.map(drop).map_err(|fault| fault.code)
}

async fn watch(rig: &Running, after_revision: u64) -> FaultStream<pb::WatchResponse> {
    let request = pb::WatchRequest { after_revision, ..Default::default() };
    rig.client().server_stream(registry::WATCH, request, &rig.call()).await.unwrap()
}

async fn next(changes: &mut FaultStream<pb::WatchResponse>) -> (pb::ChangeKind, pb::Lease, u64) {
    let change = changes.next().await.unwrap().unwrap();
    (change.kind.as_known().unwrap(), change.lease.as_option().unwrap().clone(), change.revision)
}

#[tokio::test]
async fn a_group_comes_is_found_falls_silent_and_is_told_of() {
    let mut rig = Rig::new(&DEF).fleet(fleet()).start().await;
    let mut changes = watch(&rig, 0).await;
    let lease = registered(&rig, "one", 1).await;
    assert_eq!((lease.ttl_ms, lease.fencing, lease.warnings.len()), (15_000, 1, 0));
    let (kind, added, revision) = next(&mut changes).await;
    assert_eq!((kind, added.lease_id.as_str()), (pb::ChangeKind::CHANGE_KIND_ADDED, lease.lease_id.as_str()));
    let query = || pb::ResolveRequest { rpc: RPC.into(), only_ready: true, ..Default::default() };
    let found = rig.client().unary(registry::RESOLVE, query(), &rig.call()).await.unwrap();
    assert_eq!(found.providers[0].agent, "solo/memory_stack/SessionMemoryAgent");
    assert_eq!(renewed(&rig, &lease.lease_id, State::Failed).await, Ok(()));
    let (kind, changed, _) = next(&mut changes).await;
    assert_eq!(kind, pb::ChangeKind::CHANGE_KIND_CHANGED);
    assert_eq!(changed.agents[0].health.state, common::State::STATE_FAILED);
    let found = rig.client().unary(registry::RESOLVE, query(), &rig.call()).await.unwrap();
    assert!(found.providers.is_empty(), "a failed agent is not ready");

    rig.clock.advance(Duration::from_secs(10));
    rig.reconcile("expire").await.unwrap();
    rig.clock.advance(Duration::from_secs(5));
    rig.reconcile("expire").await.unwrap();
    let (kind, gone, _) = next(&mut changes).await;
    assert_eq!((kind, gone.ended.as_str()), (pb::ChangeKind::CHANGE_KIND_REMOVED, "expired"));
    assert_eq!(renewed(&rig, &lease.lease_id, State::Ready).await, Err(Code::NotFound));

    drop(changes);
    rig.restart().await;
    let mut late = watch(&rig, revision).await;
    let (kind, gone, revision) = next(&mut late).await;
    assert_eq!((kind, gone.ended.as_str()), (pb::ChangeKind::CHANGE_KIND_REMOVED, "expired"), "tombstones are kept");
    assert_eq!(registered(&rig, "two", 2).await.fencing, 2);
    let (kind, _, after) = next(&mut late).await;
    assert_eq!((kind, after), (pb::ChangeKind::CHANGE_KIND_ADDED, revision + 1));
}

#[tokio::test]
async fn a_lease_ends_at_its_time_and_not_at_the_next_look() {
    let rig = Rig::new(&DEF).settings(json!({ "ttl_ms": 50 })).fleet(fleet()).start().await;
    let mut changes = watch(&rig, 0).await;
    registered(&rig, "one", 1).await;
    assert_eq!(next(&mut changes).await.0, pb::ChangeKind::CHANGE_KIND_ADDED);
    rig.clock.advance(Duration::from_millis(50));
    // Nobody asks the agent to look.
    let told = tokio::time::timeout(Duration::from_secs(30), next(&mut changes)).await.expect("watchers are told");
    assert_eq!((told.0, told.1.ended.as_str()), (pb::ChangeKind::CHANGE_KIND_REMOVED, "expired"));
}

#[tokio::test]
async fn a_restart_of_the_registry_keeps_leases_unconfirmed_until_heard_of() {
    let mut rig = Rig::new(&DEF).fleet(fleet()).start().await;
    let lease = registered(&rig, "one", 1).await;
    rig.clock.advance(Duration::from_secs(300));
    rig.restart().await;
    let list = || async {
        let leases = rig.client().unary(registry::LIST, Default::default(), &rig.call()).await.unwrap().leases;
        (leases[0].lease_id.clone(), leases[0].unconfirmed, leases[0].ended.clone())
    };
    assert_eq!(list().await, (lease.lease_id.clone(), true, String::new()));
    assert_eq!(renewed(&rig, &lease.lease_id, State::Ready).await, Ok(()));
    assert_eq!(list().await, (lease.lease_id, false, String::new()));
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let rig = Rig::new(&DEF).fleet(fleet()).start().await;
    registered(&rig, "one", 7).await;
    let stranger = pb::AgentReport { agent: format!("{GROUP}/Stranger"), ..agent_report(State::Ready) };
    let broken = pb::AgentReport { agent: "solo/other/X".into(), load: 2.0, ..agent_report(State::Ready) };
    for (request, code, words) in [
        (
            pb::RegisterRequest { group: "solo/nowhere".into(), agents: vec![], ..request("x", 1) },
            Code::NotFound,
            vec!["solo/nowhere"],
        ),
        (pb::RegisterRequest { agents: vec![stranger], ..request("x", 1) }, Code::NotFound, vec!["Stranger"]),
        (
            pb::RegisterRequest { endpoint: "http://10.0.0.9:1".into(), ..request("x", 8) },
            Code::FailedPrecondition,
            vec!["http://10.0.0.9:1", "http://solo/memory_stack"],
        ),
        (request("x", 7), Code::Conflict, vec!["one", "x"]),
        (
            pb::RegisterRequest { instance_id: String::new(), agents: vec![broken], ..request("x", 8) },
            Code::InvalidArgument,
            vec!["instance_id", "agents[0].agent", "agents[0].load"],
        ),
    ] {
        let fault = rig.client().unary(registry::REGISTER, request, &rig.call()).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        words.iter().for_each(|word| assert!(fault.message.contains(word), "{word} is not in {fault}"));
    }
    let other = pb::RegisterRequest { contract_hash: "old".into(), plan_hash: "else".into(), ..request("two", 8) };
    let accepted = rig.client().unary(registry::REGISTER, other, &rig.call()).await.unwrap();
    assert_eq!((accepted.warnings.len(), accepted.fencing), (2, 2));
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_to_begin_anew() {
    let rig = Rig::new(&DEF).settings(json!({ "watch_buffer": 2 })).fleet(fleet()).start().await;
    let mut changes = watch(&rig, 0).await;
    for generation in 1..200 {
        registered(&rig, &format!("i{generation}"), generation).await;
    }
    let fault = loop {
        match changes.next().await.expect("the stream ends with a fault") {
            Ok(_) => {}
            Err(fault) => break fault,
        }
    };
    assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::BEHIND));
    assert!(changes.next().await.is_none());
    let stale = pb::WatchRequest { after_revision: 9_999, ..Default::default() };
    let mut answer = rig.client().server_stream(registry::WATCH, stale, &rig.call()).await;
    let fault = match &mut answer {
        Ok(stream) => stream.next().await.unwrap().unwrap_err(),
        Err(fault) => fault.clone(),
    };
    assert_eq!(fault.code, Code::FailedPrecondition);
}

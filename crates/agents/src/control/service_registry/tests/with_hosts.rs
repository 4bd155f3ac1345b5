//! With real hosts behind real ports.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use tandem_contract::pb::tandem::registry::v1 as pb;
use tandem_contract::pb::tandem::session::v1::ListSessionsRequest;
use tandem_contract::pb::tandem::system::v1 as system_pb;
use tandem_contract::rpc::{host, registry, sessions};
use tandem_testkit::FleetBuilder;
use tandem_types::State;

/// Calls between agents while there is no registry.
const CALLS: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_registry_calls_go_on_and_with_it_the_table_is_whole_again() {
    let fleet = FleetBuilder::new(crate::find)
        .group("infra_core", &["ServiceRegistry"])
        .group("memory_stack", &["SessionMemoryAgent"])
        .start()
        .await;
    fleet.wait_for("ServiceRegistry", State::serves).await;
    fleet.wait_for("SessionMemoryAgent", State::serves).await;
    let core = fleet.peers.group(&"solo/infra_core".parse().unwrap()).unwrap();
    let stop = system_pb::HostStopAgentRequest { agent: "ServiceRegistry".into(), force: true, ..Default::default() };
    core.unary(host::STOP_AGENT, stop, &fleet.call()).await.unwrap();
    for n in 0..CALLS {
        let request = ListSessionsRequest { user_id: "ana".into(), ..Default::default() };
        let answer = fleet.peers.unary(sessions::LIST_SESSIONS, request, &fleet.call()).await;
        assert!(answer.is_ok(), "call {n}: {answer:?}");
    }
    let start = system_pb::HostStartAgentRequest { agent: "ServiceRegistry".into(), ..Default::default() };
    core.unary(host::START_AGENT, start, &fleet.call()).await.unwrap();
    let whole = async {
        let mut changes =
            fleet.peers.server_stream(registry::WATCH, pb::WatchRequest::default(), &fleet.call()).await.unwrap();
        let mut heard_of = BTreeSet::new();
        while heard_of.len() < fleet.view.groups.len() {
            let lease = changes.next().await.expect("the stream goes on").unwrap().lease;
            if !lease.unconfirmed && lease.ended.is_empty() {
                heard_of.insert(lease.group.clone());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), whole).await.expect("every group is heard of again");
    fleet.close().await;
}

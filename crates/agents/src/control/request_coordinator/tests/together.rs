//! The text turn with the agents it really meets; only the model is a fake.

use futures::StreamExt as _;
use tandem_agent::{AgentDef, Started};
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::rpc::{coordinator, models};
use tandem_testkit::{Fleet, FleetBuilder};
use tandem_types::State;
use tokio::sync::OnceCell;

use super::fakes::{ending, shown, text};
use crate::testing::{FakeEngine, Script};

static ENGINE: OnceCell<FakeEngine> = OnceCell::const_new();

/// Lends the fake engine.
static MANAGER: AgentDef = AgentDef {
    name: "ModelManagerSuite",
    about: "Lends one fake engine.",
    provides: &[models::ACQUIRE.facts(), models::RELEASE.facts(), models::RECORD_USE.facts()],
    needs: &[],
    uses: &[],
    roles: &[],
    publishes: &[],
    required: true,
    start: |_ctx| {
        Box::pin(async {
            let engine = ENGINE.get_or_init(|| FakeEngine::start(Script::Say(&["Nice to meet", " you."]))).await;
            Ok(Started::serve(engine.manager(&[("llm.fast", "llm.fast")])))
        })
    },
};

/// The coordinator without the agents that only gate its start.
static COORDINATOR: AgentDef = AgentDef { needs: &[], ..crate::control::request_coordinator::DEF };

fn find(name: &str) -> Option<&'static AgentDef> {
    match name {
        "ModelManagerSuite" => Some(&MANAGER),
        "RequestCoordinator" => Some(&COORDINATOR),
        _ => crate::find(name),
    }
}

async fn turn(fleet: &Fleet, n: u32, said: &str) -> Vec<Event> {
    let request = pb::SubmitRequest { session_id: "s1".into(), ..text(n, said) };
    let events = fleet.peers.server_stream(coordinator::SUBMIT, request, &fleet.call()).await.unwrap();
    events.map(|event| event.unwrap().event.event.clone().unwrap()).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_remembered_across_a_restart_of_its_keeper() {
    let mut fleet = FleetBuilder::new(find)
        .group("coordination", &["RequestCoordinator", "ModelManagerSuite"])
        .group("memory_stack", &["SessionMemoryAgent"])
        .group("language_stack", &["ChitchatAgent", "Responder"])
        .start()
        .await;
    fleet.wait_for("ChitchatAgent", |state| state == State::Ready).await;
    let first = turn(&fleet, 1, "My name is Ana.").await;
    let answer = ending(&first).unwrap();
    assert_eq!((answer.text.as_str(), shown(&first).as_str()), ("Nice to meet you.", "Nice to meet you."));
    assert_eq!((answer.provenance.model.as_str(), answer.provenance.role.as_str()), ("fake-model", "llm.fast"));
    let of_built = |note: &&String| note.starts_with("SessionMemoryAgent") || note.starts_with("Responder");
    assert_eq!(answer.missing.iter().find(of_built), None);
    fleet.restart("solo/memory_stack").await;
    ending(&turn(&fleet, 2, "What is my name?").await).unwrap();
    let asked = ENGINE.get().unwrap().asked().pop().unwrap();
    let said: Vec<&str> = asked.messages[1..].iter().map(|m| m.content.as_str()).collect();
    assert_eq!(said, ["My name is Ana.", "Nice to meet you.", "What is my name?"]);
    assert_eq!(fleet.close().await, 0);
}

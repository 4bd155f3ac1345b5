//! Stopping, leaving, coming back, and restarts.

use futures::StreamExt as _;
use serde_json::json;
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::rpc::coordinator;
use tandem_store::requests::{RequestStore as _, SqliteRequests};
use tandem_testkit::Running;
use tandem_types::{Code, Timestamp, reason};

use super::fakes::{
    Events, Handler, Script, Sessions, accepted, all, check, ending, next, rig, spoken, submit, text, until,
};

/// Reads up to and with the first piece of the answer.
async fn to_first_delta(events: &mut Events) -> (pb::Accepted, u64) {
    let (_, Event::Accepted(begun)) = next(events).await else { panic!("not accepted") };
    loop {
        if let (number, Event::Delta(_)) = next(events).await {
            return (*begun, number);
        }
    }
}

async fn resume(rig: &Running, turn: &str, after: u64) -> Vec<pb::TurnEvent> {
    let request =
        pb::ResumeRequest { user_id: "ana".into(), turn_id: turn.into(), after_number: after, ..Default::default() };
    let events = rig.client().server_stream(coordinator::RESUME, request, &rig.call()).await.unwrap();
    let events: Vec<pb::TurnEvent> = events.map(|e| e.unwrap().event.into_option().unwrap()).collect().await;
    check(&events);
    events
}

async fn result(rig: &Running, request: &str) -> pb::GetResultResponse {
    let request = pb::GetResultRequest { user_id: "ana".into(), request_id: request.into(), ..Default::default() };
    rig.client().unary(coordinator::GET_RESULT, request, &rig.call()).await.unwrap()
}

async fn cancel(rig: &Running, user: &str, turn: &str) -> Result<bool, Code> {
    let request = pb::CancelRequest { user_id: user.into(), turn_id: turn.into(), ..Default::default() };
    let answer = rig.client().unary(coordinator::CANCEL, request, &rig.call()).await;
    answer.map(|a| a.was_active).map_err(|fault| fault.code)
}

#[tokio::test]
async fn cancelling_ends_the_turn_frees_the_slot_and_keeps_what_was_said() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["Once upon"])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({"running": 1})).await;
    let mut events = submit(&rig, text(1, "A story!")).await.unwrap();
    let (begun, _) = to_first_delta(&mut events).await;
    let waiting = submit(&rig, text(2, "And me?")).await.unwrap();
    handler.tell(Script::Say(vec!["Yes."]));
    assert_eq!(cancel(&rig, "ben", &begun.turn_id).await, Err(Code::NotFound));
    assert_eq!(cancel(&rig, "ana", &begun.turn_id).await, Ok(true));
    assert_eq!(ending(&all(waiting).await).unwrap().text, "Yes.");
    assert_eq!(handler.open(), 0, "the handler was left");
    let rest: Vec<_> = events.collect().await;
    assert!(
        matches!(&rest.last().unwrap().as_ref().unwrap().event.event, Some(Event::Error(e)) if e.code == "cancelled")
    );
    assert_eq!(sessions.said(&begun.session_id).pop(), Some(("assistant".to_owned(), "Once upon".to_owned())));
    assert_eq!(cancel(&rig, "ana", &begun.turn_id).await, Ok(false));
    assert_eq!(result(&rig, &begun.request_id).await.state, "cancelled");
}

#[tokio::test]
async fn who_waits_can_stop_too_and_the_others_move_up() {
    let (handler, gate) = Handler::new(Script::Say(vec!["Yes."])).gated();
    let rig = rig(&handler, &Sessions::default(), json!({"running": 1})).await;
    let first = submit(&rig, text(1, "first")).await.unwrap();
    let mut second = submit(&rig, text(2, "second")).await.unwrap();
    let mut third = submit(&rig, text(3, "third")).await.unwrap();
    let (_, Event::Accepted(waiting)) = next(&mut second).await else { panic!("not accepted") };
    let (_, Event::Accepted(behind)) = next(&mut third).await else { panic!("not accepted") };
    assert_eq!((waiting.position, behind.position), (1, 2));
    assert_eq!(cancel(&rig, "ana", &waiting.turn_id).await, Ok(true));
    let (_, Event::Status(moved)) = next(&mut third).await else { panic!("its place was not told") };
    assert_eq!((moved.stage.as_str(), moved.position), ("queued", 1));
    let rest: Vec<_> = second.map(|e| e.unwrap().event.into_option().unwrap()).collect().await;
    check(&rest);
    assert_eq!(result(&rig, &waiting.request_id).await.state, "cancelled");
    gate.add_permits(2);
    all(first).await;
    let rest: Vec<_> = third.map(|e| e.unwrap().event.into_option().unwrap()).collect().await;
    check(&rest);
    assert_eq!(handler.asked().len(), 2, "what was stopped while it waited was never begun");
}

#[tokio::test]
async fn a_drain_lets_turns_end_and_refuses_new_ones_with_a_time_to_come_back() {
    let (handler, gate) = Handler::new(Script::Say(vec!["Yes."])).gated();
    let rig = rig(&handler, &Sessions::default(), json!({})).await;
    let running = submit(&rig, text(1, "now")).await.unwrap();
    until("it runs", || handler.open() == 1).await;
    let (drained, ()) = tokio::join!(rig.drain(), async {
        let refused = loop {
            // The drain begins beside this; a request that is still taken ends with the others.
            match submit(&rig, text(2, "later")).await {
                Err(fault) => break fault,
                Ok(taken) => drop(taken),
            }
        };
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, reason::DRAINING));
        assert!(refused.retry_after.is_some_and(|after| !after.is_zero()));
        gate.add_permits(9);
    });
    drained.unwrap();
    assert_eq!(ending(&all(running).await).unwrap().text, "Yes.");
}

#[tokio::test]
async fn an_interruption_ends_what_the_session_does_and_numbers_rise() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["Well,"])), Sessions::default());
    let mut rig = rig(&handler, &sessions, json!({})).await;
    let request = pb::SubmitRequest { session_id: "s1".into(), ..text(1, "Hello!") };
    let mut events = submit(&rig, request).await.unwrap();
    let (begun, _) = to_first_delta(&mut events).await;
    let interrupt = async |rig: &Running| {
        let request = pb::InterruptRequest {
            user_id: "ana".into(),
            session_id: "s1".into(),
            reason: "stop".into(),
            ..Default::default()
        };
        rig.client().unary(coordinator::INTERRUPT, request, &rig.call()).await.unwrap()
    };
    let first = interrupt(&rig).await;
    assert_eq!(first.ended_turns, [begun.turn_id]);
    let second = interrupt(&rig).await;
    assert!(second.turn_number > first.turn_number && second.ended_turns.is_empty());
    rig.clock.advance(std::time::Duration::from_secs(2));
    rig.restart().await;
    assert!(interrupt(&rig).await.turn_number >= second.turn_number);
}

#[tokio::test]
async fn a_lost_connection_is_resumed_without_a_gap() {
    let (handler, gate) = Handler::new(Script::Say(vec!["a", "b", "c"])).gated();
    let rig = rig(&handler, &Sessions::default(), json!({})).await;
    let mut events = submit(&rig, text(1, "Go on.")).await.unwrap();
    let (number, Event::Accepted(begun)) = next(&mut events).await else { panic!("not accepted") };
    drop(events);
    gate.add_permits(1);
    let rest = resume(&rig, &begun.turn_id, number).await;
    assert_eq!(rest[0].number, number + 1);
    let last = rest.last().unwrap().number;
    // After its end the turn is told from the disk: all of it, a part of it, and its end to whoever has it all.
    until("it has ended", || rig.events().iter().any(|e| e.topic == "turn.finished")).await;
    for (after, first) in [(0, 1), (number + 2, number + 3), (last, last), (last + 9, last)] {
        let told = resume(&rig, &begun.turn_id, after).await;
        assert_eq!((told[0].number, told.last().unwrap()), (first, rest.last().unwrap()), "after {after}");
    }
    assert_eq!(handler.asked().len(), 1);
}

#[tokio::test]
async fn who_leaves_and_does_not_come_back_ends_the_turn_after_the_grace() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["Well,"])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({"grace_s": 0.02})).await;
    let mut events = submit(&rig, text(1, "Hello!")).await.unwrap();
    let (begun, _) = to_first_delta(&mut events).await;
    drop(events);
    until("the turn has ended", || handler.open() == 0).await;
    until("the end is told", || rig.events().iter().any(|e| e.topic == "turn.finished")).await;
    assert_eq!(result(&rig, &begun.request_id).await.error.reason, reason::CALLER_LEFT);
    // Nobody has to wait for background work.
    handler.tell(Script::Say(vec!["Done."]));
    let request = pb::SubmitRequest { modality: pb::Modality::MODALITY_BACKGROUND.into(), ..text(2, "Work!") };
    let mut events = submit(&rig, request).await.unwrap();
    let (_, Event::Accepted(begun)) = next(&mut events).await else { panic!("not accepted") };
    drop(events);
    until("both ends are told", || rig.events().iter().filter(|e| e.topic == "turn.finished").count() == 2).await;
    assert_eq!(result(&rig, &begun.request_id).await.state, "done");
}

#[tokio::test]
async fn the_same_request_twice_is_one_turn() {
    let (handler, gate) = Handler::new(Script::Say(vec!["One", "."])).gated();
    let sessions = Sessions::default();
    let mut rig = rig(&handler, &sessions, json!({})).await;
    let one = submit(&rig, text(1, "Once.")).await.unwrap();
    let two = submit(&rig, text(1, "Once.")).await.unwrap();
    let other = submit(&rig, text(1, "Twice.")).await.err().unwrap();
    assert_eq!((other.code, other.reason.as_str()), (Code::Conflict, reason::KEY_REUSED));
    gate.add_permits(9);
    let (one, two) = (all(one).await, all(two).await);
    assert_eq!(one, two);
    until("it has ended", || rig.events().iter().any(|e| e.topic == "turn.finished")).await;
    rig.restart().await;
    let again = all(submit(&rig, text(1, "Once.")).await.unwrap()).await;
    assert_eq!(again, one);
    assert_eq!(sessions.said(&accepted(&one).session_id).len(), 2, "said once, answered once");
    let other = submit(&rig, text(1, "Twice.")).await.err().unwrap();
    assert_eq!(other.code, Code::Conflict);
}

#[tokio::test]
async fn after_a_restart_what_ran_runs_again_and_what_waited_goes_on() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["Once"])), Sessions::default());
    let mut rig = rig(&handler, &sessions, json!({"running": 1})).await;
    let mut running = submit(&rig, text(1, "Ran.")).await.unwrap();
    let (ran, seen) = to_first_delta(&mut running).await;
    let mut queued = submit(&rig, text(2, "Waited.")).await.unwrap();
    let (_, Event::Accepted(waited)) = next(&mut queued).await else { panic!("not accepted") };
    drop((running, queued));
    handler.tell(Script::Say(vec!["Twice."]));
    rig.restart().await;
    for begun in [&ran, &waited] {
        let events = resume(&rig, &begun.turn_id, seen).await;
        let events: Vec<Event> = events.into_iter().map(|e| e.event.unwrap()).collect();
        assert_eq!((spoken(&events).as_str(), ending(&events).unwrap().text.as_str()), ("Twice.", "Twice."));
        assert!(events.iter().any(|e| matches!(e, Event::Status(s) if s.stage == "restarted")));
        let said: Vec<String> = sessions.said(&begun.session_id).into_iter().map(|(role, _)| role).collect();
        assert_eq!(said, ["user", "assistant"]);
    }
    until("both ends are told", || rig.events().iter().filter(|e| e.topic == "turn.finished").count() == 2).await;
    rig.restart().await;
    for begun in [ran, *waited] {
        assert_eq!(result(&rig, &begun.request_id).await.answer.text, "Twice.");
    }
    assert_eq!(handler.asked().len(), 3, "nothing runs again that has ended");
}

#[tokio::test]
async fn twenty_turns_cut_off_by_a_crash_end_once_each() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["Once"])), Sessions::default());
    let mut rig = rig(&handler, &sessions, json!({"running": 20, "per_user": 20})).await;
    let mut begun = Vec::new();
    for n in 1..=20 {
        let mut events = submit(&rig, text(n, "Go.")).await.unwrap();
        begun.push(to_first_delta(&mut events).await.0);
    }
    assert_eq!(handler.open(), 20);
    handler.tell(Script::Say(vec!["Done."]));
    rig.restart().await;
    for turn in &begun {
        let events = resume(&rig, &turn.turn_id, 0).await;
        let events: Vec<Event> = events.into_iter().map(|e| e.event.unwrap()).collect();
        assert_eq!(ending(&events).unwrap().text, "Done.");
        let said: Vec<String> = sessions.said(&turn.session_id).into_iter().map(|(role, _)| role).collect();
        assert_eq!(said, ["user", "assistant"]);
    }
    assert_eq!(handler.asked().len(), 40, "each was begun once more and no oftener");
}

#[tokio::test]
async fn who_was_here_before_a_restart_is_told_of_when_idle() {
    let handler = Handler::new(Script::Say(vec!["Yes."]));
    let mut rig = rig(&handler, &Sessions::default(), json!({})).await;
    all(submit(&rig, text(1, "Hello!")).await.unwrap()).await;
    let told = |rig: &Running, topic: &str| rig.events().iter().filter(|e| e.topic == topic).count();
    until("it is told of", || told(&rig, "user.active") == 1).await;
    rig.clock.advance(std::time::Duration::from_secs(100));
    rig.restart().await;
    all(submit(&rig, text(2, "Still here.")).await.unwrap()).await;
    rig.clock.advance(std::time::Duration::from_secs(299));
    rig.reconcile("idle").await.unwrap();
    assert_eq!((told(&rig, "user.active"), told(&rig, "user.idle")), (1, 0), "nobody came or went");
    rig.clock.advance(std::time::Duration::from_secs(1));
    rig.restart().await;
    until("who left meanwhile is told of", || told(&rig, "user.idle") == 1).await;
    rig.clock.advance(std::time::Duration::from_secs(600));
    rig.restart().await;
    all(submit(&rig, text(3, "Back.")).await.unwrap()).await;
    until("who came back is told of", || told(&rig, "user.active") == 2).await;
}

#[tokio::test]
async fn what_had_acted_before_a_restart_ends_with_what_was_done() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["On it"])), Sessions::default());
    let mut rig = rig(&handler, &sessions, json!({})).await;
    let mut events = submit(&rig, text(1, "Do it.")).await.unwrap();
    let (begun, _) = to_first_delta(&mut events).await;
    drop(events);
    let store = SqliteRequests::open(rig.data_dir().join("coordinator.db")).unwrap();
    let request = begun.request_id.parse().unwrap();
    store.note_effect(request, "receipt-7".into(), Timestamp::from_secs(0)).await.unwrap();
    store.db().close().await.unwrap();
    rig.restart().await;
    let result = result(&rig, &begun.request_id).await;
    assert_eq!((result.state.as_str(), result.error.reason.as_str()), ("failed", reason::RESTARTED));
    assert!(result.error.message.contains("receipt-7"), "{}", result.error.message);
    assert_eq!(handler.asked().len(), 1);
}

#[tokio::test]
async fn a_turn_whose_answer_was_kept_before_the_crash_is_not_answered_twice() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec!["Half"])), Sessions::default());
    let mut rig = rig(&handler, &sessions, json!({})).await;
    let mut events = submit(&rig, text(1, "Hello!")).await.unwrap();
    let (begun, _) = to_first_delta(&mut events).await;
    drop(events);
    sessions.put(&begun.session_id, &[]);
    sessions.answered(&begun.session_id, &begun.turn_id, "The whole answer.");
    rig.restart().await;
    let events = resume(&rig, &begun.turn_id, 0).await;
    let events: Vec<Event> = events.into_iter().map(|e| e.event.unwrap()).collect();
    assert_eq!(ending(&events).unwrap().text, "The whole answer.");
    assert_eq!(handler.asked().len(), 1);
}

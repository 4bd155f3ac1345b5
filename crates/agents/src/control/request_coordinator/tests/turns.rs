//! One turn at a time.

use std::time::{Duration, Instant};

use serde_json::json;
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::rpc::coordinator;
use tandem_testkit::Rig;
use tandem_types::{Code, Fault, State, reason};

use super::fakes::{
    Handler, Script, Sessions, accepted, all, composer, ending, lock, rig, shown, spoken, submit, text, until,
};
use crate::control::request_coordinator::DEF;

fn stages(events: &[Event]) -> Vec<&str> {
    events.iter().filter_map(|e| if let Event::Status(s) = e { Some(s.stage.as_str()) } else { None }).collect()
}

fn routed(events: &[Event]) -> Vec<pb::Routed> {
    events.iter().filter_map(|e| if let Event::Routed(r) = e { Some((**r).clone()) } else { None }).collect()
}

#[tokio::test]
async fn a_turn_walks_from_the_door_to_a_remembered_answer() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["I can", " talk."])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({})).await;
    let events = all(submit(&rig, text(1, "What can you do?")).await.unwrap()).await;
    let begun = accepted(&events);
    assert_eq!(begun.position, 0);
    assert_eq!(stages(&events), ["understood", "validated", "routed", "running", "composing"]);
    assert_eq!((spoken(&events), shown(&events)), ("I can talk.".to_owned(), "I can talk.".to_owned()));
    let answer = ending(&events).unwrap();
    assert_eq!((answer.text.as_str(), answer.finish_reason.as_str()), ("I can talk.", "stop"));
    assert_eq!((answer.provenance.model.as_str(), answer.usage.completion_tokens), ("fake-model", 2));
    assert_eq!(answer.tokens_per_second, Some(200.0));
    let path: Vec<&str> = answer.timings.iter().map(|t| t.stage.as_str()).collect();
    for stage in ["queue", "choose", "handler", "remember", "wait", "prompt", "generate"] {
        assert!(path.contains(&stage), "{stage} is not in {path:?}");
    }
    let to = routed(&events);
    assert_eq!((to.len(), to[0].handler.as_str(), to[0].tier.as_str()), (1, "solo/peer_0/ChitchatAgent", "fast"));
    assert!(to[0].not_built.contains(&"NLUAgent: the intent is unknown".to_owned()));
    assert_eq!((&to[0].not_built, &to[0].missing), (&answer.not_built, &Vec::new()));
    let said = [("user", "What can you do?"), ("assistant", "I can talk.")];
    assert_eq!(sessions.said(&begun.session_id), said.map(|(role, text)| (role.to_owned(), text.to_owned())));
    let asked = handler.asked().pop().unwrap();
    assert_eq!((asked.turn_id, asked.history_read, asked.priority), (begun.turn_id.clone(), true, 3));

    let request = pb::GetResultRequest { user_id: "ana".into(), request_id: begun.request_id, ..Default::default() };
    let result = rig.client().unary(coordinator::GET_RESULT, request.clone(), &rig.call()).await.unwrap();
    assert_eq!((result.state.as_str(), &*result.answer), ("done", &answer));
    let other = pb::GetResultRequest { user_id: "ben".into(), ..request };
    let fault = rig.client().unary(coordinator::GET_RESULT, other, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::NotFound);

    until("the turn is told of", || rig.events().iter().any(|event| event.topic == "turn.finished")).await;
    let told = rig.events().into_iter().find(|event| event.topic == "turn.finished").unwrap();
    assert_eq!((told.key.as_str(), &told.payload["outcome"]), (begun.turn_id.as_str(), &json!("done")));
    assert!(!told.payload.to_string().contains("talk"), "no words in events");
}

#[tokio::test]
async fn a_named_session_brings_what_it_heard() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Ana."])), Sessions::default());
    sessions.put("s1", &[("user", "I am Ana."), ("assistant", "Hello!")]);
    let rig = rig(&handler, &sessions, json!({"user_roles": {"ana": "owner"}})).await;
    let request = pb::SubmitRequest { session_id: "s1".into(), reply_language: "en".into(), ..text(1, "Who am I?") };
    ending(&all(submit(&rig, request).await.unwrap()).await).unwrap();
    let asked = handler.asked().pop().unwrap();
    let heard: Vec<&str> = asked.history.iter().map(|m| m.content.as_str()).collect();
    assert_eq!((heard, asked.text.as_str(), asked.priority), (vec!["I am Ana.", "Hello!"], "Who am I?", 1));
    assert_eq!((asked.context[0].kind.as_str(), asked.context[0].text.as_str()), ("summary", "They met."));
    assert_eq!(sessions.said("s1").len(), 4);
    // A session that nobody has begun yet is begun under the name that was given.
    let request = pb::SubmitRequest { session_id: "s2".into(), ..text(2, "Hello!") };
    ending(&all(submit(&rig, request).await.unwrap()).await).unwrap();
    assert_eq!(sessions.said("s2").len(), 2);
}

#[tokio::test]
async fn a_conversation_of_the_callers_own_leaves_no_trace_in_any_session() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Yes."])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({})).await;
    let message = pb::ChatMessage { role: "user".into(), content: "Sure?".into(), ..Default::default() };
    let options = pb::GenerationOptions { max_tokens: 9, seed: Some(3), ..Default::default() };
    let request = pb::SubmitRequest {
        messages: vec![message],
        options: options.into(),
        model: "fake-model".into(),
        ..text(1, "")
    };
    let events = all(submit(&rig, request).await.unwrap()).await;
    assert_eq!((accepted(&events).session_id.as_str(), shown(&events).as_str()), ("", ""));
    assert_eq!(ending(&events).unwrap().text, "Yes.");
    let asked = handler.asked().pop().unwrap();
    assert_eq!((asked.messages[0].content.as_str(), asked.text.as_str(), asked.session_id.as_str()), ("Sure?", "", ""));
    assert_eq!((asked.options.max_tokens, asked.options.seed, asked.model.as_str()), (9, Some(3), "fake-model"));
}

#[tokio::test]
async fn the_first_turn_waits_for_a_handler_that_no_look_has_heard_in_time() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Yes."])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({"describe_ms": 0})).await;
    let events = all(submit(&rig, text(1, "Hello!")).await.unwrap()).await;
    assert_eq!(ending(&events).unwrap().text, "Yes.");
}

#[tokio::test]
async fn a_session_that_takes_nothing_more_is_an_error_and_no_answer_is_shown() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Yes."])), Sessions::default());
    sessions.put("s1", &[]);
    lock(&sessions.ended).push("s1".into());
    let rig = rig(&handler, &sessions, json!({})).await;
    let request = pb::SubmitRequest { session_id: "s1".into(), ..text(1, "Hello!") };
    let events = all(submit(&rig, request).await.unwrap()).await;
    assert_eq!((ending(&events), spoken(&events).as_str()), (Err("failed_precondition".to_owned()), ""));
}

#[tokio::test]
async fn without_its_keeper_the_turn_goes_on_and_says_what_is_missing() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Yes."])), Sessions::default());
    *lock(&sessions.fails) = Some(Fault::internal("told to fail"));
    let rig = rig(&handler, &sessions, json!({})).await;
    let request = pb::SubmitRequest { session_id: "s1".into(), ..text(1, "Hello!") };
    let events = all(submit(&rig, request).await.unwrap()).await;
    let answer = ending(&events).unwrap();
    let of_keeper: Vec<&String> = answer.missing.iter().filter(|m| m.starts_with("SessionMemoryAgent: ")).collect();
    assert_eq!(of_keeper.len(), 3, "{of_keeper:?}");
    assert_eq!(answer.text, "Yes.");
}

#[tokio::test]
async fn a_handler_that_fails_before_its_first_word_is_followed_by_the_next() {
    let first = Handler::new(Script::Fail(vec![], Code::Unavailable));
    let mut second = Handler::new(Script::Say(vec!["From the second."]));
    second.capability = 0.5;
    let mut acts = Handler::new(Script::Say(vec!["Done!"]));
    (acts.capability, acts.side_effects) = (1.0, true);
    let rig = Rig::new(&DEF)
        .peer("ChitchatAgent", first.service())
        .peer("TutorAgent", second.service())
        .peer("GoalManager", acts.service())
        .peer("Responder", composer())
        .start()
        .await;
    let events = all(submit(&rig, text(1, "Hello!")).await.unwrap()).await;
    assert_eq!(ending(&events).unwrap().text, "From the second.");
    assert_eq!(routed(&events).len(), 2);
    assert!(acts.asked().is_empty(), "nobody validates, so nobody may act");
    // After its first word nobody follows, and what was said stays said.
    first.tell(Script::Fail(vec!["Well,"], Code::Unavailable));
    let events = all(submit(&rig, text(2, "Hello!")).await.unwrap()).await;
    assert_eq!((ending(&events), spoken(&events).as_str()), (Err("unavailable".to_owned()), "Well,"));
    assert_eq!(shown(&events), "Well,(unavailable)");
    // A request that is wrong is wrong for everybody.
    first.tell(Script::Fail(vec![], Code::InvalidArgument));
    let events = all(submit(&rig, text(3, "Hello!")).await.unwrap()).await;
    assert_eq!((ending(&events), second.asked().len()), (Err("invalid_argument".to_owned()), 1));
}

#[tokio::test]
async fn nobody_who_answers_is_said_in_words() {
    let rig = Rig::new(&DEF).start().await;
    let events = all(submit(&rig, text(1, "Hello!")).await.unwrap()).await;
    let Some(Event::Error(error)) = events.last() else { panic!("{events:?}") };
    assert_eq!(error.message, "this fleet has no agent that answers turns");
    assert_eq!(
        (error.trace_id.as_str(), error.agent.as_str()),
        (accepted(&events).turn_id.as_str(), rig.id().to_string().as_str())
    );
    let handler = Handler::new(Script::Say(vec!["Hola."]));
    let rig = Rig::new(&DEF).peer("ChitchatAgent", handler.service()).start().await;
    let request = pb::SubmitRequest { reply_language: "es".into(), ..text(1, "Hello!") };
    assert_eq!(ending(&all(submit(&rig, request).await.unwrap()).await), Err("unavailable".to_owned()));
}

#[tokio::test]
async fn wrong_requests_and_pictures_are_refused_before_they_are_taken() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Yes."])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({})).await;
    let wrong =
        pb::SubmitRequest { idempotency_key: vec![1], transcript: "b".into(), user_id: " ".into(), ..text(1, "a") };
    let fault = submit(&rig, wrong).await.err().unwrap();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!((fault.code, named), (Code::InvalidArgument, vec!["idempotency_key", "user_id", "text"]));
    let picture = pb::SubmitRequest { image_ids: vec!["i".into()], ..text(2, "") };
    let fault = submit(&rig, picture).await.err().unwrap();
    assert_eq!((fault.code, fault.message.contains("VisionProcessingAgent")), (Code::Unavailable, true));
    let confirm = pb::ConfirmRequest { user_id: "ana".into(), token: "t".into(), yes: true, ..Default::default() };
    let fault = rig.client().unary(coordinator::CONFIRM, confirm, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::NotFound);
    assert!(handler.asked().is_empty());
}

#[tokio::test]
async fn a_turn_ends_when_its_time_is_up() {
    let (handler, sessions) = (Handler::new(Script::Stall(vec![])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({})).await;
    let call = rig.call().within(Duration::from_millis(100), Instant::now());
    let events = rig.client().server_stream(coordinator::SUBMIT, text(1, "Hello!"), &call).await.unwrap();
    // The stream has the same deadline, so the caller may learn of it from there.
    drop(events);
    until("the handler is left", || handler.open() == 0).await;
    until("the end is told", || {
        rig.events().iter().any(|e| e.topic == "turn.finished" && e.payload["code"] == "deadline_exceeded")
    })
    .await;
}

#[tokio::test]
async fn people_come_and_go() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Hi."])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({})).await;
    let presence = || -> Vec<String> {
        let events = rig.events().into_iter().filter(|e| e.topic.starts_with("user."));
        events.map(|e| format!("{} {}", e.topic, e.payload["user"].as_str().unwrap())).collect()
    };
    all(submit(&rig, text(1, "Hello!")).await.unwrap()).await;
    rig.clock.advance(Duration::from_secs(299));
    rig.reconcile("idle").await.unwrap();
    all(submit(&rig, text(2, "Hello?")).await.unwrap()).await;
    rig.clock.advance(Duration::from_secs(300));
    rig.reconcile("idle").await.unwrap();
    all(submit(&rig, text(3, "Back.")).await.unwrap()).await;
    until("all is told", || presence().len() == 3).await;
    assert_eq!(presence(), ["user.active ana", "user.idle ana", "user.active ana"]);
}

#[tokio::test]
async fn health_says_when_nobody_can_answer() {
    let (handler, sessions) = (Handler::new(Script::Say(vec!["Hi."])), Sessions::default());
    let rig = rig(&handler, &sessions, json!({})).await;
    rig.reconcile("handlers").await.unwrap();
    assert_eq!(rig.health().state, State::Ready);
    let chitchat = "solo/peer_0/ChitchatAgent".parse().unwrap();
    rig.peers().heard(&chitchat, State::Unavailable);
    rig.reconcile("handlers").await.unwrap();
    assert_eq!(rig.health().cause, "nobody can answer turns: ChitchatAgent cannot serve");
    // It is asked all the same, because its own word on why is the best answer there is.
    handler.tell(Script::Fail(vec![], Code::Unavailable));
    let events = all(submit(&rig, text(1, "Hello!")).await.unwrap()).await;
    let Some(Event::Error(error)) = events.last() else { panic!("{events:?}") };
    assert_eq!((error.reason.as_str(), error.message.as_str()), (reason::ENGINE_LOST, "told to fail"));
}

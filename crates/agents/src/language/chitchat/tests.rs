//! Prompts as snapshots, what gives way, and the agent through its contract.

use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::json;
use tandem_contract::Service;
use tandem_contract::pb::tandem::common::v1::TokenUsage;
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::handle_response::Part;
use tandem_contract::pb::tandem::dialogue::v1::{
    ContextItem, DescribeRequest, HandleRequest, Message as Said, Options, Outcome,
};
use tandem_contract::pb::tandem::session::v1::{GetWindowRequest, GetWindowResponse, Turn};
use tandem_contract::rpc::{dialogue, sessions};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, State, reason};

use super::DEF;
use super::logic::{HISTORY, Prompt, Reply, reply_language, room, written_language};
use crate::language::tongue::Tongue;
use crate::testing::{FakeEngine, Script};

fn said(role: &str, content: &str) -> Said {
    Said { role: role.into(), content: content.into(), ..Default::default() }
}

fn ask(text: &str) -> HandleRequest {
    HandleRequest {
        turn_id: "0123456789abcdef0123456789abcdef".into(),
        user_id: "ana".into(),
        text: text.into(),
        history_read: true,
        priority: 2,
        ..Default::default()
    }
}

fn shown(prompt: &Prompt) -> String {
    prompt.messages.iter().map(|m| format!("[{}] {}", m.role, m.content)).collect::<Vec<_>>().join("\n")
}

#[test]
fn prompts_read_like_this() {
    let history = [said("user", "I am Ana."), said("assistant", "Hello, Ana!")];
    let mut request = ask("What is my name?");
    let en = Prompt::build(&Reply::Known(Tongue::En), &request, &history);
    insta::assert_snapshot!("en", shown(&en));
    let item = |id: &str, text: &str| ContextItem { id: id.into(), text: text.into(), ..Default::default() };
    request.context = vec![item("m1", "Her cat is called Muning."), item("m2", "She lives in Iloilo.\n")];
    let languages = [Reply::Known(Tongue::Tl), Reply::Known(Tongue::Taglish), Reply::Other("es".into())];
    for language in languages {
        insta::assert_snapshot!(language.tag(), shown(&Prompt::build(&language, &request, &[])));
    }
}

#[test]
fn the_answer_is_in_the_language_of_the_question() {
    let before = [said("user", "Kumusta ka na?"), said("assistant", "I am fine, what is it that you need?")];
    for (wanted, text, history, tag) in [
        ("", "What is the time?", &before[..], "en"),
        ("", "Pwede mo ba i-check yung schedule ko tomorrow?", &before[..], "taglish"),
        ("", "ok", &before[..], "tl"),
        ("", "ok", &[][..], "en"),
        ("fil", "What is the time?", &[][..], "tl"),
        ("es", "What is the time?", &[][..], "es"),
    ] {
        assert_eq!(reply_language(wanted, text, history).tag(), tag, "{wanted} {text}");
    }
}

#[test]
fn the_language_of_an_answer_is_the_one_it_is_in() {
    for (asked, written, tag) in [
        ("tl", "I can do that for you.", "en"),
        ("en", "I can do that for you.", "en"),
        ("en", "Kaya ko iyan para sa iyo.", "tl"),
        ("tl", "42", "tl"),
        ("es", "I can do that for you.", "es"),
    ] {
        assert_eq!(written_language(asked, written), tag, "{asked}: {written}");
    }
}

#[test]
fn an_answer_leaves_a_quarter_of_the_context_to_the_prompt() {
    for (context, answer, left) in [(4_096, 300, 3_796), (2_048, 2_000, 512), (2_048, 9_000, 512), (0, 300, 0)] {
        assert_eq!(room(context, answer), left, "{context} {answer}");
    }
}

proptest! {
    /// Chat forms want a system message, then a person and the assistant in turn, a person last; nothing said now is lost.
    #[test]
    fn any_history_becomes_a_conversation_in_turns(
        history in proptest::collection::vec((any::<bool>(), "[a-z ]{0,12}"), 0..30),
        drops in 0usize..20,
        tongue in proptest::sample::select(vec![Tongue::En, Tongue::Taglish]),
    ) {
        let history: Vec<Said> = history.iter().map(|(user, t)| said(if *user { "user" } else { "assistant" }, t)).collect();
        let language = Reply::Known(tongue);
        let fixed = Prompt::build(&language, &ask("now"), &[]).messages;
        let fixed = &fixed[..fixed.len() - 1];
        let mut prompt = Prompt::build(&language, &ask("now"), &history);
        let before = prompt.messages.len();
        for _ in 0..drops {
            prompt.drop_oldest();
        }
        prop_assert_eq!(before - prompt.messages.len(), prompt.dropped as usize);
        prop_assert!(prompt.messages.len() <= fixed.len() + HISTORY + 1);
        prop_assert_eq!(&prompt.messages[..fixed.len()], fixed);
        for (n, message) in prompt.messages.iter().enumerate() {
            prop_assert_eq!(&message.role, match n { 0 => "system", _ if n % 2 == 1 => "user", _ => "assistant" });
        }
        prop_assert!(prompt.messages.last().unwrap().content.ends_with("now"));
        prop_assert!(prompt.messages.len().is_multiple_of(2));
    }
}

/// The text so far and how it ended.
async fn answer(rig: &Running, request: HandleRequest) -> (String, Result<Outcome, Fault>) {
    let mut text = String::new();
    let mut stream = match rig.client().server_stream(dialogue::HANDLE, request, &rig.call()).await {
        Ok(stream) => stream,
        Err(fault) => return (text, Err(fault)),
    };
    while let Some(part) = stream.next().await {
        match part.map(|response| response.part) {
            Ok(Some(Part::Delta(piece))) => text += &piece,
            Ok(Some(Part::Outcome(outcome))) => return (text, Ok(*outcome)),
            Ok(None) => panic!("a message without a part"),
            Err(fault) => return (text, Err(fault)),
        }
    }
    panic!("the stream ended without an outcome")
}

const FAST: &[(&str, &str)] = &[("llm.fast", "llm.fast")];
const TINY_ONLY: &[(&str, &str)] = &[("llm.tiny", "llm.tiny")];

async fn rig(engine: &FakeEngine, roles: &'static [(&'static str, &'static str)]) -> Running {
    Rig::new(&DEF).peer("ModelManagerSuite", engine.manager(roles)).start().await
}

#[tokio::test]
async fn an_answer_streams_and_says_where_it_comes_from() {
    let engine = FakeEngine::start(Script::Say(&["I can", " talk."])).await;
    let rig = rig(&engine, FAST).await;
    let mut request = ask("What can you do?");
    request.context = vec![ContextItem { id: "m1".into(), text: "Her name is Ana.".into(), ..Default::default() }];
    let (text, outcome) = answer(&rig, request).await;
    let outcome = outcome.unwrap();
    assert_eq!((text.as_str(), outcome.finish_reason.as_str()), ("I can talk.", "stop"));
    let (from, usage): (_, TokenUsage) = (outcome.provenance.unwrap(), outcome.usage.unwrap());
    assert_eq!(
        (from.model.as_str(), from.role.as_str(), from.bound_to.as_str()),
        ("fake-model", "llm.fast", "llm.fast")
    );
    assert_eq!((from.language.as_str(), &from.sources[..]), ("en", &["m1".to_owned()][..]));
    assert_eq!((usage.completion_tokens, outcome.prompt_ms), (2, 3));
    let sent = engine.asked().pop().unwrap();
    assert_eq!((sent.max_tokens, sent.sampling.temperature), (300, Some(0.7)));
    assert_eq!(rig.health().state, State::Ready);
    answer(&rig, ask("And then?")).await.1.unwrap();
    let languages: Vec<String> = engine.acquired().into_iter().map(|request| request.language).collect();
    assert_eq!(languages, ["", "en"], "one to see whether there is a model, one for English, and both are kept");
}

#[tokio::test]
async fn each_conversation_gets_the_adapter_of_its_ticket() {
    let mut engine = FakeEngine::start(Script::Say(&["Hi."])).await;
    engine.adapter = "warm";
    let rig = rig(&engine, FAST).await;
    for session in ["s1", "s2", "s1"] {
        let request = HandleRequest { session_id: session.into(), ..ask("Hello, you there") };
        let from = answer(&rig, request).await.1.unwrap().provenance.unwrap();
        assert_eq!((from.model.as_str(), from.adapter.as_str()), ("fake-model", "warm"));
        assert_eq!(engine.asked().pop().unwrap().adapter, "warm");
    }
    let conversations: Vec<String> = engine.acquired().into_iter().map(|request| request.session_key).collect();
    assert_eq!(conversations, ["", "s1", "s2"], "one to see whether there is a model, and one for each conversation");
}

#[tokio::test]
async fn a_conversation_of_the_callers_own_goes_to_the_model_as_it_is() {
    let engine = FakeEngine::start(Script::Fits(5)).await;
    let rig = rig(&engine, FAST).await;
    let messages = vec![said("system", "Be odd."), said("assistant", "Hm."), said("user", "Hi.")];
    let options =
        Options { max_tokens: 7, temperature: Some(0.0), seed: Some(4), stop: vec!["!".into()], ..Default::default() };
    let request = HandleRequest { messages: messages.clone(), text: String::new(), options: options.into(), ..ask("") };
    answer(&rig, request.clone()).await.1.unwrap();
    let sent = engine.asked().pop().unwrap();
    let as_sent: Vec<Said> = sent.messages.iter().map(|m| said(&m.role, &m.content)).collect();
    assert_eq!(as_sent, messages);
    assert_eq!((sent.max_tokens, sent.sampling.temperature, sent.sampling.seed), (7, Some(0.0), Some(4)));
    assert_eq!(sent.stop, ["!"]);
    let long = HandleRequest { messages: vec![said("user", "one two three four five six")], ..request };
    let fault = answer(&rig, long).await.1.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::InvalidArgument, reason::CONTEXT_LENGTH));
    assert!(fault.message.contains('6') && fault.message.contains('5'), "{fault}");
}

#[tokio::test]
async fn in_a_session_the_oldest_messages_give_way_and_it_says_how_many() {
    let mut engine = FakeEngine::start(Script::Fits(400)).await;
    engine.context_tokens = 700;
    let rig = rig(&engine, FAST).await;
    let long = "word ".repeat(80);
    let history: Vec<Said> = (0..8).map(|n| said(if n % 2 == 0 { "user" } else { "assistant" }, &long)).collect();
    let (text, outcome) = answer(&rig, HandleRequest { history, ..ask("And now?") }).await;
    assert_eq!((text.as_str(), outcome.unwrap().dropped_history), ("It fits.", 4));
}

#[tokio::test]
async fn the_conversation_is_read_when_nobody_brought_it() {
    let engine = FakeEngine::start(Script::Say(&["Ana."])).await;
    let turn = |turn_id: &str, role: &str, text: &str| Turn {
        turn_id: turn_id.into(),
        role: role.into(),
        text: text.into(),
        ..Default::default()
    };
    let now = ask("").turn_id;
    let turns = vec![turn("1", "user", "I am Ana."), turn("1", "assistant", "Hello!"), turn(&now, "user", "Who am I?")];
    let memory = Service::new().unary(sessions::GET_WINDOW, move |_call, _request: GetWindowRequest| {
        let turns = turns.clone();
        async move { Ok(GetWindowResponse { turns, ..Default::default() }) }
    });
    let rig =
        Rig::new(&DEF).peer("ModelManagerSuite", engine.manager(FAST)).peer("SessionMemoryAgent", memory).start().await;
    let request = HandleRequest { history_read: false, session_id: "s1".into(), ..ask("Who am I?") };
    answer(&rig, request).await.1.unwrap();
    let sent: Vec<String> = engine.asked().pop().unwrap().messages.into_iter().skip(1).map(|m| m.content).collect();
    assert_eq!(sent, ["I am Ana.", "Hello!", "Who am I?"]);
}

#[tokio::test]
async fn another_model_stands_in_and_the_reply_says_so() {
    let engine = FakeEngine::start(Script::Say(&["Hi."])).await;
    let rig = rig(&engine, TINY_ONLY).await;
    let health = rig.health();
    assert_eq!(
        (health.state, health.cause.as_str()),
        (State::Degraded, "llm.tiny stands in for llm.fast: no model for llm.fast")
    );
    let from = answer(&rig, ask("Hello, you there")).await.1.unwrap().provenance.unwrap();
    assert_eq!((from.role.as_str(), from.bound_to.as_str()), ("llm.fast", "llm.tiny"));
    assert_eq!(from.fallback_reason, "no model for llm.fast");
}

#[tokio::test]
async fn without_a_model_it_says_only_that() {
    let engine = FakeEngine::start(Script::Say(&[])).await;
    let rig = rig(&engine, &[]).await;
    assert_eq!((rig.health().state, rig.health().cause.as_str()), (State::Unavailable, "no model for llm.fast"));
    let (text, outcome) = answer(&rig, ask("Hello, you there")).await;
    let fault = outcome.unwrap_err();
    assert_eq!(
        (text.as_str(), fault.message.as_str(), fault.reason.as_str()),
        ("", "no model for llm.fast", reason::NO_MODEL)
    );
    let named = answer(&rig, HandleRequest { model: "llm.smart".into(), ..ask("Hello, you there") }).await.1;
    assert_eq!(named.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn what_was_said_before_the_engine_died_stays_said() {
    let engine = FakeEngine::start(Script::Die(&["Half an", " answer"])).await;
    let rig = rig(&engine, FAST).await;
    let (text, outcome) = answer(&rig, ask("What can you do?")).await;
    let fault = outcome.unwrap_err();
    assert_eq!((text.as_str(), fault.reason.as_str()), ("Half an answer", reason::ENGINE_LOST));
    engine.tell(Script::Say(&["Whole."]));
    assert_eq!(answer(&rig, ask("What can you do?")).await.0, "Whole.");
}

#[tokio::test]
async fn a_model_that_stalls_is_left_in_time() {
    let engine = FakeEngine::start(Script::Stall(&[])).await;
    let settings = json!({"first_token_s": 0.05, "whole_s": 0.2});
    let rig = Rig::new(&DEF).settings(settings).peer("ModelManagerSuite", engine.manager(FAST)).start().await;
    let (text, outcome) = answer(&rig, ask("What can you do?")).await;
    assert_eq!((text.as_str(), outcome.unwrap_err().reason.as_str()), ("", reason::TIME_UP));
    engine.tell(Script::Stall(&["Well,"]));
    let (text, outcome) = answer(&rig, ask("What can you do?")).await;
    assert_eq!((text.as_str(), outcome.unwrap_err().reason.as_str()), ("Well,", reason::TIME_UP));
}

#[tokio::test]
async fn uses_are_recorded_with_their_outcome() {
    let engine = FakeEngine::start(Script::Say(&["Hi", "."])).await;
    let rig = rig(&engine, FAST).await;
    answer(&rig, ask("What can you do?")).await.1.unwrap();
    engine.tell(Script::Stall(&["Well,"]));
    let mut left = rig.client().server_stream(dialogue::HANDLE, ask("And then?"), &rig.call()).await.unwrap();
    left.next().await.unwrap().unwrap();
    drop(left);
    while engine.used().len() < 2 {
        tokio::task::yield_now().await;
    }
    let outcomes: Vec<(String, u32)> =
        engine.used().into_iter().map(|u| (u.outcome, u.usage.completion_tokens)).collect();
    assert_eq!(outcomes, [("ok".to_owned(), 2), ("cancelled".to_owned(), 0)]);
}

#[tokio::test]
async fn it_describes_what_it_is_good_at() {
    let engine = FakeEngine::start(Script::Say(&[])).await;
    let rig = rig(&engine, FAST).await;
    let described = rig.client().unary(dialogue::DESCRIBE, DescribeRequest::default(), &rig.call()).await.unwrap();
    assert_eq!((described.agent, described.role), (rig.id().to_string(), "llm.fast".to_owned()));
    assert_eq!(described.languages, ["en", "tl", "taglish"]);
    assert!(!described.side_effects && described.capability["chat"] >= 0.9);
    assert_eq!(described.parallel, 2, "as many as the engine has slots");
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let engine = FakeEngine::start(Script::Say(&[])).await;
    let rig = rig(&engine, FAST).await;
    let messages = vec![said("tool", "x"), said("user", "y"), said("", "z")];
    let fault = answer(&rig, HandleRequest { messages, ..ask("") }).await.1.unwrap_err();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["messages[0].role", "messages[2].role"]);
    assert_eq!(answer(&rig, ask(" ")).await.1.unwrap_err().violations[0].field, "text");
}

//! What is asked for a summary, and the agent through its contract.

use std::time::{Duration, Instant};

use serde_json::json;
use tandem_contract::Call;
use tandem_contract::pb::tandem::session::v1::{
    AmendTurnRequest, AppendTurnRequest, CreateSessionRequest, EndSessionRequest, GetWindowRequest, GetWindowResponse,
    ListSessionsRequest, SearchTurnsRequest, Turn,
};
use tandem_contract::rpc::sessions;
use tandem_store::sessions::{Entry, NewEntry, Speaker, Summary};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, State, Timestamp, TurnId, UserId, reason};

use super::{DEF, logic};
use crate::testing::{FakeEngine, Script};

fn entry(number: u64, speaker: Speaker, text: &str) -> Entry {
    Entry {
        number,
        session: "s".parse().unwrap(),
        said: NewEntry {
            turn: TurnId([number as u8 / 2; 16]),
            speaker,
            text: text.into(),
            language: "en".into(),
            spans: String::new(),
            handler: String::new(),
            source: String::new(),
            tokens: 0,
        },
        amended: None,
        at: Timestamp(0),
    }
}

#[test]
fn a_summary_is_asked_for_in_these_words() {
    let former = Summary {
        through: 1,
        turns: vec![TurnId([9; 16])],
        text: "Ana is called Ana.".into(),
        tokens: 5,
        model: "m".into(),
        at: Timestamp(0),
    };
    let entries = [
        entry(2, Speaker::User, "My cat is three."),
        Entry { amended: Some("How".into()), ..entry(3, Speaker::Assistant, "How nice! What is its name?") },
    ];
    let asked = logic::ask(Some(&former), &entries, 1_000).unwrap();
    assert_eq!((asked.through, &asked.turns[..]), (3, &[TurnId([9; 16]), TurnId([1; 16])][..]));
    let text: Vec<String> = asked.messages.iter().map(|m| format!("[{}]\n{}", m.role, m.content)).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    [system]
    You shorten conversations between a user and an assistant. Write what a reader must know to go on: names, numbers, dates,
    decisions, wishes, promises and open questions. Keep what the summary so far says. Write plain sentences in the language of
    the conversation, at most 120 words. Add nothing that was not said.
    [user]
    Summary so far:
    Ana is called Ana.

    Conversation:
    user: My cat is three.
    assistant: How
    ");
}

#[test]
fn a_request_for_a_summary_stays_inside_its_room() {
    let entries: Vec<Entry> = (1..=40).map(|n| entry(n, Speaker::User, &"é".repeat(50))).collect();
    for room in [0, 100, 200, 400, 2_000] {
        let asked = logic::ask(None, &entries, room).unwrap();
        let chars: usize = asked.messages.iter().map(|m| m.content.len()).sum();
        assert!(chars <= (room as usize * 3).max(600), "{room}: {chars}");
        assert!(asked.through >= 1 && asked.through <= 40);
    }
    assert_eq!(logic::ask(None, &entries, 10_000).unwrap().through, 40);
    assert_eq!(logic::ask(None, &[], 10_000), None);
}

/// With time for a busy machine; the 200 ms of a call without a deadline are the contract's.
fn call(rig: &Running) -> Call {
    rig.call().within(Duration::from_secs(20), Instant::now())
}

fn key(n: u64) -> Vec<u8> {
    u128::from(n).to_be_bytes().to_vec()
}

async fn begin(rig: &Running, user: &str, session: &str) {
    let request = CreateSessionRequest {
        idempotency_key: key(1_000_000 + session.len() as u64),
        user_id: user.into(),
        session_id: session.into(),
        channel: "cli".into(),
        ..Default::default()
    };
    rig.client().unary(sessions::CREATE_SESSION, request, &call(rig)).await.unwrap();
}

fn said(n: u64, user: &str, session: &str, role: &str, text: &str) -> AppendTurnRequest {
    let turn = Turn {
        turn_id: TurnId(u128::from(n / 2).to_be_bytes()).to_string(),
        role: role.into(),
        text: text.into(),
        ..Default::default()
    };
    AppendTurnRequest {
        idempotency_key: key(n),
        user_id: user.into(),
        session_id: session.into(),
        turn: turn.into(),
        ..Default::default()
    }
}

async fn append(rig: &Running, request: AppendTurnRequest) -> Result<u64, Fault> {
    rig.client().unary(sessions::APPEND_TURN, request, &call(rig)).await.map(|r| r.number)
}

async fn window(rig: &Running, user: &str, session: &str) -> Result<GetWindowResponse, Fault> {
    let request = GetWindowRequest { user_id: user.into(), session_id: session.into(), ..Default::default() };
    rig.client().unary(sessions::GET_WINDOW, request, &call(rig)).await
}

#[tokio::test]
async fn a_conversation_is_kept_word_for_word_across_a_restart() {
    let mut rig = Rig::new(&DEF).start().await;
    begin(&rig, "ana", "s1").await;
    let hello = said(2, "ana", "s1", "user", "Kumusta, ako si Ana.");
    assert_eq!(append(&rig, hello.clone()).await, Ok(1));
    assert_eq!(append(&rig, hello).await, Ok(1), "the same key and body is the same entry");
    assert_eq!(append(&rig, said(3, "ana", "s1", "assistant", "Kumusta, Ana!")).await, Ok(2));
    let reused = append(&rig, said(3, "ana", "s1", "assistant", "Something else")).await.unwrap_err();
    assert_eq!((reused.code, reused.reason.as_str()), (Code::Conflict, reason::KEY_REUSED));
    rig.restart().await;
    let kept = window(&rig, "ana", "s1").await.unwrap();
    let text: Vec<&str> = kept.turns.iter().map(|t| t.text.as_str()).collect();
    assert_eq!((text, kept.truncated), (vec!["Kumusta, ako si Ana.", "Kumusta, Ana!"], false));
    assert_eq!(window(&rig, "ben", "s1").await.unwrap_err().code, Code::NotFound);
    let search = SearchTurnsRequest { user_id: "ana".into(), query: "ako".into(), ..Default::default() };
    let hits = rig.client().unary(sessions::SEARCH_TURNS, search, &call(&rig)).await.unwrap().hits;
    assert_eq!(hits.iter().map(|h| h.turn.number).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn every_wrong_field_is_named_and_an_ended_session_takes_nothing() {
    let rig = Rig::new(&DEF).start().await;
    let mut bad = said(2, "a b", "", "system", "");
    bad.idempotency_key.truncate(3);
    let fault = append(&rig, bad).await.unwrap_err();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["idempotency_key", "user_id", "session_id", "turn.role", "turn.text"]);
    begin(&rig, "ana", "s1").await;
    let end = EndSessionRequest { user_id: "ana".into(), session_id: "s1".into(), ..Default::default() };
    rig.client().unary(sessions::END_SESSION, end, &call(&rig)).await.unwrap();
    let late = append(&rig, said(2, "ana", "s1", "user", "hello?")).await.unwrap_err();
    assert_eq!(late.code, Code::FailedPrecondition);
}

#[tokio::test]
async fn after_a_barge_in_only_what_was_spoken_counts() {
    let rig = Rig::new(&DEF).start().await;
    begin(&rig, "ana", "s1").await;
    append(&rig, said(2, "ana", "s1", "user", "Tell me a story.")).await.unwrap();
    append(&rig, said(3, "ana", "s1", "assistant", "Once upon a time there was a king.")).await.unwrap();
    let amend = AmendTurnRequest {
        idempotency_key: key(77),
        user_id: "ana".into(),
        session_id: "s1".into(),
        turn_id: TurnId(1u128.to_be_bytes()).to_string(),
        role: "assistant".into(),
        text: "Once upon a time".into(),
        ..Default::default()
    };
    rig.client().unary(sessions::AMEND_TURN, amend.clone(), &call(&rig)).await.unwrap();
    let last = window(&rig, "ana", "s1").await.unwrap().turns.pop().unwrap();
    assert_eq!(last.amended_text, "Once upon a time");
    let silent = AmendTurnRequest { idempotency_key: key(78), text: String::new(), ..amend };
    rig.client().unary(sessions::AMEND_TURN, silent, &call(&rig)).await.unwrap();
    let last = window(&rig, "ana", "s1").await.unwrap().turns.pop().unwrap();
    assert_eq!((last.text.as_str(), last.amended_text.as_str()), ("", ""), "interrupted before the first word");
}

#[tokio::test]
async fn what_it_keeps_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new(&DEF).start().await;
    begin(&rig, "ana", "s1").await;
    begin(&rig, "ben", "s22").await;
    append(&rig, said(2, "ana", "s1", "user", "hello")).await.unwrap();
    append(&rig, said(3, "ana", "s1", "assistant", "hello, Ana")).await.unwrap();
    append(&rig, said(4, "ben", "s22", "user", "bye")).await.unwrap();
    window(&rig, "ana", "s1").await.unwrap();
    let end = EndSessionRequest { user_id: "ben".into(), session_id: "s22".into(), ..Default::default() };
    rig.client().unary(sessions::END_SESSION, end, &call(&rig)).await.unwrap();
    rig.reconcile("sweep").await.unwrap();
    let page = recorder.handle().render();
    for line in [
        "tandem_sessions_open 1",
        "tandem_sessions_unremembered 1",
        "tandem_window_tokens_count 1",
        "tandem_window_tokens_sum 6",
        "tandem_turns_stored_total{role=\"user\"} 2",
        "tandem_turns_stored_total{role=\"assistant\"} 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

async fn long_talk(rig: &Running) {
    begin(rig, "ana", "s1").await;
    for n in 2..502 {
        let role = if n % 2 == 0 { "user" } else { "assistant" };
        append(rig, said(n, "ana", "s1", role, &format!("entry {n} {}", "word ".repeat(60)))).await.unwrap();
    }
}

#[tokio::test]
async fn five_hundred_turns_fit_the_window_and_the_rest_is_summarised() {
    let engine = FakeEngine::start(Script::Say(&["They spoke", " of entries."])).await;
    let manager = engine.manager(&[("llm.fast", "llm.fast")]);
    let rig = Rig::new(&DEF).peer("ModelManagerSuite", manager).start().await;
    long_talk(&rig).await;
    let before = window(&rig, "ana", "s1").await.unwrap();
    assert!(before.truncated && before.tokens <= 2_000);
    rig.reconcile("summarise").await.unwrap();
    let after = window(&rig, "ana", "s1").await.unwrap();
    assert_eq!((after.summary.as_str(), after.truncated), ("They spoke of entries.", false));
    assert!(after.tokens <= 2_000 && after.turns.len() <= 20, "{} tokens", after.tokens);
    assert!(after.turns.last().unwrap().text.starts_with("entry 501 "));
    assert!(engine.asked().iter().all(|request| request.priority == 10));
    // A further entry is no reason for a further summary, and now there is a tokenizer to count it with.
    let written = engine.asked().len();
    append(&rig, said(600, "ana", "s1", "user", "four words are here")).await.unwrap();
    rig.reconcile("summarise").await.unwrap();
    assert_eq!(engine.asked().len(), written);
    assert_eq!(window(&rig, "ana", "s1").await.unwrap().turns.pop().unwrap().tokens, 4);
    assert_eq!(rig.health().state, State::Ready);
}

#[tokio::test]
async fn without_a_model_windows_are_cut_and_health_says_so() {
    let engine = FakeEngine::start(Script::Say(&[])).await;
    let rig = Rig::new(&DEF).peer("ModelManagerSuite", engine.manager(&[])).start().await;
    long_talk(&rig).await;
    rig.reconcile("summarise").await.unwrap();
    let cut = window(&rig, "ana", "s1").await.unwrap();
    assert_eq!((cut.summary.as_str(), cut.truncated), ("", true));
    let health = rig.health();
    assert_eq!(health.state, State::Degraded);
    assert!(health.cause.ends_with("no model for llm.fast"), "{}", health.cause);
}

#[tokio::test]
async fn a_session_ends_after_an_hour_of_silence() {
    let rig = Rig::new(&DEF).settings(json!({"sweep_s": 300})).start().await;
    begin(&rig, "ana", "s1").await;
    append(&rig, said(2, "ana", "s1", "user", "hello")).await.unwrap();
    let ended = async || {
        rig.reconcile("sweep").await.unwrap();
        let list = ListSessionsRequest { user_id: "ana".into(), ..Default::default() };
        rig.client().unary(sessions::LIST_SESSIONS, list, &call(&rig)).await.unwrap().sessions[0].ended_us > 0
    };
    rig.clock.advance(Duration::from_secs(3_599));
    assert!(!ended().await);
    rig.clock.advance(Duration::from_secs(1));
    assert!(ended().await);
}

#[tokio::test]
async fn entries_are_kept_as_long_as_the_settings_say() {
    let settings = json!({"keep_days": 2, "keep_days_of": {"ben": "unlimited", "cora": 0}, "idle_s": 60});
    let rig = Rig::new(&DEF).settings(settings).start().await;
    for (n, user) in (1..).zip(["ana", "ben", "cora"]) {
        begin(&rig, user, &format!("{n}{}", "s".repeat(n))).await;
        append(&rig, said(2 * n as u64, user, &format!("{n}{}", "s".repeat(n)), "user", "hello")).await.unwrap();
    }
    let left = async || {
        rig.reconcile("sweep").await.unwrap();
        let mut left = Vec::new();
        for user in ["ana", "ben", "cora"] {
            let list = ListSessionsRequest { user_id: user.into(), ..Default::default() };
            left.push(rig.client().unary(sessions::LIST_SESSIONS, list, &call(&rig)).await.unwrap().sessions.len());
        }
        left
    };
    assert_eq!(left().await, [1, 1, 1]);
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(left().await, [1, 1, 0]);
    rig.clock.advance(Duration::from_hours(48));
    assert_eq!(left().await, [0, 1, 0]);
    let wrong = Rig::new(&DEF).settings(json!({"keep_days": "some"})).try_start().await;
    assert!(wrong.err().unwrap().message.contains("SessionMemoryAgent"));
}

#[tokio::test]
async fn a_person_can_be_forgotten() {
    let rig = Rig::new(&DEF).start().await;
    begin(&rig, "ana", "s1").await;
    append(&rig, said(2, "ana", "s1", "user", "my secret")).await.unwrap();
    let forgotten = rig.stores()[0].forget(&UserId::new("ana").unwrap()).await.unwrap();
    assert!(forgotten.rows() > 0);
    assert_eq!(window(&rig, "ana", "s1").await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn an_unknown_setting_is_refused() {
    let refused = Rig::new(&DEF).settings(json!({"window_token": 1})).try_start().await;
    let fault = refused.err().unwrap();
    assert!(fault.message.contains("window_token"), "{fault}");
}

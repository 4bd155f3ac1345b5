//! The agents a turn meets, told what to do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tandem_contract::pb::tandem::common::v1::{Provenance, Source, TokenUsage};
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::compose_request::Part as ComposePart;
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::handle_response::Part;
use tandem_contract::pb::tandem::dialogue::v1::{
    ComposeRequest, ComposeResponse, DescribeRequest, DescribeResponse, HandleRequest, HandleResponse, Outcome,
};
use tandem_contract::pb::tandem::session::v1::{
    AppendTurnRequest, AppendTurnResponse, CreateSessionRequest, CreateSessionResponse, GetTurnRequest,
    GetTurnResponse, GetWindowRequest, GetWindowResponse, Turn,
};
use tandem_contract::rpc::{coordinator, dialogue, sessions};
use tandem_contract::{FaultStream, Service};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, reason};
use tokio::sync::Semaphore;

use crate::control::request_coordinator::DEF;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a handler does with a turn.
#[derive(Debug, Clone)]
pub(super) enum Script {
    /// Says these pieces and ends.
    Say(Vec<&'static str>),
    /// Says these pieces and fails; without pieces it fails before the first.
    Fail(Vec<&'static str>, Code),
    /// Says these pieces and then nothing more.
    Stall(Vec<&'static str>),
}

/// A dialogue handler.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) capability: f64,
    pub(super) side_effects: bool,
    /// Turns it says it can answer side by side.
    pub(super) parallel: u32,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<HandleRequest>>>,
    /// Streams that are open now, and most at once.
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// When there, every answer takes one before it begins.
    gate: Option<Arc<Semaphore>>,
}

/// Counts an open stream until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler {
    pub(super) fn new(script: Script) -> Self {
        Self {
            capability: 0.9,
            side_effects: false,
            parallel: 0,
            script: Arc::new(Mutex::new(script)),
            asked: Arc::default(),
            open: Arc::default(),
            most: Arc::default(),
            gate: None,
        }
    }

    /// Answers begin only as the gate lets them.
    pub(super) fn gated(mut self) -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        self.gate = Some(gate.clone());
        (self, gate)
    }

    pub(super) fn tell(&self, script: Script) {
        *lock(&self.script) = script;
    }

    pub(super) fn asked(&self) -> Vec<HandleRequest> {
        lock(&self.asked).clone()
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub(super) fn service(&self) -> Service {
        let (answering, describing) = (self.clone(), self.clone());
        Service::new()
            .server_stream(dialogue::HANDLE, move |_call, request: HandleRequest| {
                let handler = answering.clone();
                async move {
                    let now = handler.open.fetch_add(1, Ordering::SeqCst) + 1;
                    handler.most.fetch_max(now, Ordering::SeqCst);
                    let open = Open(handler.open.clone());
                    lock(&handler.asked).push(request);
                    if let Some(gate) = &handler.gate {
                        gate.acquire().await.unwrap().forget();
                    }
                    let script = lock(&handler.script).clone();
                    let parts = parts(script)?;
                    Ok(parts
                        .map(move |part| {
                            let _open = &open;
                            part
                        })
                        .boxed())
                }
            })
            .unary(dialogue::DESCRIBE, move |_call, _request: DescribeRequest| {
                let handler = describing.clone();
                async move {
                    Ok(DescribeResponse {
                        languages: vec!["en".into(), "tl".into()],
                        capability: [("unknown".to_owned(), handler.capability)].into_iter().collect(),
                        side_effects: handler.side_effects,
                        role: "llm.fast".into(),
                        parallel: handler.parallel,
                        ..Default::default()
                    })
                }
            })
    }
}

fn parts(script: Script) -> Result<FaultStream<HandleResponse>, Fault> {
    let part = |part: Part| Ok(HandleResponse { part: Some(part), ..Default::default() });
    let text = |pieces: Vec<&'static str>| {
        futures::stream::iter(pieces.into_iter().map(move |piece| part(Part::Delta(piece.into()))))
    };
    Ok(match script {
        Script::Say(pieces) => {
            let outcome = Outcome {
                provenance: Provenance {
                    source: Source::SOURCE_MODEL.into(),
                    model: "fake-model".into(),
                    language: "en".into(),
                    ..Default::default()
                }
                .into(),
                usage: TokenUsage { completion_tokens: pieces.len() as u32, prompt_tokens: 5, ..Default::default() }
                    .into(),
                finish_reason: "stop".into(),
                generate_ms: 10,
                prompt_ms: 4,
                ..Default::default()
            };
            text(pieces).chain(futures::stream::iter([part(Part::from(outcome))])).boxed()
        }
        Script::Fail(pieces, code) => {
            let fault = Fault::new(code, reason::ENGINE_LOST, "told to fail");
            if pieces.is_empty() {
                return Err(fault);
            }
            text(pieces).chain(futures::stream::iter([Err(fault)])).boxed()
        }
        Script::Stall(pieces) => text(pieces).chain(futures::stream::pending()).boxed(),
    })
}

/// Keeps sessions in memory, as SessionMemoryAgent promises to.
#[derive(Clone, Default)]
pub(super) struct Sessions {
    entries: Arc<Mutex<HashMap<String, Vec<Turn>>>>,
    keys: Arc<Mutex<HashMap<Vec<u8>, AppendTurnRequest>>>,
    /// Every call fails so.
    pub(super) fails: Arc<Mutex<Option<Fault>>>,
    /// Sessions that take nothing more.
    pub(super) ended: Arc<Mutex<Vec<String>>>,
}

impl Sessions {
    /// What a session heard: who and what.
    pub(super) fn said(&self, session: &str) -> Vec<(String, String)> {
        let entries = lock(&self.entries);
        entries.get(session).into_iter().flatten().map(|t| (t.role.clone(), t.text.clone())).collect()
    }

    /// A session that heard this before.
    pub(super) fn put(&self, session: &str, said: &[(&str, &str)]) {
        let turns = said.iter().map(|(role, text)| Turn {
            turn_id: "00".repeat(16),
            role: (*role).into(),
            text: (*text).into(),
            ..Default::default()
        });
        lock(&self.entries).insert(session.into(), turns.collect());
    }

    /// A session in which a turn was answered.
    pub(super) fn answered(&self, session: &str, turn: &str, text: &str) {
        let turn = Turn { turn_id: turn.into(), role: "assistant".into(), text: text.into(), ..Default::default() };
        lock(&self.entries).entry(session.into()).or_default().push(turn);
    }

    fn failing(&self) -> Result<(), Fault> {
        lock(&self.fails).clone().map_or(Ok(()), Err)
    }

    fn append(&self, request: AppendTurnRequest) -> Result<AppendTurnResponse, Fault> {
        self.failing()?;
        if lock(&self.ended).contains(&request.session_id) {
            return Err(Fault::new(Code::FailedPrecondition, "ended", "the session has ended"));
        }
        match lock(&self.keys).get(&request.idempotency_key) {
            Some(first) if *first == request => return Ok(AppendTurnResponse::default()),
            Some(_) => return Err(Fault::new(Code::Conflict, reason::KEY_REUSED, "another body")),
            None => {}
        }
        let mut entries = lock(&self.entries);
        let session = entries.get_mut(&request.session_id).ok_or_else(|| Fault::not_found("no such session"))?;
        lock(&self.keys).insert(request.idempotency_key.clone(), request.clone());
        session.push(request.turn.into_option().unwrap_or_default());
        Ok(AppendTurnResponse { number: session.len() as u64, ..Default::default() })
    }

    pub(super) fn service(&self) -> Service {
        let [create, append, window, turn] = [self.clone(), self.clone(), self.clone(), self.clone()];
        Service::new()
            .unary(sessions::CREATE_SESSION, move |_call, request: CreateSessionRequest| {
                let sessions = create.clone();
                async move {
                    sessions.failing()?;
                    lock(&sessions.entries).entry(request.session_id).or_default();
                    Ok(CreateSessionResponse::default())
                }
            })
            .unary(sessions::APPEND_TURN, move |_call, request| {
                let sessions = append.clone();
                async move { sessions.append(request) }
            })
            .unary(sessions::GET_WINDOW, move |_call, request: GetWindowRequest| {
                let sessions = window.clone();
                async move {
                    sessions.failing()?;
                    let turns = lock(&sessions.entries).get(&request.session_id).cloned();
                    let turns = turns.ok_or_else(|| Fault::not_found("no such session"))?;
                    Ok(GetWindowResponse { turns, summary: "They met.".into(), ..Default::default() })
                }
            })
            .unary(sessions::GET_TURN, move |_call, request: GetTurnRequest| {
                let sessions = turn.clone();
                async move {
                    let of = |turn: &&Turn| turn.turn_id == request.turn_id;
                    let turns: Vec<Turn> = lock(&sessions.entries).values().flatten().filter(of).cloned().collect();
                    if turns.is_empty() {
                        Err(Fault::not_found("no such turn"))
                    } else {
                        Ok(GetTurnResponse { turns, ..Default::default() })
                    }
                }
            })
    }
}

/// A Responder that makes a segment of each piece it gets.
pub(super) fn composer() -> Service {
    Service::new().bidi(dialogue::COMPOSE, |_call, requests: FaultStream<ComposeRequest>| async move {
        let segments = requests.filter_map(|request| async move {
            let display = match request.ok()?.part? {
                ComposePart::Audience(_) => return None,
                ComposePart::Delta(text) => text,
                ComposePart::Error(error) => format!("({})", error.code),
            };
            Some(Ok(ComposeResponse { speech_text: display.clone(), display, ..Default::default() }))
        });
        Ok(segments.boxed())
    })
}

/// The coordinator with one handler, sessions and a composer.
pub(super) async fn rig(handler: &Handler, sessions: &Sessions, settings: serde_json::Value) -> Running {
    Rig::new(&DEF)
        .settings(settings)
        .peer("ChitchatAgent", handler.service())
        .peer("SessionMemoryAgent", sessions.service())
        .peer("Responder", composer())
        .start()
        .await
}

/// A request of Ana's; `n` makes its key.
pub(super) fn text(n: u32, said: &str) -> pb::SubmitRequest {
    pb::SubmitRequest {
        idempotency_key: u128::from(n).to_be_bytes().to_vec(),
        user_id: "ana".into(),
        text: said.into(),
        channel: "cli".into(),
        ..Default::default()
    }
}

pub(super) type Events = FaultStream<pb::SubmitResponse>;

/// Submits a request; an error instead of the first event is an error here.
pub(super) async fn submit(rig: &Running, request: pb::SubmitRequest) -> Result<Events, Fault> {
    let mut events = rig.client().server_stream(coordinator::SUBMIT, request, &rig.call()).await?;
    let first = events.next().await.unwrap()?;
    Ok(futures::stream::iter([Ok(first)]).chain(events).boxed())
}

/// The next event.
pub(super) async fn next(events: &mut Events) -> (u64, Event) {
    let event = events.next().await.unwrap().unwrap().event;
    (event.number, event.event.clone().unwrap())
}

/// All events that are left, checked for what every stream of a turn promises: numbers without a gap, and exactly one
/// final or error, which is the last.
pub(super) async fn all(events: Events) -> Vec<Event> {
    let events: Vec<pb::TurnEvent> = events.map(|event| event.unwrap().event.into_option().unwrap()).collect().await;
    check(&events);
    events.into_iter().map(|event| event.event.unwrap()).collect()
}

pub(super) fn check(events: &[pb::TurnEvent]) {
    assert!(events.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "a gap");
    let ends = |event: &pb::TurnEvent| matches!(event.event, Some(Event::Final(_) | Event::Error(_)));
    assert_eq!(events.iter().filter(|event| ends(event)).count(), 1, "{events:?}");
    assert!(events.last().is_some_and(ends));
}

pub(super) fn accepted(events: &[Event]) -> pb::Accepted {
    match &events[0] {
        Event::Accepted(accepted) => (**accepted).clone(),
        other => panic!("the first event is {other:?}"),
    }
}

pub(super) fn spoken(events: &[Event]) -> String {
    events.iter().filter_map(|e| if let Event::Delta(delta) = e { Some(delta.text.as_str()) } else { None }).collect()
}

pub(super) fn shown(events: &[Event]) -> String {
    events.iter().filter_map(|e| if let Event::Segment(s) = e { Some(s.display.as_str()) } else { None }).collect()
}

/// The final, or the code of the error.
pub(super) fn ending(events: &[Event]) -> Result<pb::Final, String> {
    match events.last() {
        Some(Event::Final(answer)) => Ok((**answer).clone()),
        Some(Event::Error(error)) => Err(error.code.clone()),
        other => panic!("the last event is {other:?}"),
    }
}

/// Waits until something holds; fails the test after 20 s.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "waited in vain until {what}");
}

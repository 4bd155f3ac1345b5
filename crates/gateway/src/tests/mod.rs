//! The door from outside: real connections, fake agents.

mod chat;
mod entry;
mod forwarding;
mod page;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tandem_agent::{AgentDef, Ctx, Event, Started, Topic, TopicKind};
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event as Said;
use tandem_contract::pb::tandem::coordinator::v1::{
    Accepted, CancelRequest, CancelResponse, Delta, Final, ResumeRequest, ResumeResponse, Status, SubmitRequest,
    SubmitResponse, TurnEvent,
};
use tandem_contract::rpc::coordinator;
use tandem_contract::{Call, Reply, Service, TraceParent};
use tandem_testkit::{Rig, Running};
use tandem_types::{Fault, Timestamp};
use tokio::sync::watch;

use crate::{Gateway, Settings};

pub(crate) const TURN: &str = "7f000000000000000000000000000000";

/// Longest wait for something that comes as soon as it can.
pub(crate) const SOON: Duration = Duration::from_secs(10);

const OPENED: Topic = Topic { name: "test.opened", kind: TopicKind::Live };

/// An agent that is nothing but the door; it publishes its address, and closes when told to.
static DEF: AgentDef = AgentDef {
    name: "UnifiedWebAgent",
    about: "A door.",
    provides: &[],
    needs: &[],
    uses: &[],
    roles: &[],
    publishes: &[OPENED],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DoorSettings {
    listen: SocketAddr,
    token_file: Option<PathBuf>,
    keep_alive_ms: u64,
}

impl Default for DoorSettings {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 0).into(), token_file: None, keep_alive_ms: 10_000 }
    }
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let DoorSettings { listen, token_file, keep_alive_ms } = ctx.settings()?;
    let settings = Settings {
        listen,
        token_file,
        names: vec!["mainpc.lan".into()],
        keep_alive: Duration::from_millis(keep_alive_ms),
        turn_limit: Duration::from_secs(60),
        most_connections: 16,
    };
    let gateway = Gateway::open(&ctx, settings).await?;
    ctx.publisher().publish(OPENED, "", json!(gateway.address())).await?;
    Ok(Started::default().on("test.close", move |_| {
        let gateway = gateway.clone();
        async move {
            gateway.close().await;
            Ok(())
        }
    }))
}

/// A running door.
pub(crate) struct House {
    pub(crate) rig: Running,
    pub(crate) address: SocketAddr,
}

impl House {
    pub(crate) async fn start(rig: Rig) -> Self {
        let rig = rig.start().await;
        let address = serde_json::from_value(rig.events()[0].payload.clone()).unwrap();
        Self { rig, address }
    }

    /// A door with this coordinator behind it.
    pub(crate) async fn with(coordinator: &Coordinator, settings: serde_json::Value) -> Self {
        Self::start(Rig::new(&DEF).settings(settings).peer("RequestCoordinator", coordinator.service())).await
    }

    pub(crate) async fn close(&self) {
        let event = Event {
            id: String::new(),
            topic: "test.close".into(),
            key: String::new(),
            cursor: 0,
            at: Timestamp::default(),
            payload: json!(null),
            lost: 0,
        };
        self.rig.deliver(event).await.unwrap();
    }

    /// Sends a request with these headers on a connection of its own; `host` is filled in unless it is given.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Incoming> {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap()
    }

    pub(crate) async fn chat(&self, body: &str) -> Response<Incoming> {
        self.send("POST", "/v1/chat/completions", &[JSON], body).await
    }
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

pub(crate) fn header<'a>(response: &'a Response<Incoming>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let collected = tokio::time::timeout(SOON, response.into_body().collect()).await.expect("an end comes soon");
    String::from_utf8(collected.expect("the body is whole").to_bytes().to_vec()).unwrap()
}

pub(crate) async fn value(response: Response<Incoming>) -> serde_json::Value {
    let text = text(response).await;
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The next piece of a body.
pub(crate) async fn piece(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let frame = tokio::time::timeout(SOON, body.frame()).await.expect("a piece comes soon")?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// One step of a turn.
#[derive(Clone)]
pub(crate) enum Step {
    Say(Said),
    Fail(Fault),
    /// Nothing more comes until the client leaves.
    Hang,
    /// Goes on once the gate has been opened.
    Gate,
}

pub(crate) fn accepted() -> Step {
    Step::Say(Accepted { turn_id: TURN.into(), request_id: "1".into(), ..Default::default() }.into())
}
pub(crate) fn queued(position: u32) -> Step {
    Step::Say(Status { stage: "queued".into(), position, ..Default::default() }.into())
}
pub(crate) fn delta(text: &str) -> Step {
    Step::Say(Delta { text: text.into(), ..Default::default() }.into())
}
pub(crate) fn end(text: &str) -> Step {
    use tandem_contract::pb::tandem::common::v1::{Provenance, TokenUsage};
    let usage = TokenUsage { prompt_tokens: 5, completion_tokens: 2, ..Default::default() };
    let provenance = Provenance { model: "smol".into(), ..Default::default() };
    Step::Say(
        Final {
            text: text.into(),
            finish_reason: "stop".into(),
            usage: usage.into(),
            provenance: provenance.into(),
            ..Default::default()
        }
        .into(),
    )
}

/// What a coordinator was asked.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) submitted: Vec<SubmitRequest>,
    pub(crate) traces: Vec<Option<TraceParent>>,
    pub(crate) resumed: Vec<ResumeRequest>,
    pub(crate) cancelled: Vec<CancelRequest>,
}

/// A coordinator that does as it is told.
#[derive(Clone)]
pub(crate) struct Coordinator {
    submit: Arc<Vec<Step>>,
    resume: Arc<Vec<Step>>,
    asked: Arc<Mutex<Asked>>,
    changed: watch::Sender<()>,
    pub(crate) gate: watch::Sender<bool>,
}

impl Coordinator {
    pub(crate) fn new(submit: Vec<Step>) -> Self {
        Self {
            submit: Arc::new(submit),
            resume: Arc::default(),
            asked: Arc::default(),
            changed: watch::Sender::new(()),
            gate: watch::Sender::new(false),
        }
    }

    pub(crate) fn then_resume(self, resume: Vec<Step>) -> Self {
        Self { resume: Arc::new(resume), ..self }
    }

    fn note(&self, note: impl FnOnce(&mut Asked)) {
        note(&mut self.asked.lock().unwrap());
        self.changed.send_replace(());
    }

    /// Waits until what was asked is as wanted, and answers with what `wanted` found.
    pub(crate) async fn wait<T>(&self, wanted: impl Fn(&Asked) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        let looking = async {
            loop {
                if let Some(found) = wanted(&self.asked.lock().unwrap()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, looking).await.expect("the coordinator is asked soon")
    }

    fn play(&self, steps: &[Step], first_number: u64) -> Reply<TurnEvent> {
        let steps: Vec<(u64, Step)> = (first_number..).zip(steps.iter().cloned()).collect();
        let gate = self.gate.clone();
        futures::stream::iter(steps)
            .filter_map(move |(number, step)| {
                let mut gate = gate.subscribe();
                async move {
                    match step {
                        Step::Say(event) => Some(Ok(TurnEvent { number, event: Some(event), ..Default::default() })),
                        Step::Fail(fault) => Some(Err(fault)),
                        Step::Hang => std::future::pending().await,
                        Step::Gate => {
                            gate.wait_for(|open| *open).await.unwrap();
                            None
                        }
                    }
                }
            })
            .boxed()
    }

    fn service(&self) -> Service {
        let (submit, resume, cancel) = (self.clone(), self.clone(), self.clone());
        Service::new()
            .server_stream(coordinator::SUBMIT, move |call: Call, request: SubmitRequest| {
                submit.note(|asked| {
                    asked.submitted.push(request);
                    asked.traces.push(call.trace);
                });
                let events = submit.play(&submit.submit, 1);
                let events =
                    events.map(|e| e.map(|event| SubmitResponse { event: event.into(), ..Default::default() }));
                async move { Ok(events.boxed() as Reply<_>) }
            })
            .server_stream(coordinator::RESUME, move |_call, request: ResumeRequest| {
                let after = request.after_number;
                resume.note(|asked| asked.resumed.push(request));
                let events = resume.play(&resume.resume, after + 1);
                let events =
                    events.map(|e| e.map(|event| ResumeResponse { event: event.into(), ..Default::default() }));
                async move { Ok(events.boxed() as Reply<_>) }
            })
            .unary(coordinator::CANCEL, move |_call, request: CancelRequest| {
                cancel.note(|asked| asked.cancelled.push(request));
                async { Ok(CancelResponse { was_active: true, ..Default::default() }) }
            })
    }
}

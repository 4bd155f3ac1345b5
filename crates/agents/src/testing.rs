//! A model manager with one engine that does as it is told, for agents that use a model.

use std::sync::{Arc, Mutex, PoisonError};

use axum::serve::ListenerExt as _;
use futures::StreamExt as _;
use tandem_contract::Service;
use tandem_contract::pb::tandem::common::v1::TokenUsage;
use tandem_contract::pb::tandem::model::v1::{
    AcquireRequest, AcquireResponse, CountTokensRequest, CountTokensResponse, FinishReason, GenerateRequest,
    GenerateResponse, RecordUseRequest, RecordUseResponse, ReleaseResponse, Ticket,
};
use tandem_contract::rpc::{engine, models};
use tandem_types::{Code, Fault, reason};

/// What the engine does with a request for text.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// Says these pieces and ends.
    Say(&'static [&'static str]),
    /// Says these pieces and dies.
    Die(&'static [&'static str]),
    /// Says these pieces and then nothing more.
    Stall(&'static [&'static str]),
    /// Refuses a prompt of more than this many words.
    Fits(u32),
}

/// Words of a text; the fake engine's tokens.
pub(crate) fn words(text: &str) -> u32 {
    text.split_whitespace().count() as u32
}

/// A fake engine on a port of its own, and what it was asked.
#[derive(Clone)]
pub(crate) struct FakeEngine {
    endpoint: String,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<GenerateRequest>>>,
    used: Arc<Mutex<Vec<RecordUseRequest>>>,
    acquired: Arc<Mutex<Vec<AcquireRequest>>>,
    /// Context tokens its tickets state.
    pub(crate) context_tokens: u32,
    /// The adapter its tickets name, each for one conversation only; empty for none.
    pub(crate) adapter: &'static str,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeEngine {
    /// Serves on loopback until the test ends.
    pub(crate) async fn start(script: Script) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let engine = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            script: Arc::new(Mutex::new(script)),
            asked: Arc::default(),
            used: Arc::default(),
            acquired: Arc::default(),
            context_tokens: 4_096,
            adapter: "",
        };
        let served = engine.clone();
        let service = Service::new()
            .server_stream(engine::GENERATE, move |_call, request: GenerateRequest| {
                let engine = served.clone();
                async move { engine.generate(request) }
            })
            .unary(engine::COUNT_TOKENS, |_call, request: CountTokensRequest| async move {
                let tokens = words(&request.text) + request.messages.iter().map(|m| words(&m.content)).sum::<u32>();
                Ok(CountTokensResponse { tokens, ..Default::default() })
            });
        let app = axum::Router::new().fallback_service(service.into_http());
        let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        engine
    }

    /// From now on does this.
    pub(crate) fn tell(&self, script: Script) {
        *lock(&self.script) = script;
    }

    /// Requests for text so far.
    pub(crate) fn asked(&self) -> Vec<GenerateRequest> {
        lock(&self.asked).clone()
    }

    /// Uses that were recorded.
    pub(crate) fn used(&self) -> Vec<RecordUseRequest> {
        lock(&self.used).clone()
    }

    /// Requests for tickets so far.
    pub(crate) fn acquired(&self) -> Vec<AcquireRequest> {
        lock(&self.acquired).clone()
    }

    fn generate(&self, request: GenerateRequest) -> Result<tandem_contract::Reply<GenerateResponse>, Fault> {
        let prompt_tokens = request.messages.iter().map(|m| words(&m.content)).sum();
        lock(&self.asked).push(request);
        let script = lock(&self.script).clone();
        let pieces = match script {
            Script::Say(pieces) | Script::Die(pieces) | Script::Stall(pieces) => pieces,
            Script::Fits(most) if prompt_tokens > most => {
                let message = format!("the prompt has {prompt_tokens} tokens; {most} fit");
                return Err(Fault::new(Code::InvalidArgument, reason::CONTEXT_LENGTH, message));
            }
            Script::Fits(_) => &["It", " fits."],
        };
        let text = futures::stream::iter(pieces)
            .map(|text| Ok(GenerateResponse { text: (*text).to_owned(), ..Default::default() }));
        let usage = TokenUsage {
            prompt_tokens,
            completion_tokens: pieces.len() as u32,
            cached_tokens: 0,
            ..Default::default()
        };
        let end = GenerateResponse {
            finish_reason: FinishReason::FINISH_REASON_STOP.into(),
            usage: usage.into(),
            prompt_ms: 3,
            generate_ms: 7,
            wait_ms: 1,
            ..Default::default()
        };
        Ok(match script {
            Script::Die(_) => {
                text.chain(futures::stream::iter([Err(Fault::unavailable(reason::PEER_AWAY, "died"))])).boxed()
            }
            Script::Stall(_) => text.chain(futures::stream::pending()).boxed(),
            Script::Say(_) | Script::Fits(_) => text.chain(futures::stream::iter([Ok(end)])).boxed(),
        })
    }

    /// A ModelManagerSuite that lends this engine for `roles`, each named with the role that serves it.
    pub(crate) fn manager(&self, roles: &'static [(&'static str, &'static str)]) -> Service {
        let (engine, used) = (self.clone(), self.used.clone());
        Service::new()
            .unary(models::ACQUIRE, move |_call, request: AcquireRequest| {
                let engine = engine.clone();
                async move {
                    let mut acquired = lock(&engine.acquired);
                    acquired.push(request.clone());
                    let serves = roles.iter().find(|(role, _)| *role == request.role);
                    let (role, bound_to) = serves.ok_or_else(|| Fault::no_model(&request.role))?;
                    let ticket = Ticket {
                        ticket_id: format!("ticket-{}", acquired.len()),
                        endpoint: engine.endpoint.clone(),
                        model: "fake-model".into(),
                        role: (*role).into(),
                        bound_to: (*bound_to).into(),
                        fallback_reason: if role == bound_to { String::new() } else { "no model of its own".into() },
                        context_tokens: engine.context_tokens,
                        slots: 2,
                        adapter: engine.adapter.into(),
                        one_conversation: !engine.adapter.is_empty(),
                        expires_us: i64::MAX,
                        ..Default::default()
                    };
                    Ok(AcquireResponse { ticket: ticket.into(), ..Default::default() })
                }
            })
            .unary(models::RELEASE, |_call, _request| async { Ok(ReleaseResponse::default()) })
            .unary(models::RECORD_USE, move |_call, request| {
                let used = used.clone();
                async move {
                    lock(&used).push(request);
                    Ok(RecordUseResponse::default())
                }
            })
    }
}

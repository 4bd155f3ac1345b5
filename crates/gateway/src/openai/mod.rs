//! The OpenAI-compatible API: chat completions, streamed and not, and the list of models.
//!
//! A completion is a turn at the coordinator in which the caller keeps the conversation itself. What is understood, what
//! is ignored and what is refused is in [`request`]; errors are in their shape throughout.

mod errors;
mod names;
mod reply;
mod request;
mod telling;
mod turn;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tandem_contract::Call;
use tandem_contract::pb::tandem::coordinator::v1::{Final, Modality, SubmitRequest, Urgency};
use tandem_types::Fault;
use tokio::time::timeout;

pub(crate) use errors::ApiError;
pub(crate) use names::Directory;
use reply::Head;
use request::ChatRequest;
use telling::{Heard, Telling};
use turn::Turn;

use crate::Door;

/// Holds the turn's id, which finds it in logs and traces; the official clients show it with errors.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An answer on its way.
struct Answer {
    turn: Turn,
    telling: Telling,
    head: Head,
    /// How far it is, for whoever keeps the line open.
    stage: String,
}

/// What comes next of an answer.
enum Next {
    Text(String),
    End(String, Box<Final>),
}

impl Answer {
    /// Waits for the next piece.
    async fn next(&mut self) -> Result<Next, Fault> {
        loop {
            let event = match self.turn.recv().await {
                Some(event) => event?,
                None => return Err(Fault::internal("a turn ended without an end")),
            };
            match self.telling.hear(event) {
                Heard::Nothing => {}
                Heard::Accepted(turn_id) => self.head.id = format!("chatcmpl-{turn_id}"),
                Heard::Waiting(stage) => self.stage = stage,
                Heard::Text(text) => return Ok(Next::Text(text)),
                Heard::Ended(rest, end) => return Ok(Next::End(rest, end)),
                Heard::Failed(fault) => return Err(fault),
            }
        }
    }

    fn turn_id(&self) -> &str {
        self.head.id.trim_start_matches("chatcmpl-")
    }
}

/// `POST /v1/chat/completions` with this body.
pub(crate) async fn complete(door: &Arc<Door>, headers: &HeaderMap, body: &Bytes) -> Response {
    match try_complete(door, headers, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn try_complete(door: &Arc<Door>, headers: &HeaderMap, body: &Bytes) -> Result<Response, ApiError> {
    let asked = request::read(body)?;
    let model = door.models.resolve(&asked.model).await?;
    let (streams, head) = (asked.stream, head(door, &asked));
    let trace = Call::from_headers(headers, None).trace;
    let turn = turn::begin(door, submission(asked, model), trace);
    let answer = Answer { turn, telling: Telling::new(streams), head, stage: String::new() };
    Ok(if streams { stream(door, answer).await } else { whole(answer).await })
}

fn head(door: &Door, asked: &ChatRequest) -> Head {
    Head {
        id: String::new(),
        created: door.ctx.clock().now().micros() / 1_000_000,
        model: asked.model.clone(),
        include_usage: asked.include_usage,
    }
}

fn submission(asked: ChatRequest, model: String) -> SubmitRequest {
    SubmitRequest {
        idempotency_key: rand::random::<[u8; 16]>().to_vec(),
        user_id: crate::USER.to_owned(),
        modality: Modality::MODALITY_TEXT.into(),
        urgency: Urgency::URGENCY_NORMAL.into(),
        messages: asked.messages,
        options: asked.options.into(),
        model,
        channel: "openai".to_owned(),
        ..Default::default()
    }
}

fn with_turn_id(mut response: Response, turn_id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(turn_id)
        && !value.is_empty()
    {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

async fn whole(mut answer: Answer) -> Response {
    let response = loop {
        match answer.next().await {
            Ok(Next::Text(_)) => {}
            Ok(Next::End(_, end)) => break axum::Json(answer.head.completion(&end)).into_response(),
            Err(fault) => break ApiError::from(&fault).into_response(),
        }
    };
    with_turn_id(response, answer.turn_id())
}

/// An answer as a stream of events.
struct Streaming {
    answer: Answer,
    keep_alive: Duration,
    /// Heard already and not sent yet.
    pending: Option<Next>,
    /// The first chunk has been sent.
    opened: bool,
    over: bool,
}

impl Streaming {
    /// What is sent next; none at the end.
    async fn frame(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        let next = match self.pending.take() {
            Some(next) => Ok(next),
            None => match timeout(self.keep_alive, self.answer.next()).await {
                Ok(next) => next,
                Err(_) => return Some(reply::comment(&self.answer.stage)),
            },
        };
        let head = &self.answer.head;
        let mut text = if self.opened { String::new() } else { head.opening() };
        self.opened = true;
        match next {
            Ok(Next::Text(piece)) => text += &head.piece(&piece),
            Ok(Next::End(rest, end)) => {
                self.over = true;
                if !rest.is_empty() {
                    text += &head.piece(&rest);
                }
                text += &head.closing(&end);
            }
            Err(fault) => {
                self.over = true;
                text = reply::failure(&ApiError::from(&fault));
            }
        }
        Some(text)
    }
}

/// Streams the answer. The head of the response waits for the first piece, so that an early error has a status of its own,
/// but no longer than until the line wants a sign of life.
async fn stream(door: &Arc<Door>, mut answer: Answer) -> Response {
    let keep_alive = door.settings.keep_alive;
    let first = timeout(keep_alive, answer.next()).await;
    let turn_id = answer.turn_id().to_owned();
    let pending = match first {
        Ok(Ok(next)) => Some(next),
        Ok(Err(fault)) => return with_turn_id(ApiError::from(&fault).into_response(), &turn_id),
        Err(_) => None,
    };
    let streaming = Streaming { answer, keep_alive, pending, opened: false, over: false };
    let frames = futures::stream::unfold(streaming, |mut streaming| async move {
        streaming.frame().await.map(|text| (Ok::<_, Infallible>(Bytes::from(text)), streaming))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        // Reverse proxies that buffer would turn a stream into a long wait.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    with_turn_id((headers, Body::from_stream(frames)).into_response(), &turn_id)
}

/// A body that is not said to be JSON. Pages of other sites can send such bodies without asking.
pub(crate) fn not_json() -> Response {
    let message = "send the header `Content-Type: application/json`";
    ApiError::invalid(None, None, message).with_status(415).into_response()
}

//! The span of a request that came in by this door: the parent of what is called on its behalf.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};
use tandem_agent::Ctx;
use tandem_contract::{Call, Ended, Observer, TRACEPARENT_HEADER, TraceParent, rpc};
use tandem_types::{AgentId, Code, Fault, TurnId};

use crate::place::Place;

/// Told when it is dropped, which is when the answer has been sent.
pub(crate) struct Span {
    sink: Arc<dyn Observer>,
    door: AgentId,
    name: &'static str,
    own: TraceParent,
    parent: Option<[u8; 8]>,
    at: SystemTime,
    began: Instant,
    failed: Option<Fault>,
}

impl Span {
    /// Begins the span of a request that begins a turn or that its sender traces, and makes it the parent in `headers`.
    /// None when nobody collects spans.
    pub(crate) fn begin(ctx: &Ctx, place: &Place, headers: &mut HeaderMap) -> Option<Self> {
        let sink = ctx.spans()?.clone();
        let sender = Call::from_headers(headers, None).trace;
        let begins = match place {
            Place::Chat => true,
            Place::Rpc(facts) => rpc::begins_trace(facts.path),
            _ => false,
        };
        let own = match sender {
            Some(parent) => TraceParent { span: rand::random(), ..parent },
            None if begins => TraceParent { trace: TurnId(rand::random()), span: rand::random(), sampled: true },
            None => return None,
        };
        headers.insert(TRACEPARENT_HEADER, HeaderValue::from_str(&own.to_string()).ok()?);
        Some(Self {
            sink,
            door: ctx.id().clone(),
            name: place.route(),
            own,
            parent: sender.map(|sender| sender.span),
            at: SystemTime::now(),
            began: Instant::now(),
            failed: None,
        })
    }

    /// Notes how the request was answered. What its sender did wrong is no failure of the server (OpenTelemetry semantic
    /// conventions, HTTP spans, "Status").
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.failed = status.is_server_error().then(|| {
            let code = match status {
                StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
                StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
                StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
                _ => Code::Internal,
            };
            Fault::new(code, status.canonical_reason().unwrap_or("server error"), "")
        });
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.sink.finished(&Ended {
            agent: &self.door,
            path: self.name,
            outcome: self.failed.as_ref().map_or(Ok(()), Err),
            began: self.at,
            took: self.began.elapsed(),
            span: Some(self.own),
            parent: self.parent,
        });
    }
}

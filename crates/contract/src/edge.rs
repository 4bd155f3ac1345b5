//! What happens at the edge of every agent, whatever it serves: a panic becomes `internal`, an error learns where it
//! happened and under which trace, and an observer hears how each call ended.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use connectrpc::ConnectError;
use connectrpc::interceptor::{
    Interceptor, Next, NextStream, PayloadStream, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse,
};
use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue};
use tandem_types::{AgentId, Code, Fault, TurnId};
use tracing::Instrument as _;

use crate::call::{Call, TRACEPARENT_HEADER, TraceParent};
use crate::errors::{fault_from_wire, to_wire};
use crate::rpc::begins_trace;

/// How a call ended.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Who served it.
    pub agent: &'a AgentId,
    /// Path such as `/tandem.session.v1.Sessions/GetWindow`.
    pub path: &'a str,
    /// Well, or with a fault.
    pub outcome: Result<(), &'a Fault>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The span of this call, when it is part of a trace.
    pub span: Option<TraceParent>,
    /// The span that caused it.
    pub parent: Option<[u8; 8]>,
}

/// Hears how calls begin and end.
pub trait Observer: Send + Sync + 'static {
    /// A call that is part of a trace is about to be served. Its end is told with the same span, however it ends.
    fn began(&self, _span: TraceParent) {}

    /// A call ended.
    fn finished(&self, ended: &Ended<'_>);
}

/// The edge of one agent.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) agent: AgentId,
    pub(crate) observer: Arc<dyn Observer>,
}

struct Finish {
    edge: Edge,
    path: String,
    span: Option<TraceParent>,
    parent: Option<[u8; 8]>,
    at: SystemTime,
    began: Instant,
    told: bool,
}

impl Finish {
    fn well(&mut self) {
        self.tell(Ok(()));
    }

    fn tell(&mut self, outcome: Result<(), &Fault>) {
        if !std::mem::replace(&mut self.told, true) {
            self.edge.observer.finished(&Ended {
                agent: &self.edge.agent,
                path: &self.path,
                outcome,
                began: self.at,
                took: self.began.elapsed(),
                span: self.span,
                parent: self.parent,
            });
        }
    }

    fn badly(&mut self, error: &ConnectError) -> ConnectError {
        let mut fault = fault_from_wire(error).at(&self.edge.agent);
        if fault.trace_id.is_empty() {
            fault.trace_id = self.span.map(|s| s.trace.to_string()).unwrap_or_default();
        }
        self.tell(Err(&fault));
        to_wire(&fault)
    }

    fn panicked(&mut self) -> ConnectError {
        self.badly(&to_wire(&Fault::internal(format!("{} panicked while serving {}", self.edge.agent, self.path))))
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        // A stream that is dropped before its end was cancelled by its caller.
        if !self.told {
            let fault = Fault::new(Code::Cancelled, tandem_types::reason::CALLER_LEFT, "the caller left");
            self.tell(Err(&fault));
        }
    }
}

impl Edge {
    /// Opens the call's own span: what the agent calls in turn has it as parent.
    fn begin(&self, path: Option<&str>, headers: &mut HeaderMap) -> (Finish, tracing::Span) {
        let path = path.unwrap_or_default().to_owned();
        let caller: Option<TraceParent> = Call::from_headers(headers, None).trace;
        let span = match caller {
            Some(parent) => Some(TraceParent { span: rand::random(), ..parent }),
            None if begins_trace(&path) => {
                Some(TraceParent { trace: TurnId(rand::random()), span: rand::random(), sampled: true })
            }
            None => None,
        };
        if let Some(value) = span.and_then(|s| HeaderValue::from_str(&s.to_string()).ok()) {
            headers.insert(TRACEPARENT_HEADER, value);
        }
        if let Some(span) = span {
            self.observer.began(span);
        }
        let trace_id = span.map(|s| s.trace.to_string()).unwrap_or_default();
        let log = tracing::info_span!("rpc", agent = %self.agent.agent, path, trace_id);
        let finish = Finish {
            edge: self.clone(),
            path,
            span,
            parent: caller.map(|c| c.span),
            at: SystemTime::now(),
            began: Instant::now(),
            told: false,
        };
        (finish, log)
    }
}

#[connectrpc::async_trait]
impl Interceptor for Edge {
    async fn intercept_unary(&self, mut req: UnaryRequest, next: Next<'_>) -> Result<UnaryResponse, ConnectError> {
        let (mut finish, span) = {
            let path = req.ctx.path().map(str::to_owned);
            self.begin(path.as_deref(), req.ctx.headers_mut())
        };
        match AssertUnwindSafe(next.run(req)).catch_unwind().instrument(span).await {
            Ok(Ok(response)) => {
                finish.well();
                Ok(response)
            }
            Ok(Err(error)) => Err(finish.badly(&error)),
            Err(_) => Err(finish.panicked()),
        }
    }

    async fn intercept_streaming(
        &self,
        mut req: StreamRequest,
        inbound: PayloadStream,
        next: NextStream<'_>,
    ) -> Result<StreamResponse, ConnectError> {
        let (mut finish, span) = {
            let path = req.ctx.path().map(str::to_owned);
            self.begin(path.as_deref(), req.ctx.headers_mut())
        };
        let opened = AssertUnwindSafe(next.run(req, inbound)).catch_unwind().instrument(span.clone()).await;
        let response = match opened {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(finish.badly(&error)),
            Err(_) => return Err(finish.panicked()),
        };
        Ok(response.map_body(move |stream| -> PayloadStream {
            let guarded = AssertUnwindSafe(stream).catch_unwind();
            Box::pin(futures::stream::unfold(Some((guarded, finish)), move |state| {
                let span = span.clone();
                async move {
                    let (mut stream, mut finish) = state?;
                    match stream.next().await {
                        Some(Ok(Ok(item))) => Some((Ok(item), Some((stream, finish)))),
                        Some(Ok(Err(error))) => Some((Err(finish.badly(&error)), None)),
                        Some(Err(_)) => Some((Err(finish.panicked()), None)),
                        None => {
                            finish.well();
                            None
                        }
                    }
                }
                .instrument(span)
            }))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::tandem::registry::v1::{WatchRequest, WatchResponse};
    use crate::pb::tandem::session::v1::{GetWindowRequest, GetWindowResponse};
    use crate::rpc::{registry, sessions};
    use crate::{Channel, Client, Service, local};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>, Mutex<Vec<TraceParent>>);

    impl Observer for Heard {
        fn began(&self, span: TraceParent) {
            self.1.lock().unwrap().push(span);
        }

        fn finished(&self, ended: &Ended<'_>) {
            let word = ended.outcome.map_or_else(|f| f.code.to_string(), |()| "ok".into());
            assert!(ended.parent.is_none() || ended.span.map(|s| s.span) != ended.parent, "a span of its own");
            if let Some(span) = ended.span {
                self.1.lock().unwrap().retain(|began| *began != span);
            }
            self.0.lock().unwrap().push(format!("{} {} {word}", ended.agent.agent, ended.path));
        }
    }

    fn client(service: Service) -> (Client, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let agent = "a/b/SessionMemoryAgent".parse().unwrap();
        let http = service.into_http_at(agent, heard.clone());
        (Client::new(Channel::Local(local(http)), http::Uri::from_static("http://x")), heard)
    }

    #[tokio::test]
    async fn a_panic_becomes_internal_and_says_where() {
        let (client, heard) =
            client(Service::new().unary(sessions::GET_WINDOW, |_, request: GetWindowRequest| async move {
                assert_ne!(request.user_id, "boom", "planted");
                Ok(GetWindowResponse::default())
            }));
        let call = Call::from_door("test");
        client.unary(sessions::GET_WINDOW, GetWindowRequest::default(), &call).await.unwrap();
        let bad = GetWindowRequest { user_id: "boom".into(), ..Default::default() };
        let fault = client.unary(sessions::GET_WINDOW, bad, &call).await.unwrap_err();
        assert_eq!(fault.code, Code::Internal);
        assert_eq!(fault.agent.unwrap().to_string(), "a/b/SessionMemoryAgent");
        assert_eq!(heard.0.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn streams_carry_messages_then_the_fault_with_its_trace() {
        let (client, heard) = client(Service::new().server_stream(registry::WATCH, |_, _: WatchRequest| async move {
            let items = vec![
                Ok(WatchResponse { revision: 1, ..Default::default() }),
                Err(Fault::unavailable("why", "gone").retry_after(Duration::from_secs(1))),
            ];
            Ok(Box::pin(futures::stream::iter(items)) as crate::Reply<_>)
        }));
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let call = Call::from_door("test").traced(trace);
        let items: Vec<_> =
            client.server_stream(registry::WATCH, WatchRequest::default(), &call).await.unwrap().collect().await;
        assert_eq!(items[0].as_ref().unwrap().revision, 1);
        let fault = items[1].as_ref().unwrap_err();
        assert_eq!((fault.reason.as_str(), fault.retry_after), ("why", Some(Duration::from_secs(1))));
        assert_eq!(fault.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(*heard.0.lock().unwrap(), ["SessionMemoryAgent /tandem.registry.v1.Registry/Watch unavailable"]);
    }

    #[tokio::test]
    async fn a_persons_request_begins_a_trace_and_other_calls_do_not() {
        use crate::pb::tandem::coordinator::v1::{SubmitRequest, SubmitResponse};
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (submitted, read) = (seen.clone(), seen.clone());
        let (client, heard) = client(
            Service::new()
                .server_stream(crate::rpc::coordinator::SUBMIT, move |call: Call, _: SubmitRequest| {
                    submitted.lock().unwrap().push(call.trace);
                    async { Ok(Box::pin(futures::stream::empty()) as crate::Reply<SubmitResponse>) }
                })
                .unary(sessions::GET_WINDOW, move |call, _: GetWindowRequest| {
                    read.lock().unwrap().push(call.trace);
                    async { Ok(GetWindowResponse::default()) }
                }),
        );
        let call = Call::from_door("test");
        let stream = client.server_stream(crate::rpc::coordinator::SUBMIT, SubmitRequest::default(), &call).await;
        let stream = stream.unwrap();
        let began = heard.1.lock().unwrap().iter().map(|span| Some(span.trace)).collect::<Vec<_>>();
        assert_eq!(
            began,
            [seen.lock().unwrap()[0].map(|span: TraceParent| span.trace)],
            "the observer hears of it at once"
        );
        assert_eq!(stream.count().await, 0);
        assert!(heard.1.lock().unwrap().is_empty(), "and of its end");
        client.unary(sessions::GET_WINDOW, GetWindowRequest::default(), &call).await.unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen[0].is_some_and(|trace| trace.sampled) && seen[1].is_none(), "{seen:?}");
    }

    #[tokio::test]
    async fn what_is_not_served_is_unimplemented() {
        let (client, _) = client(Service::new());
        let call = Call::from_door("test");
        let fault = client.unary(sessions::GET_WINDOW, GetWindowRequest::default(), &call).await.unwrap_err();
        assert_eq!(fault.code, Code::Unimplemented);
    }
}

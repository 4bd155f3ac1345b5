//! Typed serving: an agent registers a function per RPC and sees owned messages, [`Call`] and [`Fault`] only.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use connectrpc::{
    CompressionPolicy, ConnectError, ConnectRpcService, DeadlinePolicy, Limits, RequestContext, Response, Router,
    ServiceStream, bidi_streaming_handler_fn, handler_fn, streaming_handler_fn,
};
use futures::{Stream, StreamExt as _};
use tandem_types::{AgentId, Fault};

use crate::call::Call;
use crate::client::FaultStream;
use crate::edge::{Edge, Observer};
use crate::errors::{fault_from_wire, to_wire};
use crate::idle::Idle;
use crate::rpc::{Bidi, ServerStream, Unary, Wire};
use crate::{Body, MAX_REQUEST_BYTES, strict};

/// A stream of responses.
pub type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Fault>> + Send>>;

/// The RPCs one agent serves.
#[derive(Default)]
pub struct Service {
    router: Router,
    paths: Vec<&'static str>,
}

fn call_of(ctx: &RequestContext) -> Call {
    Call::from_headers(ctx.headers(), ctx.deadline())
}

/// `/package.Service/Method` as its two parts.
fn split(path: &'static str) -> (&'static str, &'static str) {
    path.trim_start_matches('/').split_once('/').unwrap_or((path, ""))
}

/// A refusal travels as the stream's only item: a gRPC answer without any message would lose the error's details.
fn opened<T: Send + 'static>(reply: Result<Reply<T>, Fault>) -> Reply<T> {
    reply.unwrap_or_else(|fault| Box::pin(futures::stream::once(async { Err(fault) })))
}

fn on_wire<T: Send + 'static>(reply: Reply<T>) -> ServiceStream<T> {
    Box::pin(reply.map(|item| item.map_err(|fault| to_wire(&fault))))
}

impl Service {
    /// Serves nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Paths served, in order of registration.
    pub fn paths(&self) -> &[&'static str] {
        &self.paths
    }

    /// Serves an RPC with one response.
    #[must_use]
    pub fn unary<Req, Res, F, Fut>(mut self, rpc: Unary<Req, Res>, handler: F) -> Self
    where
        Req: Wire,
        Res: Wire,
        F: Fn(Call, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, Fault>> + Send + 'static,
    {
        let (service, method) = split(rpc.path());
        self.paths.push(rpc.path());
        self.router = self.router.route::<_, Req, Res>(
            service,
            method,
            handler_fn(move |ctx: RequestContext, request: Req| {
                let answer = handler(call_of(&ctx), request);
                async move { answer.await.map(Response::new).map_err(|fault| to_wire(&fault)) }
            }),
        );
        self
    }

    /// Serves an RPC with a stream of responses. Without a deadline it ends when it is silent for too long.
    #[must_use]
    pub fn server_stream<Req, Res, F, Fut>(mut self, rpc: ServerStream<Req, Res>, handler: F) -> Self
    where
        Req: Wire,
        Res: Wire,
        F: Fn(Call, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply<Res>, Fault>> + Send + 'static,
    {
        let (service, method) = split(rpc.path());
        self.paths.push(rpc.path());
        self.router = self.router.route_server_stream::<_, Req, Res>(
            service,
            method,
            streaming_handler_fn(move |ctx: RequestContext, request: Req| {
                let call = call_of(&ctx);
                let idle = Idle::of_provider(rpc.path(), &call);
                let answer = handler(call, request);
                async move {
                    let reply = opened(idle.open(answer).await);
                    Ok::<_, ConnectError>(Response::new(on_wire(idle.guard(reply))))
                }
            }),
        );
        self
    }

    /// Serves an RPC with a stream each way.
    #[must_use]
    pub fn bidi<Req, Res, F, Fut>(mut self, rpc: Bidi<Req, Res>, handler: F) -> Self
    where
        Req: Wire,
        Res: Wire,
        F: Fn(Call, FaultStream<Req>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply<Res>, Fault>> + Send + 'static,
    {
        let (service, method) = split(rpc.path());
        self.paths.push(rpc.path());
        self.router = self.router.route_bidi_stream::<_, Req, Res>(
            service,
            method,
            bidi_streaming_handler_fn(move |ctx: RequestContext, requests: ServiceStream<Req>| {
                let call = call_of(&ctx);
                let idle = Idle::of_provider(rpc.path(), &call);
                let heard = idle.clone();
                let requests: FaultStream<Req> = Box::pin(requests.map(move |item| {
                    heard.beat();
                    item.map_err(|error| fault_from_wire(&error))
                }));
                let answer = handler(call, requests);
                async move {
                    let reply = opened(idle.open(answer).await);
                    Ok::<_, ConnectError>(Response::new(on_wire(idle.guard(reply))))
                }
            }),
        );
        self
    }

    /// As [`Service::into_http`], for an agent: faults and panics are marked with it, and `observer` hears every end.
    pub fn into_http_at(self, agent: AgentId, observer: Arc<dyn Observer>) -> ConnectRpcService {
        self.served().with_interceptor(Edge { agent, observer }).with_interceptor(strict::Strict)
    }

    /// The service as HTTP: gRPC, gRPC-Web and Connect at once, with the size limit and strict fields.
    pub fn into_http(self) -> ConnectRpcService {
        self.served().with_interceptor(strict::Strict)
    }

    fn served(self) -> ConnectRpcService {
        let limits =
            Limits::default().with_max_request_body_size(MAX_REQUEST_BYTES).with_max_message_size(MAX_REQUEST_BYTES);
        ConnectRpcService::new(self.router)
            .with_limits(limits)
            .with_deadline_policy(DeadlinePolicy::new().with_enforce_on_streams(true))
            // Most callers are on this machine, and each thread that compresses keeps 370 KB for it.
            .with_compression_policy(CompressionPolicy::disabled())
    }
}

/// A refusal in the caller's own protocol, for a request that reaches no agent.
pub fn refuse(fault: &Fault, request_headers: &http::HeaderMap) -> http::Response<Body> {
    use http_body_util::BodyExt as _;
    let response = to_wire(fault).into_http_response(request_headers);
    let mut response = response.map(|body| body.map_err(|never| match never {}).boxed_unsync());
    // gRPC puts the status in head and trailers here, but the details in the trailers only; clients read the head first.
    for name in ["grpc-status", "grpc-message"] {
        response.headers_mut().remove(name);
    }
    response
}

//! How a request reaches its provider: over the network, or straight into a service of this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tandem_types::{Code, Fault};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::secure::{Connecting, Connector, Refusals, Trust, in_words};

/// Body of requests and responses inside the process.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, ConnectError>;

/// A group's HTTP service as seen from the same process.
pub type LocalService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A body that is all there.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Longest time to connect: further than the other machine nothing is.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// While calls wait on a connection, its other end is asked this often whether it is still there...
const ASK_EVERY: Duration = Duration::from_secs(10);
/// ...and given up when it has not answered for so long. Together they are the idle limit of a stream.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The way to a provider. Cloning is cheap and shares connections.
#[derive(Clone)]
pub enum Channel {
    /// Over HTTP/2: as it is on this machine, with mutual TLS to others.
    Network(Box<Network>),
    /// Into a service of this process, with no socket between.
    Local(LocalService),
}

/// Open connections, shared by whoever calls.
#[derive(Clone)]
pub struct Network {
    http: HttpClient<Connector, ClientBody>,
    refusals: Refusals,
}

impl Channel {
    /// A channel to what this machine runs: opens connections when they are needed, keeps and shares them.
    pub fn network() -> Self {
        Self::with(Connecting::Nobody)
    }

    /// The same, and to other machines of the fleet.
    pub fn fleet(trust: Trust) -> Self {
        Self::with(Connecting::Member(trust))
    }

    /// A channel to one machine that `config` accepts under `name`, to which this one shows nothing: for joining a fleet.
    pub fn guest(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self::with(Connecting::Guest(config, name))
    }

    fn with(others: Connecting) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        let refusals = Refusals::default();
        let http = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(ASK_EVERY)
            .http2_keep_alive_timeout(ANSWER_WITHIN)
            .build(Connector::new(connector, others, refusals.clone()));
        Self::Network(Box::new(Network { http, refusals }))
    }
}

impl ClientTransport for Channel {
    type ResponseBody = Body;
    type Error = ConnectError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<Body>, ConnectError>> {
        match self {
            Self::Network(network) => {
                let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                let (sent, refusals) = (network.http.request(request), network.refusals.clone());
                Box::pin(async move {
                    let response = sent.await.map_err(|e| {
                        let why = refusals.take(&authority).unwrap_or_else(|| innermost(&e));
                        let is_unsent = e.is_connect() || never_left(&e);
                        let what = if is_unsent { UNSENT } else { "the request failed: " };
                        ConnectError::unavailable(format!("{what}{why}"))
                    })?;
                    Ok(response.map(|body| {
                        body.map_err(|e| ConnectError::unavailable(format!("the connection broke: {e}"))).boxed_unsync()
                    }))
                })
            }
            Self::Local(service) => {
                let service = service.clone();
                let request = request.map(|body| body.boxed_unsync());
                Box::pin(async move {
                    match service.oneshot(request).await {
                        Ok(response) => Ok(response),
                        Err(never) => match never {},
                    }
                })
            }
        }
    }
}

/// How the words of a request begin that nobody has seen.
const UNSENT: &str = "nobody took the request: ";

/// Whether a call failed because nobody was there to take it: whatever it does, it may be sent again.
pub fn is_unsent(fault: &Fault) -> bool {
    fault.code == Code::Unavailable && fault.agent.is_none() && fault.message.starts_with(UNSENT)
}

/// Whether the connection ended before it took a request: it was closed first, or its other end said goodbye without
/// naming the request among those it serves (RFC 9113, section 6.8).
fn never_left(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error.downcast_ref().is_some_and(hyper::Error::is_canceled)
            || error.downcast_ref::<h2::Error>().is_some_and(|error| {
                error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
            })
    })
}

/// What began it all: the client's own words only say where it was noticed.
fn innermost(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.downcast_ref().map_or_else(|| error.to_string(), in_words)
}

/// An HTTP service as a [`LocalService`].
pub fn local(service: connectrpc::ConnectRpcService) -> LocalService {
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await?;
            Ok(response.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
        }
    }))
}

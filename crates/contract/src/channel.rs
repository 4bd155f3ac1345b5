//! How a request reaches its provider: over the network, or straight into a service of this process.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

/// Body of requests and responses inside the process.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, ConnectError>;

/// A group's HTTP service as seen from the same process.
pub type LocalService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A body that is all there.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Longest time to connect: further than the other machine nothing is.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// While calls wait on a connection, its other end is asked this often whether it is still there...
const ASK_EVERY: Duration = Duration::from_secs(10);
/// ...and given up when it has not answered for so long. Together they are the idle limit of a stream.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The way to a provider. Cloning is cheap and shares connections.
#[derive(Clone)]
pub enum Channel {
    /// Over HTTP/2 without TLS.
    Network(Box<HttpClient<HttpConnector, ClientBody>>),
    /// Into a service of this process, with no socket between.
    Local(LocalService),
}

impl Channel {
    /// A channel that opens connections when they are needed, keeps and shares them.
    pub fn network() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        let client = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(ASK_EVERY)
            .http2_keep_alive_timeout(ANSWER_WITHIN)
            .build(connector);
        Self::Network(Box::new(client))
    }
}

impl ClientTransport for Channel {
    type ResponseBody = Body;
    type Error = ConnectError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<Body>, ConnectError>> {
        match self {
            Self::Network(http) => {
                let sent = http.request(request);
                Box::pin(async move {
                    let response =
                        sent.await.map_err(|e| ConnectError::unavailable_from_transport("the request failed", e))?;
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

//! The two ports of a group.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::serve::Listener;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tandem_contract::{LocalService, Remote, SecureListener, Trust, members_only, serve_until};
use tandem_types::{Code, Fault, reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{Shared, ops};

/// Wait before the next try to listen for other nodes.
const MEMBERS_RETRY: Duration = Duration::from_secs(5);

/// A connection without a request yet gets this long for its first when the group ends.
const FIRST_LIMIT: Duration = Duration::from_millis(250);

/// `http://127.0.0.1:8200` as an address to bind.
pub(crate) fn address(endpoint: &str) -> Result<SocketAddr, Fault> {
    let bad = || {
        Fault::new(
            Code::InvalidArgument,
            reason::BAD_FIELD,
            format!("`{endpoint}` is not an address to listen at: write http://IP:PORT"),
        )
    };
    endpoint.strip_prefix("http://").and_then(|rest| rest.parse().ok()).ok_or_else(bad)
}

/// Takes a port, or says who has it.
pub(crate) async fn bind(endpoint: &str, what: &str) -> Result<TcpListener, Fault> {
    bind_at(address(endpoint)?, what).await
}

async fn bind_at(address: SocketAddr, what: &str) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|e| {
        let remedy = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "another program has it; `ss -ltnp sport = :{}` shows which, or set another port",
                    address.port()
                )
            }
            _ => "check the address in the fleet file".to_owned(),
        };
        Fault::unavailable(reason::PORT_TAKEN, format!("cannot listen at {address} for {what}: {e}; {remedy}"))
    })
}

/// The contract port: RPCs and ops endpoints.
pub(crate) fn contract_routes(shared: &Arc<Shared>, rpcs: LocalService) -> Router {
    let rpcs = tower::service_fn(move |request: Request<AxumBody>| {
        let rpcs = rpcs.clone();
        async move {
            let request = request.map(|body| {
                body.map_err(|e| connectrpc::ConnectError::unavailable(format!("the request broke: {e}")))
                    .boxed_unsync()
            });
            rpcs.oneshot(request).await.map(|response| response.map(AxumBody::new))
        }
    });
    ops::routes(shared.clone()).fallback_service(rpcs)
}

/// Asks what a port serves from within.
pub(crate) async fn ask(routes: &Router, path: &'static str) {
    let mut request = Request::new(AxumBody::empty());
    *request.uri_mut() = http::Uri::from_static(path);
    // Routes answer everything; what they answer says nothing beyond that.
    let (Ok(_) | Err(_)) = routes.clone().oneshot(request).await;
}

/// Serves nodes that have joined the fleet at `address`, for as long as there are any and until the group ends.
pub(crate) async fn serve_members(address: SocketAddr, trust: Trust, routes: Router, until: CancellationToken) {
    let mut news = trust.news();
    let mut told = String::new();
    while !until.is_cancelled() {
        news.borrow_and_update();
        let retry = match trust.has_peers() {
            true => match open_to_members(address, &trust).await {
                Ok(listener) => {
                    tracing::info!(%address, "nodes of the fleet may call");
                    told.clear();
                    let ended = until.child_token();
                    tokio::select! {
                        () = serve_securely(listener, routes.clone(), ended.clone()) => {}
                        // A certificate that was renewed changes nothing for who listens.
                        () = nobody_left(&trust) => ended.cancel(),
                    }
                    continue;
                }
                Err(fault) => {
                    if fault.message != told {
                        tracing::error!(%fault, "nodes of the fleet cannot call");
                        told = fault.message;
                    }
                    MEMBERS_RETRY
                }
            },
            false => Duration::MAX,
        };
        tokio::select! {
            // Whoever follows the files outlives the group's ports.
            Ok(()) | Err(_) = news.changed() => {}
            () = tokio::time::sleep(retry) => {}
            () = until.cancelled() => {}
        }
    }
}

async fn open_to_members(address: SocketAddr, trust: &Trust) -> Result<SecureListener, Fault> {
    let listener = bind_at(address, "nodes of the fleet").await?;
    SecureListener::new(listener, trust.clone(), true)
        .map_err(|e| Fault::unavailable(reason::PORT_TAKEN, format!("cannot listen at {address}: {e}")))
}

async fn nobody_left(trust: &Trust) {
    let mut news = trust.news();
    while trust.has_peers() && news.changed().await.is_ok() {}
}

async fn serve_securely(listener: SecureListener, routes: Router, until: CancellationToken) {
    let routes = routes.layer(axum::middleware::from_fn(members_only));
    let routes = routes.into_make_service_with_connect_info::<Remote>();
    let served = axum::serve(listener, routes).with_graceful_shutdown(async move { until.cancelled().await }).await;
    if let Err(e) = served {
        tracing::error!(error = %e, "a port stopped serving");
    }
}

/// Serves until the group ends, then lets open connections finish.
pub(crate) async fn serve(listener: TcpListener, routes: Router, until: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut listener = listener;
    loop {
        tokio::select! {
            (stream, _) = Listener::accept(&mut listener) => {
                while connections.try_join_next().is_some() {}
                connections.spawn(connection(stream, routes.clone(), until.clone()));
            }
            () = until.cancelled() => break,
        }
    }
    // Whoever has connected may have asked already, and would not know whether that was begun.
    for stream in waiting(listener) {
        connections.spawn(connection(stream, routes.clone(), until.clone()));
    }
    while connections.join_next().await.is_some() {}
}

/// Connections that nobody has taken yet; the port is closed.
fn waiting(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    // Not blocking, so it ends when there is none.
    std::iter::from_fn(|| TcpStream::from_std(nonblocking(listener.accept().ok()?.0)?).ok()).collect()
}

fn nonblocking(stream: std::net::TcpStream) -> Option<std::net::TcpStream> {
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

async fn connection(stream: TcpStream, routes: Router, until: CancellationToken) {
    // An answer goes out token by token; small pieces must not wait for the acknowledgement of the ones before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection sends its pieces late");
    }
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        first.cancel();
        routes.clone().oneshot(request.map(AxumBody::new))
    });
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let served = serve_until(connection, asked.cancelled(), until.cancelled(), FIRST_LIMIT).await;
    if let Err(error) = served {
        // Whoever left knows it.
        tracing::debug!(error, "a connection ended early");
    }
}

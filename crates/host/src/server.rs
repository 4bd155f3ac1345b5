//! The two ports of a group.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::serve::ListenerExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use tandem_contract::{LocalService, Remote, SecureListener, Trust, members_only};
use tandem_types::{Code, Fault, reason};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{Shared, ops};

/// Wait before the next try to listen for other nodes.
const MEMBERS_RETRY: Duration = Duration::from_secs(5);

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
    // An answer goes out token by token; small pieces must not wait for the acknowledgement of the ones before.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection sends its pieces late");
        }
    });
    let served = axum::serve(listener, routes).with_graceful_shutdown(async move { until.cancelled().await }).await;
    if let Err(e) = served {
        tracing::error!(error = %e, "a port stopped serving");
    }
}

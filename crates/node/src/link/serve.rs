//! The listening side: while somebody may call, and not before.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tandem_contract::pb::tandem::link::v1 as pb;
use tandem_contract::{CALLER_HEADER, Call, Remote, SecureListener, Service, rpc};
use tandem_trust::Folder;
use tandem_types::{Code, Fault, NodeName, reason};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::desk::Path;
use super::{Link, join, wire};

/// How often it is looked whether somebody may call.
const LOOK: Duration = Duration::from_secs(1);

/// Listens while there are peers, or somebody may come to join.
pub(super) async fn listen(link: Link) {
    let plan = link.shared.config.listen;
    let ways: Vec<(Path, SocketAddr)> =
        std::iter::once((Path::Overlay, plan.overlay)).chain(plan.lan.map(|lan| (Path::Lan, lan))).collect();
    let mut open: Option<(CancellationToken, tokio::task::JoinSet<()>)> = None;
    let mut told = String::new();
    loop {
        let wanted = link.shared.trust.has_peers() || awaits_guests(&link).await;
        match (&open, wanted) {
            (None, true) => match bind(&ways).await {
                Ok(listeners) => {
                    let until = CancellationToken::new();
                    let mut tasks = tokio::task::JoinSet::new();
                    for (path, listener) in listeners {
                        tasks.spawn(serve(link.clone(), path, listener, until.clone()));
                    }
                    open = Some((until, tasks));
                    tracing::info!(address = %plan.overlay, lan = ?plan.lan, "nodes of the fleet may call");
                    told.clear();
                }
                Err(fault) if fault.message == told => {}
                Err(fault) => {
                    tracing::error!(%fault, "nodes of the fleet cannot call");
                    told = fault.message;
                }
            },
            (Some((until, _)), false) => {
                until.cancel();
                open = None;
                tracing::info!("no node of the fleet may call any more");
            }
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn awaits_guests(link: &Link) -> bool {
    let folder = link.shared.config.trust.clone();
    let look = move || Folder::open(folder)?.awaits_guests(SystemTime::now());
    matches!(tokio::task::spawn_blocking(look).await, Ok(Ok(true)))
}

async fn bind(ways: &[(Path, SocketAddr)]) -> Result<Vec<(Path, TcpListener)>, Fault> {
    let mut listeners = Vec::new();
    for (path, address) in ways {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            let remedy = match e.kind() {
                std::io::ErrorKind::AddrInUse => format!("`ss -ltnp sport = :{}` shows who has it", address.port()),
                _ => "bring that network up, or correct the address in the fleet file".to_owned(),
            };
            Fault::unavailable(reason::PORT_TAKEN, format!("cannot listen at {address} for the link: {e}; {remedy}"))
        })?;
        listeners.push((*path, listener));
    }
    Ok(listeners)
}

async fn serve(link: Link, path: Path, listener: TcpListener, until: CancellationToken) {
    let trust = link.shared.trust.clone();
    let listener = match SecureListener::new(listener, trust, false) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the link's port cannot be served"),
    };
    let routes = Router::new().fallback_service(service(link, path).into_http()).layer(from_fn(name_the_caller));
    let routes = routes.into_make_service_with_connect_info::<Remote>();
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(until.cancelled_owned()).await {
        tracing::error!(%error, "the link's port stopped serving");
    }
}

/// Whoever calls is who its certificate says, whatever the request says.
async fn name_the_caller(ConnectInfo(remote): ConnectInfo<Remote>, mut request: Request, next: Next) -> Response {
    const CALLER: HeaderName = CALLER_HEADER;
    request.headers_mut().remove(CALLER);
    if let Some(name) = remote.node.and_then(|node| HeaderValue::from_str(node.as_str()).ok()) {
        request.headers_mut().insert(CALLER, name);
    }
    next.run(request).await
}

fn service(link: Link, path: Path) -> Service {
    let (joins, renewals, exchanges) = (link.clone(), link.clone(), link);
    Service::new()
        .unary(rpc::link::JOIN, move |_, request| join::admit(joins.clone(), request))
        .unary(rpc::link::RENEW, move |_, request| join::renew(renewals.clone(), request))
        .unary(rpc::link::EXCHANGE, move |call, request| exchange(exchanges.clone(), path, call, request))
}

async fn exchange(
    link: Link,
    path: Path,
    call: Call,
    request: pb::ExchangeRequest,
) -> Result<pb::ExchangeResponse, Fault> {
    let caller: NodeName = call.caller.as_deref().and_then(|name| name.parse().ok()).ok_or_else(|| {
        Fault::new(
            Code::Unauthenticated,
            reason::NO_IDENTITY,
            "only members exchange facts; show the node's certificate",
        )
    })?;
    let telling = wire::of_wire(&request.telling)?;
    if telling.hello.node != caller {
        let message = format!("{caller} speaks for {}", telling.hello.node);
        return Err(Fault::new(Code::PermissionDenied, reason::NOT_ALLOWED, message));
    }
    link.heard(telling, path);
    let telling = wire::to_wire(link.tell(&caller)?).into();
    Ok(pb::ExchangeResponse { telling, ..Default::default() })
}

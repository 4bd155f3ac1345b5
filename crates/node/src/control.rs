//! The node's ear: HTTP on a Unix socket that only its owner can open.
//!
//! | Request | Answer |
//! | --- | --- |
//! | `GET /status` | [`NodeStatus`](crate::NodeStatus) as JSON |
//! | `GET /link` | [`LinkStatus`](crate::LinkStatus) as JSON |
//! | `GET /events` | the status, then one [`Event`](crate::Event) a line, until the node has ended |
//! | `POST /down` | `{}` once the end has begun |
//! | `POST /groups/GROUP/restart`, `POST /groups/GROUP/clear` | `{}`, or a fault as JSON |

use std::future::IntoFuture as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use serde::Serialize;
use tandem_types::{Code, Fault, GroupName, reason};
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use crate::run::NodeHandle;
use crate::status::Happening;

/// Time between two looks whether the socket is where people look for it.
const LOOK: Duration = Duration::from_secs(5);

/// Listens at `path` until it is aborted. A socket that somebody removes is made anew: nothing else leads to a node.
pub(crate) async fn serve(path: &Path, node: NodeHandle) -> Result<JoinHandle<()>, Fault> {
    let mut listener = bind(path)?;
    let path = path.to_owned();
    let routes = Router::new()
        .route("/status", get(|State(node): State<NodeHandle>| async move { Json(node.status()) }))
        .route("/link", get(|State(node): State<NodeHandle>| async move { Json(node.link()) }))
        .route("/events", get(events))
        .route("/down", post(down))
        .route("/groups/{group}/{order}", post(order))
        .with_state(node);
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                outcome = axum::serve(listener, routes.clone()).into_future() => {
                    tracing::error!(?outcome, "the control socket stopped serving");
                    return;
                }
                () = gone(&path) => {}
            }
            listener = loop {
                match bind(&path) {
                    Ok(listener) => break listener,
                    Err(fault) => tracing::warn!(%fault, "nobody can reach this node"),
                }
                tokio::time::sleep(LOOK).await;
            };
            tracing::warn!(path = %path.display(), "somebody removed the control socket: made it anew");
        }
    }))
}

fn bind(path: &Path) -> Result<UnixListener, Fault> {
    let failed = |e: std::io::Error| {
        Fault::unavailable(reason::DISK, format!("cannot make the control socket {}: {e}", path.display()))
    };
    remove(path);
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Waits until there is nothing at `path`.
async fn gone(path: &Path) {
    while path.exists() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Removes the socket of a node that has ended.
pub(crate) fn remove(path: &Path) {
    // It may never have been made, or be gone with its folder.
    let (Ok(()) | Err(_)) = std::fs::remove_file(path);
}

async fn down(State(node): State<NodeHandle>) -> Response {
    tracing::info!("told to end");
    node.down().await;
    Json(serde_json::json!({})).into_response()
}

async fn order(State(node): State<NodeHandle>, UrlPath((group, order)): UrlPath<(String, String)>) -> Response {
    let group = match group.parse::<GroupName>() {
        Ok(group) => group,
        Err(e) => return refuse(&Fault::invalid_field("group", e.to_string())),
    };
    let done = match order.as_str() {
        "restart" => node.restart(&group).await,
        "clear" => node.clear(&group).await,
        _ => Err(Fault::not_found(format!("no order `{order}`; there are restart and clear"))),
    };
    match done {
        Ok(()) => Json(serde_json::json!({})).into_response(),
        Err(fault) => refuse(&fault),
    }
}

fn refuse(fault: &Fault) -> Response {
    let status = match fault.code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    (status, Json(fault)).into_response()
}

async fn events(State(node): State<NodeHandle>) -> Response {
    Body::from_stream(lines(node)).into_response()
}

/// The status, then events. A follower that fell behind gets the present state of every group instead of what it missed.
fn lines(node: NodeHandle) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    let (status, events) = node.follow();
    let begin = futures::stream::iter([line(&status)]);
    let rest = futures::stream::unfold(Some((node, events)), |state| async move {
        let (node, mut events) = state?;
        match events.recv().await {
            Ok(event) => {
                let last = event.what == Happening::Ended;
                Some((line(&event), (!last).then_some((node, events))))
            }
            Err(RecvError::Lagged(_)) => {
                let (status, events) = node.follow();
                Some((line(&status), Some((node, events))))
            }
            Err(RecvError::Closed) => None,
        }
    });
    begin.chain(rest)
}

fn line(value: &impl Serialize) -> Result<Bytes, std::io::Error> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text.into())
}

//! Sends each request to the agent that serves it; refuses what cannot be served, in the caller's own protocol.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use tandem_agent::Served;
use tandem_contract::rpc::{Flow, RpcFacts};
use tandem_contract::{AGENT_HEADER, Body, CALLER_HEADER, Call, DRAINING_HEADER, LocalService, refuse, rpc};
use tandem_types::{Code, Fault, State, reason};
use tower::ServiceExt as _;

use crate::Shared;
use crate::roster::{MOST_CALLS, Slot};

/// When to ask again for an agent that is starting.
const STARTING: Duration = Duration::from_millis(500);

/// Counts a call from its begin until its answer has been sent or dropped.
fn begin(slot: &Slot) -> Result<Served, Fault> {
    slot.calls.begin_within(MOST_CALLS).ok_or_else(|| {
        let message = format!("{} serves {MOST_CALLS} calls and takes no more", slot.id);
        Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, message).retry_after(Duration::from_millis(200))
    })
}

/// Time of a unary call that states none goes into the protocol's own header, so that it also travels on.
fn fill_deadline(rpc: &RpcFacts, headers: &mut HeaderMap) {
    const GRPC: &str = "grpc-timeout";
    const CONNECT: &str = "connect-timeout-ms";
    if rpc.flow != Flow::Unary || headers.contains_key(GRPC) || headers.contains_key(CONNECT) {
        return;
    }
    let ms = rpc.deadline().as_millis();
    let is_grpc = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/grpc"));
    let (name, text) = if is_grpc { (GRPC, format!("{ms}m")) } else { (CONNECT, ms.to_string()) };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(name, value);
    }
}

fn choose(shared: &Shared, path: &str, headers: &HeaderMap) -> Result<Arc<Slot>, Fault> {
    let serves = |slot: &&Arc<Slot>| slot.facts.rpcs.contains(&path);
    let wanted = headers.get(&AGENT_HEADER).and_then(|v| v.to_str().ok());
    let slots = || shared.roster.slots.iter().filter(serves);
    let chosen = match wanted {
        Some(name) => slots().find(|slot| slot.facts.name.as_str() == name),
        None => slots().find(|slot| slot.health().is_some_and(|h| h.state.serves())).or_else(|| slots().next()),
    };
    match (chosen, wanted) {
        (Some(slot), _) => Ok(slot.clone()),
        (None, Some(name)) if rpc::find(path).is_some() => {
            Err(Fault::not_found(format!("{name} of group {} does not serve {path}", shared.roster.group)))
        }
        _ => Err(Fault::new(
            Code::Unimplemented,
            reason::NOT_BUILT,
            format!("no agent of group {} serves {path}", shared.roster.group),
        )),
    }
}

/// A group that drains takes nothing new; but what it still serves may need another of its agents, or the same one again,
/// to come to its end.
fn refuse_what_is_new(shared: &Shared, headers: &HeaderMap) -> Result<(), Fault> {
    if !shared.roster.is_draining()
        || Call::from_headers(headers, None).trace.is_some_and(|t| shared.traces.has(t.trace))
    {
        return Ok(());
    }
    let fault = Fault::unavailable(reason::DRAINING, format!("group {} is ending", shared.roster.group));
    Err(fault.retry_after(Duration::from_secs(1)))
}

fn admit(shared: &Shared, path: &str, headers: &HeaderMap) -> Result<(LocalService, Served), Fault> {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if let Some(allowed) = shared.callers.get(service) {
        let caller = headers.get(&CALLER_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let name = caller.rsplit('/').next().unwrap_or_default();
        if !allowed.iter().any(|allowed| allowed == caller || allowed == name) {
            return Err(Fault::new(
                Code::PermissionDenied,
                reason::NOT_ALLOWED,
                format!("the fleet file does not let `{caller}` call {service}"),
            ));
        }
    }
    let slot = choose(shared, path, headers)?;
    let busy = begin(&slot);
    // Now that the call is counted, a drain that begins sees it, or it sees the drain.
    refuse_what_is_new(shared, headers)?;
    let busy = busy?;
    match slot.live() {
        Some(live) => Ok((live.service, busy)),
        None => {
            let health = slot.health.get();
            let why = if health.cause.is_empty() { health.state.to_string() } else { health.cause };
            // The host refuses it, as the agent cannot: nothing of the call was begun.
            let fault = Fault::unavailable(reason::PEER_AWAY, format!("{} does not run now: {why}", slot.id));
            Err(if health.state == State::Starting { fault.retry_after(STARTING) } else { fault })
        }
    }
}

async fn dispatch(shared: Arc<Shared>, mut request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if shared.own.serves(&path) {
        return shared.own.call(request).await;
    }
    let (service, busy) = match admit(&shared, &path, request.headers()) {
        Ok(admitted) => admitted,
        Err(fault) => {
            let mut fault = fault.at(&shared.host_id);
            fault.trace_id =
                Call::from_headers(request.headers(), None).trace.map(|t| t.trace.to_string()).unwrap_or_default();
            let mut refused = refuse(&fault, request.headers());
            if fault.reason == reason::DRAINING {
                refused.headers_mut().insert(DRAINING_HEADER, HeaderValue::from_static("1"));
            }
            return refused;
        }
    };
    if let Some(facts) = rpc::find(&path) {
        fill_deadline(&facts, request.headers_mut());
    }
    match service.oneshot(request).await {
        // The call ends with its body, not with its head.
        Ok(response) => response.map(move |body| {
            body.map_frame(move |frame| {
                let _held = &busy;
                frame
            })
            .boxed_unsync()
        }),
        Err(never) => match never {},
    }
}

/// The group's RPCs as one service.
pub(crate) fn service(shared: Arc<Shared>) -> LocalService {
    LocalService::new(tower::service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok(dispatch(shared, request).await) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_deadline_gets_the_default_in_its_own_protocol() {
        let facts = rpc::sessions::GET_WINDOW.facts();
        for (kind, given, name, value) in [
            ("application/grpc+proto", None, "grpc-timeout", "200m"),
            ("application/json", None, "connect-timeout-ms", "200"),
            ("application/json", Some(("connect-timeout-ms", "7")), "connect-timeout-ms", "7"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Some((name, value)) = given {
                headers.insert(name, HeaderValue::from_static(value));
            }
            fill_deadline(&facts, &mut headers);
            assert_eq!(headers.get(name).and_then(|v| v.to_str().ok()), Some(value), "{kind}");
        }
        let mut headers = HeaderMap::new();
        fill_deadline(&rpc::registry::WATCH.facts(), &mut headers);
        assert!(headers.is_empty(), "a stream that may be silent for hours has no default end");
    }
}

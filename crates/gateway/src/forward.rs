//! Calls of the page, passed on to the agents that serve them without a look into them.
//!
//! The page speaks the contract itself (Connect or gRPC-Web). What it may call is listed here; each call is sent on under
//! this agent's name, with the protocol's own headers and no others, and its answer comes back as it arrives.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tandem_contract::rpc::{Flow, RpcFacts, coordinator, models, sessions, system, telemetry};
use tandem_contract::{refuse, rpc};
use tandem_types::{Code, Fault, reason};
use tokio_util::sync::CancellationToken;

use crate::Door;

/// RPCs that people may call.
pub(crate) const OPEN: &[RpcFacts] = &[
    coordinator::SUBMIT.facts(),
    coordinator::RESUME.facts(),
    coordinator::GET_RESULT.facts(),
    coordinator::CONFIRM.facts(),
    coordinator::CANCEL.facts(),
    coordinator::INTERRUPT.facts(),
    coordinator::QUEUE_STATUS.facts(),
    sessions::CREATE_SESSION.facts(),
    sessions::APPEND_TURN.facts(),
    sessions::AMEND_TURN.facts(),
    sessions::GET_TURN.facts(),
    sessions::GET_WINDOW.facts(),
    sessions::LIST_TURNS.facts(),
    sessions::SEARCH_TURNS.facts(),
    sessions::LIST_SESSIONS.facts(),
    sessions::END_SESSION.facts(),
    sessions::DELETE_SESSION.facts(),
    telemetry::GET_FLEET_HEALTH.facts(),
    telemetry::WATCH_HEALTH.facts(),
    telemetry::LIST_ALERTS.facts(),
    telemetry::ACK_ALERT.facts(),
    telemetry::QUERY_SERIES.facts(),
    models::LIST_MODELS.facts(),
    models::LIST_ROLES.facts(),
    models::GET_STATS.facts(),
    system::GET_OVERVIEW.facts(),
    system::LIST_SERVICES.facts(),
    system::DOCTOR.facts(),
    system::PLAN.facts(),
    system::LIST_ACTIONS.facts(),
    system::RESTART_AGENT.facts(),
];

/// Headers of the two protocols, and what belongs to the body or the trace. Nothing else goes in: neither the person's
/// cookies and token, nor words about who calls.
const PASSED_IN: &[&str] = &[
    "accept",
    "accept-encoding",
    "connect-accept-encoding",
    "connect-content-encoding",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-encoding",
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-grpc-web",
    "x-user-agent",
];
/// Headers about one connection, which are not ours to repeat (RFC 9110, section 7.6.1).
const OF_ONE_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The RPC at `path`, if people may call it.
pub(crate) fn find(path: &str) -> Result<RpcFacts, Fault> {
    if let Some(facts) = OPEN.iter().find(|facts| facts.path == path) {
        return Ok(*facts);
    }
    let agents_only = format!("{path} is for agents; it cannot be called through the web door");
    Err(match rpc::find(path) {
        Some(_) => Fault::new(Code::PermissionDenied, reason::NOT_ALLOWED, agents_only),
        None => Fault::new(Code::Unimplemented, reason::NOT_BUILT, format!("there is no {path} in this version")),
    })
}

fn passed_in(given: &HeaderMap) -> HeaderMap {
    given.iter().filter(|(name, _)| PASSED_IN.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// How long the caller waits, by its own word or by default.
fn limit(facts: &RpcFacts, headers: &HeaderMap) -> Duration {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let grpc = || {
        let (digits, unit) = text("grpc-timeout").and_then(|t| t.split_at_checked(t.len().checked_sub(1)?))?;
        let amount: u32 = digits.parse().ok()?;
        let unit = match unit {
            "H" => Duration::from_hours(1),
            "M" => Duration::from_mins(1),
            "S" => Duration::from_secs(1),
            "m" => Duration::from_millis(1),
            "u" => Duration::from_micros(1),
            "n" => Duration::from_nanos(1),
            _ => return None,
        };
        unit.checked_mul(amount)
    };
    let connect = text("connect-timeout-ms").and_then(|text| text.parse().ok()).map(Duration::from_millis);
    connect.or_else(grpc).unwrap_or_else(|| facts.deadline())
}

/// Passes a call on and brings its answer back. `body` is its one request message.
pub(crate) async fn pass(door: &Door, facts: RpcFacts, headers: &HeaderMap, body: Bytes) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/grpc") && !kind.starts_with("application/grpc-web") {
        let message = "gRPC needs HTTP/2; use Connect or gRPC-Web here, or the group's own port";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    let mut request = http::Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(facts.path);
    *request.headers_mut() = passed_in(headers);
    // A unary answer comes with its head; of a stream this bounds the wait for its beginning.
    let limit = limit(&facts, headers);
    let sent = tokio::time::timeout(limit, door.ctx.peers().forward(facts.path, request)).await.unwrap_or_else(|_| {
        let message = format!("{} did not answer within {} ms", facts.path, limit.as_millis());
        Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
    });
    match sent {
        Ok(answer) if facts.flow == Flow::Unary => plain(answer),
        Ok(answer) => {
            let until = if ends_by_itself(&facts) { &door.cut } else { &door.closing };
            streamed(until.clone(), door.draining(), answer, headers.clone())
        }
        Err(fault) => plain(refuse(&fault.at(door.ctx.id()), headers)),
    }
}

/// An answer with another body, less what was said about the connection it came by.
fn brought(
    answer: http::Response<tandem_contract::Body>,
    body: impl FnOnce(tandem_contract::Body) -> Body,
) -> Response {
    let (parts, inner) = answer.into_parts();
    let mut response = Response::new(body(inner));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    for name in OF_ONE_HOP {
        response.headers_mut().remove(*name);
    }
    response
}

/// An answer as it came.
pub(crate) fn plain(answer: http::Response<tandem_contract::Body>) -> Response {
    brought(answer, Body::new)
}

/// Finds the gaps between the messages of a stream. Both protocols put one byte of flags and four bytes of length before
/// each message (Connect: "Enveloped-Message"; gRPC over HTTP/2: "Length-Prefixed-Message").
#[derive(Debug, Default)]
struct Gaps {
    prefix: Vec<u8>,
    /// Bytes of the message that have not come yet.
    left: usize,
}

impl Gaps {
    const PREFIX: usize = 5;

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = (Self::PREFIX - self.prefix.len()).min(bytes.len());
                self.prefix.extend(&bytes[..wanted]);
                bytes = &bytes[wanted..];
                if let [_, a, b, c, d] = self.prefix[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.prefix.clear();
                }
            } else {
                let body = self.left.min(bytes.len());
                self.left -= body;
                bytes = &bytes[body..];
            }
        }
    }

    fn is_between(&self) -> bool {
        self.left == 0 && self.prefix.is_empty()
    }
}

/// Whether a call comes to its end although nobody ends it: turns do, and what is no stream. Streams that follow what
/// happens do not.
fn ends_by_itself(facts: &RpcFacts) -> bool {
    facts.flow == Flow::Unary || [coordinator::SUBMIT.path(), coordinator::RESUME.path()].contains(&facts.path)
}

/// A stream as it comes; at `until` it ends with a fault in its own protocol.
fn streamed(
    until: CancellationToken,
    fault: Fault,
    answer: http::Response<tandem_contract::Body>,
    request_headers: HeaderMap,
) -> Response {
    let mut response = brought(answer, |body| {
        let state = (body.into_data_stream(), Gaps::default(), until, fault, request_headers);
        Body::from_stream(futures::stream::unfold(Some(state), |state| async move {
            let (mut pieces, mut gaps, until, fault, headers) = state?;
            tokio::select! {
                biased;
                () = until.cancelled() => {
                    // In the middle of a message nothing can be said but that the line broke.
                    let last = if gaps.is_between() { goodbye(&fault, &headers).await } else { Err(fault.message) };
                    Some((last, None))
                }
                piece = pieces.next() => match piece? {
                    Ok(bytes) => {
                        gaps.pass(&bytes);
                        Some((Ok(bytes), Some((pieces, gaps, until, fault, headers))))
                    }
                    Err(error) => Some((Err(error.to_string()), None)),
                },
            }
        }))
    });
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The message that ends a stream with this fault.
async fn goodbye(fault: &Fault, request_headers: &HeaderMap) -> Result<Bytes, String> {
    let collected = refuse(fault, request_headers).into_body().collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_has_one_request_message() {
        for facts in OPEN {
            assert_ne!(facts.flow, Flow::Bidi, "{}", facts.path);
        }
    }

    #[test]
    fn agents_keep_their_own_calls() {
        for (path, expected) in [
            (sessions::LIST_SESSIONS.path(), None),
            (models::ACQUIRE.path(), Some(Code::PermissionDenied)),
            (rpc::host::STOP_AGENT.path(), Some(Code::PermissionDenied)),
            ("/tandem.session.v1.Sessions/Nothing", Some(Code::Unimplemented)),
            ("/tandem.session.v1.Sessions/ListSessions/", Some(Code::Unimplemented)),
        ] {
            assert_eq!(find(path).err().map(|fault| fault.code), expected, "{path}");
        }
    }

    #[test]
    fn only_the_protocols_own_headers_are_passed_on() {
        let given: HeaderMap = [
            "content-type",
            "connect-timeout-ms",
            "cookie",
            "authorization",
            "tandem-caller",
            "tandem-agent",
            "x-tandem-csrf",
            "host",
            "connection",
        ]
        .into_iter()
        .map(|name| (name.parse().unwrap(), HeaderValue::from_static("x")))
        .collect();
        let mut names: Vec<String> = passed_in(&given).keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["connect-timeout-ms", "content-type"]);
    }

    #[test]
    fn the_callers_time_counts_then_the_default() {
        let facts = sessions::LIST_SESSIONS.facts();
        for (name, value, expected) in [
            ("connect-timeout-ms", "7", Duration::from_millis(7)),
            ("grpc-timeout", "3S", Duration::from_secs(3)),
            ("grpc-timeout", "250m", Duration::from_millis(250)),
            ("grpc-timeout", "", facts.deadline()),
            ("grpc-timeout", "xS", facts.deadline()),
            ("grpc-timeout", "3é", facts.deadline()),
            ("accept", "x", facts.deadline()),
        ] {
            let headers =
                HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())]);
            assert_eq!(limit(&facts, &headers), expected, "{name}: {value}");
        }
    }

    #[test]
    fn gaps_are_found_however_the_bytes_are_cut() {
        let message = |length: u8| [vec![0, 0, 0, 0, length], vec![9; length.into()]].concat();
        let bytes = [message(3), message(0), message(1)].concat();
        let expected = [0, 8, 13, 19];
        for cut in 1..=bytes.len() {
            let (mut gaps, mut seen) = (Gaps::default(), 0);
            for piece in bytes.chunks(cut) {
                gaps.pass(piece);
                seen += piece.len();
                assert_eq!(gaps.is_between(), expected.contains(&seen), "cut {cut} at {seen}");
            }
        }
    }
}

//! The one error table and its two wires: gRPC status and HTTP status, both with `ErrorInfo` as detail.

use std::time::Duration;

use buffa::Message as _;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use tandem_types::{Code, Fault, Violation, reason};

use crate::pb::tandem::common::v1 as pb;

/// How connectrpc's client begins the message when a connection breaks under a response.
const BROKEN_BODY: &str = "failed to read response body";

const DETAIL_TYPE: &str = "tandem.common.v1.ErrorInfo";

/// One row of the error table.
#[derive(Debug, Clone, Copy)]
pub struct ErrorRow {
    /// The code.
    pub code: Code,
    /// gRPC status.
    pub grpc: u32,
    /// HTTP status.
    pub http: u16,
    /// Who can do something about it.
    pub fault_of: &'static str,
    /// Whether the same call may be sent again.
    pub retry: &'static str,
    /// What a person can do.
    pub hint: &'static str,
}

/// Every code with what it means on both wires.
pub const TABLE: &[ErrorRow] = &[
    row_of(Code::InvalidArgument, 3, 400, "caller", "no", "correct the fields that `violations` lists"),
    row_of(Code::FailedPrecondition, 9, 400, "caller", "no", "bring the state about that `message` names, then repeat"),
    row_of(Code::Unauthenticated, 16, 401, "caller", "no", "sign in, or send the token"),
    row_of(Code::PermissionDenied, 7, 403, "caller", "no", "ask the owner for the right"),
    row_of(Code::NotFound, 5, 404, "caller", "no", "check the id; things of other people are not found either"),
    row_of(Code::Conflict, 10, 409, "caller", "no", "read the present version, then decide anew"),
    row_of(Code::ResourceExhausted, 8, 429, "load", "after retry_after_ms", "wait, or ask for less"),
    row_of(Code::Cancelled, 1, 499, "caller", "no", "nothing: the caller or an interruption ended it"),
    row_of(Code::Internal, 13, 500, "Tandem", "no", "find `trace_id` with `tandem logs`, and report it"),
    row_of(Code::Unimplemented, 12, 501, "caller", "no", "check method and version of the program"),
    row_of(Code::Unavailable, 14, 503, "state", "yes", "wait for `tandem status` to show it ready"),
    row_of(Code::DeadlineExceeded, 4, 504, "load", "reads and keyed writes", "allow more time, or ask for less"),
];

const fn row_of(
    code: Code,
    grpc: u32,
    http: u16,
    fault_of: &'static str,
    retry: &'static str,
    hint: &'static str,
) -> ErrorRow {
    ErrorRow { code, grpc, http, fault_of, retry, hint }
}

/// The row of a code.
pub fn row(code: Code) -> &'static ErrorRow {
    // The table lists every code; a test keeps it so.
    TABLE.iter().find(|row| row.code == code).unwrap_or(&TABLE[8])
}

fn wire_code(code: Code) -> ErrorCode {
    ErrorCode::from_grpc_code(row(code).grpc).unwrap_or(ErrorCode::Internal)
}

/// The detail message of a fault.
pub fn error_info(fault: &Fault) -> pb::ErrorInfo {
    pb::ErrorInfo {
        code: fault.code.as_str().to_owned(),
        reason: fault.reason.clone(),
        message: fault.message.clone(),
        agent: fault.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        trace_id: fault.trace_id.clone(),
        retry_after_ms: fault.retry_after.map_or(0, |d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX)),
        violations: fault
            .violations
            .iter()
            .map(|v| pb::Violation { field: v.field.clone(), problem: v.problem.clone(), ..Default::default() })
            .collect(),
        ..Default::default()
    }
}

/// The fault a detail message describes.
pub fn fault_from_info(info: &pb::ErrorInfo) -> Fault {
    Fault {
        code: info.code.parse().unwrap_or(Code::Internal),
        reason: info.reason.clone(),
        message: info.message.clone(),
        agent: info.agent.parse().ok(),
        trace_id: info.trace_id.clone(),
        retry_after: (info.retry_after_ms > 0).then(|| Duration::from_millis(info.retry_after_ms.into())),
        violations: info
            .violations
            .iter()
            .map(|v| Violation { field: v.field.clone(), problem: v.problem.clone() })
            .collect(),
    }
}

/// A fault as it goes on the wire.
pub fn to_wire(fault: &Fault) -> ConnectError {
    ConnectError::new(wire_code(fault.code), fault.message.clone())
        .with_detail(ErrorDetail::from_message(DETAIL_TYPE, &error_info(fault)))
}

/// A fault as it came from the wire; errors that the transport made itself get a fitting code and reason.
pub fn fault_from_wire(error: &ConnectError) -> Fault {
    use base64::Engine as _;
    let info = error
        .details
        .iter()
        .filter(|detail| detail.type_url.rsplit('/').next() == Some(DETAIL_TYPE))
        .filter_map(|detail| detail.value.as_deref())
        .filter_map(|text| base64::engine::general_purpose::STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok())
        .find_map(|bytes| pb::ErrorInfo::decode_from_slice(&bytes).ok());
    if let Some(info) = info {
        return fault_from_info(&info);
    }
    let code = match &error.message {
        // The peer went away in mid-answer; the client library files that under `internal`.
        Some(message) if message.starts_with(BROKEN_BODY) => Code::Unavailable,
        _ => TABLE.iter().find(|row| row.grpc == error.code.grpc_code()).map_or(Code::Internal, |row| row.code),
    };
    let reason = match code {
        Code::Unavailable => reason::PEER_AWAY,
        Code::DeadlineExceeded => reason::TIME_UP,
        Code::Cancelled => reason::CALLER_LEFT,
        Code::InvalidArgument => reason::BAD_FIELD,
        // The only limit the transport keeps by itself.
        Code::ResourceExhausted => reason::TOO_LARGE,
        _ => reason::BUG,
    };
    let message = match code {
        // What could not be read may hold a person's words, and the decoder quotes it.
        Code::InvalidArgument => "the request cannot be read: it is not valid JSON or protobuf of its type".to_owned(),
        _ => error.message.clone().unwrap_or_else(|| code.to_string()),
    };
    Fault::new(code, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_code_once() {
        assert_eq!(TABLE.iter().map(|row| row.code).collect::<Vec<_>>(), Code::ALL);
    }

    #[test]
    fn both_wires_agree_with_the_table() {
        for row in TABLE {
            let wire = to_wire(&Fault::new(row.code, "x", "y"));
            assert_eq!(wire.code.grpc_code(), row.grpc, "{}", row.code);
            assert_eq!(wire.http_status().as_u16(), row.http, "{}", row.code);
        }
    }

    #[test]
    fn faults_round_trip_with_every_field() {
        let fault = Fault {
            agent: "a/b/C".parse().ok(),
            trace_id: "7f".into(),
            ..Fault::invalid_field("text", "is empty").retry_after(Duration::from_millis(1500))
        };
        assert_eq!(fault_from_wire(&to_wire(&fault)), fault);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_under_an_answer_is_unavailable() {
        use futures::StreamExt as _;
        use http_body_util::BodyExt as _;
        let broken = || {
            let error = ConnectError::unavailable("reset by peer");
            let body = http_body_util::StreamBody::new(futures::stream::iter([Err(error)]));
            let grpc = http::Response::builder().header("content-type", "application/grpc+proto");
            grpc.body(body.boxed_unsync()).unwrap()
        };
        let peer = crate::LocalService::new(tower::service_fn(move |_| async move { Ok(broken()) }));
        let client = crate::Client::new(crate::Channel::Local(peer), http::Uri::from_static("http://peer"));
        let call = crate::Call::from_door("test");
        let mut stream = client.server_stream(crate::rpc::registry::WATCH, Default::default(), &call).await.unwrap();
        let streamed = stream.next().await.unwrap().unwrap_err();
        let at_once = client.unary(crate::rpc::registry::LIST, Default::default(), &call).await.unwrap_err();
        for fault in [streamed, at_once] {
            assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::PEER_AWAY), "{fault}");
        }
    }

    #[test]
    fn transport_errors_get_a_reason() {
        let fault = fault_from_wire(&ConnectError::unavailable("connection refused"));
        assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::PEER_AWAY));
    }
}

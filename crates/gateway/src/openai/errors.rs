//! Errors as programs for the OpenAI API expect them.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tandem_types::{Code, Fault, reason};

/// When a caller that was told nothing better tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error in their shape: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: u16,
    /// Broad kind, for example `invalid_request_error`.
    pub(crate) kind: &'static str,
    /// Stable word for programs.
    pub(crate) code: Option<String>,
    /// The parameter that is wrong.
    pub(crate) param: Option<String>,
    /// For a person.
    pub(crate) message: String,
    /// When trying again makes sense; the official clients wait this long.
    pub(crate) retry_after: Option<Duration>,
    /// Whether trying again can help; the official clients obey.
    pub(crate) retry: bool,
}

impl ApiError {
    /// A request that cannot be carried out as it is.
    pub(crate) fn invalid(code: Option<&str>, param: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: code.map(str::to_owned),
            param: param.map(str::to_owned),
            message: message.into(),
            retry_after: None,
            retry: false,
        }
    }

    /// The same with another status.
    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// No model or role of this name.
    pub(crate) fn no_such_model(name: &str, known: &[String]) -> Self {
        let message = format!("the model '{name}' does not exist; there are {}", known.join(", "));
        Self::invalid(Some("model_not_found"), Some("model"), message).with_status(404)
    }

    /// The error as JSON.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// The error as an answer.
    pub(crate) fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(
            HeaderName::from_static("x-should-retry"),
            HeaderValue::from_static(if self.retry { "true" } else { "false" }),
        );
        if let Some(after) = self.retry_after {
            let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(ms));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        response
    }
}

impl From<&Fault> for ApiError {
    fn from(fault: &Fault) -> Self {
        let status = tandem_contract::row(fault.code).http;
        let said = fault.reason.as_str();
        let (status, kind, code) = match fault.code {
            Code::InvalidArgument if said == reason::CONTEXT_LENGTH => {
                (400, "invalid_request_error", "context_length_exceeded")
            }
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::Conflict => {
                (status, "invalid_request_error", said)
            }
            Code::Unauthenticated => (status, "authentication_error", "invalid_api_key"),
            Code::PermissionDenied => (status, "permission_error", said),
            Code::ResourceExhausted if said == reason::TOO_LARGE => (413, "invalid_request_error", said),
            Code::ResourceExhausted => (status, "rate_limit_error", "rate_limit_exceeded"),
            Code::Cancelled => (status, "request_cancelled", said),
            Code::Internal | Code::Unimplemented | Code::Unavailable | Code::DeadlineExceeded => {
                (status, "server_error", said)
            }
        };
        let param = match said {
            reason::CONTEXT_LENGTH => Some("messages".to_owned()),
            _ => fault.violations.first().map(|violation| violation.field.clone()),
        };
        let hopeless = matches!(said, reason::NO_MODEL | reason::NOT_BUILT);
        let later = match fault.code {
            Code::Unavailable if hopeless => None,
            Code::Unavailable => Some(fault.retry_after.unwrap_or(RETRY_AFTER)),
            _ => fault.retry_after,
        };
        Self {
            status,
            kind,
            code: Some(code.to_owned()),
            param,
            message: fault.message.clone(),
            retry_after: later,
            retry: later.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_place() {
        for (code, word, status, kind, their_code, retry) in [
            (Code::InvalidArgument, reason::BAD_FIELD, 400, "invalid_request_error", "bad_field", None),
            (
                Code::InvalidArgument,
                reason::CONTEXT_LENGTH,
                400,
                "invalid_request_error",
                "context_length_exceeded",
                None,
            ),
            (Code::FailedPrecondition, "not_now", 400, "invalid_request_error", "not_now", None),
            (Code::Unauthenticated, reason::NO_IDENTITY, 401, "authentication_error", "invalid_api_key", None),
            (Code::PermissionDenied, reason::NOT_ALLOWED, 403, "permission_error", "not_allowed", None),
            (Code::NotFound, reason::NO_SUCH, 404, "invalid_request_error", "no_such", None),
            (Code::Conflict, reason::KEY_REUSED, 409, "invalid_request_error", "key_reused", None),
            (Code::ResourceExhausted, reason::QUEUE_FULL, 429, "rate_limit_error", "rate_limit_exceeded", None),
            (Code::ResourceExhausted, reason::TOO_LARGE, 413, "invalid_request_error", "too_large", None),
            (Code::Cancelled, reason::CALLER_LEFT, 499, "request_cancelled", "caller_left", None),
            (Code::Internal, reason::BUG, 500, "server_error", "bug", None),
            (Code::Unimplemented, reason::NOT_BUILT, 501, "server_error", "not_built", None),
            (Code::Unavailable, reason::PEER_AWAY, 503, "server_error", "peer_away", Some(RETRY_AFTER)),
            (Code::Unavailable, reason::NO_MODEL, 503, "server_error", "no_model", None),
            (Code::DeadlineExceeded, reason::TIME_UP, 504, "server_error", "time_up", None),
        ] {
            let error = ApiError::from(&Fault::new(code, word, "why"));
            assert_eq!((error.status, error.kind, error.code.as_deref()), (status, kind, Some(their_code)), "{code}");
            assert_eq!((error.retry_after, error.retry), (retry, retry.is_some()), "{code} {word}");
            assert_eq!(error.message, "why");
        }
    }

    #[test]
    fn a_stated_wait_is_passed_on_in_both_headers() {
        let fault =
            Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, "full").retry_after(Duration::from_millis(1_200));
        let response = ApiError::from(&fault).into_response();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("retry-after"), Some("2"));
        assert_eq!(header("retry-after-ms"), Some("1200"));
        assert_eq!(header("x-should-retry"), Some("true"));
    }

    #[test]
    fn the_wrong_parameter_is_named() {
        let error = ApiError::from(&Fault::invalid_field("messages[1].content", "is empty"));
        assert_eq!(error.param.as_deref(), Some("messages[1].content"));
        let error = ApiError::from(&Fault::new(Code::InvalidArgument, reason::CONTEXT_LENGTH, "9 tokens; 8 fit"));
        assert_eq!(
            error.body(),
            json!({"error": {"message": "9 tokens; 8 fit", "type": "invalid_request_error",
            "param": "messages", "code": "context_length_exceeded"}})
        );
    }
}

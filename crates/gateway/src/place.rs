//! What a path of this door leads to.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tandem_contract::refuse;
use tandem_contract::rpc::RpcFacts;
use tandem_types::{Code, Fault, reason};

use crate::forward;
use crate::openai::ApiError;

/// A place behind the door.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/models`
    Models,
    /// `/v1/models/{name}`
    Model(String),
    /// Under `/v1`, and not there.
    NoApi,
    /// `/api/login`
    Login,
    /// `/api/logout`
    Logout,
    /// Under `/api`, and not there.
    NoSignIn,
    /// An RPC that people may call.
    Rpc(RpcFacts),
    /// An RPC that people may not call, or that does not exist.
    NoRpc(Fault),
    /// The page or one of its parts.
    Page,
}

impl Place {
    /// The place at this path.
    pub(crate) fn at(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/models" => Self::Models,
            "/api/login" => Self::Login,
            "/api/logout" => Self::Logout,
            _ => {
                let path_in = path.trim_start_matches('/');
                let (first, rest) = path_in.split_once('/').unwrap_or((path_in, ""));
                match first {
                    "v1" => match rest.strip_prefix("models/").map(percent_decode_str) {
                        Some(name) => name.decode_utf8().map_or(Self::NoApi, |name| Self::Model(name.into_owned())),
                        None => Self::NoApi,
                    },
                    "api" => Self::NoSignIn,
                    service if service.starts_with("tandem.") || service.starts_with("grpc.") => {
                        forward::find(path).map_or_else(Self::NoRpc, Self::Rpc)
                    }
                    _ => Self::Page,
                }
            }
        }
    }

    /// Its name in metrics: one of a fixed list.
    pub(crate) fn route(&self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{name}",
            Self::NoApi => "/v1",
            Self::Login => "/api/login",
            Self::Logout => "/api/logout",
            Self::NoSignIn => "/api",
            Self::Rpc(facts) => facts.path,
            Self::NoRpc(_) => "rpc",
            Self::Page => "page",
        }
    }

    /// What may be done here.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Models | Self::Model(_) | Self::Page => &[Method::GET, Method::HEAD],
            Self::Chat | Self::Login | Self::Logout | Self::Rpc(_) => &[Method::POST],
            Self::NoApi | Self::NoSignIn | Self::NoRpc(_) => &[],
        }
    }

    /// Whether anybody may come here: the page holds nothing of the owner's, and who signs in has not done so yet.
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Page | Self::Login)
    }

    /// An error in the words of this place.
    pub(crate) fn refuse(&self, fault: &Fault, headers: &HeaderMap) -> Response {
        match self {
            Self::Chat | Self::Models | Self::Model(_) | Self::NoApi => ApiError::from(fault).into_response(),
            Self::Rpc(_) | Self::NoRpc(_) => forward::plain(refuse(fault, headers)),
            Self::Login | Self::Logout | Self::NoSignIn | Self::Page => {
                let status = StatusCode::from_u16(tandem_contract::row(fault.code).http);
                let body = json!({"code": fault.code, "reason": fault.reason, "message": fault.message});
                let mut response =
                    (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), axum::Json(body)).into_response();
                if let Some(after) = fault.retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs() + 1));
                }
                response
            }
        }
    }

    /// Says that this cannot be done here.
    pub(crate) fn wrong_method(&self, method: &Method, headers: &HeaderMap) -> Response {
        let allowed = self.methods().iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("{method} is not answered here; use {allowed}");
        let mut response = self.refuse(&Fault::new(Code::Unimplemented, reason::NOT_BUILT, message), headers);
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_contract::rpc::sessions;

    #[test]
    fn every_path_leads_somewhere() {
        for (path, place) in [
            ("/", Place::Page),
            ("/assets/app.js", Place::Page),
            ("/favicon.ico", Place::Page),
            ("/v1", Place::NoApi),
            ("/v1/chat/completions", Place::Chat),
            ("/v1/chat/completions/", Place::NoApi),
            ("/v1/embeddings", Place::NoApi),
            ("/v1/models", Place::Models),
            ("/v1/models/", Place::Model(String::new())),
            ("/v1/models/llm.fast", Place::Model("llm.fast".into())),
            ("/v1/models/org%2Fname%zz", Place::Model("org/name%zz".into())),
            ("/v1/models/%ff", Place::NoApi),
            ("/api/login", Place::Login),
            ("/api/x", Place::NoSignIn),
            (sessions::LIST_SESSIONS.path(), Place::Rpc(sessions::LIST_SESSIONS.facts())),
        ] {
            assert_eq!(Place::at(path), place, "{path}");
        }
        assert!(matches!(Place::at("/tandem.model.v1.Models/Acquire"), Place::NoRpc(_)));
        assert!(matches!(Place::at("/grpc.health.v1.Health/Check"), Place::NoRpc(_)));
    }
}

//! One request from its arrival to its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tandem_agent::Ctx;
use tandem_contract::MAX_REQUEST_BYTES;
use tandem_types::{Code, Fault, reason};
use tokio_util::sync::CancellationToken;

use crate::access::{Access, CSRF_COOKIE, Hosts, SESSION_COOKIE, SESSION_LIFE, Token};
use crate::openai::{self, Directory};
use crate::page::Page;
use crate::place::Place;
use crate::span::Span;
use crate::{Settings, forward};

/// A request's body must be there this long after its head.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// Headers of every answer. The page needs nothing from elsewhere, and nobody else may show or read it.
const ALWAYS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What requests share.
pub(crate) struct Door {
    pub(crate) ctx: Ctx,
    pub(crate) settings: Settings,
    pub(crate) models: Directory,
    /// Cancelled when the door begins to close: it takes nothing new.
    pub(crate) closing: CancellationToken,
    /// Cancelled when what still goes on has had its time.
    pub(crate) cut: CancellationToken,
    access: Access,
    page: Page,
}

/// Times an answer until it has been sent or dropped.
struct Timing {
    route: &'static str,
    began: Instant,
    span: Option<Span>,
}

impl Drop for Timing {
    fn drop(&mut self) {
        metrics::histogram!("tandem_http_request_seconds", "route" => self.route).record(self.began.elapsed());
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: String,
}

impl Door {
    /// A door that is not open yet.
    pub(crate) fn new(
        ctx: &Ctx,
        settings: Settings,
        closing: CancellationToken,
        cut: CancellationToken,
    ) -> Result<Arc<Self>, Fault> {
        let token = settings.token_file.as_deref().map(Token::read).transpose()?;
        let hosts = Hosts::new(settings.listen.ip(), settings.names.clone());
        Ok(Arc::new(Self {
            models: Directory::new(ctx),
            access: Access::new(hosts, token),
            page: Page::open(),
            ctx: ctx.clone(),
            settings,
            closing,
            cut,
        }))
    }

    /// The end of whatever was going on when the door closed.
    pub(crate) fn draining(&self) -> Fault {
        let fault = Fault::unavailable(reason::DRAINING, "Tandem's web door is closing; try again once it is back");
        fault.at(self.ctx.id()).retry_after(Duration::from_secs(1))
    }

    /// Answers one request.
    pub(crate) async fn answer(self: &Arc<Self>, mut request: Request<Incoming>, from: IpAddr) -> Response {
        let place = Place::at(request.uri().path());
        let span = Span::begin(&self.ctx, &place, request.headers_mut());
        let mut timing = Timing { route: place.route(), began: Instant::now(), span };
        let mut response = self.enter(&place, request, from).await;
        let code = response.status().as_u16().to_string();
        if let Some(span) = &mut timing.span {
            span.answered(response.status());
        }
        metrics::counter!("tandem_http_requests_total", "route" => timing.route, "code" => code).increment(1);
        for (name, value) in ALWAYS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response.map(|body| timed(body, timing))
    }

    async fn enter(self: &Arc<Self>, place: &Place, request: Request<Incoming>, from: IpAddr) -> Response {
        let (parts, body) = request.into_parts();
        let headers = &parts.headers;
        let admitted = self.access.check_source(&parts.uri, headers).and_then(|()| {
            if place.is_public() {
                return Ok(());
            }
            self.access.check_identity(&parts.method, headers, from, self.ctx.clock().now())
        });
        if let Err(fault) = admitted {
            return place.refuse(&fault, headers);
        }
        if !place.methods().is_empty() && !place.methods().contains(&parts.method) {
            return place.wrong_method(&parts.method, headers);
        }
        let body = match whole(body).await {
            Ok(body) => body,
            Err(fault) => return place.refuse(&fault, headers),
        };
        match place {
            Place::Chat if !is_json(headers) => openai::not_json(),
            Place::Chat => openai::complete(self, headers, &body).await,
            Place::Models => self.models.list().await,
            Place::Model(name) => self.models.one(name).await,
            Place::Login => self.sign_in(&body, from).unwrap_or_else(|fault| place.refuse(&fault, headers)),
            Place::Logout => sign_out(),
            Place::Rpc(facts) => forward::pass(self, *facts, headers, body).await,
            Place::NoRpc(fault) => place.refuse(fault, headers),
            Place::NoApi => {
                let message = format!(
                    "there is no {} {} here; there are POST /v1/chat/completions, GET /v1/models and GET /v1/models/{{name}}",
                    parts.method,
                    parts.uri.path()
                );
                place.refuse(&Fault::not_found(message), headers)
            }
            Place::NoSignIn => place.refuse(&nothing_at(parts.uri.path()), headers),
            Place::Page => self
                .page
                .answer(&parts.method, parts.uri.path(), headers)
                .unwrap_or_else(|| place.refuse(&nothing_at(parts.uri.path()), headers)),
        }
    }

    fn sign_in(&self, body: &Bytes, from: IpAddr) -> Result<Response, Fault> {
        let SignIn { token } = serde_json::from_slice(body)
            .map_err(|_| Fault::invalid_field("token", "send JSON with the token: {\"token\": \"...\"}"))?;
        let session = self.access.sign_in(&token, from, self.ctx.clock().now())?;
        let life = SESSION_LIFE.as_secs();
        let mut response = StatusCode::NO_CONTENT.into_response();
        let sealed = format!("{SESSION_COOKIE}={}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict", session.sealed);
        let csrf = format!("{CSRF_COOKIE}={}; Path=/; Max-Age={life}; SameSite=Strict", session.csrf);
        set_cookies(&mut response, &[sealed, csrf]);
        Ok(response)
    }
}

/// Makes the browser forget its session. The sealed note itself ends with its time, or with the token.
fn sign_out() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let gone = |name: &str| format!("{name}=; Path=/; Max-Age=0; SameSite=Strict");
    set_cookies(&mut response, &[gone(SESSION_COOKIE), gone(CSRF_COOKIE)]);
    response
}

fn set_cookies(response: &mut Response, cookies: &[String]) {
    for cookie in cookies {
        if let Ok(value) = HeaderValue::from_str(cookie) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
}

fn nothing_at(path: &str) -> Fault {
    Fault::not_found(format!("there is nothing at {path}"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Reads a body within its limits of size and time.
async fn whole(body: Incoming) -> Result<Bytes, Fault> {
    let read = tokio::time::timeout(BODY_LIMIT, Limited::new(body, MAX_REQUEST_BYTES).collect()).await;
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the request is larger than {MAX_REQUEST_BYTES} bytes");
            Err(Fault::new(Code::ResourceExhausted, reason::TOO_LARGE, message))
        }
        Ok(Err(error)) => Err(Fault::invalid_field("body", format!("broke off: {error}"))),
        Err(_) => {
            let message = format!("the request's body did not come within {} s", BODY_LIMIT.as_secs());
            Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
        }
    }
}

/// A body that keeps its timing until it has been sent or dropped, and its known length.
fn timed(body: Body, timing: Timing) -> Body {
    struct Timed {
        body: Body,
        _timing: Timing,
    }
    impl http_body::Body for Timed {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
            std::pin::Pin::new(&mut self.body).poll_frame(cx)
        }

        fn is_end_stream(&self) -> bool {
            self.body.is_end_stream()
        }

        fn size_hint(&self) -> http_body::SizeHint {
            self.body.size_hint()
        }
    }
    Body::new(Timed { body, _timing: timing })
}

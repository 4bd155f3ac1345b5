//! Connections to other machines, encrypted; to this one, as they are.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tandem_trust::explain;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use super::{Secured, Trust};
use crate::channel::CONNECT_LIMIT;

/// What other machines are called with.
#[derive(Clone)]
pub(crate) enum Connecting {
    /// None is called.
    Nobody,
    /// As a member of the fleet, each by the name that its node has.
    Member(Trust),
    /// As nobody in particular: whoever is there must be who this accepts.
    Guest(Arc<ClientConfig>, ServerName<'static>),
}

/// Why TLS broke connections that were open, by whom they led to. A server that refuses a certificate says so only when the client
/// has the connection already, and what then waits for an answer learns no more than that it was closed.
#[derive(Clone, Default)]
pub(crate) struct Refusals {
    by_authority: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Refusals {
    fn note(&self, authority: &str, error: &io::Error) {
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            self.lock().insert(authority.to_owned(), in_words(error));
        }
    }

    /// Why the last connection there was broken, if TLS did it and nobody has asked.
    pub(crate) fn take(&self, authority: &str) -> Option<String> {
        self.lock().remove(authority)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.by_authority.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens connections for `http` and, to whom it may call, for `https`.
#[derive(Clone)]
pub(crate) struct Connector {
    http: HttpConnector,
    others: Connecting,
    refusals: Refusals,
}

impl Connector {
    pub(crate) fn new(mut http: HttpConnector, others: Connecting, refusals: Refusals) -> Self {
        http.enforce_http(false);
        Self { http, others, refusals }
    }
}

/// A connection, and where it is told why TLS broke it.
pub(crate) struct Way {
    kind: Kind,
    refusals: Refusals,
    authority: String,
}

/// The kinds of connections.
enum Kind {
    Plain(TokioIo<TcpStream>),
    Guest(Box<TokioIo<TlsStream<TcpStream>>>),
    Member(Box<TokioIo<Secured<TlsStream<TcpStream>>>>),
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Way;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Way, Failed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let secure = uri.scheme_str() == Some("https");
        let connecting = self.http.call(uri.clone());
        let (others, refusals) = (self.others.clone(), self.refusals.clone());
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        Box::pin(async move {
            if !secure {
                return Ok(Way { kind: Kind::Plain(connecting.await?), refusals, authority });
            }
            let (config, name, trust) = match others {
                Connecting::Nobody => return Err("nothing here may call other machines".into()),
                Connecting::Guest(config, name) => (config, name, None),
                Connecting::Member(trust) => {
                    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                    let address: IpAddr = host.parse().map_err(|_| format!("`{host}` is no IP address of a node"))?;
                    let (config, name) = trust.calling(address)?;
                    (config, name, Some(trust))
                }
            };
            let tcp = connecting.await?.into_inner();
            let shaken = tokio::time::timeout(CONNECT_LIMIT, TlsConnector::from(config).connect(name, tcp));
            let stream = shaken.await.map_err(|_| "no TLS handshake in time")?.map_err(|e| in_words(&e))?;
            let kind = match trust {
                None => Kind::Guest(Box::new(TokioIo::new(stream))),
                Some(trust) => {
                    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                    Kind::Member(Box::new(TokioIo::new(trust.guarded(stream, &certificates))))
                }
            };
            Ok(Way { kind, refusals, authority })
        })
    }
}

/// What went wrong in a handshake, for people.
pub(crate) fn in_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => explain(tls, std::time::SystemTime::now()),
        None => error.to_string(),
    }
}

impl Connection for Way {
    fn connected(&self) -> Connected {
        match &self.kind {
            Kind::Plain(tcp) => tcp.connected(),
            Kind::Guest(_) | Kind::Member(_) => Connected::new().negotiated_h2(),
        }
    }
}

/// Passes a call on to whichever connection it is.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().kind {
            Kind::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Kind::Guest($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Kind::Member($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl hyper::rt::Read for Way {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let way = self.as_mut();
        let read = each!(way, stream => stream.poll_read(context, into));
        if let Poll::Ready(Err(error)) = &read {
            self.refusals.note(&self.authority, error);
        }
        read
    }
}

impl hyper::rt::Write for Way {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(context))
    }
}

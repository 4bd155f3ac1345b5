//! Serving other machines.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::CertificateDer;
use tandem_trust::peer_node;
use tandem_types::{Code, Fault, NodeName, reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connect::in_words;
use super::{Secured, Trust};
use crate::call::CALLER_HEADER;
use crate::service::refuse;

/// How long a caller has to show who it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Handshakes at once; further callers wait in the kernel's queue.
const HANDSHAKES: usize = 32;
/// Wait before the next try when the process has no file left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Where it calls from.
    pub address: SocketAddr,
    /// The node that it has shown to be; none for who showed nothing.
    pub node: Option<NodeName>,
}

type Stream = Secured<TlsStream<TcpStream>>;

/// Accepts connections of the fleet's nodes.
pub struct SecureListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<(Stream, Remote)>,
    _accepting: JoinSet<()>,
}

impl SecureListener {
    /// Only members come in; without `members_only` also who shows no certificate, to join or to renew.
    ///
    /// # Errors
    /// When the socket cannot say its address.
    pub fn new(tcp: TcpListener, trust: Trust, members_only: bool) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, accepted) = mpsc::channel(HANDSHAKES);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(tcp, trust, members_only, sender));
        Ok(Self { address, accepted, _accepting: accepting })
    }
}

async fn accept(tcp: TcpListener, trust: Trust, members_only: bool, accepted: mpsc::Sender<(Stream, Remote)>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut shaking = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while shaking.try_join_next().is_some() {}
        let (stream, address) = match tcp.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let (trust, accepted) = (trust.clone(), accepted.clone());
        shaking.spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, shake(stream, &trust, members_only, address)).await;
            drop(place);
            match shaken.unwrap_or_else(|_| Err("it did not show who it is in time".into())) {
                // A listener that is gone needs no more connections.
                Ok(connection) => drop(accepted.send(connection).await),
                Err(why) => tracing::warn!(%address, why, "a caller is turned away"),
            }
        });
    }
}

async fn shake(
    tcp: TcpStream,
    trust: &Trust,
    members_only: bool,
    address: SocketAddr,
) -> Result<(Stream, Remote), String> {
    // An answer goes out token by token; small pieces must not wait for the acknowledgement of the ones before.
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let present = trust.need().map_err(|fault| fault.message)?;
    let config = if members_only { &present.members } else { &present.anybody };
    let stream = TlsAcceptor::from(config.clone()).accept(tcp).await.map_err(|e| in_words(&e))?;
    let certificates: Vec<CertificateDer<'static>> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let node = if certificates.is_empty() { None } else { Some(peer_node(&certificates).map_err(|e| e.message)?) };
    Ok((trust.guarded(stream, &certificates), Remote { address, node }))
}

impl Listener for SecureListener {
    type Io = Stream;
    type Addr = Remote;

    async fn accept(&mut self) -> (Stream, Remote) {
        match self.accepted.recv().await {
            Some(connection) => connection,
            // The accepting task only ends with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Remote> {
        Ok(Remote { address: self.address, node: None })
    }
}

impl Connected<IncomingStream<'_, SecureListener>> for Remote {
    fn connect_info(stream: IncomingStream<'_, SecureListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// The door that is no agent of any node: the command line.
const CLI: &str = "cli";

/// Refuses a request that names a caller of another node than the one that sent it, or an agent without its node.
pub async fn members_only(ConnectInfo(remote): ConnectInfo<Remote>, request: Request, next: Next) -> Response {
    let caller = request.headers().get(&CALLER_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let named = caller.split_once('/').map(|(node, _)| node);
    let own = |node: &NodeName| named.map_or(["", CLI].contains(&caller), |named| named == node.as_str());
    let fault = match &remote.node {
        Some(node) if own(node) => return next.run(request).await,
        Some(node) => Fault::new(
            Code::PermissionDenied,
            reason::NOT_ALLOWED,
            format!("{node} calls as `{caller}`, which is not of that node"),
        ),
        None => Fault::new(Code::Unauthenticated, reason::NO_IDENTITY, "the caller showed no certificate"),
    };
    refuse(&fault, request.headers()).map(axum::body::Body::new).into_response()
}

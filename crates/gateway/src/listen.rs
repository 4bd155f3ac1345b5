//! The listener and its connections.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tandem_agent::Ctx;
use tandem_contract::serve_until;
use tandem_types::{Code, Fault, reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Door, Settings};

/// A request's head must be there this long after its connection or the end of the one before.
const HEAD_LIMIT: Duration = Duration::from_secs(75);
/// The name of the door's socket, for whoever keeps it while the door is opened anew.
const NAME: &str = "web";
/// A connection without a request yet gets this long for its first when the door closes.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// What is cut off gets this long to say so to its caller.
const GRACE: Duration = Duration::from_secs(4);
/// Pause after a connection could not be taken, for want of file handles as a rule.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes the port, or says why it may or can not.
pub(crate) async fn bind(ctx: &Ctx, settings: &Settings) -> Result<TcpListener, Fault> {
    let listen = settings.listen;
    if !listen.ip().to_canonical().is_loopback() && settings.token_file.is_none() {
        let message = format!(
            "will not listen at {listen} without a token: whoever reaches it could use it; set `token_file` under [web] \
             in the fleet file, or listen on 127.0.0.1"
        );
        return Err(Fault::new(Code::FailedPrecondition, reason::SETTING_MISSING, message));
    }
    ctx.sockets().listen(NAME, listen).await.map_err(|e| {
        let (why, remedy) = match e.kind() {
            ErrorKind::AddrInUse => {
                let remedy = format!("another program has it; `ss -ltnp sport = :{}` shows which", listen.port());
                (reason::PORT_TAKEN, remedy)
            }
            ErrorKind::AddrNotAvailable => (reason::BAD_ADDRESS, "this machine does not have the address".to_owned()),
            _ => (reason::BAD_ADDRESS, "check the address".to_owned()),
        };
        let message =
            format!("cannot listen at {listen} for the page: {e}; {remedy}, or set another `listen` under [web]");
        Fault::unavailable(why, message)
    })
}

/// Serves until the door closes and every connection has ended, or was cut off.
pub(crate) async fn serve(door: Arc<Door>, listener: TcpListener) {
    tracing::info!(address = ?listener.local_addr(), token = door.settings.token_file.is_some(), "the web door is open");
    let places = Arc::new(Semaphore::new(door.settings.most_connections));
    let mut connections = JoinSet::new();
    while let Some((stream, from, place)) = next(&door, &listener, &places).await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(door.clone(), stream, from, place));
    }
    drop(listener);
    let cut_off = async {
        door.cut.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let ended = tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => true,
        () = cut_off => false,
    };
    if !ended {
        tracing::warn!(connections = connections.len(), "connections were cut off when the web door closed");
    }
}

/// The next connection; none when the door closes.
async fn next(
    door: &Door,
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let taken = async {
        // The semaphore is never closed, so a place comes sooner or later.
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, from)) => return Some((stream, from.ip().to_canonical(), place)),
                Err(error) => {
                    tracing::warn!(%error, "could not take a connection to the web door");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = door.closing.cancelled() => None,
        taken = taken => taken,
    }
}

async fn connection(door: Arc<Door>, stream: TcpStream, from: IpAddr, place: OwnedSemaphorePermit) {
    let _place = place;
    // From the connection on, as its request may be on the way, to the last byte of the answer.
    let _served = door.ctx.in_flight().begin();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection sends its pieces late");
    }
    let closing = door.closing.clone();
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = service_fn(move |request| {
        first.cancel();
        let door = door.clone();
        async move { Ok::<_, Infallible>(door.answer(request, from).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let served = serve_until(connection, asked.cancelled(), closing.cancelled(), FIRST_LIMIT).await;
    if let Err(error) = served {
        // Whoever left knows it.
        tracing::debug!(%error, "a connection to the web door ended early");
    }
}

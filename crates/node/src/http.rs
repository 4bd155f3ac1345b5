//! Small HTTP/1.1 requests: health probes over TCP, orders over the control socket.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tandem_types::{Code, Fault, reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Largest answer that is read.
const ANSWER_MOST: usize = 4 * 1024 * 1024;

/// Status and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// `GET path` at `address`, all of it `within` a time.
///
/// # Errors
/// `unavailable` when nobody answers, `deadline_exceeded` when the answer takes too long.
pub async fn get(address: SocketAddr, path: &str, within: Duration) -> Result<Answer, Fault> {
    let asked = async {
        let stream = connect(address).await?;
        whole(send(stream, &address.to_string(), Method::GET, path).await?).await
    };
    tokio::time::timeout(within, asked).await.unwrap_or_else(|_| {
        let message = format!("http://{address}{path} did not answer within {} s", within.as_secs_f32());
        Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
    })
}

/// Connects to `address`, for as long as the kernel tries.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Fault> {
    TcpStream::connect(address)
        .await
        .map_err(|e| Fault::unavailable(reason::PEER_AWAY, format!("nobody answers at {address}: {e}")))
}

fn broken(e: &dyn std::fmt::Display) -> Fault {
    Fault::unavailable(reason::PEER_AWAY, format!("the connection broke: {e}"))
}

/// Sends one request without a body on a fresh connection, which lives as long as the answer is read.
pub(crate) async fn send<S>(stream: S, host: &str, method: Method, path: &str) -> Result<Response<Incoming>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    // The sender below says what went wrong; the connection ends with the answer's body.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .body(Empty::<Bytes>::new())
        .map_err(|e| Fault::internal(format!("cannot ask for {path}: {e}")))?;
    sender.send_request(request).await.map_err(|e| broken(&e))
}

/// Reads all of an answer.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Answer, Fault> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_MOST).collect().await.map_err(|e| broken(&e))?.to_bytes();
    Ok(Answer { status, body })
}

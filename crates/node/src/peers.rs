//! Groups of other nodes that a start waits for: while their node is alive, and not at all when it is away.

use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, select_ok};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::http::get;
use crate::spec::PeerSpec;

/// How long another machine has to accept a connection.
const REACH: Duration = Duration::from_secs(1);
/// How often one that is alive is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Waits until each of the peers' groups is ready, its node is away, or `most` is over.
pub(crate) async fn settled(peers: &[PeerSpec], most: Duration) {
    let end = Instant::now() + most;
    join_all(peers.iter().map(|peer| one(peer, end))).await;
}

async fn one(peer: &PeerSpec, end: Instant) {
    while Instant::now() < end {
        match get(peer.address, "/readyz", REACH).await {
            Ok(answer) if answer.status == 200 => return,
            Ok(_) => {}
            Err(_) if !alive(&peer.node).await => {
                return tracing::info!(group = %peer.group, "its node is away: not waiting for it");
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
    tracing::warn!(group = %peer.group, "it was not ready in time: going on without it");
}

async fn alive(node: &[SocketAddr]) -> bool {
    let tries = node.iter().map(|address| {
        timeout(REACH, TcpStream::connect(*address)).map(|r| r.ok().and_then(Result::ok).ok_or(())).boxed()
    });
    !node.is_empty() && select_ok(tries).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn peer(address: SocketAddr) -> PeerSpec {
        PeerSpec { group: "pc2/memory_stack".parse().unwrap(), address, node: vec![address] }
    }

    #[tokio::test]
    async fn a_node_that_is_away_is_not_waited_for() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        settled(&[peer(gone)], Duration::from_secs(3600)).await;
    }

    #[tokio::test]
    async fn a_node_that_is_alive_is_waited_for_until_its_group_is_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(socket.read(&mut request).await.unwrap() > 0);
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        settled(&[peer(address)], Duration::from_secs(3600)).await;
        server.await.unwrap();
    }
}

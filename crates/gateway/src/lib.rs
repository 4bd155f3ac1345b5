//! The outside door: where people's browsers and programs come in.
//!
//! One listener, apart from the ports on which agents meet. It serves
//!
//! - the OpenAI-compatible API under `/v1` ([`openai`]),
//! - the calls of the page, passed on to agents ([`forward`]),
//! - the page itself ([`page`]), and its sign-in (`/api/login`, `/api/logout`).
//!
//! Beyond loopback it opens only with a token; see [`access`] for who may enter.

mod access;
mod door;
mod forward;
mod listen;
mod openai;
mod page;
mod place;
mod span;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tandem_agent::Ctx;
use tandem_types::Fault;
use tokio_util::sync::CancellationToken;

pub(crate) use door::Door;

/// The one person a fleet without an AuthenticationAgent knows.
pub(crate) const USER: &str = "owner";

/// How the door is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File with the token that callers must know; needed beyond loopback.
    pub token_file: Option<PathBuf>,
    /// Names besides `localhost` by which people reach this door.
    pub names: Vec<String>,
    /// A stream that is silent this long gets a sign of life.
    pub keep_alive: Duration,
    /// Longest time a turn may take.
    pub turn_limit: Duration,
    /// Connections at once; more wait.
    pub most_connections: usize,
}

/// An open door.
#[derive(Debug, Clone)]
pub struct Gateway {
    address: SocketAddr,
    closing: CancellationToken,
    cut: CancellationToken,
    closed: CancellationToken,
}

impl Gateway {
    /// Takes the port and begins to serve, in tasks of the agent.
    ///
    /// # Errors
    /// A port that is taken, an address that is not ours, an address beyond loopback without a token, a token file that
    /// cannot be read or holds no good token.
    pub async fn open(ctx: &Ctx, settings: Settings) -> Result<Self, Fault> {
        let listener = listen::bind(ctx, &settings).await?;
        let address = listener.local_addr().map_err(|e| Fault::internal(format!("asking for the own address: {e}")))?;
        let [closing, cut, closed] = [(); 3].map(|()| CancellationToken::new());
        let door = Door::new(ctx, settings, closing.clone(), cut.clone())?;
        let served = closed.clone().drop_guard();
        ctx.spawn(async move {
            let _served = served;
            listen::serve(door, listener).await;
        });
        Ok(Self { address, closing, cut, closed })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connections and ends streams that would never end by themselves; turns and other requests go on, and
    /// their connections end after them. Connections count as being served, so that the agent's host waits for them.
    pub fn begin_close(&self) {
        self.closing.cancel();
    }

    /// Ends what still goes on, with an error event where it is a stream, and waits until all is sent.
    pub async fn close(&self) {
        self.closing.cancel();
        self.cut.cancel();
        self.closed.cancelled().await;
    }
}

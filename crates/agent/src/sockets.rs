//! Listening sockets that outlive the agent that listens, so that nobody is refused while it is started anew.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps sockets for a process over its own restarts.
pub trait SocketKeeper: Send + Sync {
    /// The socket that was kept under this name. Answers once.
    fn take(&self, name: &str) -> Option<TcpListener>;

    /// Keeps a copy of a socket under this name.
    ///
    /// # Errors
    /// When the keeper cannot be reached.
    fn keep(&self, name: &str, listener: &TcpListener) -> io::Result<()>;
}

/// The sockets of a process. Those of an agent that has ended stay open: who connects waits for the next one.
#[derive(Clone, Default)]
pub struct Sockets {
    held: Arc<Mutex<HashMap<String, TcpListener>>>,
    keeper: Option<Arc<dyn SocketKeeper>>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("is_kept", &self.keeper.is_some()).finish_non_exhaustive()
    }
}

impl Sockets {
    /// Sockets that somebody keeps over restarts of this process.
    pub fn kept_by(keeper: Arc<dyn SocketKeeper>) -> Self {
        Self { keeper: Some(keeper), ..Self::default() }
    }

    /// Listens at `address`, with the socket that already does so under this name if there is one. Port 0 is any free
    /// port, and never the same.
    ///
    /// # Errors
    /// As of binding.
    pub async fn listen(&self, name: &str, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        if address.port() == 0 {
            return tokio::net::TcpListener::bind(address).await;
        }
        let kept = self.take(name).or_else(|| self.keeper.as_ref()?.take(name));
        // One that listens elsewhere is closed here.
        let kept = kept.filter(|listener| listener.local_addr().is_ok_and(|own| own == address));
        let listener = match kept {
            Some(listener) => listener,
            None => tokio::net::TcpListener::bind(address).await?.into_std()?,
        };
        listener.set_nonblocking(true)?;
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.keep(name, &listener)
        {
            tracing::warn!(name, %error, "connections will be refused while this process is started anew");
        }
        let own = listener.try_clone()?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), listener);
        tokio::net::TcpListener::from_std(own)
    }

    fn take(&self, name: &str) -> Option<TcpListener> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Node(Mutex<HashMap<String, TcpListener>>);

    impl SocketKeeper for Node {
        fn take(&self, name: &str) -> Option<TcpListener> {
            self.0.lock().unwrap().remove(name)
        }
        fn keep(&self, name: &str, listener: &TcpListener) -> io::Result<()> {
            self.0.lock().unwrap().insert(name.to_owned(), listener.try_clone()?);
            Ok(())
        }
    }

    async fn free() -> SocketAddr {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn who_connects_between_two_processes_is_served_by_the_second() {
        let (node, address) = (Arc::new(Node::default()), free().await);
        let first = Sockets::kept_by(node.clone());
        drop(first.listen("door", address).await.unwrap());
        drop(first);
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let second = Sockets::kept_by(node).listen("door", address).await.unwrap();
        let (_, from) = second.accept().await.unwrap();
        assert_eq!(from, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn an_agent_that_starts_anew_in_its_process_listens_again() {
        let (sockets, address) = (Sockets::default(), free().await);
        for _ in 0..3 {
            let listener = sockets.listen("door", address).await.unwrap();
            assert_eq!(listener.local_addr().unwrap(), address);
        }
        let other = sockets.listen("door", free().await).await.unwrap();
        assert_ne!(other.local_addr().unwrap(), address);
        tokio::net::TcpListener::bind(address).await.unwrap();
    }
}

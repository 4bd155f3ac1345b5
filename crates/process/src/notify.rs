//! The readiness protocol of `sd_notify(3)`: datagrams of `NAME=value` lines to the socket in `$NOTIFY_SOCKET`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tandem_types::{Fault, reason};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::handles::{self, Handle};

/// One datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    fields: BTreeMap<String, String>,
}

impl Message {
    /// Reads `NAME=value` lines; lines without `=` are left out.
    pub fn parse(text: &str) -> Self {
        let fields = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { fields }
    }

    /// Whether the sender says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.get("READY") == Some("1")
    }

    /// Whether the sender says that it is ending.
    pub fn is_stopping(&self) -> bool {
        self.get("STOPPING") == Some("1")
    }

    /// Whether it is a heartbeat.
    pub fn is_heartbeat(&self) -> bool {
        self.get("WATCHDOG") == Some("1")
    }

    /// What a heartbeat says of its sender's health: another word than before when it has changed.
    pub fn health_mark(&self) -> Option<&str> {
        self.get(HEALTH)
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// The receiving end, one per child. The file is removed when it is dropped.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    /// Sockets that its child handed over.
    kept: Mutex<Vec<Handle>>,
}

impl NotifySocket {
    /// Binds at `path`, replacing what a former process left there.
    pub fn bind(path: &Path) -> Result<Self, Fault> {
        let failed = |e: std::io::Error| {
            Fault::unavailable(reason::DISK, format!("cannot make the readiness socket {}: {e}", path.display()))
        };
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let socket = UnixDatagram::bind(path).map_err(failed)?;
        Ok(Self { socket, path: path.to_owned(), kept: Mutex::default() })
    }

    /// Where it listens, for the child's `$NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next datagram. Datagrams that cannot be read are skipped; a socket that comes with one that says so is kept.
    pub async fn receive(&self) -> Message {
        let mut buffer = vec![0; 4096];
        loop {
            let received =
                self.socket.async_io(Interest::READABLE, || handles::receive_with(&self.socket, &mut buffer)).await;
            let Ok((length, handles)) = received else { continue };
            let message = Message::parse(&String::from_utf8_lossy(&buffer[..length]));
            if message.get("FDSTORE") == Some("1")
                && let (Some(name), Some(handle)) = (message.get("FDNAME"), handles.into_iter().next())
            {
                handles::keep(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner), name, handle);
            }
            return message;
        }
    }

    /// Takes what was kept.
    pub fn take_handles(&self) -> Vec<Handle> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // It may have been removed with its folder.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Tells whoever started this process; does nothing when nobody listens.
///
/// # Errors
/// When `$NOTIFY_SOCKET` is set and cannot be written to.
pub fn notify(lines: &[(&str, &str)]) -> std::io::Result<()> {
    let Some(path) = std::env::var_os(SOCKET) else { return Ok(()) };
    let text: String = lines.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    send(&StdDatagram::unbound()?, &path, text.as_bytes())
}

/// Hands a copy of a socket to whoever started this process, to be had back by [`inherited`](crate::inherited) when it is
/// started again; does nothing when nobody listens.
///
/// # Errors
/// When `$NOTIFY_SOCKET` is set and cannot be written to.
pub fn hand_over(name: &str, handle: BorrowedFd<'_>) -> std::io::Result<()> {
    let Some(path) = std::env::var_os(SOCKET) else { return Ok(()) };
    let socket = StdDatagram::unbound()?;
    connect(&socket, &path)?;
    handles::send_with(&socket, format!("FDSTORE=1\nFDNAME={name}\n").as_bytes(), handle)
}

fn connect(socket: &StdDatagram, path: &OsStr) -> std::io::Result<()> {
    match path.to_str().and_then(|p| p.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
        }
        None => socket.connect(path),
    }
}

/// Where whoever started this process listens.
const SOCKET: &str = "NOTIFY_SOCKET";
/// What a heartbeat says of the health of its sender.
const HEALTH: &str = "X_TANDEM_HEALTH";

fn send(socket: &StdDatagram, path: &OsString, text: &[u8]) -> std::io::Result<()> {
    match path.to_str().and_then(|p| p.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(text, &address)?;
        }
        None => {
            socket.send_to(text, path)?;
        }
    }
    Ok(())
}

/// Says that this process lives, to whoever started it or has taken it over since.
#[derive(Debug)]
pub struct Heart {
    socket: StdDatagram,
    path: OsString,
}

impl Heart {
    /// None where nobody started this process who listens.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn of_environment() -> std::io::Result<Option<Self>> {
        let Some(path) = std::env::var_os(SOCKET) else { return Ok(None) };
        let socket = StdDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket, path }))
    }

    /// One beat. It is lost where nobody listens at this moment, or does not keep up: the next one follows.
    pub fn beat(&self) {
        let (Ok(()) | Err(_)) = send(&self.socket, &self.path, b"WATCHDOG=1\n");
    }

    /// One beat that says whether this process's health has changed: whoever listens asks for it when `mark`, a word
    /// without spaces, is another one than before.
    pub fn beat_marked(&self, mark: &str) {
        let text = format!("WATCHDOG=1\n{HEALTH}={mark}\n");
        let (Ok(()) | Err(_)) = send(&self.socket, &self.path, text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fields_arrive_and_the_file_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let socket = NotifySocket::bind(&path).unwrap();
        let sender = StdDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nX_TANDEM_ENDPOINT=http://127.0.0.1:1\njunk", &path).unwrap();
        let message = socket.receive().await;
        assert!(message.is_ready() && !message.is_stopping());
        assert_eq!(message.get("X_TANDEM_ENDPOINT"), Some("http://127.0.0.1:1"));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn heartbeats_find_whoever_listens_now_and_wait_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let socket = StdDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let heart = Heart { socket, path: path.clone().into() };
        heart.beat();
        for _ in 0..2 {
            let socket = NotifySocket::bind(&path).unwrap();
            // Far more than the kernel keeps for one that does not read.
            (0..10_000).for_each(|_| heart.beat());
            let message = socket.receive().await;
            assert!(message.is_heartbeat() && !message.is_ready());
            assert_eq!(message.health_mark(), None);
        }
        let socket = NotifySocket::bind(&path).unwrap();
        heart.beat_marked("7f");
        let message = socket.receive().await;
        assert_eq!((message.is_heartbeat(), message.health_mark()), (true, Some("7f")));
    }

    #[tokio::test]
    async fn a_socket_that_was_handed_over_goes_on_listening() {
        use std::os::fd::AsFd as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let socket = NotifySocket::bind(&path).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sender = StdDatagram::unbound().unwrap();
        connect(&sender, path.as_os_str()).unwrap();
        for name in ["door", "door"] {
            handles::send_with(&sender, format!("FDSTORE=1\nFDNAME={name}").as_bytes(), listener.as_fd()).unwrap();
            assert_eq!(socket.receive().await.get("FDNAME"), Some("door"));
        }
        drop(listener);
        let client = std::net::TcpStream::connect(address).unwrap();
        let mut kept = socket.take_handles();
        assert_eq!(kept.len(), 1, "one under each name");
        let (name, handle) = kept.remove(0);
        assert_eq!(name, "door");
        let (_, from) = std::net::TcpListener::from(handle).accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody has it any more");
    }

    #[tokio::test]
    async fn a_left_over_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        std::fs::write(&path, "old").unwrap();
        NotifySocket::bind(&path).unwrap();
    }
}

//! Mutual TLS between the nodes of a fleet.
//!
//! What a process calls on another machine, and what it serves to other machines, goes through here; what stays on the machine does
//! not. Both sides show certificates of the fleet's own CA, and a connection ends when the node at its other end is no member any more.

mod connect;
mod guard;
mod listen;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tandem_trust::{Folder, Identity, Watched};
use tandem_types::{Code, Fault, NodeName, reason};
use tokio::sync::watch;

pub(crate) use connect::{Connecting, Connector, Refusals, in_words};
use guard::{Guards, Secured};
pub use listen::{Remote, SecureListener, members_only};

/// How often the files are looked at: so long a renewal or a revocation takes to reach a process.
const LOOK: Duration = Duration::from_secs(2);
/// How often open connections are held against the clock.
const CHECK: Duration = Duration::from_secs(60);
/// The protocol that is spoken inside.
const H2: &[u8] = b"h2";

/// What a process uses of the fleet's trust: who its node is, who others are. Follows the files, which may not be there yet. Cheap to
/// clone.
#[derive(Clone)]
pub struct Trust {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// Which node is at an address.
    nodes: BTreeMap<IpAddr, NodeName>,
    watched: Mutex<Option<Watched>>,
    present: RwLock<Option<Arc<Present>>>,
    /// Counts changes.
    news: watch::Sender<u64>,
    guards: Guards,
}

/// The identity with what rustls makes of it.
struct Present {
    identity: Arc<Identity>,
    client: Arc<ClientConfig>,
    members: Arc<ServerConfig>,
    anybody: Arc<ServerConfig>,
    has_peers: bool,
}

impl Trust {
    /// Of the files in `folder`; `nodes` says which node is at an address.
    pub fn new(folder: PathBuf, nodes: impl IntoIterator<Item = (IpAddr, NodeName)>) -> Self {
        let shared = Shared {
            folder,
            nodes: nodes.into_iter().collect(),
            watched: Mutex::new(None),
            present: RwLock::new(None),
            news: watch::Sender::new(0),
            guards: Guards::default(),
        };
        let trust = Self { shared: Arc::new(shared) };
        trust.look();
        trust
    }

    /// Whether this machine belongs to a fleet.
    pub fn is_there(&self) -> bool {
        self.present().is_some()
    }

    /// Whether there is anybody to speak with: a founder that nobody has joined yet has not.
    pub fn has_peers(&self) -> bool {
        self.present().is_some_and(|present| present.has_peers)
    }

    /// Who this node is, if it belongs to a fleet.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.present().map(|present| present.identity.clone())
    }

    /// Changes each time the identity does.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.shared.news.subscribe()
    }

    /// Follows the files; never ends by itself.
    pub async fn follow(&self) {
        let mut checked = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            // Certificates also end by themselves.
            let check = checked.elapsed() >= CHECK;
            if check {
                checked = Instant::now();
            }
            let trust = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                trust.look();
                if check {
                    trust.shared.guards.check(trust.identity().as_deref(), SystemTime::now());
                }
            });
            if looked.await.is_err() {
                tracing::error!("looking at the fleet's certificates broke");
            }
        }
    }

    /// Looks at the files now.
    pub fn look(&self) {
        if let Err(fault) = self.try_look() {
            tracing::error!(%fault, "the fleet's certificates cannot be used");
        }
    }

    fn try_look(&self) -> Result<(), Fault> {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Folder::open(self.shared.folder.clone())?;
        let (is_member, has_peers) = (folder.fleet()?.is_some(), folder.has_peers()?);
        let changed = match watched.as_mut() {
            _ if !is_member => watched.take().is_some(),
            Some(watched) => watched.changed()?,
            None => {
                *watched = Some(Watched::new(folder)?);
                true
            }
        };
        if !changed && self.has_peers() == has_peers {
            return Ok(());
        }
        let identity = watched.as_ref().map(|watched| watched.identity().clone());
        let present = identity.clone().map(|identity| Present::new(identity, has_peers)).transpose()?;
        *self.shared.present.write().unwrap_or_else(PoisonError::into_inner) = present.map(Arc::new);
        self.shared.guards.check(identity.as_deref(), SystemTime::now());
        self.shared.news.send_modify(|count| *count += 1);
        Ok(())
    }

    fn present(&self) -> Option<Arc<Present>> {
        self.shared.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn need(&self) -> Result<Arc<Present>, Fault> {
        self.present().ok_or_else(|| {
            let message = "this machine has not joined the fleet; `tandem invite` on the first machine says how";
            Fault::new(Code::Unavailable, reason::PEER_AWAY, message)
        })
    }

    /// What to call `address` with, and the name that its certificate must have.
    fn calling(&self, address: IpAddr) -> Result<(Arc<ClientConfig>, ServerName<'static>), Fault> {
        let present = self.need()?;
        let node = self
            .shared
            .nodes
            .get(&address)
            .ok_or_else(|| Fault::not_found(format!("the fleet file has no node at {address}")))?;
        Ok((present.client.clone(), present.identity.server_name(node)?))
    }

    /// A connection that was just made, ended when its other end is no member any more.
    fn guarded<S>(&self, stream: S, certificates: &[CertificateDer<'_>]) -> Secured<S> {
        Secured::new(stream, self.shared.guards.add(certificates))
    }
}

impl Present {
    fn new(identity: Arc<Identity>, has_peers: bool) -> Result<Self, Fault> {
        Ok(Self {
            client: identity.client_config(&[H2])?,
            members: identity.server_config(true, &[H2])?,
            anybody: identity.server_config(false, &[H2])?,
            has_peers,
            identity,
        })
    }
}

//! The folder of trust: private files, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tandem_types::{Code, Fault, reason};

use crate::fleet::{Fleet, check_addresses};
use crate::pki::{self, Crl};

/// What the fleet is. Written last: without it nothing else counts.
pub(crate) const FLEET: &str = "fleet.json";
pub(crate) const CA: &str = "ca.pem";
pub(crate) const CA_KEY: &str = "ca.key";
pub(crate) const NODE: &str = "node.pem";
pub(crate) const NODE_KEY: &str = "node.key";
pub(crate) const CRL: &str = "crl.pem";
/// Members and invitations: one file, so that an invitation is used in the same instant in which its node becomes a member.
pub(crate) const LEDGER: &str = "members.json";
/// The key of a join that is under way.
pub(crate) const JOINING: &str = "joining.json";
const LOCK: &str = "lock";

/// The folder that holds a machine's trust: `fleet.json`, `ca.pem`, `node.pem`, `node.key`, `crl.pem`; where the fleet was
/// founded `ca.key` and `members.json` too. The folder has mode 0700, its files 0600.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which need not be there yet.
    ///
    /// # Errors
    /// When it is there and others can enter it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        let path = path.into();
        match fs::metadata(&path) {
            Ok(found) if found.mode() & 0o077 != 0 => Err(exposed(&path, found.mode(), 0o700)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk("look at", &path, &e)),
            _ => Ok(Self { path }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fleet that this machine belongs to, if any.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn fleet(&self) -> Result<Option<Fleet>, Fault> {
        self.read_json(FLEET)
    }

    /// The fleet that this machine belongs to.
    ///
    /// # Errors
    /// `failed_precondition`, `no_trust` where it belongs to none.
    pub fn need_fleet(&self) -> Result<Fleet, Fault> {
        self.fleet()?.ok_or_else(|| {
            Fault::new(
                Code::FailedPrecondition,
                reason::NO_TRUST,
                "this machine belongs to no fleet: `tandem init` founds one, `tandem join` joins another machine's",
            )
        })
    }

    /// The list of revoked certificates that is here.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn crl(&self) -> Result<Crl, Fault> {
        let list = CertificateRevocationListDer::from_pem_slice(self.need(CRL)?.as_bytes());
        list.ok().and_then(|der| Crl::read(der.to_vec())).ok_or_else(|| self.damaged(CRL))
    }

    /// Notes where the founder's link listens. True when that is new.
    pub(crate) fn set_addresses(&self, addresses: &[String]) -> Result<bool, Fault> {
        check_addresses(addresses)?;
        let _lock = self.lock()?;
        let mut fleet = self.need_fleet()?;
        if fleet.addresses == addresses {
            return Ok(false);
        }
        fleet.addresses = addresses.to_vec();
        self.write(&[(FLEET, json(&fleet)?)])?;
        Ok(true)
    }

    /// The certificate of the fleet's CA.
    pub(crate) fn ca(&self) -> Result<CertificateDer<'static>, Fault> {
        CertificateDer::from_pem_slice(self.need(CA)?.as_bytes()).map_err(|_| self.damaged(CA))
    }

    /// The node's certificate and, after it, the CA's.
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let text = self.need(NODE)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| self.damaged(NODE))
    }

    /// A file with a secret in it.
    ///
    /// # Errors
    /// Also when others than the owner can read it: then it may be secret no more.
    pub(crate) fn secret(&self, name: &str) -> Result<String, Fault> {
        let path = self.path.join(name);
        let mode = fs::metadata(&path).map_err(|e| disk("read", &path, &e))?.mode();
        if mode & 0o077 != 0 {
            return Err(exposed(&path, mode, 0o600));
        }
        self.need(name)
    }

    /// One who changes the folder at a time, also among processes. Makes the folder where it is missing.
    pub(crate) fn lock(&self) -> Result<File, Fault> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|e| disk("make", &self.path, &e))?;
        let path = self.path.join(LOCK);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|e| disk("lock", &path, &e))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| self.damaged(name)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(disk("read", &path, &e)),
        }
    }

    /// Writes files in this order, each under another name first, so that each is there as it was or as it is to be.
    pub(crate) fn write(&self, files: &[(&str, String)]) -> Result<(), Fault> {
        files.iter().try_for_each(|(name, text)| {
            let (path, fresh) = (self.path.join(name), self.path.join(format!(".{name}.new")));
            replace(&self.path, &path, &fresh, text).map_err(|e| {
                // What is left of it only takes space; the failure itself is what is reported.
                let (Ok(()) | Err(_)) = fs::remove_file(&fresh);
                disk("write", &path, &e)
            })
        })
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Fault> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk("remove", &path, &e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn damaged(&self, name: &str) -> Fault {
        let path = self.path.join(name);
        let message = format!(
            "{} is damaged: put it back from a backup, or remove {} and join the fleet anew",
            path.display(),
            self.path.display()
        );
        Fault::new(Code::Internal, reason::DISK, message)
    }

    fn need(&self, name: &str) -> Result<String, Fault> {
        let path = self.path.join(name);
        fs::read_to_string(&path).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => self.damaged(name),
            _ => disk("read", &path, &e),
        })
    }
}

/// Certificates as text, each after the other.
pub(crate) fn certificates(chain: &[impl AsRef<[u8]>]) -> String {
    chain.iter().map(|der| pki::to_pem("CERTIFICATE", der.as_ref())).collect()
}

/// A value as the text of a file.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string_pretty(value).map_err(|e| Fault::internal(format!("cannot write down what is trusted: {e}")))
}

fn replace(folder: &Path, path: &Path, fresh: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(fresh, path)?;
    File::open(folder)?.sync_all()
}

fn exposed(path: &Path, mode: u32, wanted: u32) -> Fault {
    let (path, mode) = (path.display(), mode & 0o777);
    Fault::new(
        Code::FailedPrecondition,
        reason::EXPOSED,
        format!("others than its owner can read {path} (mode {mode:o}): `chmod {wanted:o} {path}`"),
    )
}

fn disk(doing: &str, path: &Path, e: &io::Error) -> Fault {
    Fault::unavailable(reason::DISK, format!("cannot {doing} {}: {e}", path.display()))
}

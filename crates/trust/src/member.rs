//! A machine that belongs to a fleet which another machine founded.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tandem_types::{Code, Fault, reason};

use crate::explain::explain;
use crate::files::{CRL, Folder, NODE, NODE_KEY, certificates};
use crate::fleet::Fleet;
use crate::founder::own_certificate;
use crate::joining::foreign;
use crate::pki::{self, Crl};
use crate::verify::check_node;
use crate::{BACKDATE, RENEW_AFTER};

/// A member: it has a certificate of the fleet's CA, asks the founder for a new one each day, and keeps the list of revoked ones.
#[derive(Debug, Clone)]
pub struct Member {
    folder: Folder,
    fleet: Fleet,
}

impl Member {
    /// The member that lives in this folder.
    ///
    /// # Errors
    /// `failed_precondition`, `no_trust` where the machine belongs to no fleet.
    pub fn open(folder: &Folder) -> Result<Self, Fault> {
        Ok(Self { folder: folder.clone(), fleet: folder.need_fleet()? })
    }

    /// The fleet.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Notes where the founder's link listens now, `host:port` each. True when that is new.
    ///
    /// # Errors
    /// `invalid_argument` for what is no address; a disk that fails.
    pub fn set_addresses(&mut self, addresses: &[String]) -> Result<bool, Fault> {
        let new = self.folder.set_addresses(addresses)?;
        self.fleet.addresses = addresses.to_vec();
        Ok(new)
    }

    /// When the node's certificate ends.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn certificate_ends(&self) -> Result<SystemTime, Fault> {
        Ok(own_certificate(&self.folder)?.ends)
    }

    /// A request for a new certificate (PKCS #10, DER) where it is time for one: a day after the last, or when it has expired.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn renewal(&self, now: SystemTime) -> Result<Option<Vec<u8>>, Fault> {
        if !due(&self.folder, now)? {
            return Ok(None);
        }
        let key = pki::read_key(&self.folder.secret(NODE_KEY)?).ok_or_else(|| self.folder.damaged(NODE_KEY))?;
        pki::request(&key).map(Some)
    }

    /// Takes a renewed certificate and the list of revoked ones that came with it.
    ///
    /// # Errors
    /// `permission_denied`, `foreign_ca` for a certificate that is not this CA's, node's and key's; nothing is changed. A disk that
    /// fails.
    pub fn renewed(&self, chain: &[Vec<u8>], crl: &[u8], now: SystemTime) -> Result<(), Fault> {
        let _lock = self.folder.lock()?;
        let root = self.folder.ca()?;
        let [leaf, sent] = chain else {
            return Err(foreign("the founder's answer does not hold the node's certificate and the CA's"));
        };
        if sent.as_slice() != root.as_ref() {
            return Err(foreign("the renewed certificate comes from another CA"));
        }
        let leaf = CertificateDer::from(leaf.as_slice());
        let key = own_certificate(&self.folder)?.key;
        check_node(&leaf, &root, (&self.fleet.node, &self.fleet.id), key, now)
            .map_err(|e| foreign(&format!("the renewed certificate is refused: {}", explain(&e, now))))?;
        let list = self.newer(crl)?;
        self.folder.write(&[(NODE, certificates(chain))])?;
        list.map_or(Ok(()), |list| self.folder.write(&[(CRL, list.to_pem())]))
    }

    /// Takes a list of revoked certificates. True when it is newer than the one that is here.
    ///
    /// # Errors
    /// `permission_denied`, `foreign_ca` for one that this fleet's CA has not signed; `conflict`, `old_list` for one that is older
    /// than what is here, as somebody would send it who hides a revocation; nothing is changed. A disk that fails.
    pub fn take_crl(&self, crl: &[u8]) -> Result<bool, Fault> {
        let _lock = self.folder.lock()?;
        match self.newer(crl)? {
            Some(list) => self.folder.write(&[(CRL, list.to_pem())]).map(|()| true),
            None => Ok(false),
        }
    }

    fn newer(&self, crl: &[u8]) -> Result<Option<Crl>, Fault> {
        let list = Crl::checked(crl, &self.folder.ca()?)?;
        let here = self.folder.crl()?.number;
        if list.number < here {
            return Err(Fault::new(
                Code::Conflict,
                reason::OLD_LIST,
                format!(
                    "the list of revoked certificates that came is number {}, older than number {here} here",
                    list.number
                ),
            ));
        }
        Ok((list.number > here).then_some(list))
    }
}

/// Whether it is time to renew the node's certificate.
pub(crate) fn due(folder: &Folder, now: SystemTime) -> Result<bool, Fault> {
    let own = own_certificate(folder)?;
    Ok(now >= own.starts + BACKDATE + RENEW_AFTER || now >= own.ends)
}

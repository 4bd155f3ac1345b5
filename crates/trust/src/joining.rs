//! Becoming a member.

use std::fmt;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tandem_types::{Code, Fault, NodeName, reason};

use crate::explain::explain;
use crate::files::{CA, CRL, FLEET, Folder, JOINING, NODE, NODE_KEY, certificates, json};
use crate::fleet::{Fingerprint, Fleet, FleetId};
use crate::founder::need_none;
use crate::invitation::{Invitation, Secret};
use crate::member::Member;
use crate::pki::{self, Crl};
use crate::verify::check_node;

/// What a joiner asks the founder.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The invitation's secret.
    pub secret: Secret,
    /// A certificate request (PKCS #10, DER), signed by the key that it is for.
    pub csr: Vec<u8>,
    /// Whom the joiner takes itself for.
    pub node: NodeName,
}

/// What the founder answers to a join or a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The fleet's number.
    pub fleet: FleetId,
    /// Certificates, DER: the node's, then the CA's.
    pub chain: Vec<Vec<u8>>,
    /// The list of revoked certificates, DER.
    pub crl: Vec<u8>,
}

/// A join that is under way. Its key waits in a file, so that after a lost answer or a crash the same key asks again.
pub struct Joining {
    folder: Folder,
    invitation: Invitation,
    key: KeyPair,
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining")
            .field("folder", &self.folder)
            .field("invitation", &self.invitation)
            .finish_non_exhaustive()
    }
}

/// The file that waits.
#[derive(Serialize, Deserialize)]
struct Waiting {
    /// Which invitation the key is for.
    secret: Fingerprint,
    /// PKCS #8, PEM.
    key: String,
}

impl Joining {
    /// Begins to join with an invitation, or goes on where an attempt with the same invitation ended.
    ///
    /// # Errors
    /// `conflict`, `trust_exists` where the machine belongs to a fleet already; `failed_precondition`, `invitation_expired`; a
    /// disk that fails.
    pub fn new(folder: &Folder, invitation: Invitation, now: SystemTime) -> Result<Self, Fault> {
        let _lock = folder.lock()?;
        need_none(folder)?;
        // Its time may have passed since it was read.
        let invitation = Invitation::read(&invitation.text(), now)?;
        let secret = invitation.secret.fingerprint();
        let waiting = if folder.exists(JOINING) {
            serde_json::from_str::<Waiting>(&folder.secret(JOINING)?).ok().filter(|waiting| waiting.secret == secret)
        } else {
            None
        };
        let key = match waiting.and_then(|waiting| pki::read_key(&waiting.key)) {
            Some(key) => key,
            None => {
                let key = pki::new_key()?;
                folder.write(&[(JOINING, json(&Waiting { secret, key: key.serialize_pem() })?)])?;
                key
            }
        };
        Ok(Self { folder: folder.clone(), invitation, key })
    }

    /// The invitation.
    pub fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    /// What to ask the founder.
    ///
    /// # Errors
    /// When this machine cannot sign.
    pub fn request(&self) -> Result<JoinRequest, Fault> {
        let Invitation { secret, node, .. } = &self.invitation;
        Ok(JoinRequest { secret: secret.clone(), csr: pki::request(&self.key)?, node: node.clone() })
    }

    /// Takes the founder's answer: checks all of it, then writes all of it or nothing.
    ///
    /// # Errors
    /// `permission_denied`, `foreign_ca` for an answer that does not come from the CA of the invitation or is not for this node and
    /// key; a disk that fails.
    pub fn finish(&self, admission: &Admission, now: SystemTime) -> Result<Member, Fault> {
        let Invitation { fleet, fleet_name, founder, node, addresses, ca, .. } = &self.invitation;
        let [leaf, root] = &admission.chain[..] else {
            return Err(foreign("the founder's answer does not hold the node's certificate and the CA's"));
        };
        if admission.fleet != *fleet || Fingerprint::of(root) != *ca {
            return Err(foreign("the answer does not come from the CA that the invitation names"));
        }
        let (leaf, root) = (CertificateDer::from(leaf.as_slice()), CertificateDer::from(root.as_slice()));
        check_node(&leaf, &root, (node, fleet), pki::key_fingerprint(&self.key), now)
            .map_err(|e| foreign(&format!("the certificate in the answer is refused: {}", explain(&e, now))))?;
        let crl = Crl::checked(&admission.crl, &root)?;
        let joined = Fleet {
            id: fleet.clone(),
            name: fleet_name.clone(),
            node: node.clone(),
            founder: founder.clone(),
            ca: *ca,
            addresses: addresses.clone(),
        };
        let _lock = self.folder.lock()?;
        need_none(&self.folder)?;
        self.folder.write(&[
            (NODE_KEY, self.key.serialize_pem()),
            (CA, certificates(&[&root])),
            (NODE, certificates(&admission.chain)),
            (CRL, crl.to_pem()),
            (FLEET, json(&joined)?),
        ])?;
        self.folder.remove(JOINING)?;
        Member::open(&self.folder)
    }
}

pub(crate) fn foreign(message: &str) -> Fault {
    Fault::new(Code::PermissionDenied, reason::FOREIGN_CA, message)
}

//! The machine that founded the fleet and holds its CA.

use std::time::{Duration, SystemTime};

use tandem_types::{Code, Fault, NodeName, Timestamp, reason};

use crate::certificate::Certificate;
use crate::files::{CA, CA_KEY, CRL, FLEET, Folder, LEDGER, NODE, NODE_KEY, certificates, json};
use crate::fleet::{Fingerprint, Fleet, FleetId, check_addresses, check_fleet_name, check_node_name, hex, unhex};
use crate::invitation::{Invitation, Secret};
use crate::joining::{Admission, JoinRequest};
use crate::ledger::{Invited, Issued, Ledger, Record, Used, Verdict, check_lifetime};
use crate::member::due;
use crate::pki::{self, Ca, Crl, Requested};

/// The founder: it alone invites, admits, renews and revokes.
///
/// Every call reads what is on disk, under a lock, so that the node and commands beside it may each have one.
#[derive(Debug)]
pub struct Founder {
    folder: Folder,
    ca: Ca,
}

/// A member as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its node.
    pub node: NodeName,
    /// True for the founder itself.
    pub founder: bool,
    /// Since when.
    pub joined_at: SystemTime,
    /// When its newest certificate ends, unless it is renewed; none where the last one ended long ago.
    pub certificate_ends: Option<SystemTime>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<SystemTime>,
}

/// An invitation that nobody has used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenInvitation {
    /// Who is invited.
    pub node: NodeName,
    /// Until when.
    pub ends_at: SystemTime,
}

impl Founder {
    /// Founds a fleet on this machine: makes its CA and this node's certificate.
    ///
    /// # Errors
    /// `conflict`, `trust_exists` where the machine belongs to a fleet already; bad names; a disk that fails.
    pub fn init(folder: &Folder, fleet_name: &str, node: &NodeName, now: SystemTime) -> Result<Self, Fault> {
        check_fleet_name(fleet_name)?;
        check_node_name(node)?;
        let _lock = folder.lock()?;
        need_none(folder)?;
        let id = FleetId::of(pki::random()?);
        let (ca, ca_key) = Ca::make(&id, now)?;
        let key = pki::new_key()?;
        let (issued, certificate) = give(|serial| ca.issue(&key, (node, &id), serial, now))?;
        let fleet = Fleet {
            id,
            name: fleet_name.to_owned(),
            node: node.clone(),
            founder: node.clone(),
            ca: Fingerprint::of(ca.certificate()),
            addresses: Vec::new(),
        };
        let own = Record {
            node: node.clone(),
            key: pki::key_fingerprint(&key),
            certificates: vec![issued],
            joined_at: now.into(),
            revoked_at: None,
        };
        let ledger = Ledger { crl_number: 1, members: vec![own], invitations: Vec::new() };
        folder.write(&[
            (CA_KEY, ca_key),
            (CA, certificates(&[ca.certificate()])),
            (NODE_KEY, key.serialize_pem()),
            (NODE, certificates(&[&certificate, ca.certificate()])),
            (CRL, ca.crl(1, [], now)?.to_pem()),
            (LEDGER, json(&ledger)?),
            (FLEET, json(&fleet)?),
        ])?;
        Ok(Self { folder: folder.clone(), ca })
    }

    /// The founder that lives in this folder.
    ///
    /// # Errors
    /// `failed_precondition`: `no_trust` where the machine belongs to no fleet, `not_founder` where it did not found its fleet,
    /// `exposed` where others can read the CA's key.
    pub fn open(folder: &Folder) -> Result<Self, Fault> {
        let fleet = folder.need_fleet()?;
        if !fleet.is_founder() {
            let message = format!("{} founded the fleet {}: run the command there", fleet.founder, fleet.name);
            return Err(Fault::new(Code::FailedPrecondition, reason::NOT_FOUNDER, message));
        }
        let key = pki::read_key(&folder.secret(CA_KEY)?).ok_or_else(|| folder.damaged(CA_KEY))?;
        Ok(Self { folder: folder.clone(), ca: Ca::new(folder.ca()?, key)? })
    }

    /// The fleet as it stands on disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn fleet(&self) -> Result<Fleet, Fault> {
        self.folder.need_fleet()
    }

    /// Notes where the founder's link listens, `host:port` each, for invitations to come. True when that is new.
    ///
    /// # Errors
    /// `invalid_argument` for what is no address; a disk that fails.
    pub fn set_addresses(&self, addresses: &[String]) -> Result<bool, Fault> {
        self.folder.set_addresses(addresses)
    }

    /// Invites a node for `lifetime`, to reach the founder at `addresses`, or at those its link has said where there are none. A
    /// newer invitation for a node replaces the one that is open.
    ///
    /// # Errors
    /// `invalid_argument` for a bad name, lifetime or address; `conflict` for a node that is a member; a disk that fails.
    pub fn invite(
        &self,
        node: &NodeName,
        lifetime: Duration,
        addresses: &[String],
        now: SystemTime,
    ) -> Result<Invitation, Fault> {
        check_node_name(node)?;
        check_lifetime(lifetime)?;
        check_addresses(addresses)?;
        let (_lock, fleet, mut ledger) = self.begin(now)?;
        let addresses = if addresses.is_empty() { &fleet.addresses } else { addresses };
        if addresses.is_empty() {
            let problem =
                "are not known: the node that founded the fleet has not run yet, so say where it can be reached";
            return Err(Fault::invalid_field("addresses", problem));
        }
        let secret = Secret::new(pki::random()?);
        // Whole seconds, as the text carries them.
        let ends_at = pki::at(Timestamp::from(now + lifetime).micros() / 1_000_000);
        let invited = Invited {
            secret: secret.fingerprint(),
            node: node.clone(),
            made_at: now.into(),
            ends_at: ends_at.into(),
            used: None,
        };
        ledger.invite(&fleet.node, invited)?;
        self.folder.write(&[(LEDGER, json(&ledger)?)])?;
        Ok(Invitation {
            fleet: fleet.id,
            fleet_name: fleet.name,
            founder: fleet.founder,
            node: node.clone(),
            addresses: addresses.to_vec(),
            ca: fleet.ca,
            secret,
            ends_at,
        })
    }

    /// Makes whoever has an invitation's secret a member, once: the invitation is used, and known to be on disk, before the
    /// certificate is handed out. The same key asking again, because the answer was lost, gets the same certificate.
    ///
    /// # Errors
    /// `permission_denied` with the reason `invitation_unknown`, `invitation_expired`, `invitation_used`,
    /// `invitation_other_node` or `revoked`, `invalid_argument` for a bad request: all to be told to the joiner, nothing changed.
    pub fn admit(&self, request: &JoinRequest, now: SystemTime) -> Result<Admission, Fault> {
        let requested = Requested::read(&request.csr)?;
        let (_lock, fleet, mut ledger) = self.begin(now)?;
        let (secret, key) = (request.secret.fingerprint(), requested.fingerprint());
        let certificate = match ledger.admission(secret, &request.node, key, now.into())? {
            Verdict::Again(place) => self.given(&ledger, place)?,
            Verdict::Admit(place) => {
                // The name is the invitation's, whatever the request asks for.
                let node = ledger.invitations[place].node.clone();
                let (issued, certificate) = give(|serial| self.ca.grant(&requested, (&node, &fleet.id), serial, now))?;
                let used = Used { at: now.into(), key, certificate: pki::to_pem("CERTIFICATE", &certificate) };
                ledger.admit(place, used, issued);
                self.folder.write(&[(LEDGER, json(&ledger)?)])?;
                certificate.to_vec()
            }
        };
        self.answer(fleet.id, certificate)
    }

    /// A new certificate for a member, known by the key that has signed the request; also when its old one has expired.
    ///
    /// # Errors
    /// `permission_denied`, `not_a_member` or `revoked`; `resource_exhausted` for a member that asks again and again;
    /// `invalid_argument` for a bad request; a disk that fails.
    pub fn renew(&self, csr: &[u8], now: SystemTime) -> Result<Admission, Fault> {
        let requested = Requested::read(csr)?;
        let (_lock, fleet, mut ledger) = self.begin(now)?;
        let place = ledger.renewal(requested.fingerprint(), now.into())?;
        let node = ledger.members[place].node.clone();
        let (issued, certificate) = give(|serial| self.ca.grant(&requested, (&node, &fleet.id), serial, now))?;
        ledger.renewed(place, issued);
        self.folder.write(&[(LEDGER, json(&ledger)?)])?;
        self.answer(fleet.id, certificate.to_vec())
    }

    /// Renews the founder's own certificate where that is due. True when it was.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn renew_own(&self, now: SystemTime) -> Result<bool, Fault> {
        if !due(&self.folder, now)? {
            return Ok(false);
        }
        let key = pki::read_key(&self.folder.secret(NODE_KEY)?).ok_or_else(|| self.folder.damaged(NODE_KEY))?;
        let (_lock, fleet, mut ledger) = self.begin(now)?;
        let place = ledger.renewal(pki::key_fingerprint(&key), now.into())?;
        let (issued, certificate) = give(|serial| self.ca.issue(&key, (&fleet.node, &fleet.id), serial, now))?;
        ledger.renewed(place, issued);
        self.folder.write(&[(LEDGER, json(&ledger)?), (NODE, certificates(&[&certificate, self.ca.certificate()]))])?;
        Ok(true)
    }

    /// Ends a node's membership: every certificate it has goes onto the list of revoked ones, its open invitation ends. Members
    /// learn of it from the list. Gives the list.
    ///
    /// # Errors
    /// `not_found` for who is no member, `invalid_argument` for the founder itself; a disk that fails.
    pub fn revoke(&self, node: &NodeName, now: SystemTime) -> Result<Crl, Fault> {
        let (_lock, fleet, mut ledger) = self.begin(now)?;
        ledger.revoke(&fleet.node, node, now.into())?;
        self.folder.write(&[(LEDGER, json(&ledger)?)])?;
        self.publish(&ledger, now)
    }

    /// Members and those who were revoked lately, the founder first.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn members(&self) -> Result<Vec<MemberInfo>, Fault> {
        let own = self.fleet()?.node;
        let info = |record: &Record| MemberInfo {
            node: record.node.clone(),
            founder: record.node == own,
            joined_at: system(record.joined_at),
            certificate_ends: record.certificates.iter().map(|issued| system(issued.ends)).max(),
            revoked_at: record.revoked_at.map(system),
        };
        Ok(self.ledger()?.members.iter().map(info).collect())
    }

    /// Invitations that can still be used.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn invitations(&self, now: SystemTime) -> Result<Vec<OpenInvitation>, Fault> {
        let now = Timestamp::from(now);
        let open = |invited: &&Invited| invited.used.is_none() && invited.ends_at > now;
        let info = |invited: &Invited| OpenInvitation { node: invited.node.clone(), ends_at: system(invited.ends_at) };
        Ok(self.ledger()?.invitations.iter().filter(open).map(info).collect())
    }

    fn ledger(&self) -> Result<Ledger, Fault> {
        self.folder.read_json(LEDGER)?.ok_or_else(|| self.folder.damaged(LEDGER))
    }

    /// What stands on disk, under the lock; the list of revoked certificates is made to say what it says.
    fn begin(&self, now: SystemTime) -> Result<(std::fs::File, Fleet, Ledger), Fault> {
        let lock = self.folder.lock()?;
        let fleet = self.fleet()?;
        let mut ledger = self.ledger()?;
        ledger.forget(now.into());
        // A power cut between the two files leaves the list behind.
        if !self.folder.exists(CRL) || self.folder.crl()?.number != ledger.crl_number {
            self.publish(&ledger, now)?;
        }
        Ok((lock, fleet, ledger))
    }

    fn publish(&self, ledger: &Ledger, now: SystemTime) -> Result<Crl, Fault> {
        let revoked: Option<Vec<_>> = ledger.revoked().map(|(serial, at)| Some((unhex(serial)?, system(at)))).collect();
        let revoked = revoked.ok_or_else(|| self.folder.damaged(LEDGER))?;
        let crl = self.ca.crl(ledger.crl_number, revoked, now)?;
        self.folder.write(&[(CRL, crl.to_pem())])?;
        Ok(crl)
    }

    fn given(&self, ledger: &Ledger, place: usize) -> Result<Vec<u8>, Fault> {
        let used = ledger.invitations.get(place).and_then(|invited| invited.used.as_ref());
        let read = used.and_then(|used| pem::parse(&used.certificate).ok());
        read.map(pem::Pem::into_contents).ok_or_else(|| self.folder.damaged(LEDGER))
    }

    fn answer(&self, fleet: FleetId, certificate: Vec<u8>) -> Result<Admission, Fault> {
        let chain = vec![certificate, self.ca.certificate().to_vec()];
        Ok(Admission { fleet, chain, crl: self.folder.crl()?.der })
    }
}

/// A certificate under a new serial number, and what the ledger says of it.
fn give<C>(sign: impl FnOnce([u8; 16]) -> Result<(C, SystemTime), Fault>) -> Result<(Issued, C), Fault> {
    let serial = pki::new_serial()?;
    let (certificate, ends) = sign(serial)?;
    Ok((Issued { serial: hex(&serial), ends: ends.into() }, certificate))
}

fn system(time: Timestamp) -> SystemTime {
    pki::at(time.micros().div_euclid(1_000_000))
}

/// Refuses a folder that holds a fleet's trust already.
pub(crate) fn need_none(folder: &Folder) -> Result<(), Fault> {
    let Some(fleet) = folder.fleet()? else { return Ok(()) };
    let (path, Fleet { name, node, founder, .. }) = (folder.path().display(), &fleet);
    let leave = if fleet.is_founder() {
        format!(
            "it was founded here, and its CA's key is in {path}: only if no machine needs it any more, remove that folder"
        )
    } else {
        format!("to leave it, `tandem revoke {node}` on {founder}, then remove {path} here")
    };
    Err(Fault::new(
        Code::Conflict,
        reason::TRUST_EXISTS,
        format!("this machine is {node} of the fleet {name} already; {leave}"),
    ))
}

/// Reads when a node's certificate was made and when it ends.
pub(crate) fn own_certificate(folder: &Folder) -> Result<Certificate, Fault> {
    let chain = folder.chain()?;
    chain.first().and_then(|der| Certificate::read(der)).ok_or_else(|| folder.damaged(NODE))
}

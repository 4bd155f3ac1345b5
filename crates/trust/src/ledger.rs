//! Who is a member and who is invited: plain decisions over plain data. The founder reads it, asks, and writes it back.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tandem_types::{Code, Fault, NodeName, Timestamp, reason};

use crate::explain::span;
use crate::fleet::Fingerprint;
use crate::{INVITATION_MOST, LIFE, RENEW_AFTER};

/// How long what has ended is remembered: for saying why it is refused, and for machines whose clock is late.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// How many certificates of one member may be alive. A member needs seven; the others are for answers that were lost.
const LIVE_MOST: usize = 64;

/// Everything that the founder knows of others, as it stands in `members.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Number of the newest list of revoked certificates.
    pub(crate) crl_number: u64,
    /// Members and those who were, oldest first. A node that was revoked and came back has a second entry.
    pub(crate) members: Vec<Record>,
    /// Invitations, open and ended, oldest first.
    pub(crate) invitations: Vec<Invited>,
}

/// A member, known by its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) node: NodeName,
    /// Fingerprint of its public key.
    pub(crate) key: Fingerprint,
    /// Certificates that were given to it.
    pub(crate) certificates: Vec<Issued>,
    pub(crate) joined_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) revoked_at: Option<Timestamp>,
}

/// A certificate that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Issued {
    /// Serial number in hexadecimal digits.
    pub(crate) serial: String,
    pub(crate) ends: Timestamp,
}

/// An invitation, known by the fingerprint of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invited {
    pub(crate) secret: Fingerprint,
    pub(crate) node: NodeName,
    pub(crate) made_at: Timestamp,
    pub(crate) ends_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) used: Option<Used>,
}

/// By whom an invitation was used, and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) at: Timestamp,
    /// Fingerprint of the public key.
    pub(crate) key: Fingerprint,
    /// The certificate, PEM.
    pub(crate) certificate: String,
}

/// What a request to join is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new: the invitation at this place lets it in.
    Admit(usize),
    /// The invitation at this place has let the same key in before: it gets the same certificate.
    Again(usize),
}

fn refused(code: Code, reason: &str, message: String) -> Fault {
    Fault::new(code, reason, message)
}

/// How long an invitation may hold: seconds at least, as its text counts them.
pub(crate) fn check_lifetime(lifetime: Duration) -> Result<(), Fault> {
    if lifetime < Duration::from_secs(1) || lifetime > INVITATION_MOST {
        let most = span(INVITATION_MOST);
        return Err(Fault::invalid_field("lifetime", format!("must be at least a second and at most {most}")));
    }
    Ok(())
}

impl Ledger {
    /// The member of this name that is not revoked.
    pub(crate) fn member(&self, node: &NodeName) -> Option<&Record> {
        self.members.iter().find(|record| record.node == *node && record.revoked_at.is_none())
    }

    /// Opens an invitation for a node and ends the one that was open for it.
    pub(crate) fn invite(&mut self, own: &NodeName, invited: Invited) -> Result<(), Fault> {
        let node = &invited.node;
        if node == own {
            let message = format!("{node} is this machine: invite the other one by its own name in the fleet file");
            return Err(Fault::invalid_field("node", message));
        }
        if let Some(record) = self.member(node) {
            let since = span(invited.made_at.since(record.joined_at));
            return Err(refused(
                Code::Conflict,
                reason::TRUST_EXISTS,
                format!(
                    "{node} has been a member for {since}: if it was set up anew, `tandem revoke {node}` comes first"
                ),
            ));
        }
        self.invitations.retain(|open| open.node != *node || open.used.is_some());
        self.invitations.push(invited);
        Ok(())
    }

    /// What a request to join with this secret, from a machine that takes itself for `node`, is answered.
    pub(crate) fn admission(
        &self,
        secret: Fingerprint,
        node: &NodeName,
        key: Fingerprint,
        now: Timestamp,
    ) -> Result<Verdict, Fault> {
        // Each is compared in the same time, so that an answer says nothing about how near a guess was.
        let same = |invited: &Invited| bool::from(invited.secret.as_bytes().ct_eq(secret.as_bytes()));
        let found = self.invitations.iter().enumerate().rfind(|(_, invited)| same(invited));
        let Some((place, invited)) = found else {
            let message = "the founder knows no such invitation: a newer one may have replaced it, or the node was revoked. \
                           Make one with `tandem invite`";
            return Err(refused(Code::PermissionDenied, reason::INVITATION_UNKNOWN, message.into()));
        };
        if invited.node != *node {
            let message = format!("the invitation is for {}, not for {node}", invited.node);
            return Err(refused(Code::PermissionDenied, reason::INVITATION_OTHER_NODE, message));
        }
        let expired = now >= invited.ends_at;
        match &invited.used {
            Some(used) if used.key != key => {
                let ago = span(now.since(used.at));
                let message = format!(
                    "the invitation was used {ago} ago by another machine or key: if that was not {node}, `tandem revoke \
                     {node}` shuts it out"
                );
                Err(refused(Code::PermissionDenied, reason::INVITATION_USED, message))
            }
            _ if expired => {
                let ago = span(now.since(invited.ends_at));
                let message = format!(
                    "the invitation expired {ago} ago by the founder's clock: `tandem invite {node}` makes a new one"
                );
                Err(refused(Code::PermissionDenied, reason::INVITATION_EXPIRED, message))
            }
            Some(_) if self.member(node).is_none_or(|record| record.key != key) => {
                Err(refused(Code::PermissionDenied, reason::REVOKED, revoked(node)))
            }
            Some(_) => Ok(Verdict::Again(place)),
            // A key that was shut out does not come back by an invitation meant for its successor.
            None if self.members.iter().any(|record| record.key == key) => {
                let message =
                    format!("the key of {node} was a member's before: join with a new one, from an empty folder");
                Err(refused(Code::PermissionDenied, reason::REVOKED, message))
            }
            None => Ok(Verdict::Admit(place)),
        }
    }

    /// Makes the node of the invitation at `place` a member, by a certificate that was made for it.
    pub(crate) fn admit(&mut self, place: usize, used: Used, issued: Issued) {
        let Some(invited) = self.invitations.get_mut(place) else { return };
        let record = Record {
            node: invited.node.clone(),
            key: used.key,
            certificates: vec![issued],
            joined_at: used.at,
            revoked_at: None,
        };
        invited.used = Some(used);
        self.members.push(record);
    }

    /// The place of the member that has this key, if it may have a new certificate.
    pub(crate) fn renewal(&self, key: Fingerprint, now: Timestamp) -> Result<usize, Fault> {
        let found = self.members.iter().enumerate().find(|(_, record)| record.key == key);
        let Some((place, record)) = found else {
            let message = "no member of the fleet has this key: join with an invitation from `tandem invite`";
            return Err(refused(Code::PermissionDenied, reason::NOT_A_MEMBER, message.into()));
        };
        if record.revoked_at.is_some() {
            return Err(refused(Code::PermissionDenied, reason::REVOKED, revoked(&record.node)));
        }
        let live = record.certificates.iter().filter(|issued| issued.ends > now);
        if live.count() >= LIVE_MOST {
            let message = format!("{} has asked for {LIVE_MOST} certificates within their life", record.node);
            let fault = refused(Code::ResourceExhausted, reason::TOO_MANY_ATTEMPTS, message);
            return Err(fault.retry_after(RENEW_AFTER));
        }
        Ok(place)
    }

    /// Notes a certificate that was made for the member at `place`.
    pub(crate) fn renewed(&mut self, place: usize, issued: Issued) {
        if let Some(record) = self.members.get_mut(place) {
            record.certificates.push(issued);
        }
    }

    /// Ends a node's membership and its open invitation.
    pub(crate) fn revoke(&mut self, own: &NodeName, node: &NodeName, now: Timestamp) -> Result<(), Fault> {
        if node == own {
            let message =
                format!("{node} founded the fleet and holds its CA: it cannot be revoked, only left by everyone");
            return Err(Fault::invalid_field("node", message));
        }
        let open = self.invitations.len();
        self.invitations.retain(|invited| invited.node != *node || invited.used.is_some());
        let ended = open != self.invitations.len();
        match self.members.iter_mut().find(|record| record.node == *node && record.revoked_at.is_none()) {
            Some(record) => {
                record.revoked_at = Some(now);
                self.crl_number += 1;
                Ok(())
            }
            // Somebody who was invited and has not come is shut out by ending the invitation.
            None if ended => Ok(()),
            None => {
                let members: Vec<&str> =
                    self.members.iter().filter(|m| m.revoked_at.is_none()).map(|m| m.node.as_str()).collect();
                let message = format!("no member is called {node}; there are {}", members.join(", "));
                Err(refused(Code::NotFound, reason::NOT_A_MEMBER, message))
            }
        }
    }

    /// Serial numbers that are revoked and when, for the list.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.members
            .iter()
            .filter_map(|record| Some((record, record.revoked_at?)))
            .flat_map(|(record, at)| record.certificates.iter().map(move |issued| (issued.serial.as_str(), at)))
    }

    /// Drops what ended so long ago that nobody asks for it. A member stays, however long it has been away.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        let over = |ends: Timestamp| now.since(ends) > REMEMBERED;
        self.invitations.retain(|invited| !over(invited.ends_at));
        self.members.iter_mut().for_each(|record| record.certificates.retain(|issued| !over(issued.ends)));
        self.members.retain(|record| record.revoked_at.is_none_or(|at| !over(at + LIFE)));
    }
}

fn revoked(node: &NodeName) -> String {
    format!("{node} was revoked: to come back it needs a new invitation and joins from an empty folder")
}

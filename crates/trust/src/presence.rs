//! Whether there is anybody that this machine has to listen for.

use std::time::SystemTime;

use tandem_types::{Fault, Timestamp};

use crate::files::{Folder, LEDGER};
use crate::ledger::Ledger;

impl Folder {
    /// Whether this machine has other nodes to speak with: a member has its founder, a founder those whom it admitted and did
    /// not revoke.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn has_peers(&self) -> Result<bool, Fault> {
        let Some(fleet) = self.fleet()? else { return Ok(false) };
        let others = |ledger: Ledger| {
            ledger.members.iter().any(|member| member.node != fleet.node && member.revoked_at.is_none())
        };
        Ok(!fleet.is_founder() || self.read_json::<Ledger>(LEDGER)?.is_some_and(others))
    }

    /// Whether somebody else than a member may call at `now`: to join with an open invitation, or to be told that it was shut out.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn awaits_guests(&self, now: SystemTime) -> Result<bool, Fault> {
        let now = Timestamp::from(now);
        let Some(ledger) = self.read_json::<Ledger>(LEDGER)? else { return Ok(false) };
        let invited = ledger.invitations.iter().any(|one| one.used.is_none() && one.ends_at > now);
        let mut shut_out = ledger.members.iter().filter(|member| member.revoked_at.is_some());
        Ok(invited || shut_out.any(|member| member.certificates.iter().any(|issued| issued.ends > now)))
    }
}

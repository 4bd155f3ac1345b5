//! Who belongs to the fleet: its private CA, invitations, the nodes' certificates, revocation, and what TLS needs of them.
//!
//! Everything is in one [`Folder`] of files. A [`Founder`] holds the fleet's CA: it invites, admits, renews and revokes. Every
//! other machine becomes a [`Member`] by [`Joining`] with an [`Invitation`]. What speaks TLS on either takes an [`Identity`]
//! from the folder, or [`Watched`], which notices that renewals and revocations have changed it.
//!
//! Time is always an argument. Calls read and write small files with `fsync` and may wait for another process that does the
//! same: from async code they belong on a thread that may block.

mod certificate;
mod explain;
mod files;
mod fleet;
mod founder;
mod identity;
mod invitation;
mod joining;
mod ledger;
mod member;
mod pki;
mod presence;
mod verify;
mod watched;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use certificate::peer_node;
pub use explain::explain;
pub use files::Folder;
pub use fleet::{Fingerprint, Fleet, FleetId};
pub use founder::{Founder, MemberInfo, OpenInvitation};
pub use identity::Identity;
pub use invitation::{Invitation, Secret};
pub use joining::{Admission, JoinRequest, Joining};
pub use member::Member;
pub use pki::Crl;
pub use watched::Watched;

/// How long a node's certificate holds.
pub const LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Age at which a node's certificate is renewed: a founder that is away for six days delays a renewal and ends nothing.
pub const RENEW_AFTER: Duration = Duration::from_secs(86_400);
/// How long an invitation holds where nobody says otherwise.
pub const INVITATION: Duration = Duration::from_secs(15 * 60);
/// How long an invitation may hold.
pub const INVITATION_MOST: Duration = Duration::from_secs(86_400);
/// How far certificates reach back before their making, so that a clock that is a little late accepts them.
const BACKDATE: Duration = Duration::from_secs(3_600);

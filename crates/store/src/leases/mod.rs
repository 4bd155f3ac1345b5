//! Which groups are alive: leases, the revision of their table, and tombstones for those who watch.

mod sqlite;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use tandem_types::{Fault, GroupId, Timestamp};

pub use sqlite::SqliteLeases;

/// How long an ended lease can still be seen.
pub const TOMBSTONE_KEPT: Duration = Duration::from_mins(10);

/// A group's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id, which renewals bring along.
    pub id: String,
    /// The group.
    pub group: GroupId,
    /// Grows with each start of the group.
    pub generation: u64,
    /// When it ends unless renewed.
    pub expires: Timestamp,
    /// The rest, as JSON: endpoint, versions, agents with what they serve and how they are doing.
    pub body: String,
}

/// A change to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new owner of the group, with the next fencing number; a former lease of the group is replaced.
    Own(Lease),
    /// The same owner with another state or expiry.
    Update(Lease),
    /// The lease with this id is over.
    End {
        /// The group.
        group: GroupId,
        /// Its lease.
        id: String,
        /// Why, in words.
        reason: String,
    },
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The table's revision after the change that made this line.
    pub revision: u64,
    /// Rank among successive owners of the group.
    pub fencing: u64,
    /// The lease.
    pub lease: Lease,
    /// When and why it ended; none while it holds.
    pub ended: Option<(Timestamp, String)>,
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Number of its last change.
    pub revision: u64,
    /// Leases and tombstones in the order of their last change.
    pub records: Vec<Record>,
}

/// Keeps the table of leases.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// The whole table.
    async fn table(&self) -> Result<Table, Fault>;

    /// Applies all changes or none, each with a revision of its own, and returns the lines they made.
    ///
    /// # Errors
    /// `not_found` when an update or an end names a lease that is not the group's present one.
    async fn apply(&self, changes: Vec<Change>, now: Timestamp) -> Result<Vec<Record>, Fault>;

    /// The lines changed after `revision`, in order.
    ///
    /// # Errors
    /// `failed_precondition`, reason `stale`, when tombstones after it are gone, or the table has never been there: the
    /// watcher is to start from the whole table.
    async fn since(&self, revision: u64) -> Result<Table, Fault>;

    /// Removes tombstones past their time; how many.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}

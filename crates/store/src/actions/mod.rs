//! What the operator's hand does: actions on groups, maintenance, and requests about a person's data.

mod data;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tandem_types::{Fault, GroupId, IdempotencyKey, Timestamp, UserId};

use crate::paging::{Page, Paged};
use crate::personal::PersonalData;
use crate::words::words;

pub use sqlite::SqliteActions;

/// How long finished actions and past maintenance are kept.
pub const ACTIONS_KEPT: Duration = Duration::from_hours(400 * 24);
/// How long a closed data request is kept, as the proof.
pub const DATA_REQUESTS_KEPT: Duration = Duration::from_hours(30 * 24);

words! {
    /// How an action is doing.
    pub enum ActionState {
        /// It is being done.
        Running = "running",
        /// Its group is away; it will be done when the group is back.
        Pending = "pending",
        /// It was done.
        Done = "done",
        /// It could not be done.
        Failed = "failed",
    }
}

words! {
    /// What a person wants of their data.
    pub enum DataKind {
        /// To be forgotten.
        Forget = "forget",
        /// To have it.
        Export = "export",
    }
}

/// An action to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAction {
    /// `start`, `stop`, `restart`, `recycle`.
    pub kind: String,
    /// The group it changes; one action at a time changes a group.
    pub group: GroupId,
    /// On what exactly: the group or one of its agents.
    pub target: String,
    /// By whom: a user id, or an agent as node/group/agent.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How long an agent may take to finish; 0 where nobody said.
    pub drain_ms: u32,
}

/// An action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its id.
    pub id: String,
    /// What it is.
    pub what: NewAction,
    /// How it is doing.
    pub state: ActionState,
    /// In words.
    pub detail: String,
    /// Rank among successive actions on one group.
    pub fencing: u64,
    /// When it began.
    pub at: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// Maintenance to announce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMaintenance {
    /// Empty for the fleet, or node, node/group, node/group/agent.
    pub scope: String,
    /// Start.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
    /// Why.
    pub reason: String,
}

/// Announced maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Its id.
    pub id: String,
    /// What was announced.
    pub what: NewMaintenance,
}

/// A request about a person's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRequest {
    /// Its id.
    pub id: String,
    /// What is wanted.
    pub kind: DataKind,
    /// The person.
    pub user: UserId,
    /// For an export, the file it goes to; empty once it was removed.
    pub path: String,
    /// When it was made.
    pub created: Timestamp,
    /// When the last group had answered.
    pub closed: Option<Timestamp>,
    /// Each group that must answer.
    pub groups: Vec<DataGroup>,
}

/// A group's part in a data request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataGroup {
    /// The group.
    pub group: GroupId,
    /// When it answered; none while it is open.
    pub answered: Option<Timestamp>,
    /// Why it is still open.
    pub waits_for: String,
    /// Rows by store, as it answered.
    pub stores: BTreeMap<String, u64>,
}

/// Keeps actions, maintenance and data requests. Data requests hold ids only and are the proof that a person was
/// forgotten, so they outlive the forgetting until [`DATA_REQUESTS_KEPT`] is over.
///
/// Every call answers reason `disk` when the store cannot be read or written; keyed calls answer `conflict`, reason
/// `key_reused`, when the key came with another body.
#[async_trait]
pub trait ActionStore: PersonalData {
    /// Begins an action, unless another one on the same group has not finished.
    ///
    /// # Errors
    /// `conflict`, reason `busy`, naming that other action.
    async fn begin(&self, key: IdempotencyKey, new: NewAction, now: Timestamp) -> Result<Action, Fault>;

    /// Notes how an action is doing; `Done` and `Failed` end it.
    ///
    /// # Errors
    /// `not_found`; `failed_precondition`, reason `ended`, when it has ended.
    async fn note(&self, id: &str, state: ActionState, detail: &str, now: Timestamp) -> Result<Action, Fault>;

    /// Actions, the newest first, page by page.
    async fn actions(&self, page: Page) -> Result<Paged<Action>, Fault>;

    /// Actions that have not finished, the oldest first.
    async fn unfinished(&self) -> Result<Vec<Action>, Fault>;

    /// Announces maintenance.
    ///
    /// # Errors
    /// `invalid_argument` when it ends before it begins.
    async fn announce(&self, key: IdempotencyKey, new: NewMaintenance, now: Timestamp) -> Result<Maintenance, Fault>;

    /// Maintenance that is on at `now` or to come, soonest first.
    async fn maintenance(&self, now: Timestamp) -> Result<Vec<Maintenance>, Fault>;

    /// Takes a data request that each of `groups` must answer.
    async fn request_data(
        &self,
        key: IdempotencyKey,
        kind: DataKind,
        user: &UserId,
        groups: Vec<GroupId>,
        path: String,
        now: Timestamp,
    ) -> Result<DataRequest, Fault>;

    /// Notes a group's answer; the last one closes the request.
    ///
    /// # Errors
    /// `not_found` when there is no such request or the group has no part in it.
    async fn answered(
        &self,
        id: &str,
        group: &GroupId,
        stores: BTreeMap<String, u64>,
        now: Timestamp,
    ) -> Result<DataRequest, Fault>;

    /// Notes why a group has not answered yet.
    ///
    /// # Errors
    /// As `answered`.
    async fn waits_for(&self, id: &str, group: &GroupId, why: &str) -> Result<(), Fault>;

    /// One data request.
    async fn data_request(&self, id: &str) -> Result<DataRequest, Fault>;

    /// Data requests that are not closed, the oldest first.
    async fn open_data_requests(&self) -> Result<Vec<DataRequest>, Fault>;

    /// Exports that have a file, or are on the way to one, of one person or of all, the oldest first.
    async fn exports(&self, user: Option<&UserId>) -> Result<Vec<DataRequest>, Fault>;

    /// Notes that the file of an export was removed, because its person was forgotten. One that is open is over.
    ///
    /// # Errors
    /// `not_found` when there is no such export.
    async fn withdrawn(&self, id: &str, now: Timestamp) -> Result<(), Fault>;

    /// Removes what is past its time; how many rows.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}

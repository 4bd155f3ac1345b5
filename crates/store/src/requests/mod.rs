//! Requests: accepted, followed to their end, and answered again to whoever lost the connection.

mod sqlite;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tandem_types::{Fault, IdempotencyKey, RequestId, SessionId, Timestamp, TurnId, UserId};

use crate::personal::{Consent, PersonalData};
use crate::words::words;

pub use sqlite::SqliteRequests;

/// How long events and answers can be asked for after the end.
pub const ANSWERS_KEPT: Duration = Duration::from_hours(24);
/// How long a finished request is kept without them.
pub const REQUESTS_KEPT: Duration = Duration::from_hours(30 * 24);
/// How long a question waits for its answer.
pub const CONFIRMATION_WAITS: Duration = Duration::from_mins(10);

words! {
    /// How far a turn has come.
    pub enum Stage {
        /// On disk, waiting or about to begin.
        Received = "received",
        /// What was meant is known.
        Understood = "understood",
        /// It may be done.
        Validated = "validated",
        /// Who answers is known.
        Routed = "routed",
        /// The handler works.
        Running = "running",
        /// The answer is put together.
        Composing = "composing",
    }
}

words! {
    /// How a turn ended.
    pub enum Outcome {
        /// With an answer.
        Done = "done",
        /// With an error.
        Failed = "failed",
        /// By the caller or an interruption.
        Cancelled = "cancelled",
    }
}

/// A request to accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRequest {
    /// Its id; fresh at each attempt, the first attempt's stays.
    pub id: RequestId,
    /// Its turn; fresh at each attempt, the first attempt's stays.
    pub turn: TurnId,
    /// The person.
    pub user: UserId,
    /// What its words may be used for.
    pub consent: Consent,
    /// The session, unless the caller keeps the conversation itself.
    pub session: Option<SessionId>,
    /// `audio`, `text`, `vision` or `background`.
    pub modality: String,
    /// 1 is first, 10 is last.
    pub priority: u8,
    /// When its time is up.
    pub deadline: Timestamp,
    /// The request as it came, as JSON. With the person it is what the idempotency key stands for; erased at the end.
    pub body: String,
}

/// A request that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub request: RequestId,
    /// Its turn.
    pub turn: TurnId,
    /// Its session.
    pub session: Option<SessionId>,
    /// It was accepted before, by an earlier attempt with the same key.
    pub repeated: bool,
}

/// How a request is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has come so far.
    Open(Stage),
    /// It has ended.
    Over(Outcome),
}

/// A request as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// Its turn.
    pub turn: TurnId,
    /// Its session.
    pub session: Option<SessionId>,
    /// How it is doing.
    pub status: Status,
    /// Each stage it entered and when, in order.
    pub timings: Vec<(Stage, Timestamp)>,
    /// How it ended, once it has.
    pub end: Option<End>,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// `ok` or one of the twelve codes.
    pub code: String,
    /// Who answered: node/group/agent.
    pub handler: String,
    /// `instant`, `fast`, `deep`.
    pub tier: String,
    /// The model that wrote the answer.
    pub model: String,
    /// The final answer or the error as JSON; none once it was erased.
    pub answer: Option<String>,
}

/// Events of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// Number of the first; the first of a turn is 1.
    pub first: u64,
    /// The events as JSON, numbered without a gap.
    pub bodies: Vec<String>,
}

/// What a turn has told so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnLog {
    /// The request of the turn.
    pub request: RequestId,
    /// How it is doing.
    pub status: Status,
    /// Events after the wanted number; at most 500.
    pub events: Events,
}

/// A request that a former process left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The request.
    pub request: NewRequest,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// How far it had come; `Received` with one timing means it only waited.
    pub stage: Stage,
    /// Receipts of what it had already changed outside; with any it must not run again.
    pub effects: Vec<String>,
    /// Number of its last event; 0 when it had told nothing.
    pub last_event: u64,
}

/// A question that a turn waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// What the answer must bring along.
    pub token: String,
    /// The request that waits.
    pub request: RequestId,
    /// The person who may answer.
    pub user: UserId,
    /// The proposed action, as JSON.
    pub body: String,
    /// When it is too late.
    pub expires: Timestamp,
}

/// What pruning erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Answers, with the events of their turns.
    pub answers: u64,
    /// Requests.
    pub requests: u64,
    /// Questions nobody answered.
    pub confirmations: u64,
    /// Idempotency keys past their time.
    pub keys: u64,
}

/// Keeps requests. A request of another person is `not_found` in every call that names a person.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait RequestStore: PersonalData {
    /// Puts a request on disk, or says which one an earlier attempt with this key has put there.
    ///
    /// # Errors
    /// `conflict`, reason `key_reused`, when the key came with another body.
    async fn accept(&self, key: IdempotencyKey, new: NewRequest, now: Timestamp) -> Result<Accepted, Fault>;

    /// Notes that a request entered a stage. Stages may be skipped and entered again.
    ///
    /// # Errors
    /// `failed_precondition`, reason `ended`, when it has ended.
    async fn advance(&self, request: RequestId, stage: Stage, now: Timestamp) -> Result<(), Fault>;

    /// Notes, before it happens, that the request is about to change something outside.
    ///
    /// # Errors
    /// `failed_precondition`, reason `ended`, when it has ended.
    async fn note_effect(&self, request: RequestId, receipt: String, now: Timestamp) -> Result<(), Fault>;

    /// Keeps events for whoever resumes.
    ///
    /// # Errors
    /// `conflict` when they do not follow the last one kept; `failed_precondition` when the request has ended.
    async fn append_events(&self, request: RequestId, events: Events) -> Result<(), Fault>;

    /// Ends a request, once: its last events, its answer and how it ended are kept together, and its words are erased.
    ///
    /// # Errors
    /// As `append_events`.
    async fn finish(&self, request: RequestId, last: Events, end: End, now: Timestamp) -> Result<(), Fault>;

    /// One request.
    async fn request(&self, user: &UserId, request: RequestId) -> Result<Request, Fault>;

    /// The events of a turn after number `after`.
    ///
    /// # Errors
    /// `not_found` also when they were erased, 24 hours after the end.
    async fn events(&self, user: &UserId, turn: TurnId, after: u64) -> Result<TurnLog, Fault>;

    /// Everything a former process left behind, in the order of acceptance.
    async fn unfinished(&self) -> Result<Vec<Unfinished>, Fault>;

    /// Everybody who sent a request since, by name, and when the last one was accepted.
    async fn last_requests(&self, since: Timestamp) -> Result<Vec<(UserId, Timestamp)>, Fault>;

    /// Keeps a question until it is answered or too late.
    async fn ask(&self, question: Confirmation) -> Result<(), Fault>;

    /// Takes a question out, so that it is answered once.
    ///
    /// # Errors
    /// `not_found` when none of this person waits for that token any more.
    async fn answer(&self, user: &UserId, token: &str, now: Timestamp) -> Result<Confirmation, Fault>;

    /// Erases what is past its time.
    async fn prune(&self, now: Timestamp) -> Result<Pruned, Fault>;
}

//! Conversations, word for word.

#[cfg(test)]
mod properties;
mod rows;
mod search;
mod sqlite;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tandem_types::{Fault, IdempotencyKey, SessionId, Timestamp, TurnId, UserId};

use crate::paging::{Page, Paged};
use crate::personal::{Consent, PersonalData};
use crate::words::words;

pub use sqlite::SqliteSessions;

/// How many sessions, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that may be open on a node; one more ends the one that was idle longest.
    pub open: u32,
    /// A session ends after this long without an entry.
    pub idle: Duration,
    /// Days that entries are kept when their person has set nothing else; none for ever, 0 while their session is open.
    pub keep_days: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { open: 100, idle: Duration::from_hours(1), keep_days: Some(30) }
    }
}

words! {
    /// Who said it.
    pub enum Speaker {
        /// The person.
        User = "user",
        /// The assistant, whichever agent spoke for it.
        Assistant = "assistant",
    }
}

/// A session to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// The person.
    pub user: UserId,
    /// A name that the caller chose, or none for a fresh one.
    pub id: Option<SessionId>,
    /// By what door: `cli`, `web`, `openai`, `voice`.
    pub channel: String,
    /// Language of the person.
    pub language: String,
    /// What its entries may be used for.
    pub consent: Consent,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The person.
    pub user: UserId,
    /// What its entries may be used for.
    pub consent: Consent,
    /// By what door.
    pub channel: String,
    /// Language of the person.
    pub language: String,
    /// The first words of the person, for lists; empty before them.
    pub title: String,
    /// When it began.
    pub created: Timestamp,
    /// Its last entry, or its beginning.
    pub last: Timestamp,
    /// When it ended; none while it is open.
    pub ended: Option<Timestamp>,
    /// Entries that are still kept.
    pub entries: u64,
}

/// A session that began, or the open one of the person that was asked for by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The session.
    pub session: Session,
    /// Sessions that ended to make room for it.
    pub ended: Vec<SessionId>,
}

/// Something said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEntry {
    /// The exchange it belongs to.
    pub turn: TurnId,
    /// Who said it.
    pub speaker: Speaker,
    /// The words.
    pub text: String,
    /// Their language.
    pub language: String,
    /// Spans with speaker, times or entities, as JSON; may be empty.
    pub spans: String,
    /// Who answered: node/group/agent; empty for a person's words.
    pub handler: String,
    /// Where a reply comes from, as JSON; may be empty.
    pub source: String,
    /// Tokens by the bound model's tokenizer; 0 when nobody counted.
    pub tokens: u32,
}

/// Something that was said, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number within the session, 1 and up.
    pub number: u64,
    /// The session.
    pub session: SessionId,
    /// What was said; `tokens` counts the words that stand.
    pub said: NewEntry,
    /// The words that stand instead of `said.text`: what was really spoken, or a correction.
    pub amended: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Entry {
    /// The words that stand.
    pub fn words(&self) -> &str {
        self.amended.as_deref().unwrap_or(&self.said.text)
    }
}

/// Other words for what somebody said last within an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// The exchange.
    pub turn: TurnId,
    /// Whose words.
    pub speaker: Speaker,
    /// The words that stand from here on.
    pub text: String,
    /// Their tokens; 0 when nobody counted.
    pub tokens: u32,
}

/// How much of a conversation is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// At most this many tokens, summary included.
    pub tokens: u32,
    /// At most this many entries.
    pub items: u32,
}

/// The recent part of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its entries, oldest first.
    pub entries: Vec<Entry>,
    /// What came before, in short.
    pub summary: Option<Summary>,
    /// There are older entries that are neither here nor in the summary.
    pub truncated: bool,
    /// Tokens of entries and summary.
    pub tokens: u32,
}

/// The beginning of a conversation in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of the last entry it covers; it covers all before that too.
    pub through: u64,
    /// The exchanges it covers.
    pub turns: Vec<TurnId>,
    /// The words.
    pub text: String,
    /// Their tokens.
    pub tokens: u32,
    /// The model that wrote it.
    pub model: String,
    /// When.
    pub at: Timestamp,
}

/// What the next rolling summary is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToSummarise {
    /// The summary that stands now.
    pub former: Option<Summary>,
    /// Entries older than the window that it does not cover, oldest first; at most 200.
    pub entries: Vec<Entry>,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Words; any of them is enough, more rank higher. No sign in it has a meaning.
    pub query: String,
    /// Only in this session.
    pub session: Option<SessionId>,
    /// Said at this time or later.
    pub from: Timestamp,
    /// Said before this time.
    pub to: Timestamp,
    /// At most this many hits: 1 to 500, 0 for 50.
    pub limit: u32,
}

/// Something found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// What was said.
    pub entry: Entry,
    /// BM25; higher is better. Comparable within one answer only.
    pub score: f64,
}

/// What a retention sweep erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Entries past their time.
    pub entries: u64,
    /// Ended sessions of which nothing was left.
    pub sessions: u64,
    /// Idempotency keys past their time.
    pub keys: u64,
}

/// Keeps conversations. A session of another person is `not_found` in every call.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait SessionStore: PersonalData {
    /// Begins a session, or returns the open one of this person that has the wanted id. When as many as may be are open
    /// ([`Limits::open`]), the longest idle one ends first. A repeated call returns the session as it is by then.
    ///
    /// # Errors
    /// `conflict` when the wanted id is another person's; `failed_precondition` when that session has ended.
    async fn create(&self, key: IdempotencyKey, new: NewSession, now: Timestamp) -> Result<Created, Fault>;

    /// Adds what was said and returns its number.
    ///
    /// # Errors
    /// `failed_precondition` when the session has ended.
    async fn append(
        &self,
        key: IdempotencyKey,
        user: &UserId,
        session: &SessionId,
        entry: NewEntry,
        now: Timestamp,
    ) -> Result<u64, Fault>;

    /// Puts other words in the place of what somebody said last within an exchange and returns the entry's number. The
    /// original stays readable in the entry; window and search use the new words. Ended sessions may be amended.
    ///
    /// # Errors
    /// `not_found` when that speaker said nothing in that exchange.
    async fn amend(
        &self,
        key: IdempotencyKey,
        user: &UserId,
        session: &SessionId,
        amendment: Amendment,
        now: Timestamp,
    ) -> Result<u64, Fault>;

    /// The entries of an exchange, in order; `not_found` when there are none.
    async fn turn(&self, user: &UserId, turn: TurnId) -> Result<Vec<Entry>, Fault>;

    /// All entries of a session, oldest first, page by page.
    async fn entries(&self, user: &UserId, session: &SessionId, page: Page) -> Result<Paged<Entry>, Fault>;

    /// The newest entries that fit, oldest first, with the summary of what came before when there is one.
    async fn window(&self, user: &UserId, session: &SessionId, budget: Budget) -> Result<Window, Fault>;

    /// Entries that hold words of the query, best first.
    ///
    /// # Errors
    /// `invalid_argument` when the query has no word in it.
    async fn search(&self, user: &UserId, search: Search) -> Result<Vec<Hit>, Fault>;

    /// One session.
    async fn session(&self, user: &UserId, session: &SessionId) -> Result<Session, Fault>;

    /// The sessions of a person, the latest first, page by page.
    async fn sessions(&self, user: &UserId, page: Page) -> Result<Paged<Session>, Fault>;

    /// Sessions open on this node.
    async fn open_sessions(&self) -> Result<u64, Fault>;

    /// Ends a session; one that has ended is returned as it is.
    async fn end(&self, user: &UserId, session: &SessionId, now: Timestamp) -> Result<Session, Fault>;

    /// Removes a session with everything in it and returns how many entries that were.
    async fn delete(
        &self,
        key: IdempotencyKey,
        user: &UserId,
        session: &SessionId,
        now: Timestamp,
    ) -> Result<u64, Fault>;

    /// Ends every session that had no entry for [`Limits::idle`] and returns them.
    async fn sweep_idle(&self, now: Timestamp) -> Result<Vec<Session>, Fault>;

    /// What a new summary is to cover so that windows of this budget are whole; none when nothing is missing.
    async fn to_summarise(
        &self,
        user: &UserId,
        session: &SessionId,
        budget: Budget,
    ) -> Result<Option<ToSummarise>, Fault>;

    /// Keeps `summary` in the place of the former one.
    ///
    /// # Errors
    /// `conflict` when the summary that stands covers as much or more.
    async fn put_summary(&self, user: &UserId, session: &SessionId, summary: Summary) -> Result<(), Fault>;

    /// Ended sessions that have not been handed to the memory yet, the longest ended first; at most `limit`.
    async fn to_remember(&self, limit: u32) -> Result<Vec<Session>, Fault>;

    /// Notes that the memory has a session.
    async fn remembered(&self, user: &UserId, session: &SessionId) -> Result<(), Fault>;

    /// Sets how many days a person's entries are kept; none for ever. 0 keeps them while their session is open.
    async fn keep_days(&self, user: &UserId, days: Option<u32>) -> Result<(), Fault>;

    /// Erases what is past its time.
    async fn sweep_retention(&self, now: Timestamp) -> Result<Erased, Fault>;
}

//! Events that are kept until their subscribers have had them.

mod sqlite;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use tandem_types::{Fault, Timestamp, UserId};
use tokio::sync::watch;

use crate::personal::PersonalData;

pub use sqlite::SqliteJournal;

/// How long events are kept.
pub const KEPT: Duration = Duration::from_hours(7 * 24);
/// How many events are kept.
pub const KEPT_EVENTS: u64 = 100_000;

/// An event to publish. It carries ids and numbers, never a person's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The topic, for example `turn.finished`.
    pub topic: String,
    /// Events with the same key stay in order.
    pub key: String,
    /// The person it is about.
    pub user: Option<UserId>,
    /// What it carries, as JSON.
    pub payload: String,
}

/// A published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the journal; grows with each event and is never used again.
    pub cursor: u64,
    /// Its id, the same at each delivery; 32 hexadecimal digits.
    pub id: String,
    /// When it was published.
    pub at: Timestamp,
    /// What was published.
    pub event: NewEvent,
}

/// A piece of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Events of the wanted topics, in order.
    pub events: Vec<Event>,
    /// Where to go on; also passes over events of other topics.
    pub next: u64,
    /// Events between the wanted cursor and the first kept one are gone, whatever their topic.
    pub lost: bool,
}

/// Keeps the events a group publishes, and how far its own agents have come in the journals of others.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait Journal: PersonalData {
    /// Publishes events, all or none, and returns them with their cursors.
    async fn append(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<Vec<Event>, Fault>;

    /// At most `limit` events of `topics` after cursor `after`; 0 begins with the oldest kept.
    async fn read(&self, topics: &[String], after: u64, limit: u32) -> Result<Batch, Fault>;

    /// Tells the cursor of the last event, now and whenever one is published.
    fn head(&self) -> watch::Receiver<u64>;

    /// How far `subscriber` has come in the journal of `source`; 0 when it has not begun.
    async fn cursor(&self, subscriber: &str, source: &str) -> Result<u64, Fault>;

    /// Notes that `subscriber` has handled everything up to `cursor`. Going back is ignored.
    async fn save_cursor(&self, subscriber: &str, source: &str, cursor: u64) -> Result<(), Fault>;

    /// Removes events past their time or number; how many.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}

//! The journal in SQLite.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Fault, Timestamp, UserId};
use tokio::sync::watch;

use super::{Batch, Event, Journal, KEPT, KEPT_EVENTS, NewEvent};
use crate::db::{Db, Error, Migration, fresh_id, optional_column};
use crate::paging::hex;
use crate::personal::{Holds, Personal};

const MIGRATIONS: &[Migration] = &[Migration {
    name: "journal",
    sql: &["
CREATE TABLE events(
    cursor  INTEGER PRIMARY KEY AUTOINCREMENT,
    id      BLOB NOT NULL,
    topic   TEXT NOT NULL,
    key     TEXT NOT NULL,
    user    TEXT,
    at      INTEGER NOT NULL,
    payload TEXT NOT NULL
);
CREATE INDEX events_by_topic ON events(topic, cursor);
CREATE INDEX events_by_user ON events(user) WHERE user IS NOT NULL;
-- The highest cursor that pruning has removed.
CREATE TABLE pruned(through INTEGER NOT NULL);
INSERT INTO pruned VALUES (0);
CREATE TABLE cursors(
    subscriber TEXT NOT NULL,
    source     TEXT NOT NULL,
    cursor     INTEGER NOT NULL,
    PRIMARY KEY(subscriber, source)
) WITHOUT ROWID;
"],
}];

/// `journal.db`.
#[derive(Debug, Clone)]
pub struct SqliteJournal {
    db: Db,
    head: Arc<watch::Sender<u64>>,
}

impl SqliteJournal {
    /// Opens the file, creating or migrating it as needed; see [`Db::open`]. Blocks until the last cursor is read.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        let (db, last) = Db::open_with(path, MIGRATIONS, last)?;
        Ok(Self { db, head: Arc::new(watch::Sender::new(last)) })
    }

    /// The file, for backup, checks and closing.
    pub fn db(&self) -> &Db {
        &self.db
    }
}

impl Holds for SqliteJournal {
    const PERSONAL: &'static [Personal] = &[Personal {
        table: "events",
        select: "SELECT * FROM events WHERE user = ?1 ORDER BY cursor",
        forget: "DELETE FROM events WHERE user = ?1",
    }];

    fn db(&self) -> &Db {
        &self.db
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn append(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<Vec<Event>, Fault> {
        let appended: Vec<Event> =
            self.db.write(move |tx| events.into_iter().map(|event| insert(tx, event, now)).collect()).await?;
        let last = appended.last().map_or(0, |event| event.cursor);
        self.head.send_if_modified(|head| std::mem::replace(head, last.max(*head)) < last);
        Ok(appended)
    }

    async fn read(&self, topics: &[String], after: u64, limit: u32) -> Result<Batch, Fault> {
        let topics = serde_json::to_string(topics).map_err(|e| Fault::internal(format!("cannot list topics: {e}")))?;
        self.db.read(move |tx| read(tx, &topics, after, limit)).await
    }

    fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    async fn cursor(&self, subscriber: &str, source: &str) -> Result<u64, Fault> {
        let (subscriber, source) = (subscriber.to_owned(), source.to_owned());
        self.db
            .read(move |tx| {
                let sql = "SELECT cursor FROM cursors WHERE subscriber = ?1 AND source = ?2";
                let cursor = tx.prepare_cached(sql)?.query_row([subscriber, source], |row| row.get(0)).optional()?;
                Ok(cursor.unwrap_or(0))
            })
            .await
    }

    async fn save_cursor(&self, subscriber: &str, source: &str, cursor: u64) -> Result<(), Fault> {
        let (subscriber, source) = (subscriber.to_owned(), source.to_owned());
        self.db
            .write(move |tx| {
                let sql = "INSERT INTO cursors VALUES (?1, ?2, ?3)
                           ON CONFLICT DO UPDATE SET cursor = max(cursor, excluded.cursor)";
                tx.prepare_cached(sql)?.execute(params![subscriber, source, cursor])?;
                Ok(())
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        self.db.write(move |tx| prune(tx, now)).await
    }
}

fn insert(tx: &Transaction<'_>, event: NewEvent, now: Timestamp) -> Result<Event, Error> {
    let id = fresh_id(tx)?;
    tx.prepare_cached("INSERT INTO events(id, topic, key, user, at, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            id,
            event.topic,
            event.key,
            event.user.as_ref().map(UserId::as_str),
            now.micros(),
            event.payload
        ])?;
    Ok(Event { cursor: tx.last_insert_rowid().unsigned_abs(), id: hex(&id), at: now, event })
}

fn read(tx: &Transaction<'_>, topics: &str, after: u64, limit: u32) -> Result<Batch, Error> {
    let last = last(tx)?;
    // A cursor that was never given out comes from a journal that has been replaced since.
    let (after, foreign) = if after > last { (0, true) } else { (after, false) };
    let pruned: u64 = tx.query_row("SELECT through FROM pruned", [], |row| row.get(0))?;
    let mut rows = tx.prepare_cached(
        "SELECT * FROM events WHERE cursor > ?2 AND topic IN (SELECT value FROM json_each(?1)) ORDER BY cursor LIMIT ?3",
    )?;
    let events: Vec<Event> = rows.query_map(params![topics, after, limit], event)?.collect::<Result<_, _>>()?;
    let full = events.len() >= limit as usize;
    let next = events.last().filter(|_| full).map_or(last, |event| event.cursor);
    Ok(Batch { events, next, lost: foreign || (0 < after && after < pruned) })
}

fn last(tx: &Transaction<'_>) -> Result<u64, Error> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'";
    Ok(tx.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

fn prune(tx: &Transaction<'_>, now: Timestamp) -> Result<u64, Error> {
    // Events are appended in the order of time, so what is too old ends where the first young one begins.
    let through: u64 = tx.query_row(
        "SELECT max(
           coalesce((SELECT max(cursor) FROM events WHERE at <= ?1), 0),
           coalesce((SELECT cursor FROM events ORDER BY cursor DESC LIMIT 1 OFFSET ?2), 0))",
        params![(now - KEPT).micros(), KEPT_EVENTS],
        |row| row.get(0),
    )?;
    tx.execute("UPDATE pruned SET through = max(through, ?1)", [through])?;
    Ok(tx.execute("DELETE FROM events WHERE cursor <= ?1", [through])? as u64)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let id: [u8; 16] = row.get("id")?;
    Ok(Event {
        cursor: row.get("cursor")?,
        id: hex(&id),
        at: Timestamp(row.get("at")?),
        event: NewEvent {
            topic: row.get("topic")?,
            key: row.get("key")?,
            user: optional_column(row, "user")?,
            payload: row.get("payload")?,
        },
    })
}

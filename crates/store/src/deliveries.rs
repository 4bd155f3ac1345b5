//! What is to be sent to addresses outside, until it has arrived: each thing once, in order, and never more than so many.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Row, params};
use tandem_types::{Fault, Timestamp};

use crate::db::Db;

/// The table, for the file that holds it.
pub(crate) const SCHEMA: &str = "
CREATE TABLE deliveries(
    id       INTEGER PRIMARY KEY,
    url      TEXT NOT NULL,
    what     TEXT NOT NULL,
    body     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    ended    INTEGER,
    UNIQUE(url, what)
);
CREATE INDEX deliveries_waiting ON deliveries(url, id) WHERE ended IS NULL;";

/// How long it is remembered that something was sent, so that it is not sent again.
pub const REMEMBERED: Duration = Duration::from_hours(90 * 24);

/// Something to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// Where to.
    pub url: String,
    /// Identifies what it says; the same is sent to an address once.
    pub what: String,
    /// What is sent.
    pub body: String,
}

/// Something that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its number; grows.
    pub id: i64,
    /// What is to be sent.
    pub of: NewDelivery,
    /// When it was given.
    pub created: Timestamp,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// When it is to be tried.
    pub due: Timestamp,
}

/// Keeps what is to be sent.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Takes what was not taken before. Where more than `most` would wait for an address, its oldest give way: how many.
    async fn take(&self, new: Vec<NewDelivery>, most: u32, now: Timestamp) -> Result<u64, Fault>;

    /// The one that waits longest for each address.
    async fn heads(&self) -> Result<Vec<Delivery>, Fault>;

    /// It has arrived, or is given up.
    async fn ended(&self, id: i64, now: Timestamp) -> Result<(), Fault>;

    /// It was tried in vain and is to be tried again at `due`.
    async fn again(&self, id: i64, due: Timestamp) -> Result<(), Fault>;

    /// Removes what is remembered no longer, and what waits for addresses that are not among `urls`; how many.
    async fn prune(&self, urls: Vec<String>, now: Timestamp) -> Result<u64, Fault>;
}

/// Deliveries in a file they share with other stores.
#[derive(Debug, Clone)]
pub struct SqliteDeliveries {
    db: Db,
}

impl SqliteDeliveries {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl DeliveryStore for SqliteDeliveries {
    async fn take(&self, new: Vec<NewDelivery>, most: u32, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| {
                let mut add = tx.prepare_cached(
                    "INSERT OR IGNORE INTO deliveries(url, what, body, created, attempts, due)
                     VALUES (?1, ?2, ?3, ?4, 0, ?4)",
                )?;
                let mut spare = tx.prepare_cached(
                    "UPDATE deliveries SET ended = ?3 WHERE url = ?1 AND ended IS NULL AND id <=
                       (SELECT id FROM deliveries WHERE url = ?1 AND ended IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                )?;
                let mut dropped = 0;
                for one in &new {
                    add.execute(params![one.url, one.what, one.body, now.micros()])?;
                    dropped += spare.execute(params![one.url, most, now.micros()])? as u64;
                }
                Ok(dropped)
            })
            .await
    }

    async fn heads(&self) -> Result<Vec<Delivery>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM deliveries WHERE id IN
                       (SELECT min(id) FROM deliveries WHERE ended IS NULL GROUP BY url) ORDER BY id",
                )?;
                Ok(rows.query_map([], delivery)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn ended(&self, id: i64, now: Timestamp) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                // What it said is of no use any more.
                tx.prepare_cached("UPDATE deliveries SET ended = ?2, body = '' WHERE id = ?1")?
                    .execute(params![id, now.micros()])?;
                Ok(())
            })
            .await
    }

    async fn again(&self, id: i64, due: Timestamp) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                tx.prepare_cached("UPDATE deliveries SET attempts = attempts + 1, due = ?2 WHERE id = ?1")?
                    .execute(params![id, due.micros()])?;
                Ok(())
            })
            .await
    }

    async fn prune(&self, urls: Vec<String>, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| {
                let before = (now - REMEMBERED).micros();
                let mut removed = tx.execute("DELETE FROM deliveries WHERE ended <= ?1", [before])? as u64;
                let urls = serde_json::to_string(&urls)?;
                removed += tx.execute(
                    "DELETE FROM deliveries WHERE ended IS NULL AND url NOT IN (SELECT value FROM json_each(?1))",
                    [urls],
                )? as u64;
                Ok(removed)
            })
            .await
    }
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        id: row.get("id")?,
        of: NewDelivery { url: row.get("url")?, what: row.get("what")?, body: row.get("body")? },
        created: Timestamp(row.get("created")?),
        attempts: row.get("attempts")?,
        due: Timestamp(row.get("due")?),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::telemetry::Telemetry;
    use crate::testing::{at, days};

    type Fresh = (TempDir, Arc<dyn DeliveryStore>);

    fn sqlite() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let telemetry = Telemetry::open(folder.path().join("telemetry.db")).unwrap();
        (folder, Arc::new(telemetry.deliveries))
    }

    #[tokio::test]
    async fn sqlite_keeps_the_promises_of_the_trait() {
        suite(sqlite).await;
    }

    /// What every [`DeliveryStore`] promises.
    pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
        let (_folder, store) = fresh();
        let one = |url: &str, what: &str| NewDelivery { url: url.into(), what: what.into(), body: format!("<{what}>") };
        let heads = async || {
            let heads = store.heads().await.unwrap();
            heads.into_iter().map(|d| (d.of.url, d.of.what, d.attempts, d.due)).collect::<Vec<_>>()
        };
        let waiting = |url: &str, what: &str, attempts, due| (url.to_owned(), what.to_owned(), attempts, due);
        let batch = vec![one("a", "1"), one("b", "1"), one("a", "2"), one("a", "1")];
        assert_eq!(store.take(batch, 9, at(0)).await.unwrap(), 0);
        assert_eq!(heads().await, [waiting("a", "1", 0, at(0)), waiting("b", "1", 0, at(0))]);
        let first = store.heads().await.unwrap().remove(0);
        assert_eq!((first.of.clone(), first.created), (one("a", "1"), at(0)));
        store.again(first.id, at(5)).await.unwrap();
        assert_eq!(heads().await[0], waiting("a", "1", 1, at(5)), "what comes later waits for it");
        store.ended(first.id, at(6)).await.unwrap();
        assert_eq!(store.take(vec![one("a", "1")], 9, at(7)).await.unwrap(), 0);
        assert_eq!(heads().await[0], waiting("b", "1", 0, at(0)), "it is not sent again");
        assert_eq!(heads().await[1], waiting("a", "2", 0, at(0)));
        // The oldest give way.
        let many = (3..8).map(|n| one("a", &n.to_string())).collect();
        assert_eq!(store.take(many, 3, at(8)).await.unwrap(), 3);
        assert_eq!(heads().await[1], waiting("a", "5", 0, at(8)));
        assert_eq!(store.prune(vec!["a".into()], at(9)).await.unwrap(), 1, "nobody wants what waits for b");
        assert_eq!(heads().await.len(), 1);
        assert_eq!(store.prune(vec!["a".into()], at(days(90) + 6)).await.unwrap(), 1);
    }
}

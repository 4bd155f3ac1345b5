//! Promises of memory, processor or disk to somebody, for a time; and the limits they keep.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use tandem_types::{Code, Fault, IdempotencyKey, NodeName, Timestamp};

use crate::db::{Db, Error, column, fresh_id};
use crate::keys::{self, once};
use crate::paging::hex;
use crate::words::words;

/// The tables, for the first migration of a file that holds them.
pub(crate) const SCHEMA: &str = "
CREATE TABLE reservations(
    id      TEXT PRIMARY KEY,
    node    TEXT NOT NULL,
    card    INTEGER,
    kind    TEXT NOT NULL,
    amount  REAL NOT NULL,
    holder  TEXT NOT NULL,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservations_by_expiry ON reservations(expires);
CREATE TABLE limits(node TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY(node, name)) WITHOUT ROWID;";

words! {
    /// What an amount is of.
    pub enum Resource {
        /// Video memory, bytes.
        Vram = "vram",
        /// Memory, bytes.
        Ram = "ram",
        /// Processor, share of the machine from 0 to 1.
        Cpu = "cpu",
        /// Disk, bytes.
        Disk = "disk",
    }
}

/// What somebody wants promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewReservation {
    /// On which machine.
    pub node: NodeName,
    /// On which of its cards, for video memory.
    pub card: Option<u32>,
    /// Of what.
    pub resource: Resource,
    /// How much: bytes, or a share from 0 to 1. Bytes are exact up to 2^53.
    pub amount: f64,
    /// Who: node/group/agent.
    pub holder: String,
}

/// A promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its id.
    pub id: String,
    /// What was promised.
    pub of: NewReservation,
    /// When it ends unless renewed.
    pub expires: Timestamp,
}

/// Keeps promises. Whether one may be given is for its agent to decide.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait ReservationStore: Send + Sync {
    /// Keeps a promise until `expires`.
    ///
    /// # Errors
    /// `conflict`, reason `key_reused`, when the key came with another body.
    async fn reserve(
        &self,
        key: IdempotencyKey,
        of: NewReservation,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<Reservation, Fault>;

    /// The promise that was given for this key; none when it is free.
    ///
    /// # Errors
    /// `conflict`, reason `key_reused`, when the key came with another body.
    async fn reserved(
        &self,
        key: IdempotencyKey,
        of: NewReservation,
        now: Timestamp,
    ) -> Result<Option<Reservation>, Fault>;

    /// Makes a promise last until `expires`.
    ///
    /// # Errors
    /// `not_found` when it is over.
    async fn renew(&self, id: &str, expires: Timestamp, now: Timestamp) -> Result<(), Fault>;

    /// Gives a promise back; whether it still held.
    async fn release(&self, id: &str) -> Result<bool, Fault>;

    /// The promises that hold at `now`, soonest to end first.
    async fn reservations(&self, now: Timestamp) -> Result<Vec<Reservation>, Fault>;

    /// Removes promises that are over, and keys past their time, and returns the promises.
    async fn expire(&self, now: Timestamp) -> Result<Vec<Reservation>, Fault>;

    /// Sets limits of a machine; those not named stay.
    async fn set_limits(&self, node: &NodeName, limits: BTreeMap<String, f64>) -> Result<(), Fault>;

    /// The limits that were set for a machine.
    async fn limits(&self, node: &NodeName) -> Result<BTreeMap<String, f64>, Fault>;
}

/// Reservations in a file they share with other stores.
#[derive(Debug, Clone)]
pub struct SqliteReservations {
    db: Db,
}

impl SqliteReservations {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl ReservationStore for SqliteReservations {
    async fn reserve(
        &self,
        key: IdempotencyKey,
        of: NewReservation,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<Reservation, Fault> {
        self.db.write(move |tx| once(tx, key, None, ("reserve", &of), now, |tx| insert(tx, of.clone(), expires))).await
    }

    async fn reserved(
        &self,
        key: IdempotencyKey,
        of: NewReservation,
        now: Timestamp,
    ) -> Result<Option<Reservation>, Fault> {
        let free = || Fault::not_found("the key is free");
        let found = self
            .db
            .write(move |tx| once(tx, key, None, ("reserve", &of), now, |_| Err::<Reservation, _>(free().into())))
            .await;
        match found {
            Ok(reservation) => Ok(Some(reservation)),
            Err(fault) if fault.code == Code::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn renew(&self, id: &str, expires: Timestamp, now: Timestamp) -> Result<(), Fault> {
        let id = id.to_owned();
        self.db
            .write(move |tx| {
                let renewed = tx
                    .prepare_cached("UPDATE reservations SET expires = ?2 WHERE id = ?1 AND expires > ?3 RETURNING id")?
                    .query_row(params![id, expires.micros(), now.micros()], |_| Ok(()))
                    .optional()?;
                renewed.ok_or_else(|| Fault::not_found(format!("reservation {id} is over; reserve again")).into())
            })
            .await
    }

    async fn release(&self, id: &str) -> Result<bool, Fault> {
        let id = id.to_owned();
        self.db
            .write(move |tx| Ok(tx.prepare_cached("DELETE FROM reservations WHERE id = ?1")?.execute([id])? > 0))
            .await
    }

    async fn reservations(&self, now: Timestamp) -> Result<Vec<Reservation>, Fault> {
        self.db
            .read(move |tx| {
                let mut rows =
                    tx.prepare_cached("SELECT * FROM reservations WHERE expires > ?1 ORDER BY expires, id")?;
                Ok(rows.query_map([now.micros()], reservation)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<Reservation>, Fault> {
        self.db
            .write(move |tx| {
                keys::prune(tx, now)?;
                let mut rows = tx.prepare_cached("DELETE FROM reservations WHERE expires <= ?1 RETURNING *")?;
                Ok(rows.query_map([now.micros()], reservation)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn set_limits(&self, node: &NodeName, limits: BTreeMap<String, f64>) -> Result<(), Fault> {
        let node = node.clone();
        self.db
            .write(move |tx| {
                let mut set = tx.prepare_cached("INSERT OR REPLACE INTO limits VALUES (?1, ?2, ?3)")?;
                limits
                    .iter()
                    .try_for_each(|(name, value)| set.execute(params![node.as_str(), name, value]).map(drop))?;
                Ok(())
            })
            .await
    }

    async fn limits(&self, node: &NodeName) -> Result<BTreeMap<String, f64>, Fault> {
        let node = node.clone();
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached("SELECT name, value FROM limits WHERE node = ?1")?;
                Ok(rows.query_map([node.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
            })
            .await
    }
}

fn insert(tx: &Transaction<'_>, of: NewReservation, expires: Timestamp) -> Result<Reservation, Error> {
    let id = hex(&fresh_id(tx)?);
    tx.prepare_cached("INSERT INTO reservations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
        id,
        of.node.as_str(),
        of.card,
        of.resource.as_str(),
        of.amount,
        of.holder,
        expires.micros()
    ])?;
    Ok(Reservation { id, of, expires })
}

fn reservation(row: &Row<'_>) -> rusqlite::Result<Reservation> {
    Ok(Reservation {
        id: row.get("id")?,
        of: NewReservation {
            node: column(row, "node")?,
            card: row.get("card")?,
            resource: column(row, "kind")?,
            amount: row.get("amount")?,
            holder: row.get("holder")?,
        },
        expires: Timestamp(row.get("expires")?),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::testing::{at, key};
    use crate::twin::Twin;

    type Fresh = (TempDir, Arc<dyn ReservationStore>);

    fn sqlite() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let twin = Twin::open(folder.path().join("twin.db")).unwrap();
        (folder, Arc::new(twin.reservations))
    }

    #[tokio::test]
    async fn sqlite_keeps_the_promises_of_the_trait() {
        suite(sqlite).await;
    }

    fn ram(bytes: f64) -> NewReservation {
        let node = NodeName::new("mainpc").unwrap();
        NewReservation { node, card: None, resource: Resource::Ram, amount: bytes, holder: "a/b/C".into() }
    }

    /// What every [`ReservationStore`] promises.
    pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
        let (_folder, store) = fresh();
        assert_eq!(store.reserved(key(1), ram((1u64 << 40) as f64), at(0)).await.unwrap(), None);
        let big = store.reserve(key(1), ram((1u64 << 40) as f64), at(60), at(0)).await.unwrap();
        assert_eq!(store.reserve(key(1), big.of.clone(), at(99), at(1)).await.unwrap(), big);
        assert_eq!(store.reserve(key(1), ram(2.0), at(60), at(1)).await.unwrap_err().code, Code::Conflict);
        assert_eq!(store.reserved(key(1), big.of.clone(), at(1)).await.unwrap(), Some(big.clone()));
        assert_eq!(store.reserved(key(1), ram(2.0), at(1)).await.unwrap_err().code, Code::Conflict);
        let card = NewReservation { card: Some(0), resource: Resource::Vram, ..ram(5.0) };
        let small = store.reserve(key(2), card, at(30), at(0)).await.unwrap();
        assert_eq!(store.reservations(at(29)).await.unwrap(), [small.clone(), big.clone()]);
        assert_eq!(store.reservations(at(30)).await.unwrap(), std::slice::from_ref(&big));
        assert_eq!(store.renew(&small.id, at(90), at(30)).await.unwrap_err().code, Code::NotFound);
        store.renew(&big.id, at(90), at(30)).await.unwrap();
        assert_eq!(store.expire(at(60)).await.unwrap(), [small]);
        assert_eq!(store.reservations(at(60)).await.unwrap(), [Reservation { expires: at(90), ..big.clone() }]);
        assert_eq!((store.release(&big.id).await.unwrap(), store.release(&big.id).await.unwrap()), (true, false));
        let node = NodeName::new("mainpc").unwrap();
        assert_eq!(store.limits(&node).await.unwrap(), BTreeMap::new());
        let set =
            |limits: &[(&str, f64)]| limits.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<BTreeMap<_, _>>();
        store.set_limits(&node, set(&[("ram", 0.9), ("vram", 0.95)])).await.unwrap();
        store.set_limits(&node, set(&[("ram", 0.8)])).await.unwrap();
        assert_eq!(store.limits(&node).await.unwrap(), set(&[("ram", 0.8), ("vram", 0.95)]));
        assert_eq!(store.limits(&NodeName::new("pc2").unwrap()).await.unwrap(), BTreeMap::new());
    }
}

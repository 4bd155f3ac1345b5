//! Leases in SQLite.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Code, Fault, GroupId, Timestamp};

use super::{Change, Lease, LeaseStore, Record, TOMBSTONE_KEPT, Table};
use crate::db::{Error, Migration, column, sqlite_store};
use crate::words::reason;

const MIGRATIONS: &[Migration] = &[Migration {
    name: "leases",
    sql: &["
CREATE TABLE leases(
    revision   INTEGER PRIMARY KEY,
    id         TEXT NOT NULL,
    group_id   TEXT NOT NULL,
    generation INTEGER NOT NULL,
    fencing    INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    body       TEXT NOT NULL,
    ended      INTEGER,
    why        TEXT
);
CREATE UNIQUE INDEX leases_present ON leases(group_id) WHERE ended IS NULL;
CREATE INDEX leases_ended ON leases(ended) WHERE ended IS NOT NULL;
CREATE TABLE fences(group_id TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
-- `pruned` is the highest revision whose tombstone is gone.
CREATE TABLE revisions(last INTEGER NOT NULL, pruned INTEGER NOT NULL);
INSERT INTO revisions VALUES (0, 0);
"],
}];

sqlite_store!(
    /// `registry.db`.
    SqliteLeases, MIGRATIONS
);

#[async_trait]
impl LeaseStore for SqliteLeases {
    async fn table(&self) -> Result<Table, Fault> {
        self.db.read(|tx| records_after(tx, 0)).await
    }

    async fn apply(&self, changes: Vec<Change>, now: Timestamp) -> Result<Vec<Record>, Fault> {
        self.db.write(move |tx| changes.into_iter().map(|change| apply(tx, change, now)).collect()).await
    }

    async fn since(&self, revision: u64) -> Result<Table, Fault> {
        self.db
            .read(move |tx| {
                let (last, pruned): (u64, u64) =
                    tx.query_row("SELECT last, pruned FROM revisions", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if (pruned..=last).contains(&revision) {
                    return records_after(tx, revision);
                }
                let message =
                    format!("changes after revision {revision} are not kept; watch again from the whole table");
                Err(Fault::new(Code::FailedPrecondition, reason::STALE, message).into())
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| {
                let gone = (now - TOMBSTONE_KEPT).micros();
                tx.execute(
                    "UPDATE revisions SET pruned =
                       max(pruned, (SELECT coalesce(max(revision), 0) FROM leases WHERE ended <= ?1))",
                    [gone],
                )?;
                Ok(tx.execute("DELETE FROM leases WHERE ended <= ?1", [gone])? as u64)
            })
            .await
    }
}

fn apply(tx: &Transaction<'_>, change: Change, now: Timestamp) -> Result<Record, Error> {
    match change {
        Change::Own(lease) => {
            tx.prepare_cached("DELETE FROM leases WHERE group_id = ?1 AND ended IS NULL")?
                .execute([lease.group.to_string()])?;
            let fencing = tx
                .prepare_cached(
                    "INSERT INTO fences VALUES (?1, 1) ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last",
                )?
                .query_row([lease.group.to_string()], |row| row.get(0))?;
            insert(tx, lease, fencing, None)
        }
        Change::Update(lease) => {
            let former = take(tx, &lease.group, &lease.id)?;
            insert(tx, lease, former.fencing, None)
        }
        Change::End { group, id, reason } => {
            let former = take(tx, &group, &id)?;
            insert(tx, former.lease, former.fencing, Some((now, reason)))
        }
    }
}

/// Takes the group's present line out of the table, if it is the lease with this id.
fn take(tx: &Transaction<'_>, group: &GroupId, id: &str) -> Result<Record, Error> {
    let taken = tx
        .prepare_cached("DELETE FROM leases WHERE group_id = ?1 AND id = ?2 AND ended IS NULL RETURNING *")?
        .query_row(params![group.to_string(), id], record)
        .optional()?;
    Ok(taken.ok_or_else(|| Fault::not_found(format!("{group} holds no lease {id}; register again")))?)
}

fn insert(
    tx: &Transaction<'_>,
    lease: Lease,
    fencing: u64,
    ended: Option<(Timestamp, String)>,
) -> Result<Record, Error> {
    let revision: u64 =
        tx.prepare_cached("UPDATE revisions SET last = last + 1 RETURNING last")?.query_row([], |row| row.get(0))?;
    tx.prepare_cached("INSERT INTO leases VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(params![
        revision,
        lease.id,
        lease.group.to_string(),
        lease.generation,
        fencing,
        lease.expires.micros(),
        lease.body,
        ended.as_ref().map(|(at, _)| at.micros()),
        ended.as_ref().map(|(_, why)| why),
    ])?;
    Ok(Record { revision, fencing, lease, ended })
}

fn records_after(tx: &Transaction<'_>, revision: u64) -> Result<Table, Error> {
    let last = tx.query_row("SELECT last FROM revisions", [], |row| row.get(0))?;
    let mut lines = tx.prepare_cached("SELECT * FROM leases WHERE revision > ?1 ORDER BY revision")?;
    let records = lines.query_map([revision], record)?.collect::<Result<_, _>>()?;
    Ok(Table { revision: last, records })
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let ended: Option<i64> = row.get("ended")?;
    Ok(Record {
        revision: row.get("revision")?,
        fencing: row.get("fencing")?,
        lease: Lease {
            id: row.get("id")?,
            group: column(row, "group_id")?,
            generation: row.get("generation")?,
            expires: Timestamp(row.get("expires")?),
            body: row.get("body")?,
        },
        ended: ended.map(|at| Ok::<_, rusqlite::Error>((Timestamp(at), row.get("why")?))).transpose()?,
    })
}

//! What a person should know about.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Fault, NodeName, Timestamp, UserId};

use crate::db::{Db, Error, column, fresh_id};
use crate::errors::Severity;
use crate::paging::{Page, Paged, hex};
use crate::personal::{Holds, Personal, PersonalData};

/// The table, for the first migration of a file that holds it.
pub(crate) const SCHEMA: &str = "
CREATE TABLE alerts(
    id       TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    severity TEXT NOT NULL,
    message  TEXT NOT NULL,
    evidence TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    acked_by TEXT,
    acked    INTEGER,
    cleared  INTEGER
);
CREATE UNIQUE INDEX alerts_open ON alerts(kind, subject) WHERE acked IS NULL AND cleared IS NULL;
CREATE INDEX alerts_by_time ON alerts(first, id);
CREATE INDEX alerts_by_actor ON alerts(acked_by) WHERE acked_by IS NOT NULL;";

/// Lets an alert stand until its cause is gone, also when somebody has seen it.
pub(crate) const STANDING: &str = "
UPDATE alerts SET cleared = acked WHERE acked IS NOT NULL AND cleared IS NULL;
DROP INDEX alerts_open;
CREATE UNIQUE INDEX alerts_standing ON alerts(kind, subject) WHERE cleared IS NULL;";

/// Lets alerts of other nodes lie beside the own ones.
pub(crate) const OF_NODES: &str = "
ALTER TABLE alerts ADD COLUMN node TEXT;
DROP INDEX alerts_standing;
CREATE UNIQUE INDEX alerts_standing ON alerts(kind, subject) WHERE cleared IS NULL AND node IS NULL;
CREATE INDEX alerts_by_node ON alerts(node) WHERE node IS NOT NULL;";

/// How long alerts are kept after they were last seen.
pub const KEPT: Duration = Duration::from_hours(90 * 24);

/// An occasion to alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAlert {
    /// A stable word, for example `error_flood`.
    pub kind: String,
    /// On what, for example `pc2/memory_stack`.
    pub subject: String,
    /// How bad.
    pub severity: Severity,
    /// In words.
    pub message: String,
    /// What it rests on, as JSON: ids and numbers.
    pub evidence: String,
    /// How many occurrences this stands for.
    pub count: u64,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Its id.
    pub id: String,
    /// The latest occasion, the worst severity, and the sum of the counts.
    pub what: NewAlert,
    /// First seen.
    pub first: Timestamp,
    /// Last seen.
    pub last: Timestamp,
    /// Who has seen it, and when.
    pub acked: Option<(UserId, Timestamp)>,
    /// When its cause went away.
    pub cleared: Option<Timestamp>,
    /// The node whose hub raised it; none for the own one.
    pub node: Option<NodeName>,
}

impl Alert {
    /// When anything about it changed last.
    pub fn changed(&self) -> Timestamp {
        let acked = self.acked.as_ref().map(|(_, at)| *at);
        [acked, self.cleared].into_iter().flatten().fold(self.last, Timestamp::max)
    }
}

/// Keeps alerts. One stands until its cause is gone, and is open until then or until somebody has seen it: what a person
/// knows of already is not told again while it lasts.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait AlertStore: PersonalData {
    /// Raises an alert, or adds to the standing one of the same kind and subject; whether it is a fresh one.
    async fn raise(&self, occasion: NewAlert, now: Timestamp) -> Result<(Alert, bool), Fault>;

    /// One alert, of whichever node.
    ///
    /// # Errors
    /// `not_found` when there is no such alert.
    async fn alert(&self, id: &str) -> Result<Alert, Fault>;

    /// Own alerts that changed after `after`, the oldest change first, at most `most`.
    async fn changed(&self, after: Timestamp, most: u32) -> Result<Vec<Alert>, Fault>;

    /// Takes alerts as the hub of another node has them.
    async fn take(&self, node: &NodeName, alerts: Vec<Alert>) -> Result<(), Fault>;

    /// The latest change of an alert of another node that is known here.
    async fn taken(&self, node: &NodeName) -> Result<Option<Timestamp>, Fault>;

    /// Notes that `by` has seen an alert. Seeing it twice keeps the first.
    ///
    /// # Errors
    /// `not_found` when there is no such alert.
    async fn ack(&self, id: &str, by: &UserId, now: Timestamp) -> Result<Alert, Fault>;

    /// Notes that the cause of the standing alert of this kind and subject is gone; that alert, if there was one.
    async fn clear(&self, kind: &str, subject: &str, now: Timestamp) -> Result<Option<Alert>, Fault>;

    /// As [`AlertStore::clear`], for every subject of a kind.
    async fn clear_all(&self, kind: &str, now: Timestamp) -> Result<Vec<Alert>, Fault>;

    /// Alerts, the newest first, page by page; all or only the open ones.
    async fn alerts(&self, only_open: bool, page: Page) -> Result<Paged<Alert>, Fault>;

    /// Removes alerts past their time; how many.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}

/// Alerts in a file they share with other stores.
#[derive(Debug, Clone)]
pub struct SqliteAlerts {
    db: Db,
}

impl SqliteAlerts {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }
}

impl Holds for SqliteAlerts {
    const PERSONAL: &'static [Personal] = &[Personal {
        table: "alerts",
        select: "SELECT * FROM alerts WHERE acked_by = ?1 ORDER BY first",
        forget: "UPDATE alerts SET acked_by = 'forgotten' WHERE acked_by = ?1",
    }];

    fn db(&self) -> &Db {
        &self.db
    }
}

#[async_trait]
impl AlertStore for SqliteAlerts {
    async fn raise(&self, occasion: NewAlert, now: Timestamp) -> Result<(Alert, bool), Fault> {
        self.db.write(move |tx| raise(tx, occasion, now)).await
    }

    async fn alert(&self, id: &str) -> Result<Alert, Fault> {
        let id = id.to_owned();
        self.db
            .read(move |tx| {
                let found =
                    tx.prepare_cached("SELECT * FROM alerts WHERE id = ?1")?.query_row([&id], alert).optional()?;
                found.ok_or_else(|| none(&id).into())
            })
            .await
    }

    async fn changed(&self, after: Timestamp, most: u32) -> Result<Vec<Alert>, Fault> {
        self.db
            .read(move |tx| {
                let sql =
                    format!("SELECT * FROM alerts WHERE node IS NULL AND {CHANGED} > ?1 ORDER BY {CHANGED} LIMIT ?2");
                let mut rows = tx.prepare_cached(&sql)?;
                Ok(rows.query_map(params![after.micros(), most], alert)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn take(&self, node: &NodeName, alerts: Vec<Alert>) -> Result<(), Fault> {
        let node = node.clone();
        self.db
            .write(move |tx| {
                let mut set = tx.prepare_cached(
                    "INSERT OR REPLACE INTO alerts(id, kind, subject, severity, message, evidence, first, last, count,
                       acked_by, acked, cleared, node) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                )?;
                for one in &alerts {
                    let (by, acked) = one.acked.as_ref().map(|(by, at)| (by.as_str(), at.micros())).unzip();
                    set.execute(params![
                        one.id,
                        one.what.kind,
                        one.what.subject,
                        one.what.severity.as_str(),
                        one.what.message,
                        one.what.evidence,
                        one.first.micros(),
                        one.last.micros(),
                        one.what.count,
                        by,
                        acked,
                        one.cleared.map(Timestamp::micros),
                        node.as_str()
                    ])?;
                }
                Ok(())
            })
            .await
    }

    async fn taken(&self, node: &NodeName) -> Result<Option<Timestamp>, Fault> {
        let node = node.clone();
        self.db
            .read(move |tx| {
                let sql = format!("SELECT max({CHANGED}) FROM alerts WHERE node = ?1");
                let latest: Option<i64> = tx.prepare_cached(&sql)?.query_row([node.as_str()], |row| row.get(0))?;
                Ok(latest.map(Timestamp))
            })
            .await
    }

    async fn ack(&self, id: &str, by: &UserId, now: Timestamp) -> Result<Alert, Fault> {
        let (id, by) = (id.to_owned(), by.clone());
        self.db
            .write(move |tx| {
                let acked = tx
                    .prepare_cached(
                        "UPDATE alerts SET acked_by = coalesce(acked_by, ?2), acked = coalesce(acked, ?3) WHERE id = ?1
                         RETURNING *",
                    )?
                    .query_row(params![id, by.as_str(), now.micros()], alert)
                    .optional()?;
                acked.ok_or_else(|| none(&id).into())
            })
            .await
    }

    async fn clear(&self, kind: &str, subject: &str, now: Timestamp) -> Result<Option<Alert>, Fault> {
        let (kind, subject) = (kind.to_owned(), subject.to_owned());
        self.db
            .write(move |tx| {
                let mut clear = tx.prepare_cached(
                    "UPDATE alerts SET cleared = ?3 WHERE kind = ?1 AND subject = ?2 AND cleared IS NULL AND node IS NULL
                     RETURNING *",
                )?;
                Ok(clear.query_row(params![kind, subject, now.micros()], alert).optional()?)
            })
            .await
    }

    async fn clear_all(&self, kind: &str, now: Timestamp) -> Result<Vec<Alert>, Fault> {
        let kind = kind.to_owned();
        self.db
            .write(move |tx| {
                let sql =
                    "UPDATE alerts SET cleared = ?2 WHERE kind = ?1 AND cleared IS NULL AND node IS NULL RETURNING *";
                let mut clear = tx.prepare_cached(sql)?;
                Ok(clear.query_map(params![kind, now.micros()], alert)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn alerts(&self, only_open: bool, page: Page) -> Result<Paged<Alert>, Fault> {
        let (limit, after) = (page.limit()?, page.after::<(i64, String)>()?.unwrap_or((i64::MAX, String::new())));
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM alerts WHERE (first, id) < (?1, ?2)
                       AND (NOT ?3 OR (acked IS NULL AND cleared IS NULL)) ORDER BY first DESC, id DESC LIMIT ?4",
                )?;
                let found = rows.query_map(params![after.0, after.1, only_open, limit + 1], alert)?;
                Ok(Paged::cut(found.collect::<Result<_, _>>()?, limit, |a| (a.first.micros(), a.id.clone()))?)
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| Ok(tx.execute("DELETE FROM alerts WHERE last <= ?1", [(now - KEPT).micros()])? as u64))
            .await
    }
}

/// When anything about a row changed last.
const CHANGED: &str = "max(last, coalesce(acked, 0), coalesce(cleared, 0))";

fn none(id: &str) -> Fault {
    Fault::not_found(format!("there is no alert {id}"))
}

fn raise(tx: &Transaction<'_>, occasion: NewAlert, now: Timestamp) -> Result<(Alert, bool), Error> {
    let standing = tx
        .prepare_cached("SELECT * FROM alerts WHERE kind = ?1 AND subject = ?2 AND cleared IS NULL AND node IS NULL")?
        .query_row([&occasion.kind, &occasion.subject], alert)
        .optional()?;
    let fresh = standing.is_none();
    let raised = match standing {
        Some(standing) => {
            let count = standing.what.count + occasion.count;
            let severity = standing.what.severity.max(occasion.severity);
            Alert { what: NewAlert { count, severity, ..occasion }, last: now, ..standing }
        }
        None => {
            let id = hex(&fresh_id(tx)?);
            Alert { id, what: occasion, first: now, last: now, acked: None, cleared: None, node: None }
        }
    };
    tx.prepare_cached(
        "INSERT INTO alerts(id, kind, subject, severity, message, evidence, first, last, count)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(id) DO UPDATE SET severity = excluded.severity,
           message = excluded.message, evidence = excluded.evidence, last = excluded.last, count = excluded.count",
    )?
    .execute(params![
        raised.id,
        raised.what.kind,
        raised.what.subject,
        raised.what.severity.as_str(),
        raised.what.message,
        raised.what.evidence,
        raised.first.micros(),
        raised.last.micros(),
        raised.what.count
    ])?;
    Ok((raised, fresh))
}

fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let acked: Option<i64> = row.get("acked")?;
    Ok(Alert {
        id: row.get("id")?,
        what: NewAlert {
            kind: row.get("kind")?,
            subject: row.get("subject")?,
            severity: column(row, "severity")?,
            message: row.get("message")?,
            evidence: row.get("evidence")?,
            count: row.get("count")?,
        },
        first: Timestamp(row.get("first")?),
        last: Timestamp(row.get("last")?),
        acked: acked.map(|at| Ok::<_, rusqlite::Error>((column(row, "acked_by")?, Timestamp(at)))).transpose()?,
        cleared: row.get::<_, Option<i64>>("cleared")?.map(Timestamp),
        node: row.get::<_, Option<String>>("node")?.map(|_| column(row, "node")).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tandem_types::Code;
    use tempfile::TempDir;

    use super::*;
    use crate::telemetry::Telemetry;
    use crate::testing::{at, days, forgets, user};

    type Fresh = (TempDir, Arc<dyn AlertStore>);

    fn sqlite() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let telemetry = Telemetry::open(folder.path().join("telemetry.db")).unwrap();
        (folder, Arc::new(telemetry.alerts))
    }

    #[tokio::test]
    async fn sqlite_keeps_the_promises_of_the_trait() {
        suite(sqlite).await;
    }

    #[tokio::test]
    async fn alerts_of_another_node_lie_beside_the_own_ones() {
        let (_folder, here) = sqlite();
        let (_other, there) = sqlite();
        let node = NodeName::new("pc2").unwrap();
        let (first, _) = there.raise(flood("a", Severity::Error, 2), at(1)).await.unwrap();
        let (second, _) = there.raise(flood("b", Severity::Error, 2), at(2)).await.unwrap();
        assert_eq!(there.changed(at(0), 1).await.unwrap(), std::slice::from_ref(&first));
        assert_eq!(here.taken(&node).await.unwrap(), None);
        let theirs = |alert: Alert| Alert { node: Some(node.clone()), ..alert };
        here.take(&node, vec![first.clone(), second.clone()]).await.unwrap();
        assert_eq!(here.taken(&node).await.unwrap(), Some(at(2)));
        assert_eq!(here.alert(&first.id).await.unwrap(), theirs(first.clone()));
        // The same kind and subject is another alert here, and ends for itself.
        let (own, fresh) = here.raise(flood("a", Severity::Info, 1), at(3)).await.unwrap();
        assert!(fresh && own.node.is_none());
        assert_eq!(here.clear("error_flood", "a", at(4)).await.unwrap().unwrap().id, own.id);
        assert_eq!(here.clear_all("error_flood", at(4)).await.unwrap(), []);
        assert_eq!(here.changed(at(0), 9).await.unwrap().len(), 1, "only the own ones are told on");
        there.ack(&first.id, &user("ana"), at(5)).await.unwrap();
        let cleared = there.clear("error_flood", "b", at(6)).await.unwrap().unwrap();
        let changed = there.changed(at(2), 9).await.unwrap();
        assert_eq!(changed.iter().map(Alert::changed).collect::<Vec<_>>(), [at(5), at(6)]);
        here.take(&node, changed).await.unwrap();
        assert_eq!(here.alert(&second.id).await.unwrap(), theirs(cleared));
        assert_eq!(here.alerts(false, Default::default()).await.unwrap().items.len(), 3, "each is there once");
    }

    fn flood(subject: &str, severity: Severity, count: u64) -> NewAlert {
        NewAlert {
            kind: "error_flood".into(),
            subject: subject.into(),
            severity,
            message: format!("{count} errors"),
            evidence: "{}".into(),
            count,
        }
    }

    /// What every [`AlertStore`] promises.
    pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
        let (folder, store) = fresh();
        let (ana, ben) = (user("zanzibar"), user("ben"));
        let (first, is_fresh) = store.raise(flood("a", Severity::Critical, 2), at(0)).await.unwrap();
        assert!(is_fresh);
        let (more, is_fresh) = store.raise(flood("a", Severity::Error, 3), at(5)).await.unwrap();
        let expected = NewAlert { message: "3 errors".into(), ..flood("a", Severity::Critical, 5) };
        assert_eq!(
            (&more.id, &more.what, more.first, more.last, is_fresh),
            (&first.id, &expected, at(0), at(5), false)
        );
        let acked = store.ack(&first.id, &ana, at(6)).await.unwrap();
        assert_eq!(acked, Alert { acked: Some((ana.clone(), at(6))), ..more });
        assert_eq!(store.ack(&first.id, &ben, at(7)).await.unwrap(), acked);
        assert_eq!(store.ack("none", &ben, at(7)).await.unwrap_err().code, Code::NotFound);
        // Somebody knows of it: it goes on without being told again, until its cause is gone.
        let (seen, is_fresh) = store.raise(flood("a", Severity::Error, 4), at(7)).await.unwrap();
        assert_eq!((seen.id, seen.what.count, seen.acked, is_fresh), (first.id.clone(), 9, acked.acked, false));
        assert_eq!(store.clear("error_flood", "a", at(8)).await.unwrap().unwrap().id, first.id);
        let (second, is_fresh) = store.raise(flood("a", Severity::Error, 1), at(8)).await.unwrap();
        assert!(is_fresh && second.id != first.id);
        let (third, _) = store.raise(flood("b", Severity::Error, 1), at(9)).await.unwrap();
        store.ack(&third.id, &ben, at(9)).await.unwrap();
        let ids = async |only_open, size, token| {
            let page = store.alerts(only_open, Page { size, token }).await.unwrap();
            (page.items.into_iter().map(|alert| alert.id).collect::<Vec<_>>(), page.next)
        };
        let (page, next) = ids(false, 2, String::new()).await;
        assert_eq!((page, ids(false, 2, next).await.0), (vec![third.id, second.id.clone()], vec![first.id]));
        assert_eq!(ids(true, 0, String::new()).await.0, [second.id]);
        assert_eq!(store.clear("error_flood", "a", at(10)).await.unwrap().unwrap().cleared, Some(at(10)));
        assert_eq!(store.clear("error_flood", "a", at(11)).await.unwrap(), None);
        assert!(ids(true, 0, String::new()).await.0.is_empty());
        store.raise(flood("c", Severity::Error, 1), at(11)).await.unwrap();
        assert_eq!(store.clear_all("peer_silent", at(12)).await.unwrap(), []);
        let cleared = store.clear_all("error_flood", at(12)).await.unwrap();
        assert_eq!(cleared.iter().map(|alert| alert.cleared).collect::<Vec<_>>(), [Some(at(12)); 2]);
        forgets(&*store, folder.path(), &ana, "zanzibar", &ben).await;
        assert_eq!(store.prune(at(days(90) + 8)).await.unwrap(), 2);
        assert_eq!(store.prune(at(days(90) + 11)).await.unwrap(), 2);
    }
}

//! What a person should know about.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Fault, Timestamp, UserId};

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
}

/// Keeps alerts. One is open until somebody has seen it or its cause is gone.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait AlertStore: PersonalData {
    /// Raises an alert, or adds to the open one of the same kind and subject; whether it is a fresh one.
    async fn raise(&self, occasion: NewAlert, now: Timestamp) -> Result<(Alert, bool), Fault>;

    /// Notes that `by` has seen an alert. Seeing it twice keeps the first.
    ///
    /// # Errors
    /// `not_found` when there is no such alert.
    async fn ack(&self, id: &str, by: &UserId, now: Timestamp) -> Result<Alert, Fault>;

    /// Notes that the cause of the open alert of this kind and subject is gone; that alert, if there was one.
    async fn clear(&self, kind: &str, subject: &str, now: Timestamp) -> Result<Option<Alert>, Fault>;

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
                acked.ok_or_else(|| Fault::not_found(format!("there is no alert {id}")).into())
            })
            .await
    }

    async fn clear(&self, kind: &str, subject: &str, now: Timestamp) -> Result<Option<Alert>, Fault> {
        let (kind, subject) = (kind.to_owned(), subject.to_owned());
        self.db
            .write(move |tx| {
                let mut clear = tx.prepare_cached(
                    "UPDATE alerts SET cleared = ?3
                     WHERE kind = ?1 AND subject = ?2 AND acked IS NULL AND cleared IS NULL RETURNING *",
                )?;
                Ok(clear.query_row(params![kind, subject, now.micros()], alert).optional()?)
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

fn raise(tx: &Transaction<'_>, mut occasion: NewAlert, now: Timestamp) -> Result<(Alert, bool), Error> {
    let standing = tx
        .prepare_cached("SELECT * FROM alerts WHERE kind = ?1 AND subject = ?2 AND acked IS NULL AND cleared IS NULL")?
        .query_row([&occasion.kind, &occasion.subject], alert)
        .optional()?;
    let fresh = standing.is_none();
    let (id, first) = match standing {
        Some(standing) => {
            occasion.count += standing.what.count;
            occasion.severity = occasion.severity.max(standing.what.severity);
            (standing.id, standing.first)
        }
        None => (hex(&fresh_id(tx)?), now),
    };
    tx.prepare_cached(
        "INSERT OR REPLACE INTO alerts(id, kind, subject, severity, message, evidence, first, last, count)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        id,
        occasion.kind,
        occasion.subject,
        occasion.severity.as_str(),
        occasion.message,
        occasion.evidence,
        first.micros(),
        now.micros(),
        occasion.count
    ])?;
    Ok((Alert { id, what: occasion, first, last: now, acked: None, cleared: None }, fresh))
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
        forgets(&*store, folder.path(), &ana, "zanzibar", &ben).await;
        assert_eq!(store.prune(at(days(90) + 8)).await.unwrap(), 2);
    }
}

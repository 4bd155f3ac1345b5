//! What went wrong, counted.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Row, Transaction, named_params, params};
use serde::{Deserialize, Serialize};
use tandem_types::{AgentId, Code, Fault, IdempotencyKey, Timestamp};

use crate::db::{Db, Error, column, json_column};
use crate::keys::{self, once};
use crate::paging::{Page, Paged};
use crate::words::words;

/// The table, for the first migration of a file that holds it.
pub(crate) const SCHEMA: &str = "
CREATE TABLE errors(
    id       INTEGER PRIMARY KEY,
    minute   INTEGER NOT NULL,
    agent    TEXT NOT NULL,
    code     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    severity TEXT NOT NULL,
    trace    TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    UNIQUE(minute, agent, code, reason, severity)
);
CREATE INDEX errors_by_time ON errors(last, id);
CREATE INDEX errors_by_agent ON errors(agent, last);";

/// Log lines beside an error: a JSON array of strings.
pub(crate) const EVIDENCE: &str = "ALTER TABLE errors ADD COLUMN evidence TEXT NOT NULL DEFAULT '[]';";

/// How long errors are kept.
pub const KEPT: Duration = Duration::from_hours(30 * 24);

words! {
    /// How bad.
    pub enum Severity {
        /// Worth knowing.
        Info = "info",
        /// Something is poorer.
        Warning = "warning",
        /// Something failed.
        Error = "error",
        /// Something a person needs failed.
        Critical = "critical",
    }
}

/// Equal errors of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Where.
    pub agent: AgentId,
    /// Which of the twelve.
    pub code: Code,
    /// The stable word.
    pub reason: String,
    /// How bad.
    pub severity: Severity,
    /// A trace that shows it.
    pub trace: String,
    /// How often since the last report.
    pub count: u64,
    /// When it was last seen.
    pub at: Timestamp,
    /// Log lines that show it, the latest last.
    pub evidence: Vec<String>,
}

/// Equal errors of one agent within one minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorEntry {
    /// The sum of what was reported, with the latest trace, time and evidence.
    pub total: ErrorReport,
    /// When it was first seen in that minute.
    pub first: Timestamp,
}

/// Which errors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFilter {
    /// Only of this agent.
    pub agent: Option<AgentId>,
    /// Only with this code.
    pub code: Option<Code>,
    /// Only last seen at this time or later.
    pub from: Timestamp,
}

/// Keeps errors.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait ErrorStore: Send + Sync {
    /// Adds a batch; whether it was added now and not by an earlier call with this key. Equal errors of a minute share
    /// an entry, so a flood takes no room.
    ///
    /// # Errors
    /// `conflict`, reason `key_reused`, when the key came with another batch.
    async fn report(&self, key: IdempotencyKey, batch: Vec<ErrorReport>, now: Timestamp) -> Result<bool, Fault>;

    /// Errors, the latest first, page by page.
    async fn errors(&self, filter: ErrorFilter, page: Page) -> Result<Paged<ErrorEntry>, Fault>;

    /// Removes entries past their time; how many.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}

/// Errors in a file they share with other stores.
#[derive(Debug, Clone)]
pub struct SqliteErrors {
    db: Db,
}

impl SqliteErrors {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }
}

#[async_trait]
impl ErrorStore for SqliteErrors {
    async fn report(&self, key: IdempotencyKey, batch: Vec<ErrorReport>, now: Timestamp) -> Result<bool, Fault> {
        self.db
            .write(move |tx| {
                let mut added = false;
                once(tx, key, None, ("report", &batch), now, |tx| {
                    added = true;
                    batch.iter().try_for_each(|one| add(tx, one))
                })?;
                Ok(added)
            })
            .await
    }

    async fn errors(&self, filter: ErrorFilter, page: Page) -> Result<Paged<ErrorEntry>, Fault> {
        let (limit, after) = (page.limit()?, page.after::<(i64, i64)>()?.unwrap_or((i64::MAX, i64::MAX)));
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM errors WHERE last >= :from AND (last, id) < (:last, :id)
                       AND (:agent IS NULL OR agent = :agent) AND (:code IS NULL OR code = :code)
                     ORDER BY last DESC, id DESC LIMIT :limit",
                )?;
                let found = rows.query_map(
                    named_params! {
                        ":from": filter.from.micros(), ":last": after.0, ":id": after.1, ":limit": limit + 1,
                        ":agent": filter.agent.as_ref().map(AgentId::to_string), ":code": filter.code.map(Code::as_str),
                    },
                    |row| Ok((row.get::<_, i64>("id")?, entry(row)?)),
                )?;
                let place = |(id, entry): &(i64, ErrorEntry)| (entry.total.at.micros(), *id);
                let page = Paged::cut(found.collect::<Result<_, _>>()?, limit, place)?;
                Ok(Paged { items: page.items.into_iter().map(|(_, entry)| entry).collect(), next: page.next })
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| {
                keys::prune(tx, now)?;
                Ok(tx.execute("DELETE FROM errors WHERE last <= ?1", [(now - KEPT).micros()])? as u64)
            })
            .await
    }
}

fn add(tx: &Transaction<'_>, one: &ErrorReport) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO errors(minute, agent, code, reason, severity, trace, first, last, count, evidence)
         VALUES (?1 / 60000000, ?2, ?3, ?4, ?5, ?6, ?1, ?1, ?7, ?8)
         ON CONFLICT DO UPDATE SET count = count + excluded.count, first = min(first, excluded.first),
           trace = CASE WHEN excluded.last >= last THEN excluded.trace ELSE trace END,
           evidence = CASE WHEN excluded.evidence <> '[]' AND excluded.last >= last
                      THEN excluded.evidence ELSE evidence END,
           last = max(last, excluded.last)",
    )?
    .execute(params![
        one.at.micros(),
        one.agent.to_string(),
        one.code.as_str(),
        one.reason,
        one.severity.as_str(),
        one.trace,
        one.count,
        serde_json::to_string(&one.evidence)?
    ])?;
    Ok(())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<ErrorEntry> {
    Ok(ErrorEntry {
        total: ErrorReport {
            agent: column(row, "agent")?,
            code: column(row, "code")?,
            reason: row.get("reason")?,
            severity: column(row, "severity")?,
            trace: row.get("trace")?,
            count: row.get("count")?,
            at: Timestamp(row.get("last")?),
            evidence: json_column(row, "evidence")?,
        },
        first: Timestamp(row.get("first")?),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::telemetry::Telemetry;
    use crate::testing::{at, days, key};

    type Fresh = (TempDir, Arc<dyn ErrorStore>);

    fn sqlite() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let telemetry = Telemetry::open(folder.path().join("telemetry.db")).unwrap();
        (folder, Arc::new(telemetry.errors))
    }

    #[tokio::test]
    async fn sqlite_keeps_the_promises_of_the_trait() {
        suite(sqlite).await;
    }

    fn error(agent: &str, code: Code, count: u64, seconds: i64) -> ErrorReport {
        ErrorReport {
            agent: format!("mainpc/a/{agent}").parse().unwrap(),
            code,
            reason: "disk".into(),
            severity: Severity::Error,
            trace: format!("{seconds}"),
            count,
            at: at(seconds),
            evidence: Vec::new(),
        }
    }

    /// What every [`ErrorStore`] promises.
    pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
        let (_folder, store) = fresh();
        let batch = vec![
            error("A", Code::Internal, 3, 1),
            error("A", Code::Internal, 4, 59),
            error("A", Code::Internal, 1, 30),
        ];
        for added in [true, false] {
            assert_eq!(store.report(key(1), batch.clone(), at(60)).await.unwrap(), added);
        }
        assert_eq!(store.report(key(1), vec![], at(60)).await.unwrap_err().code, Code::Conflict);
        let more = [
            error("A", Code::Internal, 1, 60),
            error("B", Code::Internal, 1, 61),
            error("A", Code::Unavailable, 1, 61),
        ];
        store.report(key(2), more.to_vec(), at(62)).await.unwrap();
        let all = store.errors(ErrorFilter::default(), Page { size: 3, token: String::new() }).await.unwrap();
        let rest = store.errors(ErrorFilter::default(), Page { size: 3, token: all.next.clone() }).await.unwrap();
        let totals: Vec<&ErrorReport> = all.items.iter().map(|entry| &entry.total).collect();
        assert_eq!(totals, [&more[2], &more[1], &more[0]]);
        let flood = ErrorEntry { total: ErrorReport { count: 8, ..batch[1].clone() }, first: at(1) };
        assert_eq!((rest.items, rest.next.as_str()), (vec![flood], ""));
        let count = async |filter| store.errors(filter, Page::default()).await.unwrap().items.len();
        let agent = Some(more[1].agent.clone());
        assert_eq!(count(ErrorFilter { agent, ..ErrorFilter::default() }).await, 1);
        assert_eq!(count(ErrorFilter { code: Some(Code::Internal), ..ErrorFilter::default() }).await, 3);
        assert_eq!(count(ErrorFilter { from: at(60), ..ErrorFilter::default() }).await, 3);
        let told = |seconds, evidence: &[&str]| {
            let evidence = evidence.iter().map(|line| (*line).to_owned()).collect();
            vec![ErrorReport { evidence, ..error("C", Code::ResourceExhausted, 1, seconds) }]
        };
        for (n, batch) in [(3, told(0, &["a"])), (4, told(5, &["b", "c"])), (5, told(6, &[])), (6, told(4, &["d"]))] {
            store.report(key(n), batch, at(60)).await.unwrap();
        }
        let code = Some(Code::ResourceExhausted);
        let found = store.errors(ErrorFilter { code, ..ErrorFilter::default() }, Page::default()).await.unwrap().items;
        let shown: Vec<(u64, &[String])> = found.iter().map(|e| (e.total.count, &e.total.evidence[..])).collect();
        assert_eq!(shown, [(4, &["b".to_owned(), "c".to_owned()][..])], "the latest that has evidence shows it");
        assert_eq!(store.prune(at(days(30) + 59)).await.unwrap(), 2);
        assert_eq!(count(ErrorFilter::default()).await, 3);
    }
}

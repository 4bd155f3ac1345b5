//! What is foreseen of agents, what came of it, and what was done.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};
use tandem_types::{AgentId, Fault, Timestamp};

use crate::db::{Migration, column, fresh_id, json_column, sqlite_store};
use crate::paging::{Page, Paged, hex};
use crate::words::words;

const MIGRATIONS: &[Migration] = &[Migration {
    name: "forecasts",
    sql: &["
CREATE TABLE norms(agent TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE forecasts(
    id    INTEGER PRIMARY KEY,
    agent TEXT NOT NULL,
    at    INTEGER NOT NULL,
    body  TEXT NOT NULL
);
CREATE INDEX forecasts_by_time ON forecasts(at);
CREATE TABLE examples(
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    agent   TEXT NOT NULL,
    anomaly REAL NOT NULL,
    urgency REAL NOT NULL,
    weight  REAL NOT NULL,
    failed  INTEGER
);
CREATE INDEX examples_by_time ON examples(at);
CREATE TABLE recoveries(
    id       TEXT PRIMARY KEY,
    agent    TEXT NOT NULL,
    at       INTEGER NOT NULL,
    tier     INTEGER NOT NULL,
    restarts TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    detail   TEXT NOT NULL,
    evidence TEXT NOT NULL
);
CREATE INDEX recoveries_by_time ON recoveries(at, id);
CREATE TABLE mode(one INTEGER PRIMARY KEY CHECK (one = 1), mode TEXT NOT NULL);"],
}];

/// How long forecasts, examples and recoveries are kept.
pub const KEPT: Duration = Duration::from_hours(90 * 24);
/// Most examples that are read at once, the newest.
const MOST_EXAMPLES: u32 = 50_000;

words! {
    /// How a recovery went.
    pub enum RecoveryOutcome {
        /// It is being done.
        Running = "running",
        /// It was done.
        Done = "done",
        /// It did not help, or could not be done.
        Failed = "failed",
        /// Who was asked to do it said no.
        Refused = "refused",
        /// It would have been done, had that been allowed.
        Advised = "advised",
    }
}

words! {
    /// What may be done against failures.
    pub enum RecoveryMode {
        /// Nothing.
        Off = "off",
        /// Say what would be done.
        Advise = "advise",
        /// Do it.
        Act = "act",
    }
}

/// What was seen of an agent at some time, and whether a failure followed.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Of whom.
    pub agent: AgentId,
    /// When it was seen.
    pub at: Timestamp,
    /// How much it stood out.
    pub anomaly: f64,
    /// How near its memory was to its end.
    pub urgency: f64,
    /// How many like it this one stands for.
    pub weight: f64,
    /// How long after it the agent failed; none when it did not in the time that counts.
    pub failed_after: Option<Duration>,
}

/// Something to be done against a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecovery {
    /// The agent that is failing.
    pub agent: AgentId,
    /// How far it goes.
    pub tier: u32,
    /// The agents that it restarts.
    pub restarts: Vec<AgentId>,
    /// How it is doing.
    pub outcome: RecoveryOutcome,
    /// In words.
    pub detail: String,
    /// What is known before, as JSON: ids, numbers and log lines.
    pub evidence: String,
}

/// Something done against a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Its id.
    pub id: String,
    /// What it is.
    pub what: NewRecovery,
    /// When it began.
    pub at: Timestamp,
}

/// Keeps forecasts and recoveries.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait ForecastStore: Send + Sync {
    /// Keeps what is usual for each of these agents, as its owner writes it.
    async fn set_norms(&self, norms: Vec<(AgentId, String)>) -> Result<(), Fault>;

    /// What is usual for each agent.
    async fn norms(&self) -> Result<Vec<(AgentId, String)>, Fault>;

    /// Keeps a forecast that says something new, as its owner writes it.
    async fn note(&self, agent: &AgentId, body: String, now: Timestamp) -> Result<(), Fault>;

    /// Keeps what was seen and what followed.
    async fn learn(&self, examples: Vec<Example>) -> Result<(), Fault>;

    /// The newest examples, the oldest first.
    async fn examples(&self) -> Result<Vec<Example>, Fault>;

    /// Keeps a recovery before it begins, with its evidence.
    async fn begin(&self, recovery: NewRecovery, now: Timestamp) -> Result<Recovery, Fault>;

    /// Notes how a recovery went.
    ///
    /// # Errors
    /// `not_found` when there is no such recovery.
    async fn end(&self, id: &str, outcome: RecoveryOutcome, detail: &str) -> Result<Recovery, Fault>;

    /// Recoveries, the newest first, page by page.
    async fn recoveries(&self, page: Page) -> Result<Paged<Recovery>, Fault>;

    /// Recoveries that began after `from`, the oldest first.
    async fn since(&self, from: Timestamp) -> Result<Vec<Recovery>, Fault>;

    /// Sets what may be done.
    async fn set_mode(&self, mode: RecoveryMode) -> Result<(), Fault>;

    /// What may be done; none when nobody said.
    async fn mode(&self) -> Result<Option<RecoveryMode>, Fault>;

    /// Removes what is past its time; how many rows.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}

sqlite_store!(
    /// `forecast.db`.
    SqliteForecasts,
    MIGRATIONS
);

#[async_trait]
impl ForecastStore for SqliteForecasts {
    async fn set_norms(&self, norms: Vec<(AgentId, String)>) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                let mut set = tx.prepare_cached("INSERT OR REPLACE INTO norms VALUES (?1, ?2)")?;
                norms.iter().try_for_each(|(agent, state)| set.execute(params![agent.to_string(), state]).map(drop))?;
                Ok(())
            })
            .await
    }

    async fn norms(&self) -> Result<Vec<(AgentId, String)>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare_cached("SELECT agent, state FROM norms")?;
                let found = rows.query_map([], |row| Ok((column(row, "agent")?, row.get("state")?)))?;
                Ok(found.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn note(&self, agent: &AgentId, body: String, now: Timestamp) -> Result<(), Fault> {
        let agent = agent.to_string();
        self.db
            .write(move |tx| {
                tx.prepare_cached("INSERT INTO forecasts(agent, at, body) VALUES (?1, ?2, ?3)")?.execute(params![
                    agent,
                    now.micros(),
                    body
                ])?;
                Ok(())
            })
            .await
    }

    async fn learn(&self, examples: Vec<Example>) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                let mut add = tx.prepare_cached(
                    "INSERT INTO examples(at, agent, anomaly, urgency, weight, failed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?;
                for one in &examples {
                    let failed = one.failed_after.map(|after| i64::try_from(after.as_micros()).unwrap_or(i64::MAX));
                    let agent = one.agent.to_string();
                    add.execute(params![one.at.micros(), agent, one.anomaly, one.urgency, one.weight, failed])?;
                }
                Ok(())
            })
            .await
    }

    async fn examples(&self) -> Result<Vec<Example>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare_cached("SELECT * FROM examples ORDER BY at DESC, id DESC LIMIT ?1")?;
                let mut found: Vec<Example> = rows.query_map([MOST_EXAMPLES], example)?.collect::<Result<_, _>>()?;
                found.reverse();
                Ok(found)
            })
            .await
    }

    async fn begin(&self, what: NewRecovery, now: Timestamp) -> Result<Recovery, Fault> {
        self.db
            .write(move |tx| {
                let id = hex(&fresh_id(tx)?);
                let restarts = serde_json::to_string(&what.restarts)?;
                tx.prepare_cached("INSERT INTO recoveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(
                    params![
                        id,
                        what.agent.to_string(),
                        now.micros(),
                        what.tier,
                        restarts,
                        what.outcome.as_str(),
                        what.detail,
                        what.evidence
                    ],
                )?;
                Ok(Recovery { id, what: what.clone(), at: now })
            })
            .await
    }

    async fn end(&self, id: &str, outcome: RecoveryOutcome, detail: &str) -> Result<Recovery, Fault> {
        let (id, detail) = (id.to_owned(), detail.to_owned());
        self.db
            .write(move |tx| {
                let ended = tx
                    .prepare_cached("UPDATE recoveries SET outcome = ?2, detail = ?3 WHERE id = ?1 RETURNING *")?
                    .query_row(params![id, outcome.as_str(), detail], recovery)
                    .optional()?;
                ended.ok_or_else(|| Fault::not_found(format!("there is no recovery {id}")).into())
            })
            .await
    }

    async fn recoveries(&self, page: Page) -> Result<Paged<Recovery>, Fault> {
        let (limit, after) = (page.limit()?, page.after::<(i64, String)>()?.unwrap_or((i64::MAX, String::new())));
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM recoveries WHERE (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3",
                )?;
                let found = rows.query_map(params![after.0, after.1, limit + 1], recovery)?;
                Ok(Paged::cut(found.collect::<Result<_, _>>()?, limit, |one| (one.at.micros(), one.id.clone()))?)
            })
            .await
    }

    async fn since(&self, from: Timestamp) -> Result<Vec<Recovery>, Fault> {
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached("SELECT * FROM recoveries WHERE at > ?1 ORDER BY at, id")?;
                Ok(rows.query_map([from.micros()], recovery)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn set_mode(&self, mode: RecoveryMode) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                tx.prepare_cached("INSERT OR REPLACE INTO mode VALUES (1, ?1)")?.execute([mode.as_str()])?;
                Ok(())
            })
            .await
    }

    async fn mode(&self) -> Result<Option<RecoveryMode>, Fault> {
        self.db
            .read(|tx| {
                Ok(tx.prepare_cached("SELECT mode FROM mode")?.query_row([], |row| column(row, "mode")).optional()?)
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        let before = (now - KEPT).micros();
        self.db
            .write(move |tx| {
                let mut rows = 0;
                for table in ["forecasts", "examples", "recoveries"] {
                    rows += tx.execute(&format!("DELETE FROM {table} WHERE at <= ?1"), [before])? as u64;
                }
                Ok(rows)
            })
            .await
    }
}

fn example(row: &Row<'_>) -> rusqlite::Result<Example> {
    let failed: Option<i64> = row.get("failed")?;
    Ok(Example {
        agent: column(row, "agent")?,
        at: Timestamp(row.get("at")?),
        anomaly: row.get("anomaly")?,
        urgency: row.get("urgency")?,
        weight: row.get("weight")?,
        failed_after: failed.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))),
    })
}

fn recovery(row: &Row<'_>) -> rusqlite::Result<Recovery> {
    Ok(Recovery {
        id: row.get("id")?,
        at: Timestamp(row.get("at")?),
        what: NewRecovery {
            agent: column(row, "agent")?,
            tier: row.get("tier")?,
            restarts: json_column(row, "restarts")?,
            outcome: column(row, "outcome")?,
            detail: row.get("detail")?,
            evidence: row.get("evidence")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tandem_types::Code;
    use tempfile::TempDir;

    use super::*;
    use crate::testing::{at, days};

    type Fresh = (TempDir, Arc<dyn ForecastStore>);

    fn sqlite() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteForecasts::open(folder.path().join("forecast.db")).unwrap();
        (folder, Arc::new(store))
    }

    #[tokio::test]
    async fn sqlite_keeps_the_promises_of_the_trait() {
        suite(sqlite).await;
    }

    /// What every [`ForecastStore`] promises.
    pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
        let (_folder, store) = fresh();
        let [a, b]: [AgentId; 2] = ["solo/x/A", "solo/x/B"].map(|id| id.parse().unwrap());
        store.set_norms(vec![(a.clone(), "1".into()), (b.clone(), "2".into())]).await.unwrap();
        store.set_norms(vec![(a.clone(), "3".into())]).await.unwrap();
        assert_eq!(store.norms().await.unwrap(), [(a.clone(), "3".into()), (b.clone(), "2".into())]);
        assert_eq!(store.mode().await.unwrap(), None);
        for mode in [RecoveryMode::Act, RecoveryMode::Off] {
            store.set_mode(mode).await.unwrap();
            assert_eq!(store.mode().await.unwrap(), Some(mode));
        }
        let seen = |n: i64, failed_after| Example {
            agent: a.clone(),
            at: at(n),
            anomaly: 0.5,
            urgency: 0.25,
            weight: 10.0,
            failed_after,
        };
        let examples = [seen(1, None), seen(2, Some(Duration::from_secs(40)))];
        store.learn(examples.to_vec()).await.unwrap();
        assert_eq!(store.examples().await.unwrap(), examples);
        store.note(&a, "{}".into(), at(1)).await.unwrap();
        let what = NewRecovery {
            agent: a.clone(),
            tier: 3,
            restarts: vec![b.clone(), a.clone()],
            outcome: RecoveryOutcome::Running,
            detail: String::new(),
            evidence: "{}".into(),
        };
        let first = store.begin(what.clone(), at(5)).await.unwrap();
        let second = store.begin(NewRecovery { tier: 4, ..what.clone() }, at(6)).await.unwrap();
        let ended = store.end(&first.id, RecoveryOutcome::Done, "ready").await.unwrap();
        let done = NewRecovery { outcome: RecoveryOutcome::Done, detail: "ready".into(), ..what };
        assert_eq!(ended, Recovery { what: done, ..first });
        assert_eq!(store.end("none", RecoveryOutcome::Done, "").await.unwrap_err().code, Code::NotFound);
        assert_eq!(store.since(at(5)).await.unwrap(), std::slice::from_ref(&second));
        let page = store.recoveries(Page { size: 1, token: String::new() }).await.unwrap();
        assert_eq!(page.items, [second]);
        let next = store.recoveries(Page { size: 1, token: page.next }).await.unwrap();
        assert_eq!((next.items, next.next), (vec![ended], String::new()));
        assert_eq!(store.prune(at(days(90) + 5)).await.unwrap(), 4);
        assert_eq!(store.since(at(0)).await.unwrap().len(), 1);
    }
}

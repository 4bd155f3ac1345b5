//! Measurements in SQLite.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, named_params, params};
use tandem_types::{Code, Fault, Timestamp, reason};

use super::resample::{floor, micros, resample};
use super::{
    Appended, Happening, HappeningFilter, Point, Policy, Pruned, Query, Raw, RawKept, Sample, Series, SeriesKey,
    SeriesStore,
};
use crate::db::{Db, Error, json_column};
use crate::paging::{Page, Paged};

/// The tables, for the first migration of a file that holds them.
pub(crate) const SCHEMA: &str = "
CREATE TABLE series(
    id     INTEGER PRIMARY KEY,
    owner  TEXT NOT NULL,
    name   TEXT NOT NULL,
    labels TEXT NOT NULL,
    UNIQUE(owner, name, labels)
);
CREATE INDEX series_by_name ON series(name);
CREATE TABLE samples(
    series INTEGER NOT NULL REFERENCES series(id) ON DELETE CASCADE,
    at     INTEGER NOT NULL,
    value  REAL NOT NULL,
    PRIMARY KEY(series, at)
) WITHOUT ROWID;
CREATE TABLE means(
    series INTEGER NOT NULL REFERENCES series(id) ON DELETE CASCADE,
    step   INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    mean   REAL NOT NULL,
    low    REAL NOT NULL,
    high   REAL NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY(series, step, at)
) WITHOUT ROWID;
-- Steps that begin before `through` are complete in `means`.
CREATE TABLE rolled(step INTEGER PRIMARY KEY, through INTEGER NOT NULL);
CREATE TABLE happenings(
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
);
CREATE INDEX happenings_by_time ON happenings(at);";

/// Samples that come this late still count in their means.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// Most points of an answer.
const MAX_POINTS: usize = 100_000;

/// Series in a file they share with other stores.
#[derive(Debug, Clone)]
pub struct SqliteSeries {
    db: Db,
    policy: Policy,
}

impl SqliteSeries {
    pub(crate) fn new(db: Db, policy: Policy) -> Self {
        Self { db, policy }
    }
}

#[async_trait]
impl SeriesStore for SqliteSeries {
    async fn append(&self, samples: Vec<Sample>, now: Timestamp) -> Result<Appended, Fault> {
        let policy = self.policy;
        self.db
            .write(move |tx| {
                let (appended, touched) = insert(tx, &policy, &samples)?;
                roll(tx, &policy, now)?;
                if let RawKept::Newest(kept) = policy.raw {
                    trim(tx, &touched, kept)?;
                }
                Ok(appended)
            })
            .await
    }

    async fn query(&self, query: Query) -> Result<Vec<Series>, Fault> {
        let policy = self.policy;
        self.db.read(move |tx| select(tx, &policy, &query)).await
    }

    async fn raw_after(
        &self,
        after: Timestamp,
        until: Timestamp,
        span: Duration,
    ) -> Result<Option<(Timestamp, Vec<Raw>)>, Fault> {
        self.db.read(move |tx| raw_after(tx, after, until, span)).await
    }

    async fn counts(&self) -> Result<BTreeMap<String, u64>, Fault> {
        self.db
            .read(|tx| {
                let mut counts = tx.prepare_cached("SELECT owner, count(*) FROM series GROUP BY owner")?;
                Ok(counts.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn note(&self, happenings: Vec<Happening>) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                let mut add =
                    tx.prepare_cached("INSERT INTO happenings(at, kind, subject, detail) VALUES (?1, ?2, ?3, ?4)")?;
                for one in &happenings {
                    add.execute(params![one.at.micros(), one.kind, one.subject, one.detail])?;
                }
                Ok(())
            })
            .await
    }

    async fn happenings(&self, filter: HappeningFilter, page: Page) -> Result<Paged<Happening>, Fault> {
        let (limit, after) = (page.limit()?, page.after::<(i64, i64)>()?.unwrap_or((i64::MAX, i64::MAX)));
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM happenings WHERE at >= :from AND (at, id) < (:at, :id)
                       AND (:kind IS NULL OR kind = :kind) AND (:subject IS NULL OR subject = :subject)
                     ORDER BY at DESC, id DESC LIMIT :limit",
                )?;
                let found = rows.query_map(
                    named_params! {
                        ":from": filter.from.micros(), ":at": after.0, ":id": after.1, ":kind": filter.kind,
                        ":subject": filter.subject, ":limit": limit + 1,
                    },
                    |row| Ok((row.get::<_, i64>("id")?, happening(row)?)),
                )?;
                let page = Paged::cut(found.collect::<Result<_, _>>()?, limit, |(id, one)| (one.at.micros(), *id))?;
                Ok(Paged { items: page.items.into_iter().map(|(_, one)| one).collect(), next: page.next })
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<Pruned, Fault> {
        let policy = self.policy;
        self.db.write(move |tx| prune(tx, &policy, now)).await
    }

    async fn drop_raw(&self, before: Timestamp) -> Result<u64, Fault> {
        self.db.write(move |tx| delete_raw(tx, before)).await
    }
}

/// Keeps the samples; with what became of them, the series that were touched.
pub(super) fn insert(tx: &Transaction<'_>, policy: &Policy, samples: &[Sample]) -> Result<(Appended, Vec<i64>), Error> {
    let (mut appended, mut touched) = (Appended::default(), Vec::new());
    let mut add = tx.prepare_cached("INSERT OR REPLACE INTO samples VALUES (?1, ?2, ?3)")?;
    for sample in samples {
        if !sample.value.is_finite() {
            appended.not_finite += 1;
        } else if let Some(series) = series_id(tx, policy, &sample.key)? {
            add.execute(params![series, sample.at.micros(), sample.value])?;
            appended.kept += 1;
            touched.push(series);
        } else {
            let of_owner = appended.over_limit.entry(sample.key.owner.clone()).or_default();
            *of_owner.entry(sample.key.name.clone()).or_default() += 1;
        }
    }
    touched.sort_unstable();
    touched.dedup();
    Ok((appended, touched))
}

/// The series' row, made where there is none; none when its owner has no room for it.
fn series_id(tx: &Transaction<'_>, policy: &Policy, key: &SeriesKey) -> Result<Option<i64>, Error> {
    // A sorted map makes the same labels the same text.
    let labels = serde_json::to_string(&key.labels)?;
    let known = tx
        .prepare_cached("SELECT id FROM series WHERE owner = ?1 AND name = ?2 AND labels = ?3")?
        .query_row([&key.owner, &key.name, &labels], |row| row.get(0))
        .optional()?;
    if known.is_some() {
        return Ok(known);
    }
    let made = tx
        .prepare_cached(
            "INSERT INTO series(owner, name, labels) SELECT ?1, ?2, ?3
             WHERE (SELECT count(*) FROM series WHERE owner = ?1) < ?4 RETURNING id",
        )?
        .query_row(params![key.owner, key.name, labels, policy.series_per_owner], |row| row.get(0))
        .optional()?;
    Ok(made)
}

/// Makes the means of every step that is over: of the finest from samples, of each wider one from the one before.
pub(super) fn roll(tx: &Transaction<'_>, policy: &Policy, now: Timestamp) -> Result<(), Error> {
    let now = (now - GRACE).micros();
    let mut source = RAW.to_owned();
    for means in policy.means {
        let step = micros(means.step);
        let (from, to) = (rolled(tx, step)?, floor(now, means.step));
        if from < to {
            // Series by series, so that each is one range of its table.
            let sql = format!(
                "INSERT OR REPLACE INTO means
                 SELECT x.series, ?1, x.at / ?1 * ?1, sum(mean * count) / sum(count), min(low), max(high), sum(count)
                 FROM series s CROSS JOIN ({source}) x ON x.series = s.id AND x.at >= ?2 AND x.at < ?3 GROUP BY 1, 3"
            );
            tx.prepare_cached(&sql)?.execute([step, from, to])?;
            tx.prepare_cached("INSERT OR REPLACE INTO rolled VALUES (?1, ?2)")?.execute([step, to])?;
        }
        source = format!("SELECT series, at, mean, low, high, count FROM means WHERE step = {step}");
    }
    Ok(())
}

/// Samples in the form of means.
const RAW: &str = "SELECT series, at, value AS mean, value AS low, value AS high, 1 AS count FROM samples";

fn rolled(tx: &Transaction<'_>, step: i64) -> Result<i64, Error> {
    let through = tx
        .prepare_cached("SELECT through FROM rolled WHERE step = ?1")?
        .query_row([step], |row| row.get(0))
        .optional()?;
    Ok(through.unwrap_or(0))
}

/// Leaves the newest samples of each of these series.
fn trim(tx: &Transaction<'_>, touched: &[i64], kept: u32) -> Result<(), Error> {
    let mut delete = tx.prepare_cached(
        "DELETE FROM samples WHERE series = ?1 AND at <=
           (SELECT at FROM samples WHERE series = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)",
    )?;
    touched.iter().try_for_each(|series| delete.execute(params![series, kept]).map(drop))?;
    Ok(())
}

fn select(tx: &Transaction<'_>, policy: &Policy, query: &Query) -> Result<Vec<Series>, Error> {
    let mut named = tx.prepare_cached(
        "SELECT id, owner, name, labels FROM series WHERE name = ?1 AND (?2 IS NULL OR owner = ?2)
         ORDER BY owner, labels",
    )?;
    let named = named.query_map(params![query.name, query.owner], |row| {
        let key = SeriesKey { owner: row.get("owner")?, name: row.get("name")?, labels: json_column(row, "labels")? };
        Ok((row.get::<_, i64>("id")?, key))
    })?;
    let (mut found, mut points) = (Vec::new(), 0);
    for line in named {
        let (id, key) = line?;
        if query.labels.iter().all(|(name, value)| key.labels.get(name) == Some(value)) {
            let series = Series { key, points: resample(past(tx, policy, id, query)?, query.step) };
            points += series.points.len();
            if points > MAX_POINTS {
                let message = format!(
                    "series {}: over {MAX_POINTS} points; ask for a wider step, a shorter time or more labels",
                    query.name
                );
                return Err(Fault::new(Code::ResourceExhausted, reason::BAD_FIELD, message).into());
            }
            found.push(series);
        }
    }
    if found.is_empty() {
        return Err(Fault::not_found(format!("there is no series {} with these labels", query.name)).into());
    }
    Ok(found)
}

/// The points of one series: from the level that suits the query as far as it is complete, then from each finer one,
/// and the end from raw samples. No sample is in two of them.
fn past(tx: &Transaction<'_>, policy: &Policy, series: i64, query: &Query) -> Result<Vec<Point>, Error> {
    let levels = &policy.means[..level(tx, policy, series, query)?];
    let to = query.to.micros();
    // The step in which `from` lies is wanted whole.
    let mut from = levels.last().map_or(query.from.micros(), |means| floor(query.from.micros(), means.step));
    let mut points = Vec::new();
    for means in levels.iter().rev() {
        let step = micros(means.step);
        let complete = rolled(tx, step)?.min(to);
        let sql = "SELECT * FROM means WHERE series = ?1 AND step = ?2 AND at >= ?3 AND at < ?4 ORDER BY at";
        let mut rows = tx.prepare_cached(sql)?;
        let found = rows.query_map([series, step, from, complete], point)?;
        points.append(&mut found.collect::<Result<_, _>>()?);
        from = from.max(complete);
    }
    let mut rows = tx.prepare_cached(&format!("{RAW} WHERE series = ?1 AND at >= ?2 AND at < ?3 ORDER BY at"))?;
    points.append(&mut rows.query_map([series, from, to], point)?.collect::<Result<_, _>>()?);
    Ok(points)
}

/// How many levels of means the query begins with: up to the widest that is no wider than its step, and on to a wider
/// one while that reaches further back and is needed to.
fn level(tx: &Transaction<'_>, policy: &Policy, series: i64, query: &Query) -> Result<usize, Error> {
    let mut level = policy.means.iter().take_while(|means| means.step <= query.step).count();
    let mut begins = oldest(tx, policy, series, level)?;
    while level < policy.means.len() && begins.is_none_or(|at| at > query.from.micros()) {
        let wider = oldest(tx, policy, series, level + 1)?;
        if wider.is_none() || begins.is_some_and(|at| wider >= Some(floor(at, policy.means[level].step))) {
            break;
        }
        (level, begins) = (level + 1, wider);
    }
    Ok(level)
}

fn raw_after(
    tx: &Transaction<'_>,
    after: Timestamp,
    until: Timestamp,
    span: Duration,
) -> Result<Option<(Timestamp, Vec<Raw>)>, Error> {
    let first: Option<i64> = tx
        .prepare_cached("SELECT min((SELECT min(at) FROM samples WHERE series = s.id AND at > ?1)) FROM series s")?
        .query_row([after.micros()], |row| row.get(0))?;
    let Some(first) = first.filter(|first| *first <= until.micros()) else { return Ok(None) };
    let to = first.saturating_add(micros(span)).min(until.micros().saturating_add(1));
    let mut of = tx.prepare_cached(
        "SELECT at, value FROM samples WHERE series = ?1 AND at >= ?2 AND (at = ?2 OR at < ?3) ORDER BY at",
    )?;
    let mut named = tx.prepare_cached("SELECT id, owner, name, labels FROM series")?;
    let named = named.query_map([], |row| {
        let key = SeriesKey { owner: row.get("owner")?, name: row.get("name")?, labels: json_column(row, "labels")? };
        Ok((row.get::<_, i64>("id")?, key))
    })?;
    let (mut last, mut all) = (first, Vec::new());
    for line in named {
        let (id, key) = line?;
        let samples = of.query_map([id, first, to], |row| Ok((Timestamp(row.get(0)?), row.get(1)?)))?;
        let samples: Vec<(Timestamp, f64)> = samples.collect::<Result<_, _>>()?;
        if let Some((at, _)) = samples.last() {
            last = last.max(at.micros());
            all.push(Raw { key, samples });
        }
    }
    Ok(Some((Timestamp(last), all)))
}

/// The first time a level knows of; level 0 is raw.
fn oldest(tx: &Transaction<'_>, policy: &Policy, series: i64, level: usize) -> Result<Option<i64>, Error> {
    Ok(match level.checked_sub(1) {
        None => {
            tx.prepare_cached("SELECT min(at) FROM samples WHERE series = ?1")?.query_row([series], |row| row.get(0))?
        }
        Some(means) => tx
            .prepare_cached("SELECT min(at) FROM means WHERE series = ?1 AND step = ?2")?
            .query_row([series, micros(policy.means[means].step)], |row| row.get(0))?,
    })
}

fn prune(tx: &Transaction<'_>, policy: &Policy, now: Timestamp) -> Result<Pruned, Error> {
    let samples = match policy.raw {
        RawKept::For(kept) => delete_raw(tx, now - kept)?,
        RawKept::Newest(_) => 0,
    };
    let mut means = 0;
    for level in policy.means {
        means += delete_old(tx, &format!("means WHERE step = {} AND", micros(level.step)), now - level.kept)?;
    }
    Ok(Pruned {
        samples,
        means,
        series: tx.execute(
            "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM samples WHERE series = series.id)
               AND NOT EXISTS (SELECT 1 FROM means WHERE series = series.id)",
            [],
        )? as u64,
        happenings: tx.execute("DELETE FROM happenings WHERE at < ?1", [(now - policy.events).micros()])? as u64,
    })
}

fn delete_raw(tx: &Transaction<'_>, before: Timestamp) -> Result<u64, Error> {
    delete_old(tx, "samples WHERE", before)
}

/// Rows lie in the order of series and time, so what is old is found series by series.
fn delete_old(tx: &Transaction<'_>, of: &str, before: Timestamp) -> Result<u64, Error> {
    let ids: Vec<i64> =
        tx.prepare_cached("SELECT id FROM series")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut delete = tx.prepare_cached(&format!("DELETE FROM {of} series = ?1 AND at < ?2"))?;
    let mut count = 0;
    for series in ids {
        count += delete.execute([series, before.micros()])? as u64;
    }
    Ok(count)
}

fn point(row: &Row<'_>) -> rusqlite::Result<Point> {
    Ok(Point {
        at: Timestamp(row.get("at")?),
        mean: row.get("mean")?,
        low: row.get("low")?,
        high: row.get("high")?,
        count: row.get("count")?,
    })
}

fn happening(row: &Row<'_>) -> rusqlite::Result<Happening> {
    Ok(Happening {
        kind: row.get("kind")?,
        subject: row.get("subject")?,
        detail: row.get("detail")?,
        at: Timestamp(row.get("at")?),
    })
}

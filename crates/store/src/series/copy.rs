//! Another node's measurements, taken over batch by batch.

use std::path::PathBuf;

use rusqlite::OptionalExtension;
use tandem_types::{Fault, Timestamp};

use super::sqlite::{GRACE, SCHEMA, insert, roll};
use super::{Appended, Policy, Raw, Sample, SqliteSeries};
use crate::db::{Db, Migration};

const MIGRATIONS: &[Migration] = &[Migration {
    name: "copy",
    sql: &[SCHEMA, "CREATE TABLE taken(one INTEGER PRIMARY KEY CHECK (one = 1), through INTEGER NOT NULL);"],
}];

/// A file with what was taken over. Means are made by that node's time, however late its samples come.
#[derive(Debug, Clone)]
pub struct SeriesCopy {
    /// What was taken over.
    pub series: SqliteSeries,
    db: Db,
}

impl SeriesCopy {
    /// Opens the file, creating or migrating it as needed. Blocks while it does so.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        let db = Db::open(path, MIGRATIONS)?;
        Ok(Self { series: SqliteSeries::new(db.clone(), Policy::COPY), db })
    }

    /// The time of the last sample that was taken over; none before the first.
    ///
    /// # Errors
    /// Reason `disk` when the file cannot be read.
    pub async fn taken(&self) -> Result<Option<Timestamp>, Fault> {
        self.db
            .read(|tx| Ok(tx.query_row("SELECT through FROM taken", [], |row| row.get(0)).optional()?.map(Timestamp)))
            .await
    }

    /// Takes over what came after [`Self::taken`], of which `through` is the last: all of it or nothing.
    ///
    /// # Errors
    /// Reason `disk` when the file cannot be written.
    pub async fn take(&self, raw: Vec<Raw>, through: Timestamp) -> Result<Appended, Fault> {
        self.db
            .write(move |tx| {
                let samples: Vec<Sample> = raw.into_iter().flat_map(samples).collect();
                let (appended, _) = insert(tx, &Policy::COPY, &samples)?;
                roll(tx, &Policy::COPY, through + GRACE)?;
                tx.execute("INSERT OR REPLACE INTO taken VALUES (1, ?1)", [through.micros()])?;
                Ok(appended)
            })
            .await
    }
}

fn samples(raw: Raw) -> impl Iterator<Item = Sample> {
    let Raw { key, samples } = raw;
    samples.into_iter().map(move |(at, value)| Sample { key: key.clone(), at, value })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::series::{Query, SeriesKey, SeriesStore as _};
    use crate::telemetry::Telemetry;
    use crate::testing::at;

    #[tokio::test]
    async fn what_is_taken_over_late_has_every_sample_once_and_the_same_means() {
        let folder = tempfile::tempdir().unwrap();
        let source = Telemetry::open(folder.path().join("telemetry.db")).unwrap().series;
        let key = |name: &str| SeriesKey { owner: "pc2/a".into(), name: name.into(), labels: BTreeMap::new() };
        for n in 0..120_i32 {
            let when = at(i64::from(n) * 30);
            let sample = |name: &str| Sample { key: key(name), at: when, value: f64::from(n) };
            source.append(vec![sample("x"), sample("y")], when).await.unwrap();
        }
        let path = folder.path().join("pc2.db");
        let copy = SeriesCopy::open(&path).unwrap();
        assert_eq!(copy.taken().await.unwrap(), None);
        let (mut after, mut batches, mut kept) = (Timestamp(0), 0, 0);
        while let Some((through, raw)) = source.raw_after(after, at(3_600), Duration::from_mins(10)).await.unwrap() {
            kept += copy.take(raw, through).await.unwrap().kept;
            (after, batches) = (through, batches + 1);
        }
        assert_eq!((batches, kept), (6, 240));
        let again = SeriesCopy::open(&path).unwrap();
        assert_eq!(again.taken().await.unwrap(), Some(at(119 * 30)));
        for step in [Duration::ZERO, Duration::from_mins(5)] {
            let query =
                Query { name: "x".into(), owner: None, labels: BTreeMap::new(), from: at(0), to: at(3_600), step };
            let (there, here) = (source.query(query.clone()).await.unwrap(), again.series.query(query).await.unwrap());
            assert_eq!(here, there, "{step:?}");
        }
    }

    #[tokio::test]
    async fn a_span_shorter_than_the_time_between_samples_brings_one_batch() {
        let folder = tempfile::tempdir().unwrap();
        let source = Telemetry::open(folder.path().join("telemetry.db")).unwrap().series;
        let key = SeriesKey { owner: "pc2/a".into(), name: "x".into(), labels: BTreeMap::new() };
        for n in 0..2 {
            source.append(vec![Sample { key: key.clone(), at: at(n * 30), value: 1.0 }], at(n * 30)).await.unwrap();
        }
        let (through, raw) = source.raw_after(Timestamp(0), at(30), Duration::ZERO).await.unwrap().unwrap();
        assert_eq!((through, raw), (at(0), vec![Raw { key, samples: vec![(at(0), 1.0)] }]));
        let (through, _) = source.raw_after(Timestamp(0), at(29), Duration::from_mins(1)).await.unwrap().unwrap();
        assert_eq!(through, at(0), "what is later than that is not there yet");
        assert_eq!(source.raw_after(at(30), at(60), Duration::from_mins(1)).await.unwrap(), None);
        assert_eq!(source.raw_after(at(0), at(29), Duration::from_mins(1)).await.unwrap(), None);
    }
}

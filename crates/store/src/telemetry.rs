//! `telemetry.db`: what an observability hub measures, what went wrong, and who should know.

use std::path::PathBuf;

use tandem_types::Fault;

use crate::alerts::{self, SqliteAlerts};
use crate::db::{Db, Migration};
use crate::deliveries::{self, SqliteDeliveries};
use crate::errors::{self, SqliteErrors};
use crate::keys;
use crate::series::{self, Policy, SqliteSeries};

const MIGRATIONS: &[Migration] = &[
    Migration { name: "telemetry", sql: &[keys::SCHEMA, series::SCHEMA, errors::SCHEMA, alerts::SCHEMA] },
    Migration { name: "standing alerts", sql: &[alerts::STANDING] },
    Migration { name: "evidence of errors", sql: &[errors::EVIDENCE] },
    Migration { name: "alerts of nodes", sql: &[alerts::OF_NODES] },
    Migration { name: "deliveries", sql: &[deliveries::SCHEMA] },
];

/// The stores of `telemetry.db`.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Measurements.
    pub series: SqliteSeries,
    /// What went wrong.
    pub errors: SqliteErrors,
    /// Who should know.
    pub alerts: SqliteAlerts,
    /// What is to be told to addresses outside.
    pub deliveries: SqliteDeliveries,
    /// The file, for backup, checks and closing.
    pub db: Db,
}

impl Telemetry {
    /// Opens the file, creating or migrating it as needed. Blocks while it does so.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        let db = Db::open(path, MIGRATIONS)?;
        Ok(Self {
            series: SqliteSeries::new(db.clone(), Policy::TELEMETRY),
            errors: SqliteErrors::new(db.clone()),
            alerts: SqliteAlerts::new(db.clone()),
            deliveries: SqliteDeliveries::new(db.clone()),
            db,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::{AlertStore as _, NewAlert};
    use crate::errors::Severity;
    use crate::testing::at;

    #[tokio::test]
    async fn an_older_file_keeps_its_alerts_and_one_of_a_kind_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("telemetry.db");
        let older = Db::open(&path, &MIGRATIONS[..1]).unwrap();
        let rows =
            "INSERT INTO alerts(id, kind, subject, severity, message, evidence, first, last, count, acked_by, acked)
                    VALUES ('seen', 'disk_full', 'a', 'error', 'x', '{}', 1, 1, 2, 'ana', 5),
                           ('open', 'disk_full', 'a', 'error', 'x', '{}', 6, 6, 3, NULL, NULL)";
        older.write(|tx| Ok(tx.execute_batch(rows)?)).await.unwrap();
        older.close().await.unwrap();
        let alerts = Telemetry::open(&path).unwrap().alerts;
        let all = alerts.alerts(false, Default::default()).await.unwrap().items;
        let brief: Vec<_> = all.iter().map(|a| (a.id.as_str(), a.cleared.map(|at| at.micros()))).collect();
        assert_eq!(brief, [("open", None), ("seen", Some(5))]);
        let again = NewAlert {
            kind: "disk_full".into(),
            subject: "a".into(),
            severity: Severity::Error,
            message: "y".into(),
            evidence: "{}".into(),
            count: 4,
        };
        let (raised, fresh) = alerts.raise(again, at(0)).await.unwrap();
        assert_eq!((raised.id.as_str(), raised.what.count, fresh), ("open", 7, false));
    }
}

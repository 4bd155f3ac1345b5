//! `telemetry.db`: what an observability hub measures, what went wrong, and who should know.

use std::path::PathBuf;

use tandem_types::Fault;

use crate::alerts::{self, SqliteAlerts};
use crate::db::{Db, Migration};
use crate::errors::{self, SqliteErrors};
use crate::keys;
use crate::series::{self, Policy, SqliteSeries};

const MIGRATIONS: &[Migration] = &[
    Migration { name: "telemetry", sql: &[keys::SCHEMA, series::SCHEMA, errors::SCHEMA, alerts::SCHEMA] },
    Migration { name: "standing alerts", sql: &[alerts::STANDING] },
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
            db,
        })
    }
}

//! `twin.db`: measurements of the machines, what happened to them, and what is promised of them.

use std::path::PathBuf;

use tandem_types::Fault;

use crate::db::{Db, Migration};
use crate::keys;
use crate::reservations::{self, SqliteReservations};
use crate::series::{self, Policy, SqliteSeries};

const MIGRATIONS: &[Migration] =
    &[Migration { name: "twin", sql: &[keys::SCHEMA, series::SCHEMA, reservations::SCHEMA] }];

/// The stores of `twin.db`; `resources.db` has the same.
#[derive(Debug, Clone)]
pub struct Twin {
    /// Measurements.
    pub series: SqliteSeries,
    /// Promises and limits.
    pub reservations: SqliteReservations,
    /// The file, for backup, checks and closing.
    pub db: Db,
}

impl Twin {
    /// Opens the twin's file, creating or migrating it as needed. Blocks while it does so.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        Self::keeping(path, Policy::TWIN)
    }

    /// As [`Twin::open`], for `resources.db`.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open_resources(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        Self::keeping(path, Policy::RESOURCES)
    }

    fn keeping(path: impl Into<PathBuf>, policy: Policy) -> Result<Self, Fault> {
        let db = Db::open(path, MIGRATIONS)?;
        Ok(Self {
            series: SqliteSeries::new(db.clone(), policy),
            reservations: SqliteReservations::new(db.clone()),
            db,
        })
    }
}

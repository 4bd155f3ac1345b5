//! Bringing a file to the schema this build knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tandem_types::{Code, Fault};

use super::error::Error;
use super::files::{beside, copy};
use crate::words::reason;

/// Snapshots taken before a migration hold what people said, so they go when backups go.
const SNAPSHOT_KEPT: Duration = Duration::from_hours(35 * 24);

/// One step of a file's schema. The number of steps applied is the file's `user_version`, so a step that has shipped is
/// never changed or reordered: a new one is added after it.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// What it does, for the message when it fails.
    pub name: &'static str,
    /// SQL scripts, run in order.
    pub sql: &'static [&'static str],
}

/// Applies the steps the file lacks, all of them or none. A file that has a schema already is copied aside first.
pub(super) fn run(connection: &mut Connection, path: &Path, migrations: &[Migration]) -> Result<(), Fault> {
    let fault = |e: Error| e.into_fault(path);
    let done = version(connection).map_err(fault)?;
    if done > migrations.len() {
        let message = format!(
            "store {}: a newer version of Tandem wrote it (schema {done}, this build knows {}); run that version, or move \
             the file aside and put a backup of this version in its place",
            path.display(),
            migrations.len()
        );
        return Err(Fault::new(Code::FailedPrecondition, reason::NEWER_SCHEMA, message));
    }
    drop_old_snapshots(path);
    if done == migrations.len() {
        return Ok(());
    }
    if done > 0 {
        copy(connection, &snapshot_path(path, done))?;
    }
    apply(connection, path, migrations)
}

fn version(connection: &Connection) -> Result<usize, Error> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// Where the file as it was at schema `version` is copied to.
fn snapshot_path(path: &Path, version: usize) -> PathBuf {
    beside(path, &format!(".schema-{version}"))
}

fn apply(connection: &mut Connection, path: &Path, migrations: &[Migration]) -> Result<(), Fault> {
    let fault = |e: Error| e.into_fault(path);
    // Rebuilding a table drops it for a moment; references are checked as a whole before the commit instead.
    connection.pragma_update(None, "foreign_keys", "OFF").map_err(|e| fault(e.into()))?;
    let outcome = apply_all(connection, migrations);
    connection.pragma_update(None, "foreign_keys", "ON").map_err(|e| fault(e.into()))?;
    outcome.map_err(|(name, e)| {
        let mut fault = e.into_fault(path);
        fault.message = format!("{}; migration `{name}` was undone and the store is as it was", fault.message);
        fault
    })
}

fn apply_all(connection: &mut Connection, migrations: &[Migration]) -> Result<(), (&'static str, Error)> {
    let bare = |e: rusqlite::Error| ("begin", e.into());
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(bare)?;
    // Read again under the lock: another process may have migrated it meanwhile.
    let done = version(&tx).map_err(|e| ("begin", e))?;
    for (number, step) in migrations.iter().enumerate().skip(done) {
        let named = |e: rusqlite::Error| (step.name, e.into());
        step.sql.iter().try_for_each(|sql| tx.execute_batch(sql)).map_err(named)?;
        let broken = tx.prepare("PRAGMA foreign_key_check").and_then(|mut s| s.exists([])).map_err(named)?;
        if broken {
            return Err((step.name, Fault::internal("it leaves rows that refer to nothing").into()));
        }
        tx.pragma_update(None, "user_version", number + 1).map_err(named)?;
    }
    tx.commit().map_err(|e| ("commit", e.into()))
}

/// Removes snapshots past their time. One that cannot be removed is met again at the next start.
fn drop_old_snapshots(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!("{}.schema-", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = || Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? > SNAPSHOT_KEPT);
        if entry.file_name().to_string_lossy().starts_with(&prefix) && old() == Some(true) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

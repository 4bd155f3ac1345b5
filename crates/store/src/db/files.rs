//! Making, opening and copying the files.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, Transaction, ffi};
use tandem_types::Fault;

use super::error::{Error, file_fault};

/// How long to wait for a lock that another connection holds.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Prepared statements each connection keeps.
const KEPT_STATEMENTS: usize = 48;

/// Makes the folder and an empty file where there is none, and takes the file away from other users.
///
/// An existing file is never opened here: closing any descriptor of it would drop the locks that SQLite holds on it in
/// this process.
pub(super) fn prepare(path: &Path) -> Result<(), Fault> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| file_fault("make the folder", folder, &e))?;
    }
    match create_private(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => ["", "-wal", "-shm"]
            .iter()
            .map(|suffix| beside(path, suffix))
            .filter(|file| file.exists())
            .try_for_each(|file| fs::set_permissions(&file, Permissions::from_mode(0o600)))
            .map_err(|e| file_fault("take the rights of others from", path, &e)),
        Err(e) => Err(file_fault("create", path, &e)),
    }
}

/// `path` with `suffix` after its whole name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn open_writer(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | NO_MUTEX)?;
    configure(&connection, 1024)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
    Ok(connection)
}

pub(super) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | NO_MUTEX)?;
    configure(&connection, 512)?;
    Ok(connection)
}

/// Each connection stays on one thread.
const NO_MUTEX: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX;

fn configure(connection: &Connection, cache_kib: i64) -> Result<(), Error> {
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(KEPT_STATEMENTS);
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // Sorting a person's rows must not leave them in a temporary file.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

/// Empties the write-ahead log into the file.
pub(super) fn checkpoint(connection: &Connection) -> Result<(), Error> {
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy { Err(failure(ffi::SQLITE_BUSY)) } else { Ok(()) }
}

/// Looks for damage in every page.
pub(super) fn quick_check(tx: &Transaction<'_>) -> Result<(), Error> {
    let verdict: String = tx.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(failure(ffi::SQLITE_CORRUPT)) }
}

fn failure(code: std::ffi::c_int) -> Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
}

/// Copies the store behind `from` to `to`: into a file beside it first, which takes the name once it is on disk.
pub(super) fn copy(from: &Connection, to: &Path) -> Result<(), Fault> {
    let partial = beside(to, ".partial");
    let copied = copy_into(from, &partial).map_err(|e| e.into_fault(&partial)).and_then(|()| {
        let sync = || {
            File::open(&partial)?.sync_all()?;
            fs::rename(&partial, to)?;
            File::open(to.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
        };
        sync().map_err(|e| file_fault("finish the copy", to, &e))
    });
    if copied.is_err() {
        // What is left of a failed copy only takes space; the failure itself is what is reported.
        let _ = fs::remove_file(&partial);
    }
    copied
}

fn copy_into(from: &Connection, partial: &Path) -> Result<(), Error> {
    let remove = || match fs::remove_file(partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    remove().and_then(|()| create_private(partial)).map_err(|e| file_fault("create", partial, &e))?;
    let mut into = Connection::open_with_flags(partial, OpenFlags::SQLITE_OPEN_READ_WRITE | NO_MUTEX)?;
    into.pragma_update(None, "cache_size", -512)?;
    // All pages in one step: a copy in pieces starts over whenever a write comes between.
    match Backup::new(from, &mut into)?.step(-1)? {
        StepResult::Done => {}
        _ => return Err(failure(ffi::SQLITE_BUSY)),
    }
    into.close().map_err(|(_, e)| e.into())
}

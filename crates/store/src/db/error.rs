//! What can go wrong with a file, told to a person.

use std::io;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};
use tandem_types::{Code, Fault, IdError, NameError, reason};

/// What a read or a write inside a store ran into. It becomes a [`Fault`] when it leaves the store, which is where the
/// path is added; values and messages of SQLite stay behind, because they may hold a person's words.
#[derive(Debug)]
pub enum Error {
    /// SQLite or a value in a row.
    Sql(rusqlite::Error),
    /// Already said as it should be.
    Fault(Box<Fault>),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Fault::internal(format!("cannot read or write a stored value as JSON ({:?})", error.classify())).into()
    }
}

impl From<IdError> for Error {
    fn from(_: IdError) -> Self {
        Fault::internal("a stored id is malformed").into()
    }
}

impl From<NameError> for Error {
    fn from(_: NameError) -> Self {
        Fault::internal("a stored name is malformed").into()
    }
}

impl Error {
    /// The failure as SQLite numbers it, if that is what it is.
    pub(super) fn sqlite(&self) -> Option<ffi::Error> {
        match self {
            Self::Sql(error) => error.sqlite_error().copied(),
            Self::Fault(_) => None,
        }
    }

    /// The fault a caller gets, with the path of the file.
    pub(crate) fn into_fault(self, path: &Path) -> Fault {
        match self {
            Self::Fault(fault) => *fault,
            Self::Sql(error) => sql_fault(&error, path),
        }
    }
}

fn sql_fault(error: &rusqlite::Error, path: &Path) -> Fault {
    use Code::{Internal, ResourceExhausted, Unavailable};
    let (code, problem, remedy) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (ResourceExhausted, "the disk is full", "free space on it and try again"),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => (
            Unavailable,
            "it cannot be opened for writing",
            "make file and folder writable for the user who runs Tandem",
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            (Internal, "it is damaged or no store at all", "move it aside and put its latest backup in its place")
        }
        Some(ErrorCode::SystemIoFailure) => (Unavailable, "the disk reported an error", "check the disk and its mount"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Unavailable, "another process holds it", "end the other process that has it open")
        }
        Some(ErrorCode::OutOfMemory) => (ResourceExhausted, "there is no memory left", "end something and try again"),
        _ => return Fault::internal(format!("store {}: {}", path.display(), bug(error))),
    };
    Fault::new(code, reason::DISK, format!("store {}: {problem}; {remedy}", path.display()))
}

/// What a programmer needs and nothing a person said: statements are ours, their values and SQLite's own words are not.
fn bug(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, _) => code.to_string(),
        rusqlite::Error::SqlInputError { msg, .. } => format!("bad statement: {msg}"),
        rusqlite::Error::FromSqlConversionFailure(column, ..)
        | rusqlite::Error::InvalidColumnType(column, ..)
        | rusqlite::Error::IntegralValueOutOfRange(column, _)
        | rusqlite::Error::Utf8Error(column, _) => format!("the value in column {column} of a row is malformed"),
        rusqlite::Error::QueryReturnedNoRows => "a row that must exist does not".to_owned(),
        _ => "a statement and its values do not fit".to_owned(),
    }
}

/// A failure of the file system around a store.
pub(super) fn file_fault(doing: &str, path: &Path, error: &io::Error) -> Fault {
    let (code, remedy) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Code::ResourceExhausted, "free space on its disk and try again")
        }
        _ => (Code::Unavailable, "make the folder writable for the user who runs Tandem or choose another data folder"),
    };
    Fault::new(code, reason::DISK, format!("cannot {doing} {}: {error}; {remedy}", path.display()))
}

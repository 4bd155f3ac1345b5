//! What a store holds about a person: handed out on request, and forgotten on request.
//!
//! Each SQLite store names its tables that are about people in one list; both operations walk that list, so that a table
//! cannot be exported and then be left out when it is to be forgotten.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Row, Transaction};
use serde::Serialize;
use serde_json::{Map, Value};
use tandem_types::{Code, Fault, UserId, reason};
use tokio::sync::mpsc;

use crate::db::{Db, Error};
use crate::paging::hex;
use crate::words::words;

words! {
    /// What a person's rows may be used for. Kept with each row that holds a person's words; rows that only refer to
    /// such a row share its scope.
    pub enum Consent {
        /// To serve this person and for nothing else.
        Serve = "serve",
        /// Also to learn from.
        Learn = "learn",
    }
}

/// One row about a person, for the person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportRow {
    /// File name of the store.
    pub store: String,
    /// Table of the row.
    pub table: &'static str,
    /// Its columns; bytes are hexadecimal, times are UTC microseconds.
    pub row: Map<String, Value>,
}

/// How much of a person a store forgot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// File name of the store.
    pub store: String,
    /// Rows removed or rewritten, by table.
    pub tables: BTreeMap<&'static str, u64>,
}

impl Forgotten {
    /// Rows removed or rewritten in all.
    pub fn rows(&self) -> u64 {
        self.tables.values().sum()
    }
}

/// A store that knows people.
#[async_trait]
pub trait PersonalData: Send + Sync {
    /// Sends every row about `user` into `rows`, waiting while it is full, and returns how many there were.
    ///
    /// # Errors
    /// `cancelled` when the receiver is gone; reason `disk`.
    async fn export(&self, user: &UserId, rows: mpsc::Sender<ExportRow>) -> Result<u64, Fault>;

    /// Removes or rewrites every row about `user`, in file, index and log. A second time finds nothing.
    ///
    /// # Errors
    /// Reason `disk`; then it is to be asked again.
    async fn forget(&self, user: &UserId) -> Result<Forgotten, Fault>;
}

/// One table's part in what is known about a person. Each statement takes the user id as its only parameter.
pub(crate) struct Personal {
    /// The table's name.
    pub(crate) table: &'static str,
    /// Reads the person's rows; empty where another entry reads them.
    pub(crate) select: &'static str,
    /// Deletes them, or takes the person out of them.
    pub(crate) forget: &'static str,
}

/// A SQLite store that knows people.
pub(crate) trait Holds: Send + Sync {
    /// Its tables about people, in the order in which they are forgotten.
    const PERSONAL: &'static [Personal];
    /// Its file.
    fn db(&self) -> &Db;
}

#[async_trait]
impl<S: Holds> PersonalData for S {
    async fn export(&self, user: &UserId, rows: mpsc::Sender<ExportRow>) -> Result<u64, Fault> {
        let (user, store) = (user.clone(), name(self.db()));
        self.db()
            .read(move |tx| {
                S::PERSONAL
                    .iter()
                    .filter(|p| !p.select.is_empty())
                    .map(|part| export_table(tx, part, &user, &store, &rows))
                    .sum()
            })
            .await
    }

    async fn forget(&self, user: &UserId) -> Result<Forgotten, Fault> {
        let (user, store) = (user.clone(), name(self.db()));
        let forgotten = self.db().write(move |tx| {
            let forget = |part: &Personal| Ok((part.table, tx.execute(part.forget, [user.as_str()])? as u64));
            let tables = S::PERSONAL.iter().map(forget).collect::<Result<_, Error>>()?;
            Ok(Forgotten { store, tables })
        });
        let forgotten = forgotten.await?;
        self.db().checkpoint().await?;
        Ok(forgotten)
    }
}

fn name(db: &Db) -> String {
    db.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn export_table(
    tx: &Transaction<'_>,
    part: &Personal,
    user: &UserId,
    store: &str,
    out: &mpsc::Sender<ExportRow>,
) -> Result<u64, Error> {
    let mut statement = tx.prepare(part.select)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([user.as_str()])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let row = ExportRow { store: store.to_owned(), table: part.table, row: object(row, &names)? };
        let gone =
            |_| Fault::new(Code::Cancelled, reason::CALLER_LEFT, "the receiver of an export left before its end");
        out.blocking_send(row).map_err(gone)?;
        count += 1;
    }
    Ok(count)
}

fn object(row: &Row<'_>, names: &[String]) -> Result<Map<String, Value>, Error> {
    let value = |column: usize| -> Result<Value, Error> {
        Ok(match row.get_ref(column)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => n.into(),
            ValueRef::Real(x) => x.into(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
            ValueRef::Blob(bytes) => hex(bytes).into(),
        })
    };
    names.iter().enumerate().map(|(i, name)| Ok((name.clone(), value(i)?))).collect()
}

//! Columns as our own types, and ids for new rows.

use std::str::FromStr;

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Row, Transaction};
use serde::de::DeserializeOwned;

use super::error::Error;

/// A text column as a type that parses from text.
pub(crate) fn column<T>(row: &Row<'_>, name: &str) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: ToString,
{
    let text: String = row.get(name)?;
    text.parse().map_err(|e: T::Err| malformed(row, name, e.to_string().into()))
}

/// A text column that holds JSON.
pub(crate) fn json_column<T: DeserializeOwned>(row: &Row<'_>, name: &str) -> rusqlite::Result<T> {
    let text: String = row.get(name)?;
    serde_json::from_str(&text).map_err(|e| malformed(row, name, e.into()))
}

fn malformed(row: &Row<'_>, name: &str, why: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    let index = row.as_ref().column_index(name).unwrap_or(usize::MAX);
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, why)
}

/// 16 random bytes for a new row.
pub(crate) fn fresh_id(tx: &Transaction<'_>) -> Result<[u8; 16], Error> {
    Ok(tx.prepare_cached("SELECT randomblob(16)")?.query_row([], |row| row.get(0))?)
}

/// As [`column`], where there may be nothing.
pub(crate) fn optional_column<T>(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr,
    T::Err: ToString,
{
    if row.get_ref(name)? == ValueRef::Null { Ok(None) } else { column(row, name).map(Some) }
}

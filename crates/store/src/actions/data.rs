//! Data requests in SQLite.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Fault, GroupId, Timestamp, UserId};

use super::{DataGroup, DataKind, DataRequest};
use crate::db::{Error, column, fresh_id, json_column};
use crate::paging::hex;

pub(super) const SCHEMA: &str = "
CREATE TABLE data_requests(
    id      TEXT PRIMARY KEY,
    kind    TEXT NOT NULL,
    user    TEXT NOT NULL,
    path    TEXT NOT NULL,
    created INTEGER NOT NULL,
    closed  INTEGER
);
CREATE TABLE data_groups(
    request  TEXT NOT NULL REFERENCES data_requests(id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,
    group_id TEXT NOT NULL,
    answered INTEGER,
    waits    TEXT NOT NULL DEFAULT '',
    stores   TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY(request, number)
) WITHOUT ROWID;";

pub(super) fn insert(
    tx: &Transaction<'_>,
    kind: DataKind,
    user: &UserId,
    groups: &[GroupId],
    path: &str,
    now: Timestamp,
) -> Result<DataRequest, Error> {
    let id = hex(&fresh_id(tx)?);
    tx.prepare_cached("INSERT INTO data_requests VALUES (?1, ?2, ?3, ?4, ?5, NULL)")?.execute(params![
        id,
        kind.as_str(),
        user.as_str(),
        path,
        now.micros()
    ])?;
    let mut add = tx.prepare_cached("INSERT INTO data_groups(request, number, group_id) VALUES (?1, ?2, ?3)")?;
    for (number, group) in groups.iter().enumerate() {
        add.execute(params![id, number, group.to_string()])?;
    }
    get(tx, &id)
}

pub(super) fn answered(
    tx: &Transaction<'_>,
    id: &str,
    group: &GroupId,
    stores: &BTreeMap<String, u64>,
    now: Timestamp,
) -> Result<DataRequest, Error> {
    let noted = tx
        .prepare_cached(
            "UPDATE data_groups SET answered = ?3, waits = '', stores = ?4 WHERE request = ?1 AND group_id = ?2",
        )?
        .execute(params![id, group.to_string(), now.micros(), serde_json::to_string(stores)?])?;
    found(noted, id, group)?;
    tx.prepare_cached(
        "UPDATE data_requests SET closed = ?2 WHERE id = ?1 AND closed IS NULL
           AND NOT EXISTS (SELECT 1 FROM data_groups WHERE request = ?1 AND answered IS NULL)",
    )?
    .execute(params![id, now.micros()])?;
    get(tx, id)
}

pub(super) fn waits_for(tx: &Transaction<'_>, id: &str, group: &GroupId, why: &str) -> Result<(), Error> {
    let noted = tx
        .prepare_cached("UPDATE data_groups SET waits = ?3 WHERE request = ?1 AND group_id = ?2 AND answered IS NULL")?
        .execute(params![id, group.to_string(), why])?;
    found(noted, id, group)
}

fn found(rows: usize, id: &str, group: &GroupId) -> Result<(), Error> {
    match rows {
        0 => Err(Fault::not_found(format!("data request {id} does not wait for {group}")).into()),
        _ => Ok(()),
    }
}

pub(super) fn get(tx: &Transaction<'_>, id: &str) -> Result<DataRequest, Error> {
    let found = tx
        .prepare_cached("SELECT * FROM data_requests WHERE id = ?1")?
        .query_row([id], request)
        .optional()?
        .ok_or_else(|| Fault::not_found(format!("there is no data request {id}")))?;
    with_groups(tx, found)
}

pub(super) fn open(tx: &Transaction<'_>) -> Result<Vec<DataRequest>, Error> {
    let mut rows = tx.prepare_cached("SELECT * FROM data_requests WHERE closed IS NULL ORDER BY created, id")?;
    rows.query_map([], request)?.map(|found| with_groups(tx, found?)).collect()
}

pub(super) fn exports(tx: &Transaction<'_>, user: Option<&UserId>) -> Result<Vec<DataRequest>, Error> {
    let mut rows = tx.prepare_cached(
        "SELECT * FROM data_requests WHERE kind = ?1 AND path <> '' AND (?2 IS NULL OR user = ?2) ORDER BY created, id",
    )?;
    let found = rows.query_map(params![DataKind::Export.as_str(), user.map(UserId::as_str)], request)?;
    found.map(|found| with_groups(tx, found?)).collect()
}

pub(super) fn withdrawn(tx: &Transaction<'_>, id: &str, now: Timestamp) -> Result<(), Error> {
    let noted = tx
        .prepare_cached(
            "UPDATE data_requests SET path = '', closed = coalesce(closed, ?3) WHERE id = ?1 AND kind = ?2",
        )?
        .execute(params![id, DataKind::Export.as_str(), now.micros()])?;
    match noted {
        0 => Err(Fault::not_found(format!("there is no export {id}")).into()),
        _ => Ok(()),
    }
}

fn with_groups(tx: &Transaction<'_>, request: DataRequest) -> Result<DataRequest, Error> {
    let mut rows = tx.prepare_cached("SELECT * FROM data_groups WHERE request = ?1 ORDER BY number")?;
    let groups = rows.query_map([&request.id], |row| {
        Ok(DataGroup {
            group: column(row, "group_id")?,
            answered: row.get::<_, Option<i64>>("answered")?.map(Timestamp),
            waits_for: row.get("waits")?,
            stores: json_column(row, "stores")?,
        })
    })?;
    Ok(DataRequest { groups: groups.collect::<Result<_, _>>()?, ..request })
}

fn request(row: &Row<'_>) -> rusqlite::Result<DataRequest> {
    Ok(DataRequest {
        id: row.get("id")?,
        kind: column(row, "kind")?,
        user: column(row, "user")?,
        path: row.get("path")?,
        created: Timestamp(row.get("created")?),
        closed: row.get::<_, Option<i64>>("closed")?.map(Timestamp),
        groups: Vec::new(),
    })
}

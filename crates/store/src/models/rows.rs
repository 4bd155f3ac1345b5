//! Rows of the tables of models, as what they mean.

use std::time::Duration;

use rusqlite::Row;
use tandem_types::Timestamp;

use super::{Binding, Evaluation, Manifest, Measured, Model, Published, Uses};
use crate::db::column;

pub(super) fn model(row: &Row<'_>) -> rusqlite::Result<Model> {
    Ok(Model {
        manifest: Manifest {
            name: row.get("name")?,
            path: row.get("path")?,
            file_bytes: row.get("file_bytes")?,
            sha256: row.get("sha256")?,
            format: row.get("format")?,
            body: row.get("body")?,
            base: row.get("base")?,
        },
        quarantined: row.get("quarantined")?,
        registered: Timestamp(row.get("registered")?),
    })
}

pub(super) fn binding(row: &Row<'_>) -> rusqlite::Result<Binding> {
    let published = |adapter| {
        Ok::<_, rusqlite::Error>(Published { adapter, percent: row.get("percent")?, others: row.get("others")? })
    };
    Ok(Binding {
        role: column(row, "role")?,
        model: row.get("model")?,
        adapter: row.get::<_, Option<String>>("adapter")?.map(published).transpose()?,
        reason: row.get("reason")?,
        since: Timestamp(row.get("since")?),
        undone: row.get::<_, Option<i64>>("undone")?.map(Timestamp),
    })
}

pub(super) fn evaluation(row: &Row<'_>) -> rusqlite::Result<Evaluation> {
    Ok(Evaluation {
        id: row.get("id")?,
        model: row.get("model")?,
        adapter: row.get("adapter")?,
        suite: row.get("suite")?,
        started: Timestamp(row.get("started")?),
        body: row.get("body")?,
    })
}

pub(super) fn measured(row: &Row<'_>) -> rusqlite::Result<Measured> {
    Ok(Measured { peak_bytes: row.get("peak")?, count: row.get("count")?, at: Timestamp(row.get("at")?) })
}

pub(super) fn uses(row: &Row<'_>) -> rusqlite::Result<Uses> {
    Ok(Uses {
        model: row.get("model")?,
        role: column(row, "role")?,
        tickets: row.get("tickets")?,
        prompt_tokens: row.get("prompt")?,
        completion_tokens: row.get("completion")?,
        busy: Duration::from_micros(row.get("busy")?),
        failures: row.get("failures")?,
    })
}

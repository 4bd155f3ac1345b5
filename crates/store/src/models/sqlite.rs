//! Models in SQLite.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Transaction, params};
use tandem_types::{Code, Fault, IdempotencyKey, Role, Timestamp, reason};

use super::rows::{binding, evaluation, measured, model, uses};
use super::{
    Binding, Circumstances, Evaluation, Manifest, Measured, Model, ModelStore, Published, USES_KEPT, Use, Uses,
};
use crate::db::{Error, Migration, sqlite_store};
use crate::keys::{self, once};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "models",
        sql: &[
            keys::SCHEMA,
            "
CREATE TABLE models(
    name        TEXT PRIMARY KEY,
    path        TEXT NOT NULL,
    file_bytes  INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    format      TEXT NOT NULL,
    body        TEXT NOT NULL,
    quarantined TEXT,
    registered  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE bindings(
    id      INTEGER PRIMARY KEY,
    role    TEXT NOT NULL,
    model   TEXT NOT NULL REFERENCES models(name),
    adapter TEXT,
    reason  TEXT NOT NULL,
    since   INTEGER NOT NULL,
    undone  INTEGER
);
CREATE INDEX bindings_by_role ON bindings(role, id);
CREATE TABLE measured(
    model   TEXT NOT NULL,
    context INTEGER NOT NULL,
    slots   INTEGER NOT NULL,
    engine  TEXT NOT NULL,
    device  TEXT NOT NULL,
    peak    INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY(model, context, slots, engine, device)
) WITHOUT ROWID;
CREATE TABLE uses(
    day        INTEGER NOT NULL,
    model      TEXT NOT NULL,
    role       TEXT NOT NULL,
    tickets    INTEGER NOT NULL,
    prompt     INTEGER NOT NULL,
    completion INTEGER NOT NULL,
    busy       INTEGER NOT NULL,
    failures   INTEGER NOT NULL,
    PRIMARY KEY(day, model, role)
) WITHOUT ROWID;
",
        ],
    },
    Migration {
        name: "evaluations",
        sql: &["
CREATE TABLE evaluations(
    id      TEXT PRIMARY KEY,
    model   TEXT NOT NULL,
    suite   TEXT NOT NULL,
    started INTEGER NOT NULL,
    body    TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX evaluations_by_model ON evaluations(model, started);
"],
    },
    Migration {
        name: "adapters",
        sql: &["
ALTER TABLE models ADD COLUMN base TEXT;
ALTER TABLE bindings ADD COLUMN percent INTEGER NOT NULL DEFAULT 100;
ALTER TABLE bindings ADD COLUMN others TEXT;
ALTER TABLE evaluations ADD COLUMN adapter TEXT;
"],
    },
];

sqlite_store!(
    /// `models.db`.
    SqliteModels,
    MIGRATIONS
);

#[async_trait]
impl ModelStore for SqliteModels {
    async fn register(&self, key: IdempotencyKey, manifest: Manifest, now: Timestamp) -> Result<Model, Fault> {
        self.db
            .write(move |tx| once(tx, key, None, ("register", &manifest), now, |tx| register(tx, &manifest, now)))
            .await
    }

    async fn models(&self) -> Result<Vec<Model>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare_cached("SELECT * FROM models ORDER BY name")?;
                Ok(rows.query_map([], model)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn model(&self, name: &str) -> Result<Model, Fault> {
        let name = name.to_owned();
        self.db.read(move |tx| get(tx, &name)).await
    }

    async fn quarantine(&self, name: &str, why: &str) -> Result<(), Fault> {
        let (name, why) = (name.to_owned(), why.to_owned());
        self.db
            .write(move |tx| {
                get(tx, &name)?;
                tx.prepare_cached("UPDATE models SET quarantined = ?2 WHERE name = ?1")?.execute([name, why])?;
                Ok(())
            })
            .await
    }

    async fn bind(
        &self,
        key: IdempotencyKey,
        role: Role,
        model: String,
        adapter: Option<Published>,
        reason: String,
        now: Timestamp,
    ) -> Result<Binding, Fault> {
        let new = Binding { role, model, adapter, reason, since: now, undone: None };
        self.db
            .write(move |tx| {
                // What the others get follows from what stood before, and is not part of what was asked for.
                let adapter = new.adapter.as_ref().map(|published| (&published.adapter, published.percent));
                let body = (&new.role, &new.model, adapter, &new.reason);
                once(tx, key, None, ("bind", &body), now, |tx| {
                    bind(tx, &new)?;
                    Ok(new.clone())
                })
            })
            .await
    }

    async fn roll_back(&self, key: IdempotencyKey, role: Role, now: Timestamp) -> Result<Binding, Fault> {
        self.db.write(move |tx| once(tx, key, None, ("roll_back", &role), now, |tx| roll_back(tx, &role, now))).await
    }

    async fn bindings(&self) -> Result<Vec<Binding>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM bindings WHERE id IN (SELECT max(id) FROM bindings WHERE undone IS NULL GROUP BY role)
                     ORDER BY role",
                )?;
                Ok(rows.query_map([], binding)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn history(&self, role: &Role, limit: u32) -> Result<Vec<Binding>, Fault> {
        let role = role.clone();
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached("SELECT * FROM bindings WHERE role = ?1 ORDER BY id DESC LIMIT ?2")?;
                Ok(rows.query_map(params![role.as_str(), limit], binding)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn measured(&self, of: Circumstances, peak_bytes: u64, now: Timestamp) -> Result<Measured, Fault> {
        self.db
            .write(move |tx| {
                let mut note = tx.prepare_cached(
                    "INSERT INTO measured VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7) ON CONFLICT DO UPDATE
                     SET peak = max(peak, excluded.peak), count = count + 1, at = excluded.at RETURNING peak, count, at",
                )?;
                let of = params![of.model, of.context, of.slots, of.engine, of.device, peak_bytes, now.micros()];
                Ok(note.query_row(of, measured)?)
            })
            .await
    }

    async fn measurement(&self, of: Circumstances) -> Result<Option<Measured>, Fault> {
        self.db
            .read(move |tx| {
                let mut find = tx.prepare_cached(
                    "SELECT peak, count, at FROM measured
                     WHERE model = ?1 AND context = ?2 AND slots = ?3 AND engine = ?4 AND device = ?5",
                )?;
                let of = params![of.model, of.context, of.slots, of.engine, of.device];
                Ok(find.query_row(of, measured).optional()?)
            })
            .await
    }

    async fn note_use(&self, key: IdempotencyKey, one: Use, now: Timestamp) -> Result<(), Fault> {
        self.db.write(move |tx| once(tx, key, None, ("use", &one), now, |tx| note_use(tx, &one, now))).await
    }

    async fn uses(&self, from: Timestamp) -> Result<Vec<Uses>, Fault> {
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT model, role, sum(tickets) AS tickets, sum(prompt) AS prompt, sum(completion) AS completion,
                            sum(busy) AS busy, sum(failures) AS failures
                     FROM uses WHERE day >= ?1 GROUP BY model, role ORDER BY model, role",
                )?;
                Ok(rows.query_map([day(from)], uses)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn evaluated(&self, one: Evaluation) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                tx.prepare_cached("INSERT OR IGNORE INTO evaluations VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                    .execute(params![one.id, one.model, one.suite, one.started.micros(), one.body, one.adapter])?;
                Ok(())
            })
            .await
    }

    async fn evaluation(&self, id: &str) -> Result<Option<Evaluation>, Fault> {
        let id = id.to_owned();
        self.db
            .read(move |tx| {
                let mut find = tx.prepare_cached("SELECT * FROM evaluations WHERE id = ?1")?;
                Ok(find.query_row([id], evaluation).optional()?)
            })
            .await
    }

    async fn last_evaluation(&self, model: &str, adapter: Option<&str>) -> Result<Option<Evaluation>, Fault> {
        let of = (model.to_owned(), adapter.map(str::to_owned));
        self.db
            .read(move |tx| {
                let mut find = tx.prepare_cached(
                    "SELECT * FROM evaluations WHERE model = ?1 AND adapter IS ?2 ORDER BY started DESC, id DESC LIMIT 1",
                )?;
                Ok(find.query_row(params![of.0, of.1], evaluation).optional()?)
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| {
                keys::prune(tx, now)?;
                Ok(tx.execute("DELETE FROM uses WHERE day < ?1", [day(now - USES_KEPT)])? as u64)
            })
            .await
    }
}

/// UTC days since 1970-01-01.
fn day(at: Timestamp) -> i64 {
    at.micros().div_euclid(Duration::from_hours(24).as_micros() as i64)
}

fn register(tx: &Transaction<'_>, new: &Manifest, now: Timestamp) -> Result<Model, Error> {
    tx.prepare_cached(
        "INSERT INTO models VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, ?7, ?8) ON CONFLICT DO UPDATE
         SET path = excluded.path, file_bytes = excluded.file_bytes, sha256 = excluded.sha256,
             format = excluded.format, body = excluded.body, quarantined = NULL, registered = excluded.registered,
             base = excluded.base",
    )?
    .execute(params![
        new.name,
        new.path,
        new.file_bytes,
        new.sha256,
        new.format,
        new.body,
        now.micros(),
        new.base
    ])?;
    get(tx, &new.name)
}

fn get(tx: &Transaction<'_>, name: &str) -> Result<Model, Error> {
    let found = tx.prepare_cached("SELECT * FROM models WHERE name = ?1")?.query_row([name], model).optional()?;
    Ok(found.ok_or_else(|| Fault::not_found(format!("there is no model {name}; register it first")))?)
}

fn bind(tx: &Transaction<'_>, new: &Binding) -> Result<(), Error> {
    get(tx, &new.model)?;
    let published = new.adapter.as_ref();
    if let Some(published) = published {
        get(tx, &published.adapter)?;
    }
    tx.prepare_cached(
        "INSERT INTO bindings(role, model, adapter, reason, since, percent, others) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        new.role.as_str(),
        new.model,
        published.map(|published| &published.adapter),
        new.reason,
        new.since.micros(),
        published.map_or(100, |published| published.percent),
        published.and_then(|published| published.others.as_ref()),
    ])?;
    Ok(())
}

fn roll_back(tx: &Transaction<'_>, role: &Role, now: Timestamp) -> Result<Binding, Error> {
    let mut standing =
        tx.prepare_cached("SELECT * FROM bindings WHERE role = ?1 AND undone IS NULL ORDER BY id DESC")?;
    let rows = standing.query_map([role.as_str()], |row| Ok((row.get::<_, i64>("id")?, binding(row)?)))?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    // A canary that grew in steps goes as a whole; a model bound twice goes once.
    let named = |binding: &Binding| binding.adapter.as_ref().map(|one| (binding.model.clone(), one.adapter.clone()));
    let canary = rows.first().and_then(|(_, binding)| named(binding));
    let same = |(_, binding): &&(i64, Binding)| canary.is_some() && named(binding) == canary;
    let gone = rows.iter().take_while(same).count().max(1);
    let Some((_, before)) = rows.get(gone) else {
        let message = format!("role {role} has had no other model; bind one instead");
        return Err(Fault::new(Code::FailedPrecondition, reason::NO_SUCH, message).into());
    };
    let mut undo = tx.prepare_cached("UPDATE bindings SET undone = ?2 WHERE id = ?1")?;
    for (id, _) in &rows[..gone] {
        undo.execute([*id, now.micros()])?;
    }
    Ok(before.clone())
}

fn note_use(tx: &Transaction<'_>, one: &Use, now: Timestamp) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO uses VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE
         SET tickets = tickets + 1, prompt = prompt + excluded.prompt, completion = completion + excluded.completion,
             busy = busy + excluded.busy, failures = failures + excluded.failures",
    )?
    .execute(params![
        day(now),
        one.model,
        one.role.as_str(),
        one.prompt_tokens,
        one.completion_tokens,
        u64::try_from(one.busy.as_micros()).unwrap_or(u64::MAX),
        !one.ok
    ])?;
    Ok(())
}

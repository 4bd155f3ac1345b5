//! Actions and maintenance in SQLite.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Code, Fault, GroupId, IdempotencyKey, Timestamp, UserId};

use super::{
    ACTIONS_KEPT, Action, ActionState, ActionStore, DATA_REQUESTS_KEPT, DataKind, DataRequest, Maintenance, NewAction,
    NewMaintenance, data,
};
use crate::db::{Db, Error, Migration, column, fresh_id, sqlite_store};
use crate::keys::{self, once};
use crate::paging::{Page, Paged, hex};
use crate::personal::{Holds, Personal};
use crate::words::reason;

const MIGRATIONS: &[Migration] = &[ACTIONS, DRAIN];

const DRAIN: Migration =
    Migration { name: "drain", sql: &["ALTER TABLE actions ADD COLUMN drain_ms INTEGER NOT NULL DEFAULT 0"] };

const ACTIONS: Migration = Migration {
    name: "actions",
    sql: &[
        keys::SCHEMA,
        data::SCHEMA,
        "
CREATE TABLE actions(
    id       TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    group_id TEXT NOT NULL,
    target   TEXT NOT NULL,
    actor    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    state    TEXT NOT NULL,
    detail   TEXT NOT NULL,
    fencing  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    finished INTEGER
);
CREATE UNIQUE INDEX actions_unfinished ON actions(group_id) WHERE finished IS NULL;
CREATE INDEX actions_by_time ON actions(at, id);
CREATE INDEX actions_by_actor ON actions(actor);
CREATE TABLE fences(group_id TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE maintenance(
    id      TEXT PRIMARY KEY,
    scope   TEXT NOT NULL,
    begins  INTEGER NOT NULL,
    ends    INTEGER NOT NULL,
    reason  TEXT NOT NULL
) WITHOUT ROWID;
",
    ],
};

sqlite_store!(
    /// `system.db`.
    SqliteActions,
    MIGRATIONS
);

impl Holds for SqliteActions {
    const PERSONAL: &'static [Personal] = &[
        Personal {
            table: "actions",
            select: "SELECT * FROM actions WHERE actor = ?1 ORDER BY at",
            forget: "UPDATE actions SET actor = 'forgotten' WHERE actor = ?1",
        },
        keys::PERSONAL,
    ];

    fn db(&self) -> &Db {
        &self.db
    }
}

#[async_trait]
impl ActionStore for SqliteActions {
    async fn begin(&self, key: IdempotencyKey, new: NewAction, now: Timestamp) -> Result<Action, Fault> {
        self.db
            .write(move |tx| {
                let person = UserId::new(&new.actor).ok();
                once(tx, key, person.as_ref(), ("begin", &new), now, |tx| begin(tx, new.clone(), now))
            })
            .await
    }

    async fn note(&self, id: &str, state: ActionState, detail: &str, now: Timestamp) -> Result<Action, Fault> {
        let (id, detail) = (id.to_owned(), detail.to_owned());
        self.db
            .write(move |tx| {
                let ends = matches!(state, ActionState::Done | ActionState::Failed);
                let standing = tx
                    .prepare_cached("SELECT * FROM actions WHERE id = ?1")?
                    .query_row([&id], action)
                    .optional()?
                    .ok_or_else(|| Fault::not_found(format!("there is no action {id}")))?;
                if standing.finished.is_some() {
                    let message = format!("action {id} has ended already");
                    return Err(Fault::new(Code::FailedPrecondition, reason::ENDED, message).into());
                }
                let finished = ends.then_some(now);
                tx.prepare_cached("UPDATE actions SET state = ?2, detail = ?3, finished = ?4 WHERE id = ?1")?
                    .execute(params![id, state.as_str(), detail, finished.map(Timestamp::micros)])?;
                Ok(Action { state, detail, finished, ..standing })
            })
            .await
    }

    async fn actions(&self, page: Page) -> Result<Paged<Action>, Fault> {
        let (limit, after) = (page.limit()?, page.after::<(i64, String)>()?.unwrap_or((i64::MAX, String::new())));
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached(
                    "SELECT * FROM actions WHERE (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3",
                )?;
                let found = rows.query_map(params![after.0, after.1, limit + 1], action)?;
                Ok(Paged::cut(found.collect::<Result<_, _>>()?, limit, |a| (a.at.micros(), a.id.clone()))?)
            })
            .await
    }

    async fn unfinished(&self) -> Result<Vec<Action>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare_cached("SELECT * FROM actions WHERE finished IS NULL ORDER BY at, id")?;
                Ok(rows.query_map([], action)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn announce(&self, key: IdempotencyKey, new: NewMaintenance, now: Timestamp) -> Result<Maintenance, Fault> {
        if new.to <= new.from {
            return Err(Fault::invalid_field("to_us", "is not after from_us"));
        }
        self.db.write(move |tx| once(tx, key, None, ("announce", &new), now, |tx| announce(tx, new.clone()))).await
    }

    async fn maintenance(&self, now: Timestamp) -> Result<Vec<Maintenance>, Fault> {
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare_cached("SELECT * FROM maintenance WHERE ends > ?1 ORDER BY begins, id")?;
                Ok(rows.query_map([now.micros()], maintenance)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn request_data(
        &self,
        key: IdempotencyKey,
        kind: DataKind,
        user: &UserId,
        groups: Vec<GroupId>,
        path: String,
        now: Timestamp,
    ) -> Result<DataRequest, Fault> {
        let user = user.clone();
        self.db
            .write(move |tx| {
                let body = (kind, &user);
                once(tx, key, Some(&user), ("request_data", &body), now, |tx| {
                    data::insert(tx, kind, &user, &groups, &path, now)
                })
            })
            .await
    }

    async fn answered(
        &self,
        id: &str,
        group: &GroupId,
        stores: BTreeMap<String, u64>,
        now: Timestamp,
    ) -> Result<DataRequest, Fault> {
        let (id, group) = (id.to_owned(), group.clone());
        self.db.write(move |tx| data::answered(tx, &id, &group, &stores, now)).await
    }

    async fn waits_for(&self, id: &str, group: &GroupId, why: &str) -> Result<(), Fault> {
        let (id, group, why) = (id.to_owned(), group.clone(), why.to_owned());
        self.db.write(move |tx| data::waits_for(tx, &id, &group, &why)).await
    }

    async fn data_request(&self, id: &str) -> Result<DataRequest, Fault> {
        let id = id.to_owned();
        self.db.read(move |tx| data::get(tx, &id)).await
    }

    async fn open_data_requests(&self) -> Result<Vec<DataRequest>, Fault> {
        self.db.read(data::open).await
    }

    async fn exports(&self, user: Option<&UserId>) -> Result<Vec<DataRequest>, Fault> {
        let user = user.cloned();
        self.db.read(move |tx| data::exports(tx, user.as_ref())).await
    }

    async fn withdrawn(&self, id: &str, now: Timestamp) -> Result<(), Fault> {
        let id = id.to_owned();
        self.db.write(move |tx| data::withdrawn(tx, &id, now)).await
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Fault> {
        self.db
            .write(move |tx| {
                keys::prune(tx, now)?;
                let (old, proven) = ((now - ACTIONS_KEPT).micros(), (now - DATA_REQUESTS_KEPT).micros());
                let gone = tx.execute("DELETE FROM actions WHERE finished <= ?1", [old])?
                    + tx.execute("DELETE FROM maintenance WHERE ends <= ?1", [old])?
                    + tx.execute("DELETE FROM data_requests WHERE closed <= ?1", [proven])?;
                Ok(gone as u64)
            })
            .await
    }
}

fn begin(tx: &Transaction<'_>, what: NewAction, now: Timestamp) -> Result<Action, Error> {
    let group = what.group.to_string();
    let holder = tx
        .prepare_cached("SELECT * FROM actions WHERE group_id = ?1 AND finished IS NULL")?
        .query_row([&group], action)
        .optional()?;
    if let Some(holder) = holder {
        let message = format!(
            "{group} is busy: {} of {} by {} has not finished (action {}); wait for it",
            holder.what.kind, holder.what.target, holder.what.actor, holder.id
        );
        return Err(Fault::new(Code::Conflict, reason::BUSY, message).into());
    }
    let fencing = tx
        .prepare_cached("INSERT INTO fences VALUES (?1, 1) ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last")?
        .query_row([&group], |row| row.get(0))?;
    let id = hex(&fresh_id(tx)?);
    let action =
        Action { id, what, state: ActionState::Running, detail: String::new(), fencing, at: now, finished: None };
    tx.prepare_cached("INSERT INTO actions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, '', ?8, ?9, NULL, ?10)")?.execute(
        params![
            action.id,
            action.what.kind,
            group,
            action.what.target,
            action.what.actor,
            action.what.reason,
            action.state.as_str(),
            fencing,
            now.micros(),
            action.what.drain_ms
        ],
    )?;
    Ok(action)
}

fn announce(tx: &Transaction<'_>, what: NewMaintenance) -> Result<Maintenance, Error> {
    let id = hex(&fresh_id(tx)?);
    tx.prepare_cached("INSERT INTO maintenance VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        id,
        what.scope,
        what.from.micros(),
        what.to.micros(),
        what.reason
    ])?;
    Ok(Maintenance { id, what })
}

fn action(row: &Row<'_>) -> rusqlite::Result<Action> {
    Ok(Action {
        id: row.get("id")?,
        what: NewAction {
            kind: row.get("kind")?,
            group: column(row, "group_id")?,
            target: row.get("target")?,
            actor: row.get("actor")?,
            reason: row.get("reason")?,
            drain_ms: row.get("drain_ms")?,
        },
        state: column(row, "state")?,
        detail: row.get("detail")?,
        fencing: row.get("fencing")?,
        at: Timestamp(row.get("at")?),
        finished: row.get::<_, Option<i64>>("finished")?.map(Timestamp),
    })
}

fn maintenance(row: &Row<'_>) -> rusqlite::Result<Maintenance> {
    Ok(Maintenance {
        id: row.get("id")?,
        what: NewMaintenance {
            scope: row.get("scope")?,
            from: Timestamp(row.get("begins")?),
            to: Timestamp(row.get("ends")?),
            reason: row.get("reason")?,
        },
    })
}

//! Requests in SQLite.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Code, Fault, IdempotencyKey, RequestId, SessionId, Timestamp, TurnId, UserId};

use super::{
    ANSWERS_KEPT, Accepted, Confirmation, End, Events, NewRequest, Outcome, Pruned, REQUESTS_KEPT, Request,
    RequestStore, Stage, Status, TurnLog, Unfinished,
};
use crate::db::{Db, Error, Migration, column, optional_column, sqlite_store};
use crate::keys::{self, once};
use crate::personal::{Holds, Personal};
use crate::words::reason;

const MIGRATIONS: &[Migration] = &[Migration { name: "requests", sql: &[keys::SCHEMA, include_str!("schema.sql")] }];

/// Events handed out at once.
const EVENTS_AT_ONCE: u32 = 500;

sqlite_store!(
    /// `coordinator.db`.
    SqliteRequests, MIGRATIONS
);

macro_rules! of_request {
    ($table:literal, $order:literal) => {
        Personal {
            table: $table,
            select: concat!(
                "SELECT t.* FROM ",
                $table,
                " t JOIN requests r ON r.id = t.request WHERE r.user = ?1 ORDER BY ",
                $order
            ),
            forget: concat!("DELETE FROM ", $table, " WHERE request IN (SELECT id FROM requests WHERE user = ?1)"),
        }
    };
}

impl Holds for SqliteRequests {
    const PERSONAL: &'static [Personal] = &[
        of_request!("stages", "t.request, t.number"),
        of_request!("effects", "t.request, t.number"),
        of_request!("events", "t.request, t.number"),
        of_request!("confirmations", "t.token"),
        Personal {
            table: "requests",
            select: "SELECT * FROM requests WHERE user = ?1 ORDER BY accepted",
            forget: "DELETE FROM requests WHERE user = ?1",
        },
        keys::PERSONAL,
    ];

    fn db(&self) -> &Db {
        &self.db
    }
}

#[async_trait]
impl RequestStore for SqliteRequests {
    async fn accept(&self, key: IdempotencyKey, new: NewRequest, now: Timestamp) -> Result<Accepted, Fault> {
        self.db
            .write(move |tx| {
                let body = (&new.user, &new.body);
                let (request, turn, session) = once(tx, key, Some(&new.user), ("accept", &body), now, |tx| {
                    insert(tx, &new, now)?;
                    Ok((new.id, new.turn, new.session.clone()))
                })?;
                Ok(Accepted { request, turn, session, repeated: request != new.id })
            })
            .await
    }

    async fn advance(&self, request: RequestId, stage: Stage, now: Timestamp) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                open(tx, request)?;
                tx.prepare_cached("UPDATE requests SET stage = ?2 WHERE id = ?1")?
                    .execute(params![request.0, stage.as_str()])?;
                enter(tx, request, stage, now)
            })
            .await
    }

    async fn note_effect(&self, request: RequestId, receipt: String, now: Timestamp) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                open(tx, request)?;
                tx.prepare_cached(
                    "INSERT INTO effects SELECT ?1, 1 + coalesce(max(number), 0), ?2, ?3 FROM effects WHERE request = ?1",
                )?
                .execute(params![request.0, receipt, now.micros()])?;
                Ok(())
            })
            .await
    }

    async fn append_events(&self, request: RequestId, events: Events) -> Result<(), Fault> {
        self.db.write(move |tx| append(tx, request, &events)).await
    }

    async fn finish(&self, request: RequestId, last: Events, end: End, now: Timestamp) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                append(tx, request, &last)?;
                tx.prepare_cached(
                    "UPDATE requests SET outcome = ?2, code = ?3, handler = ?4, tier = ?5, model = ?6, answer = ?7,
                       finished = ?8, body = NULL WHERE id = ?1",
                )?
                .execute(params![
                    request.0,
                    end.outcome.as_str(),
                    end.code,
                    end.handler,
                    end.tier,
                    end.model,
                    end.answer.unwrap_or_default(),
                    now.micros()
                ])?;
                tx.prepare_cached("DELETE FROM confirmations WHERE request = ?1")?.execute([request.0])?;
                Ok(())
            })
            .await
    }

    async fn request(&self, user: &UserId, request: RequestId) -> Result<Request, Fault> {
        let user = user.clone();
        self.db.read(move |tx| get(tx, &user, request)).await
    }

    async fn events(&self, user: &UserId, turn: TurnId, after: u64) -> Result<TurnLog, Fault> {
        let user = user.clone();
        self.db.read(move |tx| log(tx, &user, turn, after)).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, Fault> {
        self.db
            .read(|tx| {
                let mut rows = tx.prepare("SELECT * FROM requests WHERE finished IS NULL ORDER BY accepted, id")?;
                let found = rows.query_map([], unfinished)?.collect::<Result<Vec<_>, _>>()?;
                found
                    .into_iter()
                    .map(|one| {
                        let id = one.request.id;
                        Ok(Unfinished { effects: effects(tx, id)?, last_event: last_event(tx, id)?, ..one })
                    })
                    .collect()
            })
            .await
    }

    async fn last_requests(&self, since: Timestamp) -> Result<Vec<(UserId, Timestamp)>, Fault> {
        self.db
            .read(move |tx| {
                let mut rows = tx.prepare(
                    "SELECT user, max(accepted) AS last FROM requests WHERE accepted >= ?1 GROUP BY user ORDER BY user",
                )?;
                let last = |row: &Row<'_>| Ok((column(row, "user")?, Timestamp(row.get("last")?)));
                Ok(rows.query_map([since.micros()], last)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn ask(&self, question: Confirmation) -> Result<(), Fault> {
        self.db
            .write(move |tx| {
                open(tx, question.request)?;
                tx.prepare_cached("INSERT INTO confirmations VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
                    question.token,
                    question.request.0,
                    question.user.as_str(),
                    question.body,
                    question.expires.micros()
                ])?;
                Ok(())
            })
            .await
    }

    async fn answer(&self, user: &UserId, token: &str, now: Timestamp) -> Result<Confirmation, Fault> {
        let (user, token) = (user.clone(), token.to_owned());
        self.db
            .write(move |tx| {
                let taken = tx
                    .prepare_cached(
                        "DELETE FROM confirmations WHERE token = ?1 AND user = ?2 AND expires > ?3 RETURNING *",
                    )?
                    .query_row(params![token, user.as_str(), now.micros()], confirmation)
                    .optional()?;
                taken.ok_or_else(|| {
                    Fault::not_found("no question waits for this token; ask again for the action").into()
                })
            })
            .await
    }

    async fn prune(&self, now: Timestamp) -> Result<Pruned, Fault> {
        let pruned = self.db.write(move |tx| prune(tx, now)).await?;
        if pruned.answers > 0 {
            self.db.checkpoint().await?;
        }
        Ok(pruned)
    }
}

fn insert(tx: &Transaction<'_>, new: &NewRequest, now: Timestamp) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO requests(id, turn, user, consent, session, modality, priority, deadline, body, accepted, stage)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        new.id.0,
        new.turn.0,
        new.user.as_str(),
        new.consent.as_str(),
        new.session.as_ref().map(SessionId::as_str),
        new.modality,
        new.priority,
        new.deadline.micros(),
        new.body,
        now.micros(),
        Stage::Received.as_str(),
    ])?;
    enter(tx, new.id, Stage::Received, now)
}

fn enter(tx: &Transaction<'_>, request: RequestId, stage: Stage, now: Timestamp) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO stages SELECT ?1, 1 + coalesce(max(number), 0), ?2, ?3 FROM stages WHERE request = ?1",
    )?
    .execute(params![request.0, stage.as_str(), now.micros()])?;
    Ok(())
}

/// Whether the request is there and has not ended.
fn open(tx: &Transaction<'_>, request: RequestId) -> Result<(), Error> {
    let finished = tx
        .prepare_cached("SELECT finished FROM requests WHERE id = ?1")?
        .query_row([request.0], |row| row.get::<_, Option<i64>>(0))
        .optional()?;
    match finished {
        Some(None) => Ok(()),
        Some(Some(_)) => {
            let message = format!("request {request} has ended already");
            Err(Fault::new(Code::FailedPrecondition, reason::ENDED, message).into())
        }
        None => Err(Fault::not_found(format!("there is no request {request}")).into()),
    }
}

fn append(tx: &Transaction<'_>, request: RequestId, events: &Events) -> Result<(), Error> {
    open(tx, request)?;
    let next = last_event(tx, request)? + 1;
    if events.first != next && !events.bodies.is_empty() {
        let message = format!("request {request}: the next event is number {next}, not {}", events.first);
        return Err(Fault::new(Code::Conflict, reason::STALE, message).into());
    }
    let mut add = tx.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3)")?;
    for (number, body) in (next..).zip(&events.bodies) {
        add.execute(params![request.0, number, body])?;
    }
    Ok(())
}

fn last_event(tx: &Transaction<'_>, request: RequestId) -> Result<u64, Error> {
    let sql = "SELECT coalesce(max(number), 0) FROM events WHERE request = ?1";
    Ok(tx.prepare_cached(sql)?.query_row([request.0], |row| row.get(0))?)
}

fn effects(tx: &Transaction<'_>, request: RequestId) -> Result<Vec<String>, Error> {
    let mut found = tx.prepare_cached("SELECT receipt FROM effects WHERE request = ?1 ORDER BY number")?;
    Ok(found.query_map([request.0], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn get(tx: &Transaction<'_>, user: &UserId, id: RequestId) -> Result<Request, Error> {
    let found = tx
        .prepare_cached("SELECT * FROM requests WHERE id = ?1 AND user = ?2")?
        .query_row(params![id.0, user.as_str()], request)
        .optional()?;
    let found = found.ok_or_else(|| Fault::not_found(format!("this person has no request {id}")))?;
    let mut stages = tx.prepare_cached("SELECT stage, at FROM stages WHERE request = ?1 ORDER BY number")?;
    let timings = stages.query_map([id.0], |row| Ok((column(row, "stage")?, Timestamp(row.get("at")?))))?;
    Ok(Request { timings: timings.collect::<Result<_, _>>()?, ..found })
}

fn log(tx: &Transaction<'_>, user: &UserId, turn: TurnId, after: u64) -> Result<TurnLog, Error> {
    let found = tx
        .prepare_cached("SELECT * FROM requests WHERE turn = ?1 AND user = ?2")?
        .query_row(params![turn.0, user.as_str()], request)
        .optional()?
        .ok_or_else(|| Fault::not_found(format!("this person has no turn {turn}")))?;
    if found.end.as_ref().is_some_and(|end| end.answer.is_none()) {
        let hours = ANSWERS_KEPT.as_secs() / 3_600;
        return Err(
            Fault::not_found(format!("turn {turn} ended over {hours} hours ago; its events were erased")).into()
        );
    }
    let mut rows =
        tx.prepare_cached("SELECT body FROM events WHERE request = ?1 AND number > ?2 ORDER BY number LIMIT ?3")?;
    let bodies = rows.query_map(params![found.id.0, after, EVENTS_AT_ONCE], |row| row.get(0))?;
    let events = Events { first: after + 1, bodies: bodies.collect::<Result<_, _>>()? };
    Ok(TurnLog { request: found.id, status: found.status, events })
}

fn prune(tx: &Transaction<'_>, now: Timestamp) -> Result<Pruned, Error> {
    let unanswerable = (now - ANSWERS_KEPT).micros();
    tx.execute(
        "DELETE FROM events WHERE request IN (SELECT id FROM requests WHERE answer IS NOT NULL AND finished <= ?1)",
        [unanswerable],
    )?;
    Ok(Pruned {
        answers: tx
            .execute("UPDATE requests SET answer = NULL WHERE answer IS NOT NULL AND finished <= ?1", [unanswerable])?
            as u64,
        requests: tx.execute("DELETE FROM requests WHERE finished <= ?1", [(now - REQUESTS_KEPT).micros()])? as u64,
        confirmations: tx.execute("DELETE FROM confirmations WHERE expires <= ?1", [now.micros()])? as u64,
        keys: keys::prune(tx, now)?,
    })
}

fn request(row: &Row<'_>) -> rusqlite::Result<Request> {
    let outcome: Option<Outcome> = optional_column(row, "outcome")?;
    let end = |outcome| -> rusqlite::Result<End> {
        Ok(End {
            outcome,
            code: row.get("code")?,
            handler: row.get("handler")?,
            tier: row.get("tier")?,
            model: row.get("model")?,
            answer: row.get("answer")?,
        })
    };
    Ok(Request {
        id: RequestId(row.get("id")?),
        turn: TurnId(row.get("turn")?),
        session: optional_column(row, "session")?,
        status: match outcome {
            Some(outcome) => Status::Over(outcome),
            None => Status::Open(column(row, "stage")?),
        },
        timings: Vec::new(),
        end: outcome.map(end).transpose()?,
        accepted: Timestamp(row.get("accepted")?),
        finished: row.get::<_, Option<i64>>("finished")?.map(Timestamp),
    })
}

fn unfinished(row: &Row<'_>) -> rusqlite::Result<Unfinished> {
    Ok(Unfinished {
        request: NewRequest {
            id: RequestId(row.get("id")?),
            turn: TurnId(row.get("turn")?),
            user: column(row, "user")?,
            consent: column(row, "consent")?,
            session: optional_column(row, "session")?,
            modality: row.get("modality")?,
            priority: row.get("priority")?,
            deadline: Timestamp(row.get("deadline")?),
            body: row.get("body")?,
        },
        accepted: Timestamp(row.get("accepted")?),
        stage: column(row, "stage")?,
        effects: Vec::new(),
        last_event: 0,
    })
}

fn confirmation(row: &Row<'_>) -> rusqlite::Result<Confirmation> {
    Ok(Confirmation {
        token: row.get("token")?,
        request: RequestId(row.get("request")?),
        user: column(row, "user")?,
        body: row.get("body")?,
        expires: Timestamp(row.get("expires")?),
    })
}

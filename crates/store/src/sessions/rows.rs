//! The statements behind the calls.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use tandem_types::{Code, Fault, SessionId, Timestamp, TurnId, UserId};

use super::window::fit;
use super::{Amendment, Budget, Entry, Erased, NewEntry, NewSession, Session, Speaker, Summary, Window};
use crate::db::{Error, column, fresh_id, json_column};
use crate::keys;
use crate::paging::hex;
use crate::words::reason;

/// Characters of a title.
const TITLE_CHARS: usize = 60;

pub(super) const SELECT: &str =
    "SELECT *, (SELECT count(*) FROM entries WHERE session = sessions.id) AS entries FROM sessions";

/// The session that began, or the open one with the wanted id; and the sessions that ended to make room for it.
pub(super) fn create(
    tx: &Transaction<'_>,
    new: &NewSession,
    most: u32,
    now: Timestamp,
) -> Result<(SessionId, Vec<SessionId>), Error> {
    if let Some(id) = &new.id {
        let owner = tx
            .prepare_cached("SELECT user FROM sessions WHERE id = ?1")?
            .query_row([id.as_str()], |row| column::<UserId>(row, "user"))
            .optional()?;
        match owner {
            Some(owner) if owner == new.user => {
                let session = open(tx, &new.user, id)?;
                return Ok((session.id, Vec::new()));
            }
            Some(_) => {
                let message = format!("session id {id} is taken; choose another or none");
                return Err(Fault::new(Code::Conflict, reason::TAKEN, message).into());
            }
            None => {}
        }
    }
    let id = new.id.clone().map_or_else(|| Ok(SessionId::new(hex(&fresh_id(tx)?))?), Ok::<_, Error>)?;
    let ended = make_room(tx, most, now)?;
    tx.prepare_cached(
        "INSERT INTO sessions(id, user, consent, channel, language, created, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
    )?
    .execute(params![
        id.as_str(),
        new.user.as_str(),
        new.consent.as_str(),
        new.channel,
        new.language,
        now.micros()
    ])?;
    Ok((id, ended))
}

/// Ends the longest idle sessions until one more may open.
fn make_room(tx: &Transaction<'_>, most: u32, now: Timestamp) -> Result<Vec<SessionId>, Error> {
    let over = (open_count(tx)? + 1).saturating_sub(most.max(1).into());
    let mut end = tx.prepare_cached(
        "UPDATE sessions SET ended = ?1
         WHERE id IN (SELECT id FROM sessions WHERE ended IS NULL ORDER BY last, id LIMIT ?2) RETURNING id",
    )?;
    let ended = end.query_map(params![now.micros(), over], |row| column(row, "id"))?;
    Ok(ended.collect::<Result<_, _>>()?)
}

pub(super) fn open_count(tx: &Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.prepare_cached("SELECT count(*) FROM sessions WHERE ended IS NULL")?.query_row([], |row| row.get(0))?)
}

pub(super) fn append(
    tx: &Transaction<'_>,
    user: &UserId,
    session: &SessionId,
    entry: &NewEntry,
    now: Timestamp,
) -> Result<u64, Error> {
    let standing = open(tx, user, session)?;
    let title =
        if standing.title.is_empty() && entry.speaker == Speaker::User { title(&entry.text) } else { standing.title };
    let number: u64 = tx
        .prepare_cached(
            "UPDATE sessions SET numbered = numbered + 1, last = max(last, ?2), title = ?3 WHERE id = ?1 RETURNING numbered",
        )?
        .query_row(params![session.as_str(), now.micros(), title], |row| row.get(0))?;
    tx.prepare_cached(
        "INSERT INTO entries(session, number, user, consent, turn, speaker, text, language, spans, handler, source, tokens, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        session.as_str(),
        number,
        user.as_str(),
        standing.consent.as_str(),
        entry.turn.0,
        entry.speaker.as_str(),
        entry.text,
        entry.language,
        entry.spans,
        entry.handler,
        entry.source,
        entry.tokens,
        now.micros(),
    ])?;
    Ok(number)
}

pub(super) fn amend(tx: &Transaction<'_>, user: &UserId, session: &SessionId, new: &Amendment) -> Result<u64, Error> {
    get(tx, user, session)?;
    let number = tx
        .prepare_cached(
            "UPDATE entries SET amended = ?4, tokens = ?5 WHERE id =
               (SELECT max(id) FROM entries WHERE session = ?1 AND turn = ?2 AND speaker = ?3) RETURNING number",
        )?
        .query_row(params![session.as_str(), new.turn.0, new.speaker.as_str(), new.text, new.tokens], |row| row.get(0))
        .optional()?;
    Ok(number.ok_or_else(|| no_turn(new.turn))?)
}

pub(super) fn window(
    tx: &Transaction<'_>,
    user: &UserId,
    session: &SessionId,
    budget: Budget,
) -> Result<Window, Error> {
    get(tx, user, session)?;
    let costs: Vec<(u64, u32)> = tx
        .prepare_cached("SELECT number, cost FROM entries WHERE session = ?1 ORDER BY number DESC LIMIT ?2")?
        .query_map(params![session.as_str(), u64::from(budget.items) + 1], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let summary = summary(tx, session)?;
    let newest_first: Vec<u32> = costs.iter().map(|(_, cost)| *cost).collect();
    let fit = fit(&newest_first, budget, summary.as_ref().map(|s| s.tokens));
    let summary = summary.filter(|_| fit.summary);
    let covered = summary.as_ref().map_or(0, |s| s.through);
    let truncated = costs.get(fit.entries).is_some_and(|(number, _)| *number > covered);
    let mut chosen = entries(
        tx,
        "SELECT * FROM entries WHERE session = ?1 ORDER BY number DESC LIMIT ?2",
        params![session.as_str(), fit.entries],
    )?;
    chosen.reverse();
    Ok(Window { entries: chosen, summary, truncated, tokens: fit.tokens })
}

pub(super) fn sweep_retention(tx: &Transaction<'_>, keep_days: Option<u32>, now: Timestamp) -> Result<Erased, Error> {
    let day = Duration::from_hours(24).as_micros() as i64;
    let entries = tx.execute(
        // No number of days is for ever: nothing is younger than null.
        "DELETE FROM entries WHERE id IN (
           SELECT id FROM (
             SELECT e.id, e.at, s.ended, CASE WHEN r.user IS NULL THEN ?2 ELSE r.keep_days END AS days
             FROM entries e JOIN sessions s ON s.id = e.session LEFT JOIN retention r ON r.user = e.user)
           WHERE at <= ?1 - days * ?3 AND (ended IS NOT NULL OR days > 0))",
        params![now.micros(), keep_days, day],
    )? as u64;
    let bare = "NOT EXISTS (SELECT 1 FROM entries WHERE session = sessions.id)";
    tx.execute(&format!("UPDATE sessions SET title = '' WHERE title != '' AND {bare}"), [])?;
    let sessions = tx.execute(
        &format!(
            "DELETE FROM sessions WHERE ended IS NOT NULL AND {bare}
             AND NOT EXISTS (SELECT 1 FROM summaries WHERE session = sessions.id)"
        ),
        [],
    )? as u64;
    Ok(Erased { entries, sessions, keys: keys::prune(tx, now)? })
}

/// The session, if it is this person's.
pub(super) fn get(tx: &Transaction<'_>, user: &UserId, id: &SessionId) -> Result<Session, Error> {
    let found = sessions(tx, &format!("{SELECT} WHERE id = ?1 AND user = ?2"), [id.as_str(), user.as_str()])?.pop();
    Ok(found.ok_or_else(|| Fault::not_found(format!("this person has no session {id}")))?)
}

/// The session, if it is this person's and open.
fn open(tx: &Transaction<'_>, user: &UserId, id: &SessionId) -> Result<Session, Error> {
    let session = get(tx, user, id)?;
    if session.ended.is_some() {
        let message = format!("session {id} has ended; begin another");
        return Err(Fault::new(Code::FailedPrecondition, reason::ENDED, message).into());
    }
    Ok(session)
}

pub(super) fn no_turn(turn: TurnId) -> Fault {
    Fault::not_found(format!("this person has nothing under turn {turn}"))
}

fn title(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TITLE_CHARS) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

pub(super) fn sessions(
    tx: &Transaction<'_>,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Session>> {
    tx.prepare_cached(sql)?.query_map(params, session)?.collect()
}

pub(super) fn entries(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Entry>> {
    tx.prepare_cached(sql)?.query_map(params, entry)?.collect()
}

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: column(row, "id")?,
        user: column(row, "user")?,
        consent: column(row, "consent")?,
        channel: row.get("channel")?,
        language: row.get("language")?,
        title: row.get("title")?,
        created: Timestamp(row.get("created")?),
        last: Timestamp(row.get("last")?),
        ended: row.get::<_, Option<i64>>("ended")?.map(Timestamp),
        entries: row.get("entries")?,
    })
}

pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        number: row.get("number")?,
        session: column(row, "session")?,
        said: NewEntry {
            turn: TurnId(row.get("turn")?),
            speaker: column(row, "speaker")?,
            text: row.get("text")?,
            language: row.get("language")?,
            spans: row.get("spans")?,
            handler: row.get("handler")?,
            source: row.get("source")?,
            tokens: row.get("tokens")?,
        },
        amended: row.get("amended")?,
        at: Timestamp(row.get("at")?),
    })
}

pub(super) fn summary(tx: &Transaction<'_>, session: &SessionId) -> Result<Option<Summary>, Error> {
    Ok(tx
        .prepare_cached("SELECT * FROM summaries WHERE session = ?1")?
        .query_row([session.as_str()], |row| {
            Ok(Summary {
                through: row.get("through")?,
                turns: json_column(row, "turns")?,
                text: row.get("text")?,
                tokens: row.get("tokens")?,
                model: row.get("model")?,
                at: Timestamp(row.get("at")?),
            })
        })
        .optional()?)
}

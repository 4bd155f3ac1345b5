//! Conversations in SQLite.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, named_params, params};
use tandem_types::{Code, Fault, IdempotencyKey, SessionId, Timestamp, TurnId, UserId};

use super::search::fts_query;
use super::window::fit;
use super::{
    Amendment, Budget, Created, Entry, Erased, Hit, IDLE, KEEP_DAYS, NewEntry, NewSession, OPEN_LIMIT, Search, Session,
    SessionStore, Speaker, Summary, ToSummarise, Window,
};
use crate::db::{Db, Error, Migration, column, fresh_id, json_column, sqlite_store};
use crate::keys::{self, once};
use crate::paging::{Page, Paged, hex};
use crate::personal::{Holds, Personal};
use crate::words::reason;

const MIGRATIONS: &[Migration] = &[Migration { name: "sessions", sql: &[keys::SCHEMA, include_str!("schema.sql")] }];

/// Characters of a title.
const TITLE_CHARS: usize = 60;
/// Entries handed out for one summary.
const SUMMARISED_AT_ONCE: u32 = 200;

sqlite_store!(
    /// `sessions.db`.
    SqliteSessions, MIGRATIONS
);

impl Holds for SqliteSessions {
    const PERSONAL: &'static [Personal] = &[
        Personal {
            table: "summaries",
            select: "SELECT m.* FROM summaries m JOIN sessions s ON s.id = m.session WHERE s.user = ?1 ORDER BY m.session",
            forget: "DELETE FROM summaries WHERE session IN (SELECT id FROM sessions WHERE user = ?1)",
        },
        Personal {
            table: "entries",
            select: "SELECT session, number, user, consent, turn, speaker, text, amended, language, spans, handler, source, \
                     tokens, at FROM entries WHERE user = ?1 ORDER BY session, number",
            forget: "DELETE FROM entries WHERE user = ?1",
        },
        Personal {
            table: "sessions",
            select: "SELECT * FROM sessions WHERE user = ?1 ORDER BY created",
            forget: "DELETE FROM sessions WHERE user = ?1",
        },
        Personal {
            table: "retention",
            select: "SELECT * FROM retention WHERE user = ?1",
            forget: "DELETE FROM retention WHERE user = ?1",
        },
        keys::PERSONAL,
    ];

    fn db(&self) -> &Db {
        &self.db
    }
}

#[async_trait]
impl SessionStore for SqliteSessions {
    async fn create(&self, key: IdempotencyKey, new: NewSession, now: Timestamp) -> Result<Created, Fault> {
        self.db.write(move |tx| once(tx, key, Some(&new.user), ("create", &new), now, |tx| create(tx, &new, now))).await
    }

    async fn append(
        &self,
        key: IdempotencyKey,
        user: &UserId,
        session: &SessionId,
        entry: NewEntry,
        now: Timestamp,
    ) -> Result<u64, Fault> {
        let (user, session) = (user.clone(), session.clone());
        self.db
            .write(move |tx| {
                // Who repeats a write may have counted tokens this time and not the first; the words are the same.
                let body = (&user, &session, &NewEntry { tokens: 0, ..entry.clone() });
                once(tx, key, Some(&user), ("append", &body), now, |tx| append(tx, &user, &session, &entry, now))
            })
            .await
    }

    async fn amend(
        &self,
        key: IdempotencyKey,
        user: &UserId,
        session: &SessionId,
        amendment: Amendment,
        now: Timestamp,
    ) -> Result<u64, Fault> {
        let (user, session) = (user.clone(), session.clone());
        self.db
            .write(move |tx| {
                let body = (&user, &session, &Amendment { tokens: 0, ..amendment.clone() });
                once(tx, key, Some(&user), ("amend", &body), now, |tx| amend(tx, &user, &session, &amendment))
            })
            .await
    }

    async fn turn(&self, user: &UserId, turn: TurnId) -> Result<Vec<Entry>, Fault> {
        let user = user.clone();
        self.db
            .read(move |tx| {
                let sql = "SELECT * FROM entries WHERE turn = ?1 AND user = ?2 ORDER BY id";
                let entries = entries(tx, sql, params![turn.0, user.as_str()])?;
                if entries.is_empty() { Err(no_turn(turn).into()) } else { Ok(entries) }
            })
            .await
    }

    async fn entries(&self, user: &UserId, session: &SessionId, page: Page) -> Result<Paged<Entry>, Fault> {
        let (user, session) = (user.clone(), session.clone());
        let (limit, after) = (page.limit()?, page.after::<u64>()?.unwrap_or(0));
        self.db
            .read(move |tx| {
                get(tx, &user, &session)?;
                let sql = "SELECT * FROM entries WHERE session = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
                let items = entries(tx, sql, params![session.as_str(), after, limit + 1])?;
                Ok(Paged::cut(items, limit, |entry| entry.number)?)
            })
            .await
    }

    async fn window(&self, user: &UserId, session: &SessionId, budget: Budget) -> Result<Window, Fault> {
        let (user, session) = (user.clone(), session.clone());
        self.db.read(move |tx| window(tx, &user, &session, budget)).await
    }

    async fn search(&self, user: &UserId, search: Search) -> Result<Vec<Hit>, Fault> {
        let user = user.clone();
        let limit = Page { size: search.limit, ..Page::default() }.limit()?;
        let no_word = || Fault::invalid_field("query", "has no word to look for");
        let query = fts_query(&search.query).ok_or_else(no_word)?;
        self.db
            .read(move |tx| {
                let mut found = tx.prepare_cached(
                    "SELECT e.*, -bm25(entry_words) AS score FROM entry_words JOIN entries e ON e.id = entry_words.rowid
                     WHERE entry_words MATCH :query AND e.user = :user AND e.at >= :from AND e.at < :to
                       AND (:session IS NULL OR e.session = :session)
                     ORDER BY score DESC, e.id DESC LIMIT :limit",
                )?;
                let hits = found.query_map(
                    named_params! {
                        ":query": query, ":user": user.as_str(), ":from": search.from.micros(), ":to": search.to.micros(),
                        ":session": search.session.as_ref().map(SessionId::as_str), ":limit": limit,
                    },
                    |row| Ok(Hit { entry: entry(row)?, score: row.get("score")? }),
                )?;
                Ok(hits.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn session(&self, user: &UserId, session: &SessionId) -> Result<Session, Fault> {
        let (user, id) = (user.clone(), session.clone());
        self.db.read(move |tx| get(tx, &user, &id)).await
    }

    async fn sessions(&self, user: &UserId, page: Page) -> Result<Paged<Session>, Fault> {
        let user = user.clone();
        let (limit, after) = (page.limit()?, page.after::<(i64, String)>()?);
        self.db
            .read(move |tx| {
                let (last, id) = after.unwrap_or((i64::MAX, String::new()));
                let sql =
                    format!("{SELECT} WHERE user = ?1 AND (last, id) < (?2, ?3) ORDER BY last DESC, id DESC LIMIT ?4");
                let items = sessions(tx, &sql, params![user.as_str(), last, id, limit + 1])?;
                Ok(Paged::cut(items, limit, |s| (s.last.micros(), s.id.as_str().to_owned()))?)
            })
            .await
    }

    async fn open_sessions(&self) -> Result<u64, Fault> {
        self.db.read(open_count).await
    }

    async fn end(&self, user: &UserId, session: &SessionId, now: Timestamp) -> Result<Session, Fault> {
        let (user, id) = (user.clone(), session.clone());
        self.db
            .write(move |tx| {
                get(tx, &user, &id)?;
                tx.prepare_cached("UPDATE sessions SET ended = ?2 WHERE id = ?1 AND ended IS NULL")?
                    .execute(params![id.as_str(), now.micros()])?;
                get(tx, &user, &id)
            })
            .await
    }

    async fn delete(&self, user: &UserId, session: &SessionId) -> Result<u64, Fault> {
        let (user, id) = (user.clone(), session.clone());
        let removed = self.db.write(move |tx| {
            let session = get(tx, &user, &id)?;
            tx.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id.as_str()])?;
            Ok(session.entries)
        });
        let removed = removed.await?;
        self.db.checkpoint().await?;
        Ok(removed)
    }

    async fn sweep_idle(&self, now: Timestamp) -> Result<Vec<Session>, Fault> {
        self.db
            .write(move |tx| {
                let mut over = tx.prepare_cached(
                    "UPDATE sessions SET ended = ?1 WHERE ended IS NULL AND last <= ?2 RETURNING user, id",
                )?;
                let ids = over
                    .query_map([now.micros(), (now - IDLE).micros()], |row| {
                        Ok((column(row, "user")?, column(row, "id")?))
                    })?
                    .collect::<Result<Vec<(UserId, SessionId)>, _>>()?;
                ids.iter().map(|(user, id)| get(tx, user, id)).collect()
            })
            .await
    }

    async fn to_summarise(
        &self,
        user: &UserId,
        session: &SessionId,
        budget: Budget,
    ) -> Result<Option<ToSummarise>, Fault> {
        let (user, session) = (user.clone(), session.clone());
        self.db
            .read(move |tx| {
                let window = window(tx, &user, &session, budget)?;
                let before = window.entries.first().map_or(i64::MAX as u64, |entry| entry.number);
                let former = summary(tx, &session)?;
                let covered = former.as_ref().map_or(0, |s| s.through);
                let sql =
                    "SELECT * FROM entries WHERE session = ?1 AND number > ?2 AND number < ?3 ORDER BY number LIMIT ?4";
                let entries = entries(tx, sql, params![session.as_str(), covered, before, SUMMARISED_AT_ONCE])?;
                Ok((!entries.is_empty()).then_some(ToSummarise { former, entries }))
            })
            .await
    }

    async fn put_summary(&self, user: &UserId, session: &SessionId, new: Summary) -> Result<(), Fault> {
        let (user, session) = (user.clone(), session.clone());
        self.db
            .write(move |tx| {
                get(tx, &user, &session)?;
                if summary(tx, &session)?.is_some_and(|former| former.through >= new.through) {
                    let message = format!("session {session}: a summary that covers as much or more stands already");
                    return Err(Fault::new(Code::Conflict, reason::STALE, message).into());
                }
                tx.prepare_cached("INSERT OR REPLACE INTO summaries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
                    params![
                        session.as_str(),
                        new.through,
                        serde_json::to_string(&new.turns)?,
                        new.text,
                        new.tokens,
                        new.model,
                        new.at.micros(),
                    ],
                )?;
                Ok(())
            })
            .await
    }

    async fn to_remember(&self, limit: u32) -> Result<Vec<Session>, Fault> {
        let sql = format!("{SELECT} WHERE ended IS NOT NULL AND remembered = 0 ORDER BY ended LIMIT ?1");
        self.db.read(move |tx| Ok(sessions(tx, &sql, [limit])?)).await
    }

    async fn remembered(&self, user: &UserId, session: &SessionId) -> Result<(), Fault> {
        let (user, id) = (user.clone(), session.clone());
        self.db
            .write(move |tx| {
                get(tx, &user, &id)?;
                tx.prepare_cached("UPDATE sessions SET remembered = 1 WHERE id = ?1")?.execute([id.as_str()])?;
                Ok(())
            })
            .await
    }

    async fn keep_days(&self, user: &UserId, days: Option<u32>) -> Result<(), Fault> {
        let user = user.clone();
        self.db
            .write(move |tx| {
                tx.prepare_cached("INSERT OR REPLACE INTO retention VALUES (?1, ?2)")?
                    .execute(params![user.as_str(), days])?;
                Ok(())
            })
            .await
    }

    async fn sweep_retention(&self, now: Timestamp) -> Result<Erased, Fault> {
        self.db.write(move |tx| sweep_retention(tx, now)).await
    }
}

const SELECT: &str = "SELECT *, (SELECT count(*) FROM entries WHERE session = sessions.id) AS entries FROM sessions";

fn create(tx: &Transaction<'_>, new: &NewSession, now: Timestamp) -> Result<Created, Error> {
    if let Some(id) = &new.id {
        let owner = tx
            .prepare_cached("SELECT user FROM sessions WHERE id = ?1")?
            .query_row([id.as_str()], |row| column::<UserId>(row, "user"))
            .optional()?;
        match owner {
            Some(owner) if owner == new.user => {
                let session = open(tx, &new.user, id)?;
                return Ok(Created { session, ended: Vec::new() });
            }
            Some(_) => {
                let message = format!("session id {id} is taken; choose another or none");
                return Err(Fault::new(Code::Conflict, reason::TAKEN, message).into());
            }
            None => {}
        }
    }
    let id = new.id.clone().map_or_else(|| Ok(SessionId::new(hex(&fresh_id(tx)?))?), Ok::<_, Error>)?;
    let ended = make_room(tx, now)?;
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
    Ok(Created { session: get(tx, &new.user, &id)?, ended })
}

/// Ends the longest idle sessions until one more may open.
fn make_room(tx: &Transaction<'_>, now: Timestamp) -> Result<Vec<SessionId>, Error> {
    let over = (open_count(tx)? + 1).saturating_sub(OPEN_LIMIT.into());
    let mut end = tx.prepare_cached(
        "UPDATE sessions SET ended = ?1
         WHERE id IN (SELECT id FROM sessions WHERE ended IS NULL ORDER BY last, id LIMIT ?2) RETURNING id",
    )?;
    let ended = end.query_map(params![now.micros(), over], |row| column(row, "id"))?;
    Ok(ended.collect::<Result<_, _>>()?)
}

fn open_count(tx: &Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.prepare_cached("SELECT count(*) FROM sessions WHERE ended IS NULL")?.query_row([], |row| row.get(0))?)
}

fn append(
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

fn amend(tx: &Transaction<'_>, user: &UserId, session: &SessionId, new: &Amendment) -> Result<u64, Error> {
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

fn window(tx: &Transaction<'_>, user: &UserId, session: &SessionId, budget: Budget) -> Result<Window, Error> {
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

fn sweep_retention(tx: &Transaction<'_>, now: Timestamp) -> Result<Erased, Error> {
    let day = Duration::from_hours(24).as_micros() as i64;
    let entries = tx.execute(
        "DELETE FROM entries WHERE id IN (
           SELECT e.id FROM entries e JOIN sessions s ON s.id = e.session LEFT JOIN retention r ON r.user = e.user
           WHERE (r.user IS NULL OR r.keep_days IS NOT NULL) AND e.at <= ?1 - coalesce(r.keep_days, ?2) * ?3
             AND (s.ended IS NOT NULL OR coalesce(r.keep_days, ?2) > 0))",
        params![now.micros(), KEEP_DAYS, day],
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
fn get(tx: &Transaction<'_>, user: &UserId, id: &SessionId) -> Result<Session, Error> {
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

fn no_turn(turn: TurnId) -> Fault {
    Fault::not_found(format!("this person has nothing under turn {turn}"))
}

fn title(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TITLE_CHARS) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

fn sessions(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Session>> {
    tx.prepare_cached(sql)?.query_map(params, session)?.collect()
}

fn entries(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Entry>> {
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

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
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

fn summary(tx: &Transaction<'_>, session: &SessionId) -> Result<Option<Summary>, Error> {
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

//! Conversations in SQLite.

use std::path::PathBuf;

use async_trait::async_trait;
use rusqlite::{named_params, params};
use tandem_types::{Code, Fault, IdempotencyKey, SessionId, Timestamp, TurnId, UserId};

use super::rows::{
    SELECT, amend, append, create, entries, entry, get, no_turn, open_count, sessions, summary, sweep_retention, window,
};
use super::search::fts_query;
use super::{
    Amendment, Budget, Created, Entry, Erased, Hit, Limits, NewEntry, NewSession, Search, Session, SessionStore,
    Summary, ToSummarise, Window,
};
use crate::db::{Db, Migration, column};
use crate::keys::{self, once};
use crate::paging::{Page, Paged};
use crate::personal::{Holds, Personal};
use crate::words::reason;

const MIGRATIONS: &[Migration] = &[Migration { name: "sessions", sql: &[keys::SCHEMA, include_str!("schema.sql")] }];

/// Entries handed out for one summary.
const SUMMARISED_AT_ONCE: u32 = 200;

/// `sessions.db`.
#[derive(Debug, Clone)]
pub struct SqliteSessions {
    db: Db,
    limits: Limits,
}

impl SqliteSessions {
    /// Opens the file, creating or migrating it as needed. Blocks while it does so.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open(path: impl Into<PathBuf>, limits: Limits) -> Result<Self, Fault> {
        Ok(Self { db: Db::open(path, MIGRATIONS)?, limits })
    }

    /// The file, for backup, checks and closing.
    pub fn db(&self) -> &Db {
        &self.db
    }
}

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
        let most = self.limits.open;
        self.db
            .write(move |tx| {
                // The result that is kept with the key names the session and tells nothing of it: its title is words of
                // the person, and those go with the session.
                let (id, ended) =
                    once(tx, key, Some(&new.user), ("create", &new), now, |tx| create(tx, &new, most, now))?;
                Ok(Created { session: get(tx, &new.user, &id)?, ended })
            })
            .await
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

    async fn delete(
        &self,
        key: IdempotencyKey,
        user: &UserId,
        session: &SessionId,
        now: Timestamp,
    ) -> Result<u64, Fault> {
        let (user, id) = (user.clone(), session.clone());
        let removed = self.db.write(move |tx| {
            once(tx, key, Some(&user), ("delete", &(&user, &id)), now, |tx| {
                let session = get(tx, &user, &id)?;
                tx.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id.as_str()])?;
                Ok(session.entries)
            })
        });
        let removed = removed.await?;
        self.db.checkpoint().await?;
        Ok(removed)
    }

    async fn sweep_idle(&self, now: Timestamp) -> Result<Vec<Session>, Fault> {
        let idle = self.limits.idle;
        self.db
            .write(move |tx| {
                let mut over = tx.prepare_cached(
                    "UPDATE sessions SET ended = ?1 WHERE ended IS NULL AND last <= ?2 RETURNING user, id",
                )?;
                let ids = over
                    .query_map([now.micros(), (now - idle).micros()], |row| {
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
        let keep_days = self.limits.keep_days;
        let erased = self.db.write(move |tx| sweep_retention(tx, keep_days, now)).await?;
        if erased.entries > 0 {
            self.db.checkpoint().await?;
        }
        Ok(erased)
    }
}

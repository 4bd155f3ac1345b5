//! Writes that are safe to send twice.
//!
//! A key belongs to one operation with one body. For 72 hours the same key and body get the first result again, and the
//! same key with another body is refused. Key, effect and result are rows of one transaction, so there is no moment in
//! which one of them is there without the others.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tandem_types::{Code, Fault, IdempotencyKey, Timestamp, UserId, reason};

use crate::db::Error;
use crate::personal::Personal;

/// How long a key is remembered.
pub const KEPT: Duration = Duration::from_hours(72);

/// The table [`once`] works on; a part of the first migration of every file that takes keyed writes.
pub const SCHEMA: &str = "
CREATE TABLE keys(
    key     BLOB PRIMARY KEY,
    user    TEXT,
    body    BLOB NOT NULL,
    result  TEXT NOT NULL,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX keys_by_expiry ON keys(expires);
CREATE INDEX keys_by_user ON keys(user) WHERE user IS NOT NULL;";

/// The keys' part in what is known about a person.
pub(crate) const PERSONAL: Personal = Personal {
    table: "keys",
    select: "SELECT key, result, expires FROM keys WHERE user = ?1",
    forget: "DELETE FROM keys WHERE user = ?1",
};

/// Runs `work` unless `key` has been here with this `operation` and `body`: then its first result is returned.
/// A `work` that fails leaves the key free. `user` is the person the write is about.
///
/// # Errors
/// `conflict`, reason `key_reused`, when the key came with another operation or body; else what `work` returned.
pub fn once<T, B>(
    tx: &Transaction<'_>,
    key: IdempotencyKey,
    user: Option<&UserId>,
    (operation, body): (&str, &B),
    now: Timestamp,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
) -> Result<T, Error>
where
    T: Serialize + DeserializeOwned,
    B: Serialize,
{
    let body = hash(operation, body)?;
    let known = tx
        .prepare_cached("SELECT body, result FROM keys WHERE key = ?1 AND expires > ?2")?
        .query_row(params![key.0, now.micros()], |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    match known {
        Some((first, result)) if first == body => Ok(serde_json::from_str(&result)?),
        Some(_) => Err(reused(key).into()),
        None => {
            let result = work(tx)?;
            let text = serde_json::to_string(&result)?;
            tx.prepare_cached("INSERT OR REPLACE INTO keys VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
                key.0,
                user.map(UserId::as_str),
                body,
                text,
                (now + KEPT).micros()
            ])?;
            Ok(result)
        }
    }
}

/// Forgets the keys whose time is over; how many.
///
/// # Errors
/// Those of SQLite.
pub fn prune(tx: &Transaction<'_>, now: Timestamp) -> Result<u64, Error> {
    Ok(tx.prepare_cached("DELETE FROM keys WHERE expires <= ?1")?.execute([now.micros()])? as u64)
}

fn hash(operation: &str, body: &impl Serialize) -> Result<[u8; 32], Error> {
    let mut hasher = Sha256::new();
    hasher.update(operation);
    hasher.update([0]);
    hasher.update(serde_json::to_vec(body)?);
    Ok(hasher.finalize().into())
}

fn reused(key: IdempotencyKey) -> Fault {
    let message = format!("idempotency key {key} was used for another request; send a fresh key with each new request");
    Fault::new(Code::Conflict, reason::KEY_REUSED, message)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;
    use crate::testing::{at, key};

    fn memory() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection
    }

    fn code(result: Result<u32, Error>) -> Result<u32, Code> {
        result.map_err(|e| e.into_fault(std::path::Path::new("test")).code)
    }

    #[test]
    fn a_failed_write_leaves_its_key_free() {
        let mut connection = memory();
        let tx = connection.transaction().unwrap();
        let fails = once(&tx, key(1), None, ("add", &7), at(0), |_| Err(Fault::not_found("gone").into()));
        assert_eq!(code(fails), Err(Code::NotFound));
        assert_eq!(code(once(&tx, key(1), None, ("add", &8), at(0), |_| Ok(1))), Ok(1));
    }

    #[test]
    fn another_operation_is_another_body() {
        let mut connection = memory();
        let tx = connection.transaction().unwrap();
        assert_eq!(code(once(&tx, key(1), None, ("add", &7), at(0), |_| Ok(1))), Ok(1));
        assert_eq!(code(once(&tx, key(1), None, ("remove", &7), at(0), |_| Ok(2))), Err(Code::Conflict));
    }

    proptest! {
        /// Against a map: within 72 hours a key gives its first result or a conflict, later it is new again.
        #[test]
        fn keys_keep_their_promise(
            steps in proptest::collection::vec((0u128..4, 0u8..3, 0i64..50 * 3_600, any::<bool>()), 1..60),
        ) {
            let mut connection = memory();
            let tx = connection.transaction().unwrap();
            let mut model: HashMap<u128, (u8, u32, Timestamp)> = HashMap::new();
            let (mut now, mut ran) = (at(0), 0);
            for (number, (k, body, pause, sweep)) in steps.into_iter().enumerate() {
                now = now + Duration::from_secs(pause as u64);
                if sweep {
                    prune(&tx, now).unwrap();
                }
                let before = ran;
                let result = once(&tx, key(k), None, ("add", &body), now, |_| {
                    ran += 1;
                    Ok(number as u32)
                });
                model.retain(|_, (.., expires)| *expires > now);
                let (expected, runs) = match model.get(&k) {
                    Some((first, result, _)) if *first == body => (Ok(*result), 0),
                    Some(_) => (Err(Code::Conflict), 0),
                    None => (Ok(number as u32), 1),
                };
                model.entry(k).or_insert((body, number as u32, now + KEPT));
                prop_assert_eq!(code(result), expected);
                prop_assert_eq!(ran - before, runs);
            }
        }
    }
}

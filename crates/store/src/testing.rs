//! What the tests of every store need.

use std::fs;
use std::path::Path;

use tandem_types::{IdempotencyKey, Timestamp, TurnId, UserId};
use tokio::sync::mpsc;

use crate::personal::{ExportRow, PersonalData};

/// Midnight of a day in 2026, plus some seconds.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(20_718 * 86_400 + seconds)
}

pub(crate) fn days(n: i64) -> i64 {
    n * 24 * 3_600
}

pub(crate) fn key(n: u128) -> IdempotencyKey {
    IdempotencyKey(n.to_be_bytes())
}

pub(crate) fn turn(n: u128) -> TurnId {
    TurnId(n.to_be_bytes())
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) async fn export(store: &dyn PersonalData, user: &UserId) -> Vec<ExportRow> {
    let (into, mut rows) = mpsc::channel(2);
    let take = async {
        let mut taken = Vec::new();
        while let Some(row) = rows.recv().await {
            taken.push(row);
        }
        taken
    };
    let (count, taken) = tokio::join!(store.export(user, into), take);
    assert_eq!(count.unwrap(), taken.len() as u64);
    taken
}

/// What every store about people promises: all of `theirs` is exported, and after forgetting nothing of it is left, not
/// even in the bytes of its files, while `others` stays as it is.
pub(crate) async fn forgets(store: &dyn PersonalData, folder: &Path, theirs: &UserId, word: &str, others: &UserId) {
    let before = export(store, others).await;
    let text = serde_json::to_string(&export(store, theirs).await).unwrap();
    assert!(text.contains(word), "the export lacks `{word}`");
    assert!(holds(folder, word), "`{word}` is in no file, so its absence would prove nothing");
    let forgotten = store.forget(theirs).await.unwrap();
    assert!(forgotten.rows() > 0, "{forgotten:?}");
    assert_eq!(export(store, theirs).await, []);
    assert_eq!(store.forget(theirs).await.unwrap().rows(), 0);
    assert_eq!(export(store, others).await, before);
    assert!(!holds(folder, word), "`{word}` is still in a file");
}

/// Whether any file below `folder` holds the bytes of `word`.
pub(crate) fn holds(folder: &Path, word: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, word);
        }
        fs::read(path).unwrap().windows(word.len()).any(|bytes| bytes == word.as_bytes())
    })
}

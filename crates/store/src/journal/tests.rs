use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::testing::{at, days, forgets, user};

type Fresh = (TempDir, Arc<dyn Journal>);

fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteJournal::open(folder.path().join("journal.db")).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite).await;
    goes_on_after_a_restart().await;
}

/// What every [`Journal`] promises.
pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
    delivers_in_order_by_topic(&*fresh().1).await;
    says_when_events_are_gone(&*fresh().1).await;
    keeps_the_newest_hundred_thousand(&*fresh().1).await;
    remembers_how_far_a_subscriber_is(&*fresh().1).await;
    let (folder, journal) = fresh();
    let about = |name: &str| NewEvent {
        user: Some(user(name)),
        payload: format!("{{\"user\":\"{name}\"}}"),
        ..event("t", "k")
    };
    journal.append(vec![about("zanzibar"), about("ben"), event("t", "k")], at(0)).await.unwrap();
    forgets(&*journal, folder.path(), &user("zanzibar"), "zanzibar", &user("ben")).await;
    let left = journal.read(&["t".into()], 0, 9).await.unwrap();
    assert_eq!((cursors(&left), left.lost), (vec![2, 3], false));
}

fn event(topic: &str, key: &str) -> NewEvent {
    NewEvent { topic: topic.into(), key: key.into(), user: None, payload: "{}".into() }
}

fn cursors(batch: &Batch) -> Vec<u64> {
    batch.events.iter().map(|event| event.cursor).collect()
}

async fn delivers_in_order_by_topic(journal: &dyn Journal) {
    let mut head = journal.head();
    assert_eq!(*head.borrow_and_update(), 0);
    let published = journal.append(vec![event("a", "x"), event("b", "x"), event("a", "y")], at(0)).await.unwrap();
    assert_eq!(published.iter().map(|e| e.cursor).collect::<Vec<_>>(), [1, 2, 3]);
    head.changed().await.unwrap();
    assert_eq!(*head.borrow(), 3);
    journal.append(vec![event("c", "x")], at(1)).await.unwrap();
    let (a, both) = (["a".to_owned()], ["a".to_owned(), "b".to_owned()]);
    let batch = journal.read(&a, 0, 9).await.unwrap();
    assert_eq!(
        (&batch.events[..], batch.next, batch.lost),
        (&[published[0].clone(), published[2].clone()][..], 4, false)
    );
    let batch = journal.read(&both, 1, 1).await.unwrap();
    assert_eq!((cursors(&batch), batch.next), (vec![2], 2));
    let batch = journal.read(&both, 3, 9).await.unwrap();
    assert_eq!((cursors(&batch), batch.next, batch.lost), (vec![], 4, false));
    assert_ne!(published[0].id, published[1].id);
    assert_eq!(journal.append(vec![], at(2)).await.unwrap(), []);
}

async fn says_when_events_are_gone(journal: &dyn Journal) {
    let topics = ["t".to_owned()];
    for day in 0..4 {
        journal.append(vec![event("t", "k")], at(days(day))).await.unwrap();
    }
    assert_eq!(journal.prune(at(days(7) - 1)).await.unwrap(), 0);
    assert_eq!(journal.prune(at(days(8))).await.unwrap(), 2);
    for (after, lost) in [(0, false), (1, true), (2, false), (4, false), (5, true)] {
        assert_eq!(journal.read(&topics, after, 9).await.unwrap().lost, lost, "{after}");
    }
    assert_eq!(cursors(&journal.read(&topics, 1, 9).await.unwrap()), [3, 4]);
    assert_eq!(cursors(&journal.read(&topics, 99, 9).await.unwrap()), [3, 4]);
    assert_eq!(journal.prune(at(days(99))).await.unwrap(), 2);
    assert_eq!(journal.append(vec![event("t", "k")], at(days(99))).await.unwrap()[0].cursor, 5);
}

async fn keeps_the_newest_hundred_thousand(journal: &dyn Journal) {
    journal.append(vec![event("t", "k"); 100_003], at(0)).await.unwrap();
    assert_eq!(journal.prune(at(1)).await.unwrap(), 3);
    assert_eq!(cursors(&journal.read(&["t".into()], 0, 1).await.unwrap()), [4]);
    assert_eq!(journal.prune(at(1)).await.unwrap(), 0);
}

async fn remembers_how_far_a_subscriber_is(journal: &dyn Journal) {
    assert_eq!(journal.cursor("TrustScorer", "mainpc/coordination").await.unwrap(), 0);
    for (cursor, stands) in [(7, 7), (3, 7), (9, 9)] {
        journal.save_cursor("TrustScorer", "mainpc/coordination", cursor).await.unwrap();
        assert_eq!(journal.cursor("TrustScorer", "mainpc/coordination").await.unwrap(), stands);
    }
    assert_eq!(journal.cursor("TrustScorer", "mainpc/emotion_system").await.unwrap(), 0);
}

async fn goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.append(vec![event("t", "k")], at(0)).await.unwrap();
    journal.db().close().await.unwrap();
    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(*journal.head().borrow(), 1);
    assert_eq!(journal.append(vec![event("t", "k")], at(1)).await.unwrap()[0].cursor, 2);
}

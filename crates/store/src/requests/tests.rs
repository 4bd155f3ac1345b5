use std::sync::Arc;

use tandem_types::{Code, reason::KEY_REUSED};
use tempfile::TempDir;

use super::*;
use crate::testing::{at, days, forgets, holds, key, turn, user};

type Fresh = (TempDir, Arc<dyn RequestStore>);

fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteRequests::open(folder.path().join("coordinator.db")).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite).await;
}

/// What every [`RequestStore`] promises.
pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
    accepts_once(&*fresh().1).await;
    follows_a_turn_to_its_one_end(&*fresh().1).await;
    resumes_where_the_caller_was(&*fresh().1).await;
    keeps_people_apart(&*fresh().1).await;
    finds_what_a_crash_left(&*fresh().1).await;
    tells_who_was_there(&*fresh().1).await;
    asks_once(&*fresh().1).await;
    let (folder, store) = fresh();
    erases_in_time(&folder, &*store).await;
    let (folder, store) = fresh();
    forgets_a_person(&folder, &*store).await;
}

fn id(n: u128) -> RequestId {
    RequestId(n.to_be_bytes())
}

fn new(n: u128, name: &str, body: &str) -> NewRequest {
    NewRequest {
        id: id(n),
        turn: turn(n),
        user: user(name),
        consent: Consent::Learn,
        session: Some(SessionId::new("s").unwrap()),
        modality: "text".into(),
        priority: 2,
        deadline: at(60),
        body: format!("{{\"text\":\"{body}\"}}"),
    }
}

fn events(first: u64, bodies: &[&str]) -> Events {
    Events { first, bodies: bodies.iter().map(|b| (*b).to_owned()).collect() }
}

fn end(outcome: Outcome, answer: &str) -> End {
    End {
        outcome,
        code: "ok".into(),
        handler: "mainpc/language_stack/ChitchatAgent".into(),
        tier: "fast".into(),
        model: "smol".into(),
        answer: Some(answer.into()),
    }
}

async fn accepts_once(store: &dyn RequestStore) {
    let first = store.accept(key(1), new(1, "ana", "hi"), at(0)).await.unwrap();
    assert_eq!((first.request, first.turn, first.repeated), (id(1), turn(1), false));
    let again = store.accept(key(1), new(2, "ana", "hi"), at(5)).await.unwrap();
    assert_eq!(again, Accepted { repeated: true, ..first });
    let other = store.accept(key(1), new(3, "ana", "ho"), at(6)).await.unwrap_err();
    assert_eq!((other.code, other.reason.as_str()), (Code::Conflict, KEY_REUSED));
    let other = store.accept(key(1), new(3, "ben", "hi"), at(6)).await.unwrap_err();
    assert_eq!(other.code, Code::Conflict);
    assert_eq!(store.unfinished().await.unwrap().len(), 1);
}

async fn follows_a_turn_to_its_one_end(store: &dyn RequestStore) {
    let ana = user("ana");
    store.accept(key(1), new(1, "ana", "hi"), at(0)).await.unwrap();
    let path = [Stage::Understood, Stage::Routed, Stage::Running, Stage::Routed, Stage::Running, Stage::Composing];
    for (n, stage) in (1..).zip(path) {
        store.advance(id(1), stage, at(n)).await.unwrap();
    }
    assert_eq!(store.request(&ana, id(1)).await.unwrap().status, Status::Open(Stage::Composing));
    store.append_events(id(1), events(1, &["one", "two"])).await.unwrap();
    store.finish(id(1), events(3, &["final"]), end(Outcome::Done, "answer"), at(9)).await.unwrap();
    let request = store.request(&ana, id(1)).await.unwrap();
    let stages: Vec<Stage> = request.timings.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages[0], Stage::Received);
    assert_eq!((&stages[1..], request.timings[6].1), (&path[..], at(6)));
    assert_eq!((request.status, request.finished), (Status::Over(Outcome::Done), Some(at(9))));
    assert_eq!(request.end, Some(end(Outcome::Done, "answer")));
    for late in [
        store.finish(id(1), events(4, &["error"]), end(Outcome::Failed, "no"), at(10)).await,
        store.advance(id(1), Stage::Running, at(10)).await,
        store.append_events(id(1), events(4, &["late"])).await,
        store.note_effect(id(1), "late".into(), at(10)).await,
    ] {
        let fault = late.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, crate::reason::ENDED));
    }
    assert_eq!(store.request(&ana, id(1)).await.unwrap(), request);
    assert_eq!(store.advance(id(7), Stage::Running, at(0)).await.unwrap_err().code, Code::NotFound);
}

async fn resumes_where_the_caller_was(store: &dyn RequestStore) {
    let ana = user("ana");
    store.accept(key(1), new(1, "ana", "hi"), at(0)).await.unwrap();
    store.append_events(id(1), events(1, &["one", "two"])).await.unwrap();
    store.append_events(id(1), events(3, &["three"])).await.unwrap();
    store.append_events(id(1), Events::default()).await.unwrap();
    for wrong in [3, 5] {
        assert_eq!(store.append_events(id(1), events(wrong, &["x"])).await.unwrap_err().code, Code::Conflict);
    }
    for (after, expected) in [(0, vec!["one", "two", "three"]), (2, vec!["three"]), (3, vec![])] {
        let log = store.events(&ana, turn(1), after).await.unwrap();
        assert_eq!((log.events, log.status), (events(after + 1, &expected), Status::Open(Stage::Received)));
    }
}

async fn keeps_people_apart(store: &dyn RequestStore) {
    store.accept(key(1), new(1, "ana", "hi"), at(0)).await.unwrap();
    let ben = user("ben");
    assert_eq!(store.request(&ben, id(1)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.events(&ben, turn(1), 0).await.unwrap_err().code, Code::NotFound);
}

async fn finds_what_a_crash_left(store: &dyn RequestStore) {
    for n in 1..=4 {
        store.accept(key(n), new(n, "ana", "hi"), at(10 - n as i64)).await.unwrap();
    }
    store.advance(id(2), Stage::Running, at(20)).await.unwrap();
    store.append_events(id(2), events(1, &["one"])).await.unwrap();
    store.advance(id(3), Stage::Running, at(20)).await.unwrap();
    store.note_effect(id(3), "lamp on".into(), at(21)).await.unwrap();
    store.note_effect(id(3), "lamp off".into(), at(22)).await.unwrap();
    store.finish(id(4), events(1, &["final"]), end(Outcome::Cancelled, "x"), at(23)).await.unwrap();
    let left = store.unfinished().await.unwrap();
    let expected = [
        (new(3, "ana", "hi"), 7, Stage::Running, vec!["lamp on", "lamp off"], 0),
        (new(2, "ana", "hi"), 8, Stage::Running, vec![], 1),
        (new(1, "ana", "hi"), 9, Stage::Received, vec![], 0),
    ];
    assert_eq!(left.len(), expected.len());
    for (one, (request, accepted, stage, effects, last_event)) in left.into_iter().zip(expected) {
        assert_eq!((one.request, one.accepted, one.stage), (request, at(accepted), stage));
        assert_eq!((one.effects, one.last_event), (effects.into_iter().map(str::to_owned).collect(), last_event));
    }
}

async fn tells_who_was_there(store: &dyn RequestStore) {
    for (n, name, when) in [(1, "ben", 5), (2, "ana", 10), (3, "ana", 30), (4, "ana", 20)] {
        store.accept(key(n), new(n, name, "hi"), at(when)).await.unwrap();
    }
    store.finish(id(3), Events::default(), end(Outcome::Done, "yes"), at(40)).await.unwrap();
    for (since, expected) in [(0, vec![("ana", 30), ("ben", 5)]), (6, vec![("ana", 30)]), (31, vec![])] {
        let expected: Vec<_> = expected.into_iter().map(|(name, when)| (user(name), at(when))).collect();
        assert_eq!(store.last_requests(at(since)).await.unwrap(), expected);
    }
}

async fn asks_once(store: &dyn RequestStore) {
    let (ana, ben) = (user("ana"), user("ben"));
    store.accept(key(1), new(1, "ana", "hi"), at(0)).await.unwrap();
    let question = |token: &str| Confirmation {
        token: token.into(),
        request: id(1),
        user: ana.clone(),
        body: "{}".into(),
        expires: at(0) + CONFIRMATION_WAITS,
    };
    for token in ["a", "b", "c"] {
        store.ask(question(token)).await.unwrap();
    }
    assert_eq!(store.answer(&ben, "a", at(1)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.answer(&ana, "a", at(1)).await.unwrap(), question("a"));
    assert_eq!(store.answer(&ana, "a", at(2)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.answer(&ana, "b", at(600)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.prune(at(600)).await.unwrap(), Pruned { confirmations: 2, ..Pruned::default() });
    store.ask(question("d")).await.unwrap();
    store.finish(id(1), Events::default(), end(Outcome::Cancelled, "x"), at(3)).await.unwrap();
    assert_eq!(store.answer(&ana, "d", at(4)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.ask(question("e")).await.unwrap_err().code, Code::FailedPrecondition);
}

async fn erases_in_time(folder: &TempDir, store: &dyn RequestStore) {
    let ana = user("ana");
    store.accept(key(1), new(1, "ana", "question of zanzibar"), at(0)).await.unwrap();
    store.accept(key(2), new(2, "ana", "open"), at(0)).await.unwrap();
    store.finish(id(1), events(1, &["spices of java"]), end(Outcome::Done, "spices of java"), at(10)).await.unwrap();
    assert_eq!(store.prune(at(days(1) + 9)).await.unwrap(), Pruned::default());
    assert_eq!(store.events(&ana, turn(1), 0).await.unwrap().events.bodies, ["spices of java"]);
    assert_eq!(store.prune(at(days(1) + 10)).await.unwrap(), Pruned { answers: 1, ..Pruned::default() });
    assert!(!holds(folder.path(), "zanzibar") && !holds(folder.path(), "java"));
    assert_eq!(store.events(&ana, turn(1), 0).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.request(&ana, id(1)).await.unwrap().end.unwrap().answer, None);
    assert_eq!(store.prune(at(days(30) + 9)).await.unwrap(), Pruned { keys: 2, ..Pruned::default() });
    assert_eq!(store.prune(at(days(30) + 10)).await.unwrap(), Pruned { requests: 1, ..Pruned::default() });
    assert_eq!(store.request(&ana, id(1)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.unfinished().await.unwrap()[0].request.id, id(2));
}

async fn forgets_a_person(folder: &TempDir, store: &dyn RequestStore) {
    let (ana, ben) = (user("ana"), user("ben"));
    for (n, name) in [(1, "ana"), (2, "ben"), (3, "ana")] {
        store.accept(key(n), new(n, name, "about zanzibar"), at(0)).await.unwrap();
        store.note_effect(id(n), "sent".into(), at(1)).await.unwrap();
        store.append_events(id(n), events(1, &["one"])).await.unwrap();
    }
    store.finish(id(2), Events::default(), end(Outcome::Done, "yes"), at(2)).await.unwrap();
    let question = Confirmation {
        token: "t".into(),
        request: id(1),
        user: ana.clone(),
        body: "zanzibar?".into(),
        expires: at(99),
    };
    store.ask(question).await.unwrap();
    store.finish(id(3), events(2, &["zanzibar"]), end(Outcome::Done, "zanzibar"), at(2)).await.unwrap();
    forgets(store, folder.path(), &ana, "zanzibar", &ben).await;
}

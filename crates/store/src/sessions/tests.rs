use std::sync::Arc;

use tandem_types::{Code, SessionId, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::testing::{at, days, forgets, holds, key, turn, user};

pub(super) type Fresh = (TempDir, Arc<dyn SessionStore>);

pub(super) fn sqlite() -> Fresh {
    sqlite_within(Limits::default())
}

fn sqlite_within(limits: Limits) -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteSessions::open(folder.path().join("sessions.db"), limits).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite_within).await;
}

/// What every [`SessionStore`] promises.
pub(crate) async fn suite(within: impl Fn(Limits) -> Fresh) {
    let fresh = || within(Limits::default());
    begins_ends_and_lists(&*fresh().1).await;
    keeps_people_apart(&*fresh().1).await;
    says_once_what_is_sent_twice(&*fresh().1).await;
    refuses_what_ended(&*fresh().1).await;
    puts_amended_words_first(&*fresh().1).await;
    fits_the_window(&*fresh().1).await;
    stands_a_summary_before_the_window(&*fresh().1).await;
    finds_words(&*fresh().1).await;
    makes_room_for_the_101st(&*fresh().1).await;
    sweeps_the_idle(&*fresh().1).await;
    keeps_as_long_as_asked(&*fresh().1).await;
    keeps_to_other_limits(&*within(Limits { open: 2, idle: Duration::from_secs(5), keep_days: None }).1).await;
    remembers_what_was_handed_over(&*fresh().1).await;
    let (folder, store) = fresh();
    forgets_a_person(&folder, &*store).await;
    let (folder, store) = fresh();
    deletes_for_good(&folder, &*store).await;
}

pub(super) fn new(name: &str, id: Option<&str>) -> NewSession {
    NewSession {
        user: user(name),
        id: id.map(|id| SessionId::new(id).unwrap()),
        channel: "cli".into(),
        language: "en".into(),
        consent: Consent::Serve,
    }
}

pub(super) fn said(n: u128, speaker: Speaker, text: &str, tokens: u32) -> NewEntry {
    NewEntry {
        turn: turn(n),
        speaker,
        text: text.into(),
        language: "en".into(),
        spans: String::new(),
        handler: String::new(),
        source: String::new(),
        tokens,
    }
}

/// Begins a session of `name` at `now` and says `texts` in it, one second apart, with 10 tokens each.
pub(super) async fn talk(store: &dyn SessionStore, name: &str, texts: &[&str], now: Timestamp) -> SessionId {
    let seed = seed_of(name, now);
    let id = store.create(key(seed), new(name, None), now).await.unwrap().session.id;
    for (n, text) in (1..).zip(texts) {
        let later = Timestamp(now.0 + n as i64 * 1_000_000);
        let entry = said(seed + n, Speaker::User, text, 10);
        assert_eq!(store.append(key(seed + n), &user(name), &id, entry, later).await.unwrap(), n as u64);
    }
    id
}

/// A number of its own for each conversation of the tests.
fn seed_of(name: &str, now: Timestamp) -> u128 {
    let name = name.bytes().fold(0u128, |sum, byte| sum * 256 + u128::from(byte));
    (name << 64 | u128::from(now.0 as u64)) << 12
}

fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(Entry::words).collect()
}

const ALL: Budget = Budget { tokens: 2_000, items: 20 };

async fn begins_ends_and_lists(store: &dyn SessionStore) {
    let ana = user("ana");
    let first = store.create(key(1), new("ana", None), at(0)).await.unwrap().session;
    assert_eq!((first.created, first.last, first.ended, first.entries), (at(0), at(0), None, 0));
    let named = store.create(key(2), new("ana", Some("kitchen")), at(10)).await.unwrap().session;
    assert_eq!(store.create(key(3), new("ana", Some("kitchen")), at(20)).await.unwrap().session, named);
    let line = "  What is\n the best way to keep basil alive through the whole winter?  ";
    store.append(key(4), &ana, &first.id, said(1, Speaker::User, line, 9), at(30)).await.unwrap();
    store.append(key(5), &ana, &first.id, said(1, Speaker::Assistant, "Light.", 2), at(31)).await.unwrap();
    let first = store.session(&ana, &first.id).await.unwrap();
    assert_eq!(
        (first.title.as_str(), first.last, first.entries),
        ("What is the best way to keep basil alive through the whole w…", at(31), 2)
    );
    let page = store.sessions(&ana, Page { size: 1, token: String::new() }).await.unwrap();
    assert_eq!(page.items, std::slice::from_ref(&first));
    let page = store.sessions(&ana, Page { size: 1, token: page.next }).await.unwrap();
    assert_eq!((page.items, page.next), (vec![named], String::new()));
    assert_eq!(store.open_sessions().await.unwrap(), 2);
    let ended = store.end(&ana, &first.id, at(40)).await.unwrap();
    assert_eq!(ended.ended, Some(at(40)));
    assert_eq!(store.end(&ana, &first.id, at(50)).await.unwrap(), ended);
    assert_eq!(store.open_sessions().await.unwrap(), 1);
    let page = store.entries(&ana, &first.id, Page { size: 1, token: String::new() }).await.unwrap();
    let rest = store.entries(&ana, &first.id, Page { size: 1, token: page.next }).await.unwrap();
    assert_eq!((texts(&page.items), texts(&rest.items), rest.next.as_str()), (vec![line], vec!["Light."], ""));
    assert_eq!(rest.items[0].at, at(31));
}

async fn keeps_people_apart(store: &dyn SessionStore) {
    let id = talk(store, "ana", &["mine"], at(0)).await;
    let ben = user("ben");
    let page = Page::default;
    let search = Search { query: "mine".into(), session: None, from: at(0), to: at(100), limit: 0 };
    assert!(store.search(&ben, search.clone()).await.unwrap().is_empty());
    assert!(store.sessions(&ben, page()).await.unwrap().items.is_empty());
    let theirs = store.entries(&user("ana"), &id, page()).await.unwrap().items[0].said.turn;
    let amendment = Amendment { turn: theirs, speaker: Speaker::User, text: "x".into(), tokens: 1 };
    let summary = Summary { through: 1, turns: vec![], text: "x".into(), tokens: 1, model: String::new(), at: at(0) };
    let refusals = [
        store.session(&ben, &id).await.err(),
        store.entries(&ben, &id, page()).await.err(),
        store.window(&ben, &id, ALL).await.err(),
        store.turn(&ben, theirs).await.err(),
        store.append(key(1), &ben, &id, said(9, Speaker::User, "x", 1), at(2)).await.err(),
        store.amend(key(2), &ben, &id, amendment, at(2)).await.err(),
        store.end(&ben, &id, at(2)).await.err(),
        store.delete(key(3), &ben, &id, at(2)).await.err(),
        store.put_summary(&ben, &id, summary).await.err(),
        store.to_summarise(&ben, &id, ALL).await.err(),
        store.remembered(&ben, &id).await.err(),
    ];
    for (number, refusal) in refusals.into_iter().enumerate() {
        assert_eq!(refusal.map(|fault| fault.code), Some(Code::NotFound), "call {number}");
    }
    let taken = store.create(key(3), new("ben", Some(id.as_str())), at(3)).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict);
    assert_eq!(texts(&store.window(&user("ana"), &id, ALL).await.unwrap().entries), ["mine"]);
}

async fn says_once_what_is_sent_twice(store: &dyn SessionStore) {
    let ana = user("ana");
    let created = store.create(key(1), new("ana", None), at(0)).await.unwrap();
    assert_eq!(store.create(key(1), new("ana", None), at(5)).await.unwrap(), created);
    let id = created.session.id;
    let entry = said(1, Speaker::User, "once", 1);
    for now in [1, 2] {
        assert_eq!(store.append(key(2), &ana, &id, entry.clone(), at(now)).await.unwrap(), 1);
    }
    let other = store.append(key(2), &ana, &id, said(1, Speaker::User, "twice", 1), at(3)).await.unwrap_err();
    assert_eq!((other.code, other.reason.as_str()), (Code::Conflict, tandem_types::reason::KEY_REUSED));
    assert_eq!(store.append(key(2), &ana, &id, entry, at(2 + 72 * 3_600)).await.unwrap(), 2);
    assert_eq!(store.session(&ana, &id).await.unwrap().entries, 2);
}

async fn refuses_what_ended(store: &dyn SessionStore) {
    let ana = user("ana");
    let id = store.create(key(1), new("ana", Some("den")), at(0)).await.unwrap().session.id;
    store.end(&ana, &id, at(1)).await.unwrap();
    let append = store.append(key(2), &ana, &id, said(1, Speaker::User, "late", 1), at(2)).await.unwrap_err();
    let create = store.create(key(3), new("ana", Some("den")), at(2)).await.unwrap_err();
    for fault in [append, create] {
        assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, crate::reason::ENDED));
    }
}

async fn puts_amended_words_first(store: &dyn SessionStore) {
    let ana = user("ana");
    let id = store.create(key(1), new("ana", None), at(0)).await.unwrap().session.id;
    store.append(key(2), &ana, &id, said(1, Speaker::User, "hello", 1), at(1)).await.unwrap();
    store.append(key(3), &ana, &id, said(1, Speaker::Assistant, "Hello there, traveller", 40), at(2)).await.unwrap();
    let spoken = Amendment { turn: turn(1), speaker: Speaker::Assistant, text: "Hello".into(), tokens: 4 };
    assert_eq!(store.amend(key(4), &ana, &id, spoken.clone(), at(3)).await.unwrap(), 2);
    let entries = store.turn(&ana, turn(1)).await.unwrap();
    assert_eq!(texts(&entries), ["hello", "Hello"]);
    assert_eq!((entries[1].said.text.as_str(), entries[1].said.tokens), ("Hello there, traveller", 4));
    let window = store.window(&ana, &id, ALL).await.unwrap();
    assert_eq!((texts(&window.entries), window.tokens), (vec!["hello", "Hello"], 5));
    let find = |query: &str| Search { query: query.into(), session: None, from: at(0), to: at(9), limit: 0 };
    assert!(store.search(&ana, find("traveller")).await.unwrap().is_empty());
    assert_eq!(store.search(&ana, find("hello")).await.unwrap().len(), 2);
    let nothing = Amendment { turn: turn(2), ..spoken };
    assert_eq!(store.amend(key(5), &ana, &id, nothing, at(4)).await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.turn(&ana, turn(2)).await.unwrap_err().code, Code::NotFound);
}

async fn fits_the_window(store: &dyn SessionStore) {
    let ana = user("ana");
    let words: Vec<String> = (1..=25).map(|n| format!("word {n}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let id = talk(store, "ana", &words, at(0)).await;
    for (tokens, items, first, truncated) in
        [(2_000, 20, 6, true), (2_000, 25, 1, false), (95, 20, 17, true), (9, 20, 26, true), (0, 0, 26, true)]
    {
        let window = store.window(&ana, &id, Budget { tokens, items }).await.unwrap();
        assert_eq!(texts(&window.entries), words[first - 1..], "{tokens} {items}");
        assert_eq!((window.truncated, window.tokens), (truncated, 10 * window.entries.len() as u32));
        assert_eq!(window.summary, None);
    }
    // Nobody counted: taken for a token per three characters, so the window still ends.
    let long = "ang haba nito ".repeat(50);
    store.append(key(1), &ana, &id, said(1, Speaker::User, &long, 0), at(60)).await.unwrap();
    let window = store.window(&ana, &id, Budget { tokens: 250, items: 20 }).await.unwrap();
    assert_eq!((window.entries.len(), window.tokens), (2, 244));
}

async fn stands_a_summary_before_the_window(store: &dyn SessionStore) {
    let ana = user("ana");
    let words: Vec<String> = (1..=10).map(|n| format!("word {n}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let id = talk(store, "ana", &words, at(0)).await;
    let budget = Budget { tokens: 50, items: 20 };
    let asked = store.to_summarise(&ana, &id, budget).await.unwrap().unwrap();
    assert_eq!((asked.former, texts(&asked.entries)), (None, words[..5].to_vec()));
    let turns = asked.entries.iter().map(|e| e.said.turn).collect();
    let summary =
        Summary { through: 5, turns, text: "Five words.".into(), tokens: 20, model: "tiny".into(), at: at(20) };
    store.put_summary(&ana, &id, summary.clone()).await.unwrap();
    // The summary takes 20 tokens, so two more entries leave the window, and it does not cover them yet.
    let window = store.window(&ana, &id, budget).await.unwrap();
    assert_eq!(
        (texts(&window.entries), &window.summary, window.truncated),
        (words[7..].to_vec(), &Some(summary.clone()), true)
    );
    assert_eq!(window.tokens, 50);
    let asked = store.to_summarise(&ana, &id, budget).await.unwrap().unwrap();
    assert_eq!((asked.former.as_ref(), texts(&asked.entries)), (Some(&summary), words[5..7].to_vec()));
    let wider = Summary { through: 7, text: "Seven words.".into(), ..summary.clone() };
    store.put_summary(&ana, &id, wider.clone()).await.unwrap();
    let window = store.window(&ana, &id, budget).await.unwrap();
    assert_eq!((window.summary.as_ref(), window.truncated), (Some(&wider), false));
    assert_eq!(store.to_summarise(&ana, &id, budget).await.unwrap(), None);
    let late = store.put_summary(&ana, &id, summary).await.unwrap_err();
    assert_eq!((late.code, late.reason.as_str()), (Code::Conflict, crate::reason::STALE));
    let whole = store.window(&ana, &id, ALL).await.unwrap();
    assert_eq!((whole.entries.len(), whole.summary, whole.truncated), (10, None, false));
}

async fn finds_words(store: &dyn SessionStore) {
    let ana = user("ana");
    let garden = talk(store, "ana", &["water the plants", "the plants need water, much water", "mañana"], at(0)).await;
    let kitchen = talk(store, "ana", &["boil the rice", "mag-aral tayo"], at(100)).await;
    let search = |query: &str, session: Option<&SessionId>, from: i64, to: i64, limit: u32| Search {
        query: query.into(),
        session: session.cloned(),
        from: at(from),
        to: at(to),
        limit,
    };
    for (asked, found) in [
        (search("water", None, 0, 1_000, 0), vec!["the plants need water, much water", "water the plants"]),
        (search("water rice", None, 0, 1_000, 1), vec!["boil the rice"]),
        (search("water", None, 0, 1_000, 1), vec!["the plants need water, much water"]),
        (search("the", Some(&kitchen), 0, 1_000, 0), vec!["boil the rice"]),
        (search("water", Some(&kitchen), 0, 1_000, 0), vec![]),
        (search("manana", Some(&garden), 0, 1_000, 0), vec!["mañana"]),
        (search("aral", None, 0, 1_000, 0), vec!["mag-aral tayo"]),
        (search("the", None, 2, 100, 0), vec!["the plants need water, much water"]),
        (search("plants\" OR text:rice *", Some(&garden), 0, 2, 0), vec!["water the plants"]),
    ] {
        let hits = store.search(&ana, asked.clone()).await.unwrap();
        assert_eq!(hits.iter().map(|hit| hit.entry.words()).collect::<Vec<_>>(), found, "{asked:?}");
        assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
    }
    let empty = store.search(&ana, search(" ?! ", None, 0, 1_000, 0)).await.unwrap_err();
    assert_eq!((empty.code, empty.violations[0].field.as_str()), (Code::InvalidArgument, "query"));
}

async fn makes_room_for_the_101st(store: &dyn SessionStore) {
    for n in 0..100 {
        store.create(key(n), new("ana", Some(&format!("s{n}"))), at(n as i64)).await.unwrap();
    }
    let s0 = SessionId::new("s0").unwrap();
    store.append(key(500), &user("ana"), &s0, said(1, Speaker::User, "still here", 1), at(200)).await.unwrap();
    let created = store.create(key(100), new("ben", None), at(201)).await.unwrap();
    assert_eq!(created.ended, [SessionId::new("s1").unwrap()]);
    assert_eq!(store.open_sessions().await.unwrap(), 100);
    assert_eq!(store.session(&user("ana"), &created.ended[0]).await.unwrap().ended, Some(at(201)));
}

async fn sweeps_the_idle(store: &dyn SessionStore) {
    let old = talk(store, "ana", &["a"], at(0)).await;
    let newer = talk(store, "ben", &["b"], at(100)).await;
    assert_eq!(store.sweep_idle(at(3_600)).await.unwrap(), []);
    let swept = store.sweep_idle(at(3_601)).await.unwrap();
    assert_eq!(swept.iter().map(|s| (&s.id, s.ended)).collect::<Vec<_>>(), [(&old, Some(at(3_601)))]);
    assert_eq!(store.session(&user("ben"), &newer).await.unwrap().ended, None);
}

async fn keeps_as_long_as_asked(store: &dyn SessionStore) {
    let [ana, ben, cora, dan] = ["ana", "ben", "cora", "dan"].map(user);
    store.keep_days(&ben, Some(0)).await.unwrap();
    store.keep_days(&cora, None).await.unwrap();
    store.keep_days(&dan, Some(1)).await.unwrap();
    store.keep_days(&dan, Some(60)).await.unwrap();
    let mut ids = Vec::new();
    for person in [&ana, &ben, &cora, &dan] {
        ids.push(talk(store, person.as_str(), &["one", "two"], at(0)).await);
    }
    let left = async || {
        let mut left = Vec::new();
        for (person, id) in [&ana, &ben, &cora, &dan].into_iter().zip(&ids) {
            left.push(store.session(person, id).await.map_or(0, |s| 1 + s.entries));
        }
        left
    };
    assert_eq!(store.sweep_retention(at(10)).await.unwrap(), Erased::default());
    store.end(&ben, &ids[1], at(20)).await.unwrap();
    assert_eq!(store.sweep_retention(at(21)).await.unwrap(), Erased { entries: 2, sessions: 1, keys: 0 });
    assert_eq!(left().await, [3, 0, 3, 3]);
    // Ana's first entry is 30 days old; her session is still open and stays.
    assert_eq!(store.sweep_retention(at(days(30) + 1)).await.unwrap(), Erased { entries: 1, sessions: 0, keys: 12 });
    assert_eq!(left().await, [2, 0, 3, 3]);
    assert_eq!(
        store.append(key(1), &ana, &ids[0], said(1, Speaker::User, "three", 1), at(days(30) + 2)).await.unwrap(),
        3
    );
    store.sweep_retention(at(days(61))).await.unwrap();
    assert_eq!(left().await, [1, 0, 3, 1]);
    assert_eq!(store.session(&ana, &ids[0]).await.unwrap().title, "");
}

async fn keeps_to_other_limits(store: &dyn SessionStore) {
    let (ana, ben) = (user("ana"), user("ben"));
    let first = talk(store, "ana", &["one"], at(0)).await;
    let second = talk(store, "ben", &["one"], at(2)).await;
    let created = store.create(key(1), new("ana", None), at(4)).await.unwrap();
    assert_eq!(created.ended, std::slice::from_ref(&first));
    let idle = store.sweep_idle(at(8)).await.unwrap();
    assert_eq!(idle.into_iter().map(|session| session.id).collect::<Vec<_>>(), std::slice::from_ref(&second));
    store.keep_days(&ben, Some(0)).await.unwrap();
    assert_eq!(store.sweep_retention(at(days(9_999))).await.unwrap().entries, 1);
    assert_eq!(store.session(&ana, &first).await.unwrap().entries, 1);
    assert_eq!(store.session(&ben, &second).await.unwrap_err().code, Code::NotFound);
}

async fn remembers_what_was_handed_over(store: &dyn SessionStore) {
    let ana = user("ana");
    let first = talk(store, "ana", &["a"], at(0)).await;
    let second = talk(store, "ana", &["b"], at(100)).await;
    assert!(store.to_remember(10).await.unwrap().is_empty());
    store.end(&ana, &second, at(200)).await.unwrap();
    store.end(&ana, &first, at(300)).await.unwrap();
    let waiting = store.to_remember(1).await.unwrap();
    assert_eq!(waiting[0].id, second);
    store.remembered(&ana, &second).await.unwrap();
    let waiting = store.to_remember(10).await.unwrap();
    assert_eq!(waiting.iter().map(|s| &s.id).collect::<Vec<_>>(), [&first]);
}

async fn forgets_a_person(folder: &TempDir, store: &dyn SessionStore) {
    let (ana, ben) = (user("ana"), user("ben"));
    let id = talk(store, "ana", &["my zanzibar secret", "and more of zanzibar"], at(0)).await;
    let summary = Summary {
        through: 1,
        turns: vec![turn(1)],
        text: "zanzibar".into(),
        tokens: 1,
        model: "tiny".into(),
        at: at(3),
    };
    store.put_summary(&ana, &id, summary).await.unwrap();
    let said =
        store.turn(&ana, store.entries(&ana, &id, Page::default()).await.unwrap().items[0].said.turn).await.unwrap();
    let amendment =
        Amendment { turn: said[0].said.turn, speaker: Speaker::User, text: "zanzibarian".into(), tokens: 0 };
    store.amend(key(1), &ana, &id, amendment, at(4)).await.unwrap();
    store.keep_days(&ana, Some(400)).await.unwrap();
    talk(store, "ben", &["hello"], at(0)).await;
    forgets(store, folder.path(), &ana, "zanzibar", &ben).await;
}

async fn deletes_for_good(folder: &TempDir, store: &dyn SessionStore) {
    let ana = user("ana");
    let id = talk(store, "ana", &["my zanzibar secret", "two"], at(0)).await;
    assert!(holds(folder.path(), "zanzibar"));
    // Who comes back by name is shown its title; what is kept of that call must not outlive the session.
    let again = store.create(key(1), new("ana", Some(id.as_str())), at(3)).await.unwrap();
    assert_eq!(again.session.title, "my zanzibar secret");
    assert_eq!(store.delete(key(2), &ana, &id, at(4)).await.unwrap(), 2);
    assert_eq!(store.delete(key(2), &ana, &id, at(5)).await.unwrap(), 2, "who asks again after a lost answer gets it");
    assert_eq!(store.delete(key(3), &ana, &id, at(5)).await.unwrap_err().code, Code::NotFound);
    assert!(!holds(folder.path(), "zanzibar"));
    assert_eq!(store.session(&ana, &id).await.unwrap_err().code, Code::NotFound);
}

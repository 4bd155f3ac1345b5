use std::sync::Arc;

use tandem_types::Code;
use tempfile::TempDir;

use super::*;
use crate::testing::{at, days, forgets, key, user};

type Fresh = (TempDir, Arc<dyn ActionStore>);

fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteActions::open(folder.path().join("system.db")).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite).await;
}

/// What every [`ActionStore`] promises.
pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
    does_one_thing_at_a_time_to_a_group(&*fresh().1).await;
    announces_maintenance(&*fresh().1).await;
    follows_a_data_request_to_its_end(&*fresh().1).await;
    knows_the_files_of_exports(&*fresh().1).await;
    let (folder, store) = fresh();
    let ana = NewAction { actor: "zanzibar".into(), ..action("a") };
    store.begin(key(1), ana, at(0)).await.unwrap();
    store.begin(key(2), action("b"), at(0)).await.unwrap();
    forgets(&*store, folder.path(), &user("zanzibar"), "zanzibar", &user("owner")).await;
}

fn group(name: &str) -> GroupId {
    format!("mainpc/{name}").parse().unwrap()
}

fn action(on: &str) -> NewAction {
    NewAction {
        kind: "restart".into(),
        group: group(on),
        target: format!("mainpc/{on}/X"),
        actor: "owner".into(),
        reason: "asked".into(),
        drain_ms: 5_000,
    }
}

async fn does_one_thing_at_a_time_to_a_group(store: &dyn ActionStore) {
    let first = store.begin(key(1), action("a"), at(0)).await.unwrap();
    assert_eq!((first.state, first.fencing, first.finished), (ActionState::Running, 1, None));
    assert_eq!(store.begin(key(1), action("a"), at(1)).await.unwrap(), first);
    let busy = store.begin(key(2), action("a"), at(1)).await.unwrap_err();
    assert_eq!((busy.code, busy.reason.as_str()), (Code::Conflict, crate::reason::BUSY));
    assert!(busy.message.contains(&first.id) && busy.message.contains("owner"), "{busy}");
    let other = store.begin(key(3), action("b"), at(2)).await.unwrap();
    let pending = store.note(&first.id, ActionState::Pending, "pc2 is away", at(3)).await.unwrap();
    assert_eq!(store.unfinished().await.unwrap(), [pending, other.clone()]);
    assert_eq!(store.begin(key(4), action("a"), at(3)).await.unwrap_err().code, Code::Conflict);
    let done = store.note(&first.id, ActionState::Done, "ready again", at(4)).await.unwrap();
    assert_eq!((done.finished, done.detail.as_str()), (Some(at(4)), "ready again"));
    assert_eq!(store.note(&first.id, ActionState::Failed, "", at(5)).await.unwrap_err().reason, crate::reason::ENDED);
    assert_eq!(store.note("none", ActionState::Failed, "", at(5)).await.unwrap_err().code, Code::NotFound);
    let second = store.begin(key(4), action("a"), at(6)).await.unwrap();
    assert_eq!(second.fencing, 2);
    let page = store.actions(Page { size: 2, token: String::new() }).await.unwrap();
    let rest = store.actions(Page { size: 2, token: page.next }).await.unwrap();
    assert_eq!((page.items, rest.items), (vec![second, other], vec![done]));
    assert_eq!(store.prune(at(days(400) + 4)).await.unwrap(), 1);
}

async fn announces_maintenance(store: &dyn ActionStore) {
    let window = |from, to| NewMaintenance { scope: "pc2".into(), from: at(from), to: at(to), reason: "disk".into() };
    let later = store.announce(key(1), window(100, 200), at(0)).await.unwrap();
    let sooner = store.announce(key(2), window(0, 50), at(0)).await.unwrap();
    assert_eq!(store.maintenance(at(10)).await.unwrap(), [sooner, later.clone()]);
    assert_eq!(store.maintenance(at(50)).await.unwrap(), [later]);
    assert_eq!(store.maintenance(at(200)).await.unwrap(), []);
    assert_eq!(store.announce(key(3), window(5, 5), at(0)).await.unwrap_err().code, Code::InvalidArgument);
}

async fn follows_a_data_request_to_its_end(store: &dyn ActionStore) {
    let (ana, groups) = (user("ana"), vec![group("b"), group("a")]);
    let ask = async |n, groups| store.request_data(key(n), DataKind::Forget, &ana, groups, String::new(), at(0)).await;
    let asked = ask(1, groups.clone()).await.unwrap();
    assert_eq!(ask(1, vec![]).await.unwrap(), asked);
    assert_eq!(asked.groups.iter().map(|g| g.group.clone()).collect::<Vec<_>>(), groups);
    store.waits_for(&asked.id, &groups[0], "away").await.unwrap();
    assert_eq!(store.data_request(&asked.id).await.unwrap().groups[0].waits_for, "away");
    let rows = BTreeMap::from([("sessions.db".to_owned(), 12)]);
    let half = store.answered(&asked.id, &groups[1], rows.clone(), at(5)).await.unwrap();
    assert_eq!((half.closed, &half.groups[1].stores), (None, &rows));
    assert_eq!(store.open_data_requests().await.unwrap(), [half]);
    let closed = store.answered(&asked.id, &groups[0], BTreeMap::new(), at(9)).await.unwrap();
    assert_eq!((closed.closed, closed.groups[0].waits_for.as_str()), (Some(at(9)), ""));
    assert_eq!(store.open_data_requests().await.unwrap(), []);
    for wrong in [
        store.answered("none", &groups[0], BTreeMap::new(), at(9)).await.err(),
        store.answered(&asked.id, &group("c"), BTreeMap::new(), at(9)).await.err(),
        store.waits_for(&asked.id, &groups[0], "late").await.err(),
        store.data_request("none").await.err(),
    ] {
        assert_eq!(wrong.map(|fault| fault.code), Some(Code::NotFound));
    }
    // The proof outlives the forgetting.
    store.forget(&ana).await.unwrap();
    assert_eq!(store.data_request(&asked.id).await.unwrap(), closed);
    assert_eq!(store.prune(at(days(30) + 8)).await.unwrap(), 0);
    assert_eq!(store.prune(at(days(30) + 9)).await.unwrap(), 1);
}

async fn knows_the_files_of_exports(store: &dyn ActionStore) {
    let (ana, juan, groups) = (user("ana"), user("juan"), vec![group("a")]);
    let ask = async |n, kind, who: &UserId, path: &str| {
        store.request_data(key(n), kind, who, groups.clone(), path.to_owned(), at(0)).await.unwrap()
    };
    ask(1, DataKind::Forget, &ana, "").await;
    let open = ask(2, DataKind::Export, &ana, "exports/2").await;
    let other = ask(3, DataKind::Export, &juan, "exports/3").await;
    let other = store.answered(&other.id, &groups[0], BTreeMap::new(), at(1)).await.unwrap();
    assert_eq!(store.exports(Some(&ana)).await.unwrap(), std::slice::from_ref(&open));
    let mut all = store.exports(None).await.unwrap();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(all, [open.clone(), other.clone()]);
    store.withdrawn(&open.id, at(2)).await.unwrap();
    store.withdrawn(&other.id, at(2)).await.unwrap();
    assert_eq!(store.exports(None).await.unwrap(), []);
    let left = store.data_request(&open.id).await.unwrap();
    assert_eq!((left.closed, left.path.as_str()), (Some(at(2)), ""));
    assert_eq!(store.data_request(&other.id).await.unwrap().closed, other.closed);
    assert_eq!(store.withdrawn("none", at(2)).await.unwrap_err().code, Code::NotFound);
}

use std::sync::Arc;

use tandem_types::Code;
use tempfile::TempDir;

use super::*;
use crate::testing::at;

type Fresh = (TempDir, Arc<dyn LeaseStore>);

fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteLeases::open(folder.path().join("registry.db")).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite).await;
    keeps_its_counters_over_a_restart().await;
}

/// What every [`LeaseStore`] promises.
pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
    counts_revisions_and_owners(&*fresh().1).await;
    applies_all_or_nothing(&*fresh().1).await;
    tells_watchers_what_they_missed(&*fresh().1).await;
}

fn lease(group: &str, id: &str, expires: i64) -> Lease {
    let group = format!("mainpc/{group}").parse().unwrap();
    Lease { id: id.into(), group, generation: 1, expires: at(expires), body: "{}".into() }
}

fn end(lease: &Lease, reason: &str) -> Change {
    Change::End { group: lease.group.clone(), id: lease.id.clone(), reason: reason.into() }
}

fn brief(records: &[Record]) -> Vec<(u64, &str, u64, bool)> {
    records.iter().map(|r| (r.revision, r.lease.id.as_str(), r.fencing, r.ended.is_some())).collect()
}

async fn counts_revisions_and_owners(store: &dyn LeaseStore) {
    let (a1, b1, a2) = (lease("a", "a1", 15), lease("b", "b1", 15), lease("a", "a2", 40));
    let made = store.apply(vec![Change::Own(a1.clone()), Change::Own(b1.clone())], at(0)).await.unwrap();
    assert_eq!(brief(&made), [(1, "a1", 1, false), (2, "b1", 1, false)]);
    let later = Lease { expires: at(20), body: "{\"load\":1}".into(), ..a1.clone() };
    let made = store.apply(vec![Change::Update(later.clone())], at(5)).await.unwrap();
    assert_eq!((brief(&made), &made[0].lease), (vec![(3, "a1", 1, false)], &later));
    store.apply(vec![Change::Own(a2), end(&b1, "expired")], at(20)).await.unwrap();
    let table = store.table().await.unwrap();
    assert_eq!((table.revision, brief(&table.records)), (5, vec![(4, "a2", 2, false), (5, "b1", 1, true)]));
    assert_eq!(table.records[1].ended, Some((at(20), "expired".into())));
    let made = store.apply(vec![Change::Own(b1)], at(21)).await.unwrap();
    assert_eq!(brief(&made), [(6, "b1", 2, false)]);
}

async fn applies_all_or_nothing(store: &dyn LeaseStore) {
    let (a, b) = (lease("a", "a1", 15), lease("b", "b1", 15));
    store.apply(vec![Change::Own(a.clone())], at(0)).await.unwrap();
    let stranger = Lease { id: "a0".into(), ..a.clone() };
    for wrong in [Change::Update(stranger.clone()), Change::Update(b.clone()), end(&stranger, "x"), end(&b, "x")] {
        let fault = store.apply(vec![end(&a, "stopped"), wrong], at(1)).await.unwrap_err();
        assert_eq!(fault.code, Code::NotFound);
    }
    assert_eq!(brief(&store.table().await.unwrap().records), [(1, "a1", 1, false)]);
}

async fn tells_watchers_what_they_missed(store: &dyn LeaseStore) {
    let leases = ["a", "b", "c"].map(|g| lease(g, g, 15));
    store.apply(leases.iter().cloned().map(Change::Own).collect(), at(0)).await.unwrap();
    store.apply(vec![end(&leases[0], "stopped")], at(100)).await.unwrap();
    store.apply(vec![Change::Update(leases[1].clone())], at(200)).await.unwrap();
    let ids = async |after| store.since(after).await.map(|t| brief(&t.records).iter().map(|r| r.0).collect::<Vec<_>>());
    assert_eq!(ids(0).await.unwrap(), [3, 4, 5]);
    assert_eq!(ids(4).await.unwrap(), [5]);
    assert_eq!(ids(5).await.unwrap(), [0u64; 0]);
    assert_eq!(store.prune(at(699)).await.unwrap(), 0);
    assert_eq!(store.prune(at(700)).await.unwrap(), 1);
    assert_eq!(ids(4).await.unwrap(), [5]);
    for gone in [0, 3, 6] {
        let fault = ids(gone).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, crate::reason::STALE), "{gone}");
    }
    assert_eq!(brief(&store.table().await.unwrap().records), [(3, "c", 1, false), (5, "b", 1, false)]);
}

async fn keeps_its_counters_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    let store = SqliteLeases::open(&path).unwrap();
    let a = lease("a", "a1", 15);
    store.apply(vec![Change::Own(a.clone()), end(&a, "stopped")], at(0)).await.unwrap();
    store.prune(at(10_000)).await.unwrap();
    store.db().close().await.unwrap();
    let made = SqliteLeases::open(&path).unwrap().apply(vec![Change::Own(a)], at(10_001)).await.unwrap();
    assert_eq!(brief(&made), [(3, "a1", 2, false)]);
}

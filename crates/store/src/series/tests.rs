use std::sync::Arc;

use proptest::prelude::*;
use tandem_types::Code;
use tempfile::TempDir;

use super::*;
use crate::db::{Db, Migration};
use crate::testing::{at, days};

type Fresh = (TempDir, Arc<dyn SeriesStore>);

/// A policy in which everything happens within an hour.
const SHORT: Policy = Policy {
    raw: RawKept::Newest(10),
    means: &[
        MeansKept { step: Duration::from_mins(1), kept: Duration::from_mins(30) },
        MeansKept { step: Duration::from_mins(5), kept: Duration::from_hours(2) },
    ],
    series_per_owner: 2,
    events: Duration::from_hours(1),
};

fn sqlite(policy: Policy) -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(folder.path().join("twin.db"), &[Migration { name: "series", sql: &[SCHEMA] }]).unwrap();
    (folder, Arc::new(SqliteSeries::new(db, policy)))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite).await;
}

/// What every [`SeriesStore`] promises.
pub(crate) async fn suite(fresh: impl Fn(Policy) -> Fresh) {
    keeps_to_the_limit_of_each_owner(&*fresh(SHORT).1).await;
    rolls_up_and_finds_the_level(&*fresh(SHORT).1).await;
    keeps_raw_for_its_time(&*fresh(Policy::TELEMETRY).1).await;
    matches_labels(&*fresh(Policy::TWIN).1).await;
    tells_what_happened(&*fresh(SHORT).1).await;
}

fn key(owner: &str, name: &str, labels: &[(&str, &str)]) -> SeriesKey {
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    SeriesKey { owner: owner.into(), name: name.into(), labels }
}

fn sample(name: &str, seconds: i64, value: f64) -> Sample {
    Sample { key: key("mainpc/a", name, &[]), at: at(seconds), value }
}

fn query(name: &str, from: i64, to: i64, step: u64) -> Query {
    let (from, to, step) = (at(from), at(to), Duration::from_secs(step));
    Query { name: name.into(), owner: None, labels: BTreeMap::new(), from, to, step }
}

/// Seconds and means of the first series found.
async fn points(store: &dyn SeriesStore, query: Query) -> Vec<(i64, f64)> {
    let found = store.query(query).await.unwrap().remove(0);
    found.points.iter().map(|p| ((p.at.micros() - at(0).micros()) / 1_000_000, p.mean)).collect()
}

async fn keeps_to_the_limit_of_each_owner(store: &dyn SeriesStore) {
    let batch = vec![
        sample("one", 0, 1.0),
        sample("two", 0, f64::NAN),
        sample("two", 0, 2.0),
        sample("three", 0, 3.0),
        sample("three", 1, 3.0),
        Sample { key: key("mainpc/b", "three", &[]), at: at(0), value: 3.0 },
        sample("one", 1, f64::INFINITY),
        sample("one", 1, 4.0),
    ];
    let appended = store.append(batch, at(1)).await.unwrap();
    let over_limit = BTreeMap::from([("mainpc/a".into(), BTreeMap::from([("three".into(), 2)]))]);
    let expected = Appended { kept: 4, not_finite: 2, over_limit };
    assert_eq!(appended, expected);
    let counts = BTreeMap::from([("mainpc/a".into(), 2), ("mainpc/b".into(), 1)]);
    assert_eq!(store.counts().await.unwrap(), counts);
    assert_eq!(points(store, query("one", 0, 9, 0)).await, [(0, 1.0), (1, 4.0)]);
    store.append(vec![sample("one", 1, 5.0)], at(1)).await.unwrap();
    assert_eq!(points(store, query("one", 0, 9, 0)).await, [(0, 1.0), (1, 5.0)]);
}

async fn rolls_up_and_finds_the_level(store: &dyn SeriesStore) {
    for seconds in (20..=1_220).step_by(20) {
        store.append(vec![sample("cpu", seconds, seconds as f64)], at(seconds)).await.unwrap();
    }
    // Raw: the newest ten.
    let raw = points(store, query("cpu", 1_040, 2_000, 0)).await;
    assert_eq!((raw.len(), raw[0], raw[9]), (10, (1_040, 1_040.0), (1_220, 1_220.0)));
    // Further back the finest that reaches there: 1-minute means, then raw from where they end.
    let minutes = points(store, query("cpu", 980, 2_000, 0)).await;
    assert_eq!(minutes[..3], [(960, 980.0), (1_020, 1_040.0), (1_080, 1_100.0)]);
    assert_eq!(minutes[3..], [(1_140, 1_160.0), (1_200, 1_200.0), (1_220, 1_220.0)]);
    // As wide as asked: 5-minute means, 1-minute means after them, raw at the end, each sample once.
    let wide = store.query(query("cpu", -300, 2_000, 300)).await.unwrap().remove(0);
    assert_eq!(wide.points.iter().map(|p| p.count).collect::<Vec<_>>(), [14, 15, 15, 15, 2]);
    let second = wide.points[1];
    assert_eq!((second.at, second.mean, second.low, second.high), (at(300), 440.0, 300.0, 580.0));
    assert_eq!(store.query(query("cpu", -300, 2_000, 3_600)).await.unwrap()[0].points[0].count, 61);
    // After 30 minutes the 1-minute means are gone and the wider ones stand in.
    let pruned = store.prune(at(1_800 + 900)).await.unwrap();
    assert_eq!((pruned.samples, pruned.means, pruned.series), (0, 15, 0));
    assert_eq!(points(store, query("cpu", 0, 700, 0)).await, [(0, 150.0), (300, 440.0), (600, 740.0)]);
    // In the end nothing is left but the newest raw ones.
    assert_eq!(store.prune(at(days(1))).await.unwrap().means, 5 + 4);
    assert_eq!(points(store, query("cpu", 0, 2_000, 0)).await.len(), 10);
    assert_eq!(store.drop_raw(at(1_200)).await.unwrap(), 8);
    assert_eq!(store.drop_raw(at(9_999)).await.unwrap(), 2);
    assert_eq!(store.prune(at(days(1))).await.unwrap(), Pruned { series: 1, ..Pruned::default() });
    assert_eq!(store.query(query("cpu", 0, 9, 0)).await.unwrap_err().code, Code::NotFound);
}

async fn keeps_raw_for_its_time(store: &dyn SeriesStore) {
    for hour in 0..72 {
        store.append(vec![sample("queue", hour * 3_600, hour as f64)], at(hour * 3_600)).await.unwrap();
    }
    let pruned = store.prune(at(72 * 3_600)).await.unwrap();
    assert_eq!((pruned.samples, pruned.means), (24, 0));
    let recent = points(store, query("queue", 24 * 3_600, 72 * 3_600, 0)).await;
    assert_eq!((recent.len(), recent[0]), (48, (24 * 3_600, 24.0)));
    let all = store.query(query("queue", -days(1), days(4), 0)).await.unwrap().remove(0);
    assert_eq!((all.points.len(), all.points[0].mean), (72, 0.0));
    assert_eq!(store.prune(at(days(40))).await.unwrap(), Pruned { samples: 48, means: 71, series: 1, happenings: 0 });
}

async fn matches_labels(store: &dyn SeriesStore) {
    let series = [("x", "ok"), ("y", "ok"), ("y", "no")];
    let batch = series.iter().zip(1..).map(|((rpc, code), value)| Sample {
        key: key("mainpc/a", "calls", &[("rpc", rpc), ("code", code)]),
        at: at(0),
        value: f64::from(value),
    });
    store.append(batch.collect(), at(0)).await.unwrap();
    store.append(vec![Sample { key: key("pc2/a", "calls", &[]), at: at(0), value: 4.0 }], at(0)).await.unwrap();
    let values = async |owner: Option<&str>, labels: &[(&str, &str)]| {
        let labels = key("", "", labels).labels;
        let found = store.query(Query { owner: owner.map(str::to_owned), labels, ..query("calls", 0, 1, 0) }).await;
        found.map(|series| series.iter().map(|s| s.points[0].mean).collect::<Vec<_>>()).map_err(|fault| fault.code)
    };
    assert_eq!(values(None, &[]).await.unwrap().len(), 4);
    assert_eq!(values(Some("pc2/a"), &[]).await, Ok(vec![4.0]));
    assert_eq!(values(None, &[("rpc", "y"), ("code", "no")]).await, Ok(vec![3.0]));
    assert_eq!(values(None, &[("code", "ok")]).await.unwrap().len(), 2);
    assert_eq!(values(None, &[("rpc", "z")]).await, Err(Code::NotFound));
}

async fn tells_what_happened(store: &dyn SeriesStore) {
    let happening = |kind: &str, subject: &str, seconds| Happening {
        kind: kind.into(),
        subject: subject.into(),
        detail: "{}".into(),
        at: at(seconds),
    };
    let all = [happening("node.away", "pc2", 1), happening("node.ready", "pc2", 2), happening("model", "smol", 2)];
    store.note(all.to_vec()).await.unwrap();
    let ask = async |filter, page| store.happenings(filter, page).await.unwrap();
    let first = ask(HappeningFilter::default(), Page { size: 2, token: String::new() }).await;
    let rest = ask(HappeningFilter::default(), Page { size: 2, token: first.next.clone() }).await;
    assert_eq!(
        (first.items, rest.items, rest.next.as_str()),
        (vec![all[2].clone(), all[1].clone()], vec![all[0].clone()], "")
    );
    let of = |kind: Option<&str>, subject: Option<&str>, from| HappeningFilter {
        kind: kind.map(str::to_owned),
        subject: subject.map(str::to_owned),
        from: at(from),
    };
    assert_eq!(ask(of(Some("model"), None, 0), Page::default()).await.items, [all[2].clone()]);
    assert_eq!(ask(of(None, Some("pc2"), 2), Page::default()).await.items, [all[1].clone()]);
    assert_eq!(store.prune(at(3_602)).await.unwrap().happenings, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However samples come, an answer over all of time counts each of them once and keeps their mean.
    #[test]
    fn no_sample_is_lost_or_counted_twice(
        pauses in proptest::collection::vec((1i64..120, -50f64..50.0), 1..80),
        step in prop::sample::select(vec![0u64, 60, 120, 300, 900]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_folder, store) = sqlite(Policy { raw: RawKept::Newest(100), ..SHORT });
            let (mut now, mut sum) = (0, 0.0);
            for (pause, value) in &pauses {
                now += pause;
                sum += value;
                store.append(vec![sample("x", now, *value)], at(now)).await.unwrap();
            }
            let found = store.query(query("x", -10_000, now + 1, step)).await.unwrap().remove(0);
            assert_eq!(found.points.iter().map(|p| p.count).sum::<u64>(), pauses.len() as u64);
            let total: f64 = found.points.iter().map(|p| p.mean * p.count as f64).sum();
            assert!((total - sum).abs() < 1e-6);
            assert!(found.points.windows(2).all(|pair| pair[0].at < pair[1].at));
        });
    }
}

//! What nodes measured, in the exchange between hubs.

use tandem_types::Timestamp;

use super::errors_and_peers::patient;
use super::*;

/// Time of the first sample, which is when the rig's clock begins.
const FIRST: i64 = 1_790_000_000;

fn at(seconds: i64) -> i64 {
    (FIRST + seconds) * 1_000_000
}

/// A hub of `pc2` that has measured at these seconds, and tells two batches at once; none while it is away.
fn other_hub(measured: Arc<Mutex<Option<Vec<i64>>>>) -> Service {
    let now = move || {
        let away = || Fault::unavailable(reason::PEER_AWAY, "the network is cut");
        measured.lock().unwrap().clone().ok_or_else(away)
    };
    let live = now.clone();
    Service::new()
        .unary(telemetry::SYNC_SERIES, move |_, request: pb::SyncSeriesRequest| {
            let measured = now();
            async move {
                let new: Vec<i64> = measured?.into_iter().map(at).filter(|at| *at > request.after_us).take(2).collect();
                let series = |group: &str| pb::PastSeries {
                    group: group.into(),
                    name: "load".into(),
                    samples: new.iter().map(|at| pb::Sample { at_us: *at, value: 1.0, ..Default::default() }).collect(),
                    ..Default::default()
                };
                let through_us = new.last().copied().unwrap_or_default();
                // A hub speaks for its own node only.
                let series = if new.is_empty() { vec![] } else { vec![series("pc2/infra_core"), series("solo/x")] };
                Ok(pb::SyncSeriesResponse { series, through_us, ..Default::default() })
            }
        })
        .unary(telemetry::QUERY_SERIES, move |_, _: pb::QuerySeriesRequest| {
            let answers = live();
            async move { answers.map(|_| pb::QuerySeriesResponse::default()) }
        })
}

#[tokio::test]
async fn what_another_node_measured_is_taken_over_once_and_told_while_it_is_away() {
    let toy = Toy::start(Act::Break).await;
    let measured = Arc::new(Mutex::new(Some(vec![0, 30, 60])));
    let groups =
        vec![group("solo/under_test", DEF.name, &toy.at), group("pc2/infra_core", DEF.name, "http://127.0.0.1:1")];
    let mut rig = Rig::new(&DEF)
        .settings(patient())
        .peer_in("pc2/infra_core".parse().unwrap(), DEF.name, other_hub(measured.clone()))
        .fleet(fleet(groups))
        .start()
        .await;
    let past = async |rig: &Running, group: &str| {
        let labels = [("group".to_owned(), group.to_owned())].into_iter().collect();
        let ask = pb::QuerySeriesRequest {
            name: "load".into(),
            labels,
            from_us: at(-1),
            to_us: at(9_999),
            ..Default::default()
        };
        let found = rig.client().unary(telemetry::QUERY_SERIES, ask, &rig.call()).await?.series;
        let times = |series: &pb::Series| series.samples.iter().map(|s| s.at_us / 1_000_000 - FIRST).collect();
        Ok::<Vec<Vec<i64>>, Fault>(found.iter().map(times).collect())
    };
    let is_away = |away: bool, seconds: &[i64]| {
        *measured.lock().unwrap() = (!away).then(|| seconds.to_vec());
    };
    rig.reconcile("past").await.unwrap();
    assert_eq!(past(&rig, "pc2/infra_core").await.unwrap(), Vec::<Vec<i64>>::new(), "its own hub answered");
    is_away(true, &[]);
    assert_eq!(past(&rig, "pc2/infra_core").await.unwrap(), [[0, 30, 60]]);
    assert_eq!(past(&rig, "solo/x").await.unwrap_err().code, Code::NotFound);

    rig.clock.advance(Duration::from_secs(3_600));
    rig.reconcile("past").await.unwrap();
    rig.restart().await;
    is_away(false, &[0, 30, 60, 90, 120, 3_600]);
    rig.reconcile("past").await.unwrap();
    rig.reconcile("past").await.unwrap();
    is_away(true, &[]);
    assert_eq!(past(&rig, "pc2/infra_core").await.unwrap(), [[0, 30, 60, 90, 120, 3_600]], "all of it, and once");
}

#[tokio::test]
async fn the_own_samples_are_told_after_a_time_and_no_older_than_a_day() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let began = rig.clock.now();
    for n in 0..3 {
        *toy.metrics.lock().unwrap() = format!("turns_total{{kind=\"text\"}} {n}\n");
        rig.reconcile("scrape").await.unwrap();
        rig.clock.advance(Duration::from_secs(30));
    }
    let ask = async |after: Timestamp| {
        let request = pb::SyncSeriesRequest { after_us: after.micros(), ..Default::default() };
        let answer = rig.client().unary(telemetry::SYNC_SERIES, request, &rig.call()).await.unwrap();
        let of = answer.series.iter().find(|series| series.name == "turns_total");
        let (group, kind) = of.map_or_else(Default::default, |s| (s.group.clone(), s.labels["kind"].clone()));
        let values: Vec<f64> = of.into_iter().flat_map(|s| &s.samples).map(|s| s.value).collect();
        (group, kind, values, answer.through_us)
    };
    let last = began + Duration::from_secs(60);
    let (group, kind) = (GROUP.to_owned(), "text".to_owned());
    assert_eq!(ask(Timestamp(0)).await, (group.clone(), kind.clone(), vec![0.0, 1.0, 2.0], last.micros()));
    assert_eq!(ask(began).await, (group, kind, vec![1.0, 2.0], last.micros()));
    assert_eq!(ask(last).await.3, 0);
    // The clock had been a day ahead.
    assert_eq!(ask(last + Duration::from_hours(24)).await, ask(Timestamp(0)).await);
    rig.clock.advance(Duration::from_hours(24));
    assert_eq!(ask(Timestamp(0)).await.3, 0);
}

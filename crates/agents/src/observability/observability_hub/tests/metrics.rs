//! Metrics: kept, asked for, shown for the whole node, and what happens when there are too many.

use tandem_agent::{Clock, Ctx, CtxParts, EventBus, HealthHandle, Heartbeat, Peers, Publisher, Topic};
use tandem_store::alerts::AlertStore as _;
use tandem_types::UserId;

use super::super::Hub;
use super::super::logic::exposition;
use super::*;

#[tokio::test]
async fn metrics_are_kept_and_asked_for() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let began = rig.clock.now();
    for (n, page) in
        ["turns_total{kind=\"text\"} 4\n", "turns_total{kind=\"text\"} 6\n", "not a page"].iter().enumerate()
    {
        *toy.metrics.lock().unwrap() = (*page).to_owned();
        rig.reconcile("scrape").await.unwrap_or_else(|fault| panic!("{n}: {fault}"));
        rig.clock.advance(Duration::from_secs(30));
    }
    let ask = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request =
            pb::QuerySeriesRequest { name: name.into(), labels, from_us: began.micros(), ..Default::default() };
        async { rig.client().unary(telemetry::QUERY_SERIES, request, &rig.call()).await }
    };
    let found = ask("turns_total", &[("kind", "text"), ("group", GROUP)]).await.unwrap().series;
    let values: Vec<f64> = found[0].samples.iter().map(|s| s.value).collect();
    assert_eq!((found.len(), values, found[0].labels["group"].as_str()), (1, vec![4.0, 6.0], GROUP));
    for (name, labels) in [("unheard_of", vec![]), ("turns_total", vec![("group", "solo/other")])] {
        assert_eq!(ask(name, &labels).await.unwrap_err().code, Code::NotFound, "{name}");
    }
}

#[tokio::test]
async fn the_page_of_the_hub_shows_the_node_and_its_health_the_fleet() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    *toy.metrics.lock().unwrap() = "# HELP turns_total Turns.\n# TYPE turns_total counter\nturns_total 4\n".to_owned();
    rig.reconcile("scrape").await.unwrap();
    let page = rig.shows().metrics.clone().unwrap();
    let own = "# TYPE up gauge\nup{group=\"solo/x\"} 1\n";
    let expected = format!(
        "# HELP turns_total Turns.\n# TYPE turns_total counter\nturns_total{{group=\"{GROUP}\"}} 4\n# TYPE up gauge\nup{{group=\"solo/x\"}} 1\n"
    );
    assert_eq!(page(own), expected);
    // A group that hangs is left out, and its silence does not hold the page up: nobody asks it while the page is made.
    toy.does(Act::Hang);
    until(&mut watch(&rig).await, State::Failed).await;
    assert_eq!(page(own), expected);
    rig.reconcile("scrape").await.unwrap();
    assert_eq!(page(own), own);

    let (key, detail) = rig.shows().detail.clone().unwrap();
    let fleet = detail();
    assert_eq!((key, &fleet["solo"]["groups"]["memory_stack"]["state"]), ("fleet", &json!("failed")));
    assert_eq!(fleet["solo"]["groups"]["memory_stack"]["agents"]["SessionMemoryAgent"]["state"], "failed");
}

#[tokio::test]
async fn a_group_with_too_many_series_is_named_and_the_rest_is_kept() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let page = |count: usize| (0..count).map(|n| format!("wide{{n=\"{n}\"}} 1\n")).collect::<String>();
    *toy.metrics.lock().unwrap() = page(2_003);
    rig.reconcile("scrape").await.unwrap();
    let raised = alerts(&rig, true).await;
    assert_eq!((raised.len(), raised[0].kind.as_str(), raised[0].subject.as_str()), (1, "series_limit", GROUP));
    assert!(raised[0].count == 3 && raised[0].message.contains("wide"), "{}", raised[0].message);
    let request = pb::QuerySeriesRequest { name: "wide".into(), ..Default::default() };
    let kept = rig.client().unary(telemetry::QUERY_SERIES, request, &rig.call()).await.unwrap();
    assert_eq!(kept.series.len(), 2_000);
    *toy.metrics.lock().unwrap() = page(2_000);
    rig.reconcile("scrape").await.unwrap();
    rig.clock.advance(Duration::from_secs(60));
    rig.reconcile("calm").await.unwrap();
    assert_eq!(of_group(&rig, true).await, []);
}

struct Nobody;

#[async_trait::async_trait]
impl EventBus for Nobody {
    async fn publish(&self, _: Topic, _: &str, _: Option<&UserId>, _: Value) -> Result<(), Fault> {
        Ok(())
    }
}

#[tokio::test]
async fn a_full_disk_costs_raw_samples_and_is_said() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let groups = vec![group(GROUP, "SessionMemoryAgent", &toy.at)];
    let id: tandem_types::AgentId = "solo/under_test/ObservabilityHub".parse().unwrap();
    let (data, clock) = (tempfile::tempdir().unwrap(), tandem_testkit::FakeClock::new());
    let clock_of_it: Clock = clock.as_clock();
    let (health, seen) = HealthHandle::new(clock_of_it.clone());
    let ctx = Ctx::new(CtxParts {
        peers: Peers::new(Arc::new(fleet(groups)), id.clone()),
        id,
        health,
        publisher: Publisher::new(Arc::new(Nobody)),
        clock: clock_of_it,
        data: data.path().into(),
        settings: Value::Null,
        cancel: Default::default(),
        tasks: Default::default(),
        instance: "test".into(),
        heartbeat: Heartbeat::default(),
        spans: None,
        sockets: Default::default(),
        in_flight: Default::default(),
    });
    let hub = Hub::open(&ctx).await.unwrap();
    let watched = hub.watched.values().next().unwrap().clone();
    let report = hub.probe(&watched, Duration::from_secs(10)).await;
    hub.probed(&watched, report).await;
    *toy.metrics.lock().unwrap() = (0..1_000).map(|n| format!("wide{{n=\"{n}\"}} 1\n")).collect();
    hub.clone().scrape().await.unwrap();
    let pages: i64 =
        hub.store.db.read(|tx| Ok(tx.query_row("PRAGMA page_count", [], |row| row.get(0))?)).await.unwrap();
    let limit = async |pages: i64| {
        hub.store.db.write(move |tx| Ok(tx.pragma_update(None, "max_page_count", pages)?)).await.unwrap();
    };
    limit(pages).await;
    // Every scrape is a day later, so that there is something old to give up.
    while !seen.borrow().cause.contains("the disk is full") {
        assert_ne!(seen.borrow().state, State::Failed);
        clock.advance(Duration::from_hours(25));
        hub.clone().scrape().await.unwrap();
    }
    let full = hub.store.alerts.alerts(true, Default::default()).await.unwrap().items;
    assert_eq!(full.iter().map(|alert| alert.what.kind.as_str()).collect::<Vec<_>>(), ["disk_full"]);
    assert!(!full[0].what.message.contains(" 0 raw samples"), "{}", full[0].what.message);
    limit(1 << 30).await;
    hub.clone().scrape().await.unwrap();
    clock.advance(Duration::from_secs(60));
    hub.clone().calm().await.unwrap();
    assert_eq!(hub.store.alerts.alerts(true, Default::default()).await.unwrap().items, []);
    assert_eq!(seen.borrow().state, State::Ready);
}

#[test]
fn the_words_of_a_page_are_no_values() {
    let page = "# HELP a_total Counts {x=\"1\"} of it.\n# TYPE a_total counter\na_total 1\n";
    assert_eq!(exposition::read(page).unwrap().len(), 1);
}

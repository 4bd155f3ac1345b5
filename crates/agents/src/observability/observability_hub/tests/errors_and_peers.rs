//! Errors, alerts, and the exchange with other hubs.

use tandem_types::Timestamp;

use super::*;

/// A hub that never takes a group which is not there for failed, however far the clock is moved.
pub(super) fn patient() -> Value {
    json!({ "start_grace_ms": 100_000_000 })
}

pub(super) fn error(count: u32) -> pb::ErrorReport {
    pb::ErrorReport {
        agent: AGENT.into(),
        code: "internal".into(),
        reason: "bug".into(),
        severity: pb::Severity::SEVERITY_CRITICAL.into(),
        count,
        at_us: 1_790_000_000_000_000,
        ..Default::default()
    }
}

pub(super) async fn report(rig: &Running, key: u32, errors: Vec<pb::ErrorReport>) -> Result<u32, Fault> {
    let mut idempotency_key = vec![0; 12];
    idempotency_key.extend(key.to_be_bytes());
    let request = pb::ReportErrorsRequest { idempotency_key, errors, ..Default::default() };
    rig.client().unary(telemetry::REPORT_ERRORS, request, &rig.call()).await.map(|answer| answer.thinned)
}

/// Lets everything pass that may, and the time after which an alert ends.
pub(super) async fn quiet(rig: &Running) {
    for _ in 0..2 {
        rig.clock.advance(Duration::from_secs(61));
        rig.reconcile("calm").await.unwrap();
    }
}

#[tokio::test]
async fn ten_thousand_equal_errors_make_one_alert_and_a_right_count() {
    let toy = Toy::start(Act::Break).await;
    let rig = rig(&toy, patient()).await;
    for key in 0..100 {
        report(&rig, key, vec![error(60), error(40)]).await.unwrap();
        rig.clock.advance(Duration::from_millis(100));
    }
    report(&rig, 99, vec![error(60), error(40)]).await.unwrap();
    let raised = alerts(&rig, true).await;
    assert_eq!((raised.len(), raised[0].kind.as_str(), raised[0].count), (1, "error_flood", 10_000));
    let found = rig.client().unary(telemetry::QUERY_ERRORS, Default::default(), &rig.call()).await.unwrap().errors;
    assert_eq!(found.iter().map(|e| e.count).sum::<u32>(), 10_000);
    assert_eq!(rig.events().iter().filter(|event| event.topic == "alert.raised").count(), 1);

    let ack =
        pb::AckAlertRequest { alert_id: raised[0].alert_id.clone(), user_id: "juan".into(), ..Default::default() };
    rig.client().unary(telemetry::ACK_ALERT, ack, &rig.call()).await.unwrap();
    assert_eq!(alerts(&rig, true).await, []);
    report(&rig, 200, vec![error(7)]).await.unwrap();
    assert_eq!(alerts(&rig, true).await, [], "who knows of a flood is not told again while it lasts");
    assert_eq!(alerts(&rig, false).await[0].count, 10_007);
    quiet(&rig).await;
    report(&rig, 1_000, vec![error(5)]).await.unwrap();
    assert_eq!(alerts(&rig, true).await.len(), 1, "a flood after a calm is a new one");

    let wrong = [
        pb::ErrorReport {
            code: "oops".into(),
            severity: Default::default(),
            count: 0,
            at_us: 0,
            reason: String::new(),
            evidence: vec![String::new(); 6],
            ..error(1)
        },
        pb::ErrorReport { agent: "solo/nowhere/X".into(), ..error(1) },
        pb::ErrorReport { agent: "nobody".into(), ..error(1) },
    ];
    let fault = report(&rig, 1_001, wrong.to_vec()).await.unwrap_err();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fault.code, Code::InvalidArgument);
    for field in
        ["[0].code", "[0].reason", "[0].count", "[0].severity", "[0].at_us", "[0].evidence", "[1].agent", "[2].agent"]
    {
        assert!(named.contains(&format!("errors{field}").as_str()), "{field} is not in {named:?}");
    }
}

#[tokio::test]
async fn a_batch_counts_once_and_a_flood_ends_with_the_hub_that_saw_it() {
    let toy = Toy::start(Act::Break).await;
    let mut rig = rig(&toy, patient()).await;
    report(&rig, 1, vec![error(6)]).await.unwrap();
    rig.restart().await;
    assert_eq!(alerts(&rig, true).await, [], "nothing floods a hub that has just begun");
    report(&rig, 1, vec![error(6)]).await.unwrap();
    assert_eq!(alerts(&rig, true).await, [], "its host repeats what it was not answered");
    report(&rig, 2, vec![error(6)]).await.unwrap();
    let raised = alerts(&rig, true).await;
    assert_eq!((raised.len(), raised[0].count), (1, 6));
    let reused = report(&rig, 2, vec![error(7)]).await.unwrap_err();
    assert_eq!((reused.code, reused.reason.as_str()), (Code::Conflict, reason::KEY_REUSED));
    let told = rig.events().iter().filter(|event| event.topic == "alert.raised").count();
    assert_eq!(told, 2);
}

#[tokio::test]
async fn errors_that_come_in_numbers_are_thinned_and_all_counted() {
    let toy = Toy::start(Act::Break).await;
    let rig = rig(&toy, patient()).await;
    let away = |count| pb::ErrorReport {
        code: "unavailable".into(),
        reason: "peer_away".into(),
        severity: pb::Severity::SEVERITY_WARNING.into(),
        ..error(count)
    };
    assert_eq!(report(&rig, 1, vec![away(9)]).await, Ok(0));
    assert_eq!(report(&rig, 2, vec![away(1), away(4)]).await, Ok(4));
    assert_eq!(alerts(&rig, false).await, [], "a thinned flood is no alert");
    report(&rig, 3, vec![error(1)]).await.unwrap();
    let ask = async |code: &str, agent: &str| {
        let request = pb::QueryErrorsRequest { code: code.into(), agent: agent.into(), ..Default::default() };
        let found = rig.client().unary(telemetry::QUERY_ERRORS, request, &rig.call()).await?.errors;
        Ok::<_, Fault>(found.iter().map(|e| (e.code.clone(), e.count)).collect::<Vec<_>>())
    };
    assert_eq!(ask("unavailable", AGENT).await.unwrap(), [("unavailable".to_owned(), 14)]);
    assert_eq!(ask("", "").await.unwrap().len(), 2);
    assert_eq!(ask("", "solo/memory_stack/Other").await.unwrap(), []);
    let wrong = ask("oops", "x").await.unwrap_err();
    assert_eq!(wrong.violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), ["agent", "code"]);
    let nobody = pb::AckAlertRequest { alert_id: "none".into(), user_id: "juan".into(), ..Default::default() };
    let fault = rig.client().unary(telemetry::ACK_ALERT, nobody, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::NotFound);
}

#[tokio::test]
async fn a_hub_whose_peer_has_none_runs_alone_and_says_so() {
    let toy = Toy::start(Act::Break).await;
    let groups = vec![group("solo/under_test", DEF.name, &toy.at), group("pc2/memory_stack", "Other", "")];
    let rig = Rig::new(&DEF).fleet(fleet(groups)).start().await;
    assert_eq!(rig.health().state, State::Degraded);
    assert!(rig.health().cause.starts_with("no peer configured"), "{}", rig.health().cause);
}

/// The hub of `pc2`, which has one group of its own.
fn other_hub(said: Arc<Mutex<Option<State>>>) -> Service {
    let clock_ahead = 60_000_000;
    let at = Timestamp(1_790_000_000_000_000 + clock_ahead);
    let (delta, digest) = (said.clone(), said);
    let away = || Fault::unavailable(reason::PEER_AWAY, "the network is cut");
    Service::new()
        .unary(telemetry::SYNC_DELTA, move |_, request: pb::SyncDeltaRequest| {
            let state = *delta.lock().unwrap();
            async move {
                let state = state.ok_or_else(away)?;
                let version = state as u64 + 1;
                let group = pb::GroupNode {
                    group: "infra_core".into(),
                    health: common::Health::from(&Health::new(state, "", at)).into(),
                    agents: vec![pb::AgentNode {
                        agent: "ObservabilityHub".into(),
                        health: common::Health::from(&Health::new(state, "", at)).into(),
                        built: true,
                        ..Default::default()
                    }],
                    version,
                    ..Default::default()
                };
                let known = request.versions.get("pc2/infra_core") == Some(&version);
                let groups = if known { vec![] } else { vec![group] };
                let seen = pb::GroupSeen { age_ms: 3_000, answer_us: Some(700), ..Default::default() };
                let seen = [("infra_core".to_owned(), seen)].into_iter().collect();
                let alert = |id: &str, node: &str| pb::Alert {
                    alert_id: id.into(),
                    kind: "disk_full".into(),
                    subject: node.into(),
                    severity: pb::Severity::SEVERITY_ERROR.into(),
                    last_us: 7,
                    node: node.into(),
                    count: 1,
                    ..Default::default()
                };
                // A hub speaks for its own node only.
                let alerts = vec![alert("a1", "pc2"), alert("a2", "solo")];
                let metrics_page =
                    if request.metrics { "# TYPE up gauge\nup{group=\"pc2/infra_core\"} 1\n" } else { "" };
                Ok(pb::SyncDeltaResponse {
                    node: "pc2".into(),
                    groups,
                    seen,
                    alerts: if request.alerts_after_us < 7 { alerts } else { vec![] },
                    metrics_page: metrics_page.into(),
                    ..Default::default()
                })
            }
        })
        .unary(telemetry::QUERY_SERIES, |_, request: pb::QuerySeriesRequest| async move {
            let series = pb::Series { name: request.name, ..Default::default() };
            Ok(pb::QuerySeriesResponse { series: vec![series], ..Default::default() })
        })
        .unary(telemetry::ACK_ALERT, |_, request: pb::AckAlertRequest| async move {
            match request.alert_id.as_str() {
                "a1" => Ok(pb::AckAlertResponse::default()),
                other => Err(Fault::not_found(format!("no alert {other}"))),
            }
        })
        .unary(telemetry::SYNC_DIGEST, move |_, _: pb::SyncDigestRequest| {
            let state = *digest.lock().unwrap();
            async move {
                state.ok_or_else(away)?;
                Ok(pb::SyncDigestResponse { now_us: at.micros(), ..Default::default() })
            }
        })
}

#[tokio::test]
async fn another_node_is_followed_and_goes_stale_but_never_failed() {
    let toy = Toy::start(Act::Break).await;
    let said = Arc::new(Mutex::new(Some(State::Ready)));
    let groups =
        vec![group("solo/under_test", DEF.name, &toy.at), group("pc2/infra_core", DEF.name, "http://127.0.0.1:1")];
    let mut rig = Rig::new(&DEF)
        .peer_in("pc2/infra_core".parse().unwrap(), DEF.name, other_hub(said.clone()))
        .fleet(fleet(groups))
        .start()
        .await;
    let state = async |rig: &Running| health(&group_now(rig, "pc2", "infra_core").await);
    assert_eq!(state(&rig).await.state, State::Unknown);
    rig.reconcile("sync").await.unwrap();
    let seen = state(&rig).await;
    assert_eq!((seen.state, seen.since), (State::Ready, rig.clock.now()), "times are shown by the own clock");
    let kinds = async || alerts(&rig, true).await.into_iter().map(|a| (a.node, a.kind)).collect::<Vec<_>>();
    let told = |node: &str, kind: &str| (node.to_owned(), kind.to_owned());
    assert_eq!(kinds().await, [told("solo", "clocks_apart"), told("pc2", "disk_full")]);
    *said.lock().unwrap() = Some(State::Degraded);
    rig.reconcile("sync").await.unwrap();
    assert_eq!(state(&rig).await.state, State::Degraded);
    rig.clock.advance(Duration::from_secs(3_600));
    rig.reconcile("sync").await.unwrap();
    let unchanged = group_now(&rig, "pc2", "infra_core").await;
    assert_eq!((unchanged.age_ms, unchanged.answer_us), (3_000, Some(700)), "an hour without a change is no age");

    *said.lock().unwrap() = None;
    rig.clock.advance(Duration::from_secs(16));
    rig.reconcile("sync").await.unwrap();
    let stale = state(&rig).await;
    assert_eq!((stale.state, stale.cause.as_str()), (State::Unknown, "stale: was degraded when last heard of"));
    assert!(alerts(&rig, true).await.iter().any(|alert| alert.kind == "peer_silent" && alert.subject == "pc2"));
    rig.restart().await;
    assert_eq!(state(&rig).await.cause, "stale: was degraded when last heard of", "kept over a restart");

    *said.lock().unwrap() = Some(State::Failed);
    rig.reconcile("sync").await.unwrap();
    assert_eq!(state(&rig).await.state, State::Failed);
    let silent = async || alerts(&rig, true).await.iter().any(|alert| alert.kind == "peer_silent");
    assert!(silent().await, "one answer may be the last for a while");
    rig.clock.advance(Duration::from_secs(60));
    rig.reconcile("sync").await.unwrap();
    rig.reconcile("calm").await.unwrap();
    assert!(!silent().await);
}

#[tokio::test]
async fn alerts_and_metrics_of_another_node_are_shown_as_long_as_it_is_there() {
    let toy = Toy::start(Act::Break).await;
    let said = Arc::new(Mutex::new(Some(State::Ready)));
    let groups =
        vec![group("solo/under_test", DEF.name, &toy.at), group("pc2/infra_core", DEF.name, "http://127.0.0.1:1")];
    let rig = Rig::new(&DEF)
        .settings(patient())
        .peer_in("pc2/infra_core".parse().unwrap(), DEF.name, other_hub(said.clone()))
        .fleet(fleet(groups))
        .start()
        .await;
    rig.reconcile("sync").await.unwrap();
    let page = || rig.shows().metrics.clone().unwrap()("# TYPE up gauge\nup 1\n");
    let both = "# TYPE up gauge\nup{group=\"solo/under_test\"} 1\nup{group=\"pc2/infra_core\"} 1\n";
    assert_eq!(page(), both);
    rig.clock.advance(Duration::from_secs(5));
    rig.reconcile("sync").await.unwrap();
    assert_eq!(page(), both, "it is asked for at the pace of readings, and shown in between");
    let of_pc2 = async || alerts(&rig, true).await.into_iter().filter(|a| a.node == "pc2").collect::<Vec<_>>();
    assert_eq!(of_pc2().await.len(), 1, "once, and nothing that it says of others");

    let ask = pb::QuerySeriesRequest {
        name: "up".into(),
        labels: [("group".to_owned(), "pc2/infra_core".to_owned())].into_iter().collect(),
        ..Default::default()
    };
    let found = rig.client().unary(telemetry::QUERY_SERIES, ask, &rig.call()).await.unwrap().series;
    assert_eq!(found.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), ["up"], "its own hub answered");

    let ack = |id: &str| pb::AckAlertRequest { alert_id: id.into(), user_id: "juan".into(), ..Default::default() };
    rig.client().unary(telemetry::ACK_ALERT, ack("a1"), &rig.call()).await.unwrap();
    assert_eq!(of_pc2().await, []);
    *said.lock().unwrap() = None;
    rig.clock.advance(Duration::from_secs(16));
    rig.reconcile("sync").await.unwrap();
    assert_eq!(page(), "# TYPE up gauge\nup{group=\"solo/under_test\"} 1\n", "what is gone is not shown as if it were");
}

#[tokio::test]
async fn an_alert_is_told_to_the_other_hub_with_its_end_and_after_a_day_no_more() {
    let toy = Toy::start(Act::Break).await;
    let rig = rig(&toy, patient()).await;
    let ask = async |alerts_after_us| {
        let request = pb::SyncDeltaRequest { node: "pc2".into(), alerts_after_us, ..Default::default() };
        rig.client().unary(telemetry::SYNC_DELTA, request, &rig.call()).await.unwrap().alerts
    };
    report(&rig, 1, vec![error(6)]).await.unwrap();
    let raised = ask(0).await.remove(0);
    assert_eq!((raised.node.as_str(), raised.cleared_us), ("solo", 0));
    assert_eq!(ask(raised.last_us).await, []);
    quiet(&rig).await;
    let ended = ask(raised.last_us).await.remove(0);
    assert_eq!((ended.alert_id, ended.cleared_us), (raised.alert_id, rig.clock.now().micros()));
    rig.clock.advance(Duration::from_hours(24) + Duration::from_secs(1));
    assert_eq!(ask(0).await, []);
}

#[tokio::test]
async fn a_cause_that_comes_and_goes_is_one_alert() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    let mut changes = watch(&rig).await;
    for _ in 0..3 {
        until(&mut changes, State::Ready).await;
        rig.clock.advance(Duration::from_secs(30));
        rig.reconcile("calm").await.unwrap();
        toy.does(Act::Break);
        until(&mut changes, State::Failed).await;
        toy.does(Act::Say(State::Ready));
    }
    until(&mut changes, State::Ready).await;
    let all = of_group(&rig, false).await;
    assert_eq!((all.len(), all[0].kind.as_str(), all[0].count), (1, "group_failed", 3));
    rig.clock.advance(Duration::from_secs(59));
    rig.reconcile("calm").await.unwrap();
    assert_eq!(of_group(&rig, true).await.len(), 1);
    rig.clock.advance(Duration::from_secs(1));
    rig.reconcile("calm").await.unwrap();
    assert_eq!(of_group(&rig, true).await, []);
}

#[tokio::test]
async fn the_way_to_another_node_is_what_the_own_node_knows() {
    let toy = Toy::start(Act::Break).await;
    let said = Arc::new(Mutex::new(Some(State::Ready)));
    let groups =
        vec![group("solo/under_test", DEF.name, &toy.at), group("pc2/infra_core", DEF.name, "http://127.0.0.1:1")];
    let rig = Rig::new(&DEF)
        .peer_in("pc2/infra_core".parse().unwrap(), DEF.name, other_hub(said))
        .fleet(fleet(groups))
        .start()
        .await;
    rig.reconcile("sync").await.unwrap();
    let node = FakeNode::default();
    let link = async || {
        let tree = rig.client().unary(telemetry::GET_FLEET_HEALTH, Default::default(), &rig.call()).await.unwrap();
        tree.nodes.into_iter().find(|node| node.node == "pc2").unwrap().link.into_option()
    };
    assert_eq!(rig.reconcile("node").await.unwrap_err().code, Code::Unavailable, "no node says anything");
    assert_eq!(link().await, None);

    rig.peers().ask_node(Arc::new(node.clone()));
    let knows = |reach, round_trip| {
        let group = |id: &str, restarts| NodeGroup { id: id.parse().unwrap(), restarts };
        let peer = PeerNode {
            node: "pc2".parse().unwrap(),
            reach,
            reason: "why".into(),
            heard: Some(Duration::from_millis(400)),
            paths: vec![PeerPath { path: "overlay", suspicion: Some(0.1), round_trip }],
            groups: vec![group("pc2/infra_core", 3)],
        };
        node.knows(NodeView { groups: vec![group("solo/under_test", 1)], peers: vec![peer] });
    };
    let mut changes = watch(&rig).await;
    knows(Reach::Ready, Some(Duration::from_micros(650)));
    rig.reconcile("node").await.unwrap();
    rig.clock.advance(Duration::from_millis(100));
    let ready = link().await.unwrap();
    assert_eq!(ready.reach, pb::Reach::REACH_READY);
    assert_eq!((ready.heard_ms_ago, ready.round_trip_us), (Some(500), Some(650)));
    let restarts = [("pc2", "infra_core"), ("solo", "under_test")]
        .map(async |(node, group)| group_now(&rig, node, group).await.restarts);
    assert_eq!(futures::future::join_all(restarts).await, [Some(3), Some(1)]);

    knows(Reach::Away, None);
    rig.reconcile("node").await.unwrap();
    let told = loop {
        let change = changes.next().await.unwrap().unwrap();
        if change.link.is_set() && change.link.reach == pb::Reach::REACH_AWAY {
            break change;
        }
    };
    assert_eq!((told.node.as_str(), told.group.is_set(), told.link.round_trip_us), ("pc2", false, None));
    let stale = health(&group_now(&rig, "pc2", "infra_core").await);
    assert_eq!((stale.state, stale.cause.as_str()), (State::Unknown, "stale: was ready when last heard of"));
}

#[tokio::test]
async fn what_it_knows_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _here = ::metrics::set_default_local_recorder(&recorder);
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let groups = vec![
        group("solo/under_test", DEF.name, "http://127.0.0.1:1"),
        group(GROUP, "SessionMemoryAgent", &toy.at),
        group("pc2/infra_core", DEF.name, "http://127.0.0.1:1"),
    ];
    let said = Arc::new(Mutex::new(Some(State::Ready)));
    let rig = Rig::new(&DEF)
        .settings(quick())
        .peer_in("pc2/infra_core".parse().unwrap(), DEF.name, other_hub(said.clone()))
        .fleet(fleet(groups))
        .start()
        .await;
    until(&mut watch(&rig).await, State::Ready).await;
    *toy.metrics.lock().unwrap() = "turns_total 4\n".to_owned();
    report(&rig, 1, vec![error(6)]).await.unwrap();
    for reconciler in ["scrape", "sync", "calm"] {
        rig.reconcile(reconciler).await.unwrap();
    }
    let shows = |line: &str| {
        let page = recorder.handle().render();
        assert!(page.lines().any(|l| l.starts_with(line)), "{line} is not in\n{page}");
    };
    shows(&format!("tandem_errors_total{{agent=\"{AGENT}\",code=\"internal\"}} 6"));
    shows("tandem_alerts{severity=\"critical\"} 1");
    shows("tandem_alerts{severity=\"warning\"} 1");
    shows("tandem_alerts{severity=\"error\"} 0");
    shows(&format!("tandem_series{{group=\"{GROUP}\"}} 1"));
    shows(&format!("tandem_probe_seconds_count{{group=\"{GROUP}\"}}"));
    shows("tandem_peer_state_age_seconds{node=\"pc2\"} 0");
    shows("tandem_sync_backlog_deltas{node=\"pc2\"} 2");
    let ask = pb::SyncDeltaRequest { node: "pc2".into(), ..Default::default() };
    rig.client().unary(telemetry::SYNC_DELTA, ask, &rig.call()).await.unwrap();
    *said.lock().unwrap() = None;
    rig.clock.advance(Duration::from_secs(7));
    rig.reconcile("sync").await.unwrap();
    shows("tandem_sync_backlog_deltas{node=\"pc2\"} 0");
    shows("tandem_sync_failures_total 1");
    shows("tandem_peer_state_age_seconds{node=\"pc2\"} 7");
}

#[tokio::test]
async fn the_own_node_is_told_to_other_hubs_once() {
    let toy = Toy::start(Act::Say(State::Ready)).await;
    let rig = rig(&toy, quick()).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let ask = |versions| {
        let request = pb::SyncDeltaRequest { node: "pc2".into(), versions, ..Default::default() };
        async { rig.client().unary(telemetry::SYNC_DELTA, request, &rig.call()).await.unwrap().groups }
    };
    let all = ask(Default::default()).await;
    assert_eq!(all.len(), 2);
    let known = all.iter().map(|group| (format!("solo/{}", group.group), group.version)).collect();
    assert_eq!(ask(known).await, []);
    let request = pb::SyncDeltaRequest { node: "pc2".into(), ..Default::default() };
    let seen = rig.client().unary(telemetry::SYNC_DELTA, request, &rig.call()).await.unwrap().seen;
    assert_eq!(seen.len(), 2);
    assert!(seen["memory_stack"].answer_us.is_some() && seen["under_test"].answer_us.is_none(), "{seen:?}");
    let digest = rig.client().unary(telemetry::SYNC_DIGEST, Default::default(), &rig.call()).await.unwrap();
    assert_eq!((digest.node.as_str(), digest.digests.len(), digest.now_us), ("solo", 2, rig.clock.now().micros()));
}

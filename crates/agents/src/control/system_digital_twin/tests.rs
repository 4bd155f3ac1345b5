use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::json;
use tandem_agent::{Event, FleetNode, FleetView, NodeView, PeerNode, PeerPath, Reach};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_contract::rpc::{registry, twin};
use tandem_contract::{FaultStream, Reply, Service};
use tandem_store::reservations::Resource;
use tandem_testkit::{FakeNode, Rig, Running};
use tandem_types::{AgentId, Code, Fault, Health, State, Timestamp, reason};

use super::DEF;
use super::logic::{LIMITS, Seen, simulate};
use super::picture::{Picture, Scope};
use crate::load::figures::Recent;
use crate::load::weighing::{Basis, STALE, Verdict};

mod cards;

const MIB: f64 = 1_048_576.0;
const FRESH: Duration = Duration::from_secs(5);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn basis(measured: f64, capacity: f64, age: Duration) -> Basis {
    Basis { measured, outstanding: 0.0, slope: 0.0, capacity, age }
}

#[test]
fn limits_and_age_make_the_verdict() {
    use Verdict::{Allow, Caution, Deny};
    let limits = LIMITS;
    let (fresh, old) = (STALE, STALE + Duration::from_micros(1));
    for (resource, asked, age, verdict) in [
        (Resource::Ram, 40.0, fresh, Allow),
        (Resource::Ram, 40.1, fresh, Deny),
        (Resource::Ram, 40.0, old, Caution),
        (Resource::Ram, 40.1, old, Deny),
        (Resource::Vram, 45.0, fresh, Allow),
        (Resource::Vram, 45.1, fresh, Deny),
        (Resource::Cpu, 40.1, fresh, Caution),
        (Resource::Disk, 40.1, fresh, Caution),
        (Resource::Disk, 1.0, old, Caution),
    ] {
        let outcome = simulate(resource, &basis(50.0, 100.0, age), asked, Duration::ZERO, &limits);
        assert_eq!(outcome.verdict, verdict, "{resource} {asked} {age:?}: {}", outcome.advice);
        assert_eq!(outcome.advice.starts_with("stale: "), age == old);
    }
}

#[test]
fn the_advice_shows_the_sum() {
    let basis = Basis { outstanding: 512.0 * MIB, slope: MIB, ..basis(2048.0 * MIB, 8192.0 * MIB, FRESH) };
    let outcome = simulate(Resource::Ram, &basis, 1024.0 * MIB, Duration::from_secs(60), &LIMITS);
    assert_eq!(
        outcome.advice,
        "ram: 2048 MiB in use + 512 MiB promised + 1024 MiB asked + 60 MiB trend = 3644 MiB, the limit is 7373 MiB (90 % \
         of 8192 MiB)"
    );
    assert_eq!(outcome.headroom(), outcome.limit - outcome.projected);
}

#[test]
fn the_trend_is_the_line_through_five_minutes() {
    let mut recent = Recent::default();
    assert_eq!((recent.slope(), recent.minute()), (0.0, None));
    recent.push(at(0), 900.0);
    assert_eq!(recent.slope(), 0.0);
    // Out of sight once five minutes have passed.
    for step in 1..=61 {
        recent.push(at(step * 5), 100.0 + (step * 5) as f64 * 2.0);
    }
    assert!((recent.slope() - 2.0).abs() < 1e-9, "{}", recent.slope());
    let minute = recent.minute().unwrap();
    assert!((minute - (100.0 + 2.0 * (305.0 - 27.5))).abs() < 1e-9, "{minute}");
    recent.push(at(1), 1e9);
    assert!((recent.slope() - 2.0).abs() < 1e-9, "a sample of the past changes nothing");
}

#[test]
fn an_event_is_new_once() {
    let mut seen = Seen::new(2);
    for (id, new) in [("a", true), ("a", false), ("b", true), ("c", true), ("a", true), ("c", false)] {
        assert_eq!(!seen.contains(id), new, "{id}");
        if new {
            seen.insert(id.to_owned());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// In any state, what would pass the limit is denied and what stays 256 MiB below it is allowed.
    #[test]
    fn the_limit_is_exact(
        total_mib in 4_096u64..1_048_576,
        used_share in 0.0f64..1.0,
        outstanding_mib in 0u64..65_536,
        slope_mib in -8.0f64..8.0,
        seconds in 0u64..3_600,
        card: bool,
        beyond_mib in 1u64..65_536,
    ) {
        let (resource, ratio) = if card { (Resource::Vram, 0.95) } else { (Resource::Ram, 0.90) };
        let capacity = total_mib as f64 * MIB;
        let basis = Basis {
            measured: (capacity * used_share).floor(),
            outstanding: outstanding_mib as f64 * MIB,
            slope: slope_mib * MIB,
            capacity,
            age: FRESH,
        };
        let duration = Duration::from_secs(seconds);
        let taken = basis.measured + basis.outstanding + basis.slope * seconds as f64;
        let room = ratio * capacity - taken;
        let ask = |bytes: f64| simulate(resource, &basis, bytes, duration, &LIMITS);
        let over = ask((room + beyond_mib as f64 * MIB).max(0.0));
        if room + beyond_mib as f64 * MIB >= 0.0 {
            prop_assert_eq!(over.verdict, Verdict::Deny, "{}", over.advice);
        }
        if room >= 256.0 * MIB {
            let below = ask(room - 256.0 * MIB);
            prop_assert_eq!(below.verdict, Verdict::Allow, "{}", below.advice);
            prop_assert!((below.headroom() - 256.0 * MIB).abs() < 1.0, "{}", below.headroom());
        }
    }

    #[test]
    fn the_trend_of_a_line_is_its_slope(slope in -1e6f64..1e6, start in 0f64..1e9, count in 2i64..60) {
        let mut recent = Recent::default();
        for step in 0..count {
            recent.push(at(step * 5), start + slope * (step * 5) as f64);
        }
        prop_assert!((recent.slope() - slope).abs() <= 1e-6 * slope.abs().max(1.0));
    }
}

/// A registry that tells of one group and then stays silent.
fn registry_of(agent: &'static str, state: State) -> Service {
    Service::new().server_stream(registry::WATCH, move |_call, _request: registry_pb::WatchRequest| async move {
        let health = common::Health::from(&Health::new(state, "disk is slow", at(0)));
        let report = registry_pb::AgentReport { agent: agent.into(), health: health.into(), ..Default::default() };
        let lease = registry_pb::Lease { agents: vec![report], ..Default::default() };
        let first = registry_pb::WatchResponse { revision: 1, lease: lease.into(), ..Default::default() };
        let stream: Reply<registry_pb::WatchResponse> =
            futures::stream::iter([Ok(first)]).chain(futures::stream::pending()).boxed();
        Ok(stream)
    })
}

/// A twin that grants memory up to the last byte, so that tests do not depend on how full this machine is.
async fn started() -> Running {
    let registry = registry_of("solo/peer_0/ServiceRegistry", State::Degraded);
    let rig = Rig::new(&DEF).peer("ServiceRegistry", registry).start().await;
    let set = pb::SetLimitsRequest { node: "solo".into(), ram_deny_ratio: Some(1.0), ..Default::default() };
    rig.client().unary(twin::SET_LIMITS, set, &rig.call()).await.unwrap();
    rig
}

async fn state(rig: &Running, scope: &str) -> Result<Vec<pb::NodeState>, Fault> {
    let request = pb::GetStateRequest { scope: scope.into(), ..Default::default() };
    rig.client().unary(twin::GET_STATE, request, &rig.call()).await.map(|answer| answer.nodes)
}

/// A request for memory of a share of this machine.
fn ask(bytes: u64) -> pb::SimulateLoadRequest {
    pb::SimulateLoadRequest { node: "solo".into(), kind: pb::Kind::KIND_RAM.into(), bytes, ..Default::default() }
}

async fn simulated(rig: &Running, request: pb::SimulateLoadRequest) -> Result<pb::SimulateLoadResponse, Fault> {
    rig.client().unary(twin::SIMULATE_LOAD, request, &rig.call()).await
}

fn promise(key: u8, bytes: u64) -> pb::ReserveRequest {
    pb::ReserveRequest {
        idempotency_key: vec![key; 16],
        node: "solo".into(),
        kind: pb::Kind::KIND_RAM.into(),
        bytes,
        holder: "solo/jobs/AsyncProcessor".into(),
        ..Default::default()
    }
}

async fn reserve(rig: &Running, request: pb::ReserveRequest) -> Result<pb::Reservation, Fault> {
    let answer = rig.client().unary(twin::RESERVE, request, &rig.call()).await?;
    Ok(answer.reservation.into_option().expect("a reservation"))
}

#[tokio::test]
async fn the_machine_is_measured_and_has_no_card() {
    let rig = started().await;
    let [node] = &state(&rig, "").await.unwrap()[..] else { panic!("one machine") };
    assert!(node.ram_used_bytes.unwrap() < node.ram_total_bytes.unwrap());
    assert!(node.cpus > 0 && node.cards.is_empty() && node.cpu_ratio.is_none());
    rig.clock.advance(Duration::from_secs(5));
    rig.reconcile("sample").await.unwrap();
    assert_eq!(state(&rig, "solo").await.unwrap()[0].age_ms, 0);
    let vram = pb::SimulateLoadRequest { kind: pb::Kind::KIND_VRAM.into(), card: Some(0), ..ask(1) };
    assert_eq!(simulated(&rig, vram).await.unwrap_err().code, Code::NotFound);
    assert_eq!(simulated(&rig, ask(0)).await.unwrap().verdict, pb::Verdict::VERDICT_ALLOW);
    let all = node.ram_total_bytes.unwrap();
    assert_eq!(simulated(&rig, ask(all)).await.unwrap().verdict, pb::Verdict::VERDICT_DENY);
    rig.clock.advance(Duration::from_secs(16));
    let stale = simulated(&rig, ask(0)).await.unwrap();
    assert_eq!(stale.verdict, pb::Verdict::VERDICT_CAUTION);
    assert!(stale.advice.starts_with("stale: the sample is 16 s old"), "{}", stale.advice);
}

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong() {
    let rig = started().await;
    for (request, code, says) in [
        (pb::SimulateLoadRequest { node: "pc9".into(), ..ask(1) }, Code::NotFound, "known are solo"),
        (pb::SimulateLoadRequest { kind: pb::Kind::KIND_UNSPECIFIED.into(), ..ask(1) }, Code::InvalidArgument, "kind"),
        (pb::SimulateLoadRequest { ratio: 0.5, ..ask(1) }, Code::InvalidArgument, "ratio"),
        (pb::SimulateLoadRequest { card: Some(0), ..ask(1) }, Code::InvalidArgument, "card"),
        (
            pb::SimulateLoadRequest { kind: pb::Kind::KIND_CPU.into(), ratio: -0.5, ..ask(0) },
            Code::InvalidArgument,
            "ratio",
        ),
        (
            pb::SimulateLoadRequest { kind: pb::Kind::KIND_CPU.into(), ratio: 0.5, ..ask(0) },
            Code::Unavailable,
            "not measured yet",
        ),
    ] {
        let fault = simulated(&rig, request).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.message.contains(says), "{fault} does not say {says}");
    }
    let fault =
        reserve(&rig, pb::ReserveRequest { holder: "me".into(), idempotency_key: vec![], ..promise(1, 0) }).await;
    let fields: Vec<String> = fault.unwrap_err().violations.into_iter().map(|v| v.field).collect();
    assert_eq!(fields, ["idempotency_key", "bytes", "holder"]);
    for (scope, code) in [("pc9", Code::NotFound), ("solo/x", Code::NotFound), ("a/b/c/d", Code::InvalidArgument)] {
        assert_eq!(state(&rig, scope).await.unwrap_err().code, code, "{scope}");
    }
}

#[tokio::test]
async fn promises_outlive_a_restart_and_end_in_time() {
    let mut rig = started().await;
    let first = reserve(&rig, promise(1, 64 << 20)).await.unwrap();
    assert_eq!(first.expires_us, (rig.clock.now() + Duration::from_secs(60)).micros());
    rig.restart().await;
    assert_eq!(reserve(&rig, promise(1, 64 << 20)).await.unwrap(), first, "the same key gives the same promise");
    assert_eq!(reserve(&rig, promise(1, 65 << 20)).await.unwrap_err().reason, reason::KEY_REUSED);
    let list = || async {
        let request = pb::ListReservationsRequest::default();
        rig.client().unary(twin::LIST_RESERVATIONS, request, &rig.call()).await.unwrap().reservations
    };
    assert_eq!(list().await, [first]);
    rig.clock.advance(Duration::from_secs(61));
    assert_eq!(list().await, []);
    rig.reconcile("tidy").await.unwrap();
    rig.reconcile("sample").await.unwrap();
    let again = reserve(&rig, promise(2, 64 << 20)).await.unwrap();
    let release = pb::ReleaseReservationRequest { reservation_id: again.reservation_id, ..Default::default() };
    for _ in 0..2 {
        rig.client().unary(twin::RELEASE_RESERVATION, release.clone(), &rig.call()).await.unwrap();
    }
    assert_eq!(list().await, []);
}

#[tokio::test]
async fn many_at_once_are_never_promised_more_than_there_is() {
    let rig = started().await;
    let nothing = simulated(&rig, ask(0)).await.unwrap();
    let each = (nothing.headroom / 10.5) as u64;
    let asked = (0..40u8).map(|key| reserve(&rig, promise(key, each)));
    let answers = futures::future::join_all(asked).await;
    let granted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(granted, 10);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
        assert!(refused.retry_after.is_some() && refused.message.contains("the limit is"), "{refused}");
    }
    let now = simulated(&rig, ask(0)).await.unwrap();
    assert!(now.projected <= now.limit);
}

#[tokio::test]
async fn limits_that_were_set_hold_after_a_restart() {
    let mut rig = started().await;
    let set = pb::SetLimitsRequest { node: "solo".into(), ram_deny_ratio: Some(0.001), ..Default::default() };
    let limits = rig.client().unary(twin::SET_LIMITS, set, &rig.call()).await.unwrap();
    assert_eq!((limits.ram_deny_ratio, limits.vram_deny_ratio), (0.001, 0.95));
    rig.restart().await;
    assert_eq!(simulated(&rig, ask(0)).await.unwrap().verdict, pb::Verdict::VERDICT_DENY);
}

#[tokio::test]
async fn samples_become_history() {
    let rig = started().await;
    for _ in 0..3 {
        rig.clock.advance(Duration::from_secs(5));
        rig.reconcile("sample").await.unwrap();
    }
    let history = |series: &str, step_ms| {
        let request = pb::GetHistoryRequest {
            series: series.into(),
            node: "solo".into(),
            from_us: rig.clock.now().micros() - 60_000_000,
            step_ms,
            ..Default::default()
        };
        let (client, call) = (rig.client(), rig.call());
        async move { client.unary(twin::GET_HISTORY, request, &call).await.map(|answer| answer.points) }
    };
    let points = history("ram_used_bytes", 0).await.unwrap();
    assert_eq!(points.len(), 4);
    assert!(points.windows(2).all(|pair| pair[1].at_us - pair[0].at_us == 5_000_000));
    assert!(points.iter().all(|point| point.value > 0.0));
    assert_eq!(history("ram", 0).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn models_and_agents_are_in_the_picture_and_watchers_hear_of_them() {
    let rig = started().await;
    let watch = pb::WatchRequest { scope: "solo".into(), ..Default::default() };
    let mut live: FaultStream<pb::WatchResponse> =
        rig.client().server_stream(twin::WATCH, watch, &rig.call()).await.unwrap();
    live.next().await.unwrap().unwrap();
    let lease = pb::ModelLease {
        model: "smollm2-135m".into(),
        group: "solo/peer_0".into(),
        leased_bytes: 300 << 20,
        measured_bytes: Some(200 << 20),
        ..Default::default()
    };
    let before = simulated(&rig, ask(0)).await.unwrap().projected;
    let report = pb::ReportLeasesRequest { node: "solo".into(), models: vec![lease], ..Default::default() };
    rig.client().unary(twin::REPORT_LEASES, report, &rig.call()).await.unwrap();
    let after = simulated(&rig, ask(0)).await.unwrap().projected;
    assert_eq!(after - before, 100.0 * MIB, "what a model may still take is promised");
    loop {
        let node = live.next().await.unwrap().unwrap().node.into_option().unwrap();
        let health = node.agents.iter().find(|agent| agent.agent == "solo/peer_0/ServiceRegistry");
        let known = health.and_then(|agent| agent.health.as_option()).is_some_and(|h| h.cause == "disk is slow");
        if known && node.models.len() == 1 {
            break;
        }
    }
    let group = state(&rig, "solo/under_test").await.unwrap();
    assert_eq!((group[0].models.len(), group[0].agents.len()), (0, 1));
    let bad = pb::ModelLease { group: "nowhere".into(), ..Default::default() };
    let report = pb::ReportLeasesRequest { node: "solo".into(), models: vec![bad], ..Default::default() };
    let fault = rig.client().unary(twin::REPORT_LEASES, report, &rig.call()).await.unwrap_err();
    assert_eq!(fault.violations.len(), 2, "{fault}");
}

#[tokio::test]
async fn only_other_machines_are_reported() {
    let rig = started().await;
    let sample = pb::NodeState { node: "solo".into(), ..Default::default() };
    let report = pb::ReportNodeRequest { node: sample.into(), ..Default::default() };
    let fault = rig.client().unary(twin::REPORT_NODE, report, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::FailedPrecondition);
    let full = pb::NodeState {
        cards: vec![pb::CardState {
            vram_used_bytes: 1,
            uses: vec![pb::CardUse { group: "nowhere".into(), ..Default::default() }],
            ..Default::default()
        }],
        agents: vec![Default::default()],
        models: vec![Default::default()],
        ram_used_bytes: Some(1),
        ..Default::default()
    };
    let fields: Vec<String> =
        super::wire::figures(&full).unwrap_err().violations.into_iter().map(|v| v.field).collect();
    assert_eq!(
        fields,
        [
            "node.agents",
            "node.models",
            "node.cards[0].vram_used_bytes",
            "node.cards[0].uses[0].group",
            "node.ram_used_bytes",
        ],
        "nothing is dropped silently"
    );
}

#[test]
fn whether_silence_means_stopped_depends_on_whose_it_is() {
    let id = |text: &str| text.parse::<AgentId>().unwrap();
    let (near, far, absent) = (id("mainpc/a/Near"), id("pc2/a/Far"), id("mainpc/a/Absent"));
    let nodes: [tandem_types::NodeName; 2] = ["mainpc", "pc2"].map(|name| name.parse().unwrap());
    let agents = vec![(near.clone(), true), (far.clone(), true), (absent.clone(), false)];
    let mut picture = Picture::new(nodes[0].clone(), nodes.clone(), agents);
    let state = |picture: &Picture, agent: &AgentId| {
        let found = picture.agents(&agent.node, &Scope::Agent(agent.clone()));
        (found[0].1.state, found[0].1.cause.clone())
    };
    assert_eq!(state(&picture, &near), (State::Unavailable, "is not registered".into()));
    assert_eq!(state(&picture, &far).0, State::Unknown);
    assert_eq!(state(&picture, &absent), (State::Unavailable, "not built: this program has no code for it".into()));
    for agent in [&near, &far] {
        assert!(picture.heard(agent, Health::new(State::Ready, "", at(0))));
        assert!(picture.gone(agent, "expired", at(20)));
        assert!(!picture.gone(agent, "expired", at(21)), "that is no news");
    }
    assert_eq!((state(&picture, &near).0, state(&picture, &far).0), (State::Stopped, State::Unknown));
    assert!(picture.gone(&far, "stopped", at(30)));
    assert_eq!(state(&picture, &far), (State::Stopped, "stopped".into()), "it said farewell");
    for (since, seen, new) in [(30, State::Ready, false), (31, State::Stopped, false), (31, State::Failed, true)] {
        assert_eq!(picture.observed(&far, Health::new(seen, "hangs", at(since))), new, "{seen} since {since}");
    }
    assert!(!picture.observed(&id("pc2/a/Stranger"), Health::new(State::Ready, "", at(99))));
}

#[tokio::test]
async fn what_the_hub_observes_is_in_the_picture() {
    let rig = started().await;
    let agent = "solo/peer_0/ServiceRegistry";
    let event = |id: &str, key: &str, state: &str, since: i64| Event {
        id: id.into(),
        topic: "health.changed".into(),
        key: key.into(),
        cursor: 1,
        at: at(since),
        payload: json!({ "state": state, "cause": "it hangs", "since_us": at(since).micros() }),
        lost: 0,
    };
    let known = async || {
        let nodes = state(&rig, agent).await.unwrap();
        Health::from(nodes[0].agents[0].health.as_option().unwrap())
    };
    // The registry's word comes first; it is of at(0).
    let watch = pb::WatchRequest { scope: agent.into(), ..Default::default() };
    let mut live = rig.client().server_stream(twin::WATCH, watch, &rig.call()).await.unwrap();
    while known().await.cause != "disk is slow" {
        live.next().await.unwrap().unwrap();
    }
    for (id, key, state, since) in
        [("1", agent, "failed", -1), ("2", "solo/peer_0", "failed", 1), ("3", agent, "odd", 1)]
    {
        rig.deliver(event(id, key, state, since)).await.unwrap();
        assert_eq!(known().await.state, State::Degraded, "{id} changes nothing");
    }
    rig.deliver(event("4", agent, "failed", 1)).await.unwrap();
    assert_eq!(known().await, Health::new(State::Failed, "it hangs", at(1)));
}

#[test]
fn only_a_link_that_turned_is_news() {
    use Reach::{Away, Differs, NotJoined, OverlayDown, Ready, Unheard};
    for (told, now, news) in [
        (None, Unheard, false),
        (None, NotJoined, false),
        (Some("away"), Unheard, false),
        (None, Ready, true),
        (None, Away, true),
        (Some("ready"), Ready, false),
        (Some("ready"), OverlayDown, true),
        (Some("overlay_down"), Away, true),
        (Some("away"), Ready, true),
        (Some("ready"), Differs, true),
    ] {
        assert_eq!(super::link::is_news(told, now), news, "{told:?} {now:?}");
    }
}

#[tokio::test]
async fn a_link_that_turns_is_told_once_over_all_lives() {
    let node = |name: &str| FleetNode { name: name.parse().unwrap(), address: "127.0.0.1".into() };
    let fleet = FleetView { nodes: vec![node("solo"), node("pc2")], ..Default::default() };
    let mut rig = Rig::new(&DEF).fleet(fleet).start().await;
    let fault = rig.reconcile("link").await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "without a node nothing is known");
    let known = FakeNode::default();
    rig.peers().ask_node(Arc::new(known.clone()));
    let set = |reach, round_trip| {
        let path = PeerPath { path: "overlay", suspicion: Some(0.1), round_trip };
        let peer = PeerNode {
            node: "pc2".parse().unwrap(),
            reach,
            reason: "why".into(),
            heard: Some(Duration::ZERO),
            paths: vec![path],
            groups: vec![],
        };
        known.knows(NodeView { peers: vec![peer], ..Default::default() });
    };
    let told = |rig: &Running| {
        let events = rig.events().into_iter().filter(|event| event.topic == "node.link");
        events.map(|event| (event.key, event.payload)).collect::<Vec<_>>()
    };
    set(Reach::Unheard, None);
    rig.reconcile("link").await.unwrap();
    assert_eq!(told(&rig), []);
    set(Reach::Ready, Some(Duration::from_micros(1_500)));
    for _ in 0..2 {
        rig.reconcile("link").await.unwrap();
    }
    let ready = json!({ "peer": "pc2", "state": "ready", "cause": "why", "round_trip_ms": 1.5 });
    assert_eq!(told(&rig), [("pc2".to_owned(), ready)]);
    rig.restart().await;
    rig.reconcile("link").await.unwrap();
    assert_eq!(told(&rig).len(), 1, "an earlier life told it");
    set(Reach::Away, None);
    rig.reconcile("link").await.unwrap();
    let away = json!({ "peer": "pc2", "state": "away", "cause": "why", "round_trip_ms": null });
    assert_eq!(told(&rig)[1..], [("pc2".to_owned(), away)]);
}

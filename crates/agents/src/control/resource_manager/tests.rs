//! The rules as tables, and the agent through its contract.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::json;
use tandem_contract::Service;
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_contract::rpc::twin;
use tandem_store::reservations::Resource;
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, State, reason};

use super::DEF;
use super::logic::{LIMITS, admit, pressed};
use crate::load::weighing::{Basis, STALE, Verdict};

const HOLDER: &str = "solo/async_pipeline/AsyncProcessor";

#[test]
fn what_is_measured_promised_and_asked_must_fit_together() {
    use Verdict::{Allow, Caution, Deny};
    let (fresh, old) = (STALE, STALE + Duration::from_micros(1));
    for (resource, measured, outstanding, asked, age, verdict) in [
        (Resource::Ram, 50.0, 20.0, 10.0, fresh, Allow),
        (Resource::Ram, 50.0, 20.0, 10.1, fresh, Deny),
        (Resource::Ram, 50.0, 20.1, 10.0, fresh, Deny),
        (Resource::Ram, 50.0, 20.0, 10.0, old, Caution),
        (Resource::Ram, 50.0, 20.0, 10.1, old, Deny),
        (Resource::Cpu, 50.0, 20.0, 10.1, fresh, Deny),
        (Resource::Disk, 80.0, 0.0, 0.1, fresh, Deny),
        (Resource::Disk, 80.0, 0.0, 0.0, fresh, Allow),
        (Resource::Vram, 90.0, 0.0, 10.0, fresh, Allow),
        (Resource::Vram, 90.0, 0.0, 10.1, fresh, Deny),
    ] {
        // A machine that fills up is no reason to refuse now: the trend does not count here.
        let basis = Basis { measured, outstanding, slope: 1e9, capacity: 100.0, age };
        let outcome = admit(resource, &basis, asked, &LIMITS);
        assert_eq!(outcome.verdict, verdict, "{resource} {measured} {outstanding} {asked}: {}", outcome.advice);
    }
}

#[test]
fn nothing_is_given_while_tasks_wait_for_memory() {
    for (pressure, denied) in [(None, false), (Some(0.10), false), (Some(0.101), true), (Some(0.9), true)] {
        assert_eq!(pressed(pressure, 0.10).is_some(), denied, "{pressure:?}");
    }
    let words = pressed(Some(0.234), 0.10).unwrap();
    assert_eq!(words, "memory pressure: tasks waited for memory in 23.4 % of the last 10 s, the limit is 10 %");
}

/// A manager that promises memory up to the last byte, so that tests do not depend on how full this machine is.
async fn started() -> Running {
    let rig = Rig::new(&DEF).settings(json!({ "most_pressure_ratio": 1.0 })).start().await;
    set_limit(&rig, 1.0).await.unwrap();
    rig
}

async fn set_limit(rig: &Running, ram: f64) -> Result<pb::SetLimitsResponse, Fault> {
    let set = pb::SetLimitsRequest { node: "solo".into(), ram_deny_ratio: Some(ram), ..Default::default() };
    rig.client().unary(twin::SET_LIMITS, set, &rig.call()).await
}

fn asking(key: u8, bytes: u64) -> pb::ReserveRequest {
    pb::ReserveRequest {
        idempotency_key: vec![key; 16],
        node: "solo".into(),
        kind: pb::Kind::KIND_RAM.into(),
        bytes,
        holder: HOLDER.into(),
        ..Default::default()
    }
}

async fn reserve(rig: &Running, request: pb::ReserveRequest) -> Result<pb::Reservation, Fault> {
    let answer = rig.client().unary(twin::RESERVE, request, &rig.call()).await?;
    Ok(answer.reservation.into_option().expect("a reservation"))
}

async fn simulated(rig: &Running, bytes: u64) -> pb::SimulateLoadResponse {
    let kind = pb::Kind::KIND_RAM.into();
    let request = pb::SimulateLoadRequest { node: "solo".into(), kind, bytes, ..Default::default() };
    rig.client().unary(twin::SIMULATE_LOAD, request, &rig.call()).await.unwrap()
}

async fn state(rig: &Running) -> pb::NodeState {
    let answer = rig.client().unary(twin::GET_STATE, Default::default(), &rig.call()).await.unwrap();
    let [node] = &answer.nodes[..] else { panic!("one machine") };
    node.clone()
}

async fn list(rig: &Running) -> Vec<pb::Reservation> {
    rig.client().unary(twin::LIST_RESERVATIONS, Default::default(), &rig.call()).await.unwrap().reservations
}

#[tokio::test]
async fn a_hundred_at_once_are_never_promised_more_than_the_limit() {
    let rig = started().await;
    let each = (simulated(&rig, 0).await.headroom / 30.5) as u64;
    let answers = join_all((0..100u8).map(|key| reserve(&rig, asking(key, each)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 30);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "over_limit"), "{refused}");
        assert!(refused.message.contains("ram: ") && refused.message.contains("the limit is"), "{refused}");
        assert_eq!(refused.retry_after, Some(Duration::from_secs(60)), "when the first promise ends");
    }
    let now = simulated(&rig, 0).await;
    assert!(now.projected <= now.limit);
    let sum: u64 = list(&rig).await.iter().map(|promise| promise.bytes).sum();
    assert_eq!(sum, 30 * each);
}

#[tokio::test]
async fn a_holder_that_is_gone_is_freed_within_a_minute_and_one_that_renews_is_not() {
    let mut rig = started().await;
    let (left, kept) =
        (reserve(&rig, asking(1, 1 << 20)).await.unwrap(), reserve(&rig, asking(2, 2 << 20)).await.unwrap());
    assert_eq!(left.expires_us, (rig.clock.now() + Duration::from_secs(60)).micros());
    rig.clock.advance(Duration::from_secs(40));
    rig.restart().await;
    let renewal = pb::ReserveRequest { reservation_id: kept.reservation_id.clone(), ..asking(3, 2 << 20) };
    let renewed = reserve(&rig, renewal.clone()).await.unwrap();
    let expires_us = (rig.clock.now() + Duration::from_secs(60)).micros();
    assert_eq!(renewed, pb::Reservation { expires_us, ..kept.clone() });
    let before = simulated(&rig, 0).await.projected;
    rig.clock.advance(Duration::from_secs(20));
    assert_eq!(list(&rig).await, [renewed]);
    assert_eq!(before - simulated(&rig, 0).await.projected, (1 << 20) as f64);

    let of_another = pb::ReserveRequest { bytes: 4 << 20, ..renewal.clone() };
    assert_eq!(reserve(&rig, of_another).await.unwrap_err().violations[0].field, "reservation_id");
    rig.clock.advance(Duration::from_secs(40));
    assert_eq!(reserve(&rig, renewal).await.unwrap_err().code, Code::NotFound, "it is over");
    assert_eq!(list(&rig).await, []);
    // The first answer to a key stands.
    assert_eq!(reserve(&rig, asking(1, 1 << 20)).await.unwrap(), left);
    rig.reconcile("tidy").await.unwrap();
    assert_eq!(list(&rig).await, []);
}

#[tokio::test]
async fn its_figures_are_the_kernel_s() {
    fn used() -> f64 {
        let memory = crate::machine::memory("/proc".as_ref(), "/sys/fs/cgroup".as_ref()).unwrap();
        (memory.total - memory.available.unwrap()) as f64
    }
    let rig = started().await;
    rig.clock.advance(Duration::from_secs(5));
    let before = used();
    rig.reconcile("sample").await.unwrap();
    let (after, node) = (used(), state(&rig).await);
    let total = node.ram_total_bytes.unwrap() as f64;
    let measured = node.ram_used_bytes.unwrap() as f64;
    let off = |kernel: f64| (measured - kernel) / total;
    // The machine goes on between two looks, so the figure lies between them, give or take.
    assert!(
        off(before.min(after)) >= -0.02 && off(before.max(after)) <= 0.02,
        "{before} {measured} {after} of {total}"
    );
    let disk = crate::machine::disk(rig.data_dir()).unwrap();
    let off = (node.disk_used_bytes.unwrap() as f64 - disk.used as f64) / disk.total() as f64;
    assert!(off.abs() <= 0.02, "{off}");
    assert!(node.cpus > 0 && node.cards.is_empty() && node.agents.is_empty());
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let rig = started().await;
    for (request, code, says) in [
        (pb::ReserveRequest { kind: pb::Kind::KIND_UNSPECIFIED.into(), ..asking(1, 1) }, Code::InvalidArgument, "kind"),
        (
            pb::ReserveRequest { kind: pb::Kind::KIND_CPU.into(), ratio: -0.5, ..asking(1, 0) },
            Code::InvalidArgument,
            "ratio",
        ),
        (asking(1, 0), Code::InvalidArgument, "bytes"),
        (pb::ReserveRequest { node: "pc9".into(), ..asking(1, 1) }, Code::NotFound, "no node `pc9`"),
        (
            pb::ReserveRequest { kind: pb::Kind::KIND_VRAM.into(), card: Some(0), ..asking(1, 1) },
            Code::NotFound,
            "no graphics card 0",
        ),
    ] {
        let fault = reserve(&rig, request).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.message.contains(says), "{fault} does not say {says}");
    }
    let scope = |scope: &str| pb::GetStateRequest { scope: scope.into(), ..Default::default() };
    for (asked, code) in [("pc9", Code::NotFound), ("solo/async_pipeline", Code::FailedPrecondition)] {
        let fault = rig.client().unary(twin::GET_STATE, scope(asked), &rig.call()).await.unwrap_err();
        assert_eq!(fault.code, code, "{asked}: {fault}");
    }
    assert_eq!(set_limit(&rig, 1.1).await.unwrap_err().violations[0].field, "ram_deny_ratio");
}

#[tokio::test]
async fn old_samples_and_pressure_promise_nothing() {
    let rig = started().await;
    rig.clock.advance(Duration::from_secs(16));
    let stale = simulated(&rig, 0).await;
    assert_eq!(stale.verdict, pb::Verdict::VERDICT_CAUTION, "{}", stale.advice);
    let fault = reserve(&rig, asking(1, 1)).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::NO_SAMPLE));

    // Below no pressure at all, any is too much.
    let rig = Rig::new(&DEF).settings(json!({ "most_pressure_ratio": -0.01 })).start().await;
    set_limit(&rig, 1.0).await.unwrap();
    // A kernel that does not say is no reason to refuse.
    let says = state(&rig).await.memory_pressure_ratio.is_some();
    let verdict = if says { pb::Verdict::VERDICT_DENY } else { pb::Verdict::VERDICT_ALLOW };
    assert_eq!(simulated(&rig, 1).await.verdict, verdict);
    let refused = reserve(&rig, asking(1, 1)).await.err().map(|fault| (fault.code, fault.retry_after));
    assert_eq!(refused, says.then_some((Code::ResourceExhausted, Some(Duration::from_secs(5)))));
}

#[tokio::test]
async fn limits_and_a_day_of_samples_outlive_a_restart() {
    let mut rig = started().await;
    set_limit(&rig, 0.001).await.unwrap();
    rig.clock.advance(Duration::from_hours(1));
    rig.reconcile("sample").await.unwrap();
    rig.restart().await;
    assert_eq!(simulated(&rig, 0).await.verdict, pb::Verdict::VERDICT_DENY);
    let history = async || {
        let (series, node) = ("ram_used_bytes".to_owned(), "solo".to_owned());
        let request = pb::GetHistoryRequest { series, node, ..Default::default() };
        rig.client().unary(twin::GET_HISTORY, request, &rig.call()).await.unwrap().points.len()
    };
    // Two of the first life, and the second life's first of the same moment as the last.
    assert_eq!(history().await, 2);
    rig.clock.advance(Duration::from_hours(23) + Duration::from_secs(1));
    rig.reconcile("tidy").await.unwrap();
    assert_eq!(history().await, 1, "the first is a day old");
}

#[tokio::test]
async fn watchers_hear_of_each_sample() {
    let rig = started().await;
    let mut live = rig.client().server_stream(twin::WATCH, Default::default(), &rig.call()).await.unwrap();
    let mut next = async || live.next().await.unwrap().unwrap().node.into_option().unwrap().sampled_us;
    let first = next().await;
    rig.clock.advance(Duration::from_secs(5));
    rig.reconcile("sample").await.unwrap();
    assert_eq!(next().await - first, 5_000_000);
}

#[tokio::test]
async fn the_twin_of_another_node_hears_of_each_sample() {
    let heard: Arc<Mutex<Vec<pb::NodeState>>> = Arc::default();
    let keep = heard.clone();
    let twin = Service::new().unary(twin::REPORT_NODE, move |_, request: pb::ReportNodeRequest| {
        keep.lock().unwrap().push(request.node.into_option().unwrap());
        async { Ok(pb::ReportNodeResponse::default()) }
    });
    let rig = Rig::new(&DEF).peer_in("mainpc/infra_core".parse().unwrap(), "SystemDigitalTwin", twin).start().await;
    rig.clock.advance(Duration::from_secs(2));
    rig.reconcile("report").await.unwrap();
    let said = heard.lock().unwrap().pop().unwrap();
    assert_eq!((said.node.as_str(), said.age_ms), ("solo", 2_000));
    assert_eq!(said.ram_total_bytes, state(&rig).await.ram_total_bytes);

    // One on this machine measures it itself, and one that is away is no failure.
    let own = Rig::new(&DEF).peer(
        "SystemDigitalTwin",
        Service::new().unary(twin::REPORT_NODE, |_, _| async { Err(Fault::internal("nobody reports here")) }),
    );
    let rig = own.start().await;
    rig.reconcile("report").await.unwrap();
    assert_eq!(rig.health().state, State::Ready);
}

#[tokio::test]
async fn what_it_decides_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _here = ::metrics::set_default_local_recorder(&recorder);
    let rig = started().await;
    reserve(&rig, asking(1, 5 << 20)).await.unwrap();
    reserve(&rig, asking(2, 1 << 60)).await.unwrap_err();
    let page = recorder.handle().render();
    for line in [
        "tandem_admission_total{outcome=\"granted\"} 1",
        "tandem_admission_total{outcome=\"denied\"} 1",
        "tandem_reserved_bytes{kind=\"ram\"} 5242880",
        "tandem_node_memory_bytes{node=\"solo\",kind=\"used\"} ",
    ] {
        assert!(page.lines().any(|l| l.starts_with(line)), "{line} is not in\n{page}");
    }
}

//! What engines do by themselves.

use tandem_types::{Code, State, reason};

use super::*;

#[test]
fn a_lost_engine_is_fallen_back_from_and_comes_back() {
    let (mut desk, mut host, now) = tight();
    let grant = lent(desk.acquire(&ask("llm.fast"), "ticket".into(), now));
    assert_eq!(grant.bound_to.as_str(), "llm.fast");
    let old = desk.epoch();
    desk.record("ticket", "unavailable", now).unwrap();
    let grant = lent(desk.acquire(&ask("llm.fast"), "t2".into(), now));
    assert_eq!(
        (grant.bound_to.as_str(), grant.fallback.as_str()),
        ("llm.tiny", "the engine of middle did not answer; it is being started again")
    );
    desk.observe(&host.engines.clone(), old, now);
    assert_eq!(
        lent(desk.acquire(&ask("llm.fast"), "t3".into(), now)).model,
        "small",
        "a list from before says nothing"
    );
    let middle = host.engine("middle");
    (middle.down, middle.info) = (Some("the engine of middle is starting".into()), None);
    host.look(&mut desk, now + SECOND);
    assert_eq!(lent(desk.acquire(&ask("llm.fast"), "t4".into(), now)).model, "small");
    let role_view = desk.role(&role("llm.fast"), now).unwrap();
    assert_eq!((role_view.health.state, role_view.bound_to.as_str()), (State::Degraded, "llm.tiny"));
    let middle = host.engine("middle");
    (middle.down, middle.info, middle.restarts) = (None, Some(info(300 * MIB)), 1);
    middle.endpoint = "http://127.0.0.1:7777".into();
    host.look(&mut desk, now + 2 * SECOND);
    let grant = lent(desk.acquire(&ask("llm.fast"), "t5".into(), now + 2 * SECOND));
    assert_eq!((grant.model.as_str(), grant.endpoint.as_str()), ("middle", "http://127.0.0.1:7777"));
    assert_eq!(desk.release("ticket", now).unwrap_err().code, Code::NotFound, "tickets of the dead process ended");
}

#[test]
fn an_engine_its_host_gave_up_on_is_started_anew_after_a_pause() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    let small = host.engine("small");
    (small.failed, small.down) = (true, Some("the engine of small is failed: it crashes".into()));
    host.look(&mut desk, now);
    let fault = refused(desk.acquire(&ask("llm.tiny"), "t".into(), now));
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::ENGINE_LOST));
    assert_eq!(desk.share().leased, 0);
    host.look(&mut desk, now);
    assert!(host.engines.is_empty(), "what is left of it is cleared away");
    assert_eq!(desk.next_step(now + SECOND), Step::Rest);
    host.settle(&mut desk, now + 6 * SECOND);
    assert_eq!(loaded(&desk), ["small"]);
}

#[test]
fn engines_of_an_earlier_life_are_taken_over() {
    let (_, mut host, _) = tight();
    let mut desk = desk(1_300, all_here(), &[("llm.tiny", "small"), ("llm.fast", "middle")]);
    host.engine("middle").info = None;
    host.look(&mut desk, at(100));
    assert_eq!(lent(desk.acquire(&ask("llm.tiny"), "t".into(), at(100))).model, "small");
    assert_eq!(lent(desk.acquire(&ask("llm.fast"), "t".into(), at(100))).model, "small", "not asked yet");
    host.engine("middle").info = Some(info(300 * MIB));
    host.look(&mut desk, at(101));
    assert_eq!(lent(desk.acquire(&ask("llm.fast"), "t".into(), at(101))).model, "middle");
    host.settle(&mut desk, at(101));
    assert_eq!(host.started, ["small", "middle"], "nothing was loaded twice");
}

#[test]
fn a_peak_below_the_estimate_is_not_believed() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.calibrate("small", PROFILE, super::super::Calibration { peak_bytes: MIB, load: None });
    let Step::Start(order) = desk.next_step(at(0)) else { panic!("nothing starts") };
    assert_eq!(order.bytes, desk.view("small", at(0)).unwrap().estimate_bytes);
}

#[test]
fn nothing_is_loaded_before_the_host_told_what_runs() {
    let mut desk = desk(1_300, all_here(), &[("llm.tiny", "small")]);
    desk.host_seen = false;
    desk.warm_up(at(0));
    assert_eq!(desk.next_step(at(0)), Step::Rest);
    Host::default().look(&mut desk, at(0));
    assert!(matches!(desk.next_step(at(0)), Step::Start(_)));
}

#[test]
fn strays_are_sent_away() {
    let (mut desk, mut host, now) = tight();
    let order = |model: &str, mib: u64| Order {
        model: model.into(),
        path: String::new(),
        roles: vec![],
        bytes: mib * MIB,
        profile: PROFILE,
    };
    for (model, mib) in [("small", 10), ("unheard", 10), ("large", 2_000)] {
        host.start(&order(model, mib));
    }
    host.look(&mut desk, now);
    assert_eq!(host.engines.len(), 2, "a second one, one of an unknown model, and one without room are gone");
    assert_eq!(loaded(&desk), ["middle", "small"]);
}

#[test]
fn what_was_just_stopped_is_not_taken_over_from_an_old_list() {
    let (mut desk, host, now) = tight();
    let (epoch, old) = (desk.epoch(), host.engines.clone());
    assert!(desk.unload("middle", now).unwrap());
    desk.stopped("middle");
    assert_eq!(desk.observe(&old, epoch, now), Vec::<String>::new());
    assert_eq!(loaded(&desk), ["small"]);
}

#[test]
fn measured_memory_replaces_the_estimate() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    let view = desk.view("small", now).unwrap();
    let measured = host.engine("small").lease_bytes * 97 / 100;
    assert!(measured > view.estimate_bytes && measured < host.engine("small").lease_bytes);
    assert_eq!((view.leased_bytes, view.measured_bytes), (measured, Some(measured)));
    host.engine("small").info = Some(info(400 * MIB));
    host.look(&mut desk, now + SECOND);
    let view = desk.view("small", now).unwrap();
    assert_eq!((view.leased_bytes, view.measured_bytes), (400 * MIB, Some(400 * MIB)), "a peak grows the lease");
    host.engine("small").info = Some(info(200 * MIB));
    host.look(&mut desk, now + 2 * SECOND);
    assert_eq!(desk.view("small", now).unwrap().leased_bytes, 400 * MIB, "it stays");
    let [(model, profile, calibration)] = &desk.calibrations()[..] else { panic!("one calibration") };
    assert_eq!((model.as_str(), *profile, calibration.peak_bytes), ("small", PROFILE, 400 * MIB));
}

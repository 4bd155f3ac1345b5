//! What starts and what gives way.

use tandem_types::{Code, State, reason};

use super::*;

#[test]
fn the_smallest_is_loaded_first_and_one_at_a_time() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small"), ("llm.fast", "middle")]);
    desk.warm_up(at(0));
    let Step::Start(order) = desk.next_step(at(0)) else { panic!("nothing starts") };
    assert_eq!((order.model.as_str(), order.profile), ("small", PROFILE));
    assert_eq!(order.roles, [role("llm.tiny")]);
    assert_eq!(desk.next_step(at(1)), Step::Rest, "one at a time");
    let fault = refused(desk.acquire(&ask("llm.tiny"), "t".into(), at(1)));
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::MODEL_LOADING));
    assert!(fault.retry_after.is_some() && fault.message.contains("small is loading: 67 %"), "{fault}");
    let mut host = Host::default();
    let seen = host.start(&order);
    desk.started("small", &seen, at(2));
    lent(desk.acquire(&ask("llm.tiny"), "t".into(), at(2)));
    assert_eq!(desk.next_step(at(2)), Step::Rest, "its memory is not steady yet");
    host.settle(&mut desk, at(2));
    assert_eq!(host.started, ["small", "middle"]);
    assert_eq!(loaded(&desk), ["middle", "small"]);
    let changes = desk.take_changes(at(30));
    let ready: Vec<&str> = changes.iter().filter(|c| c.state == State::Ready).map(|c| c.role.as_str()).collect();
    assert_eq!(ready, ["llm.code", "llm.fast", "llm.judge", "llm.reason", "llm.smart", "llm.tiny", "llm.world"]);
    assert_eq!(desk.take_changes(at(31)), []);
}

#[test]
fn one_model_for_two_roles_is_loaded_once_and_serves_both() {
    let mut desk =
        desk(4_000, [here(100), absent("middle"), absent("large")], &[("llm.tiny", "small"), ("llm.fast", "auto")]);
    desk.warm_up(at(0));
    let mut host = Host::default();
    host.settle(&mut desk, at(0));
    assert_eq!(host.started, ["small"]);
    for (name, bound_to) in [("llm.tiny", "llm.tiny"), ("llm.fast", "llm.fast"), ("llm.smart", "llm.fast")] {
        let grant = lent(desk.acquire(&ask(name), "t".into(), at(9)));
        assert_eq!((grant.model.as_str(), grant.bound_to.as_str()), ("small", bound_to));
    }
}

#[test]
fn the_longest_idle_gives_way_and_the_resident_stays() {
    let (mut desk, mut host, now) = tight();
    let fault = refused(desk.acquire(&ask("llm.smart"), "t".into(), now));
    assert_eq!(fault.reason, reason::MODEL_LOADING, "{fault}");
    let now = host.settle(&mut desk, now);
    assert_eq!(loaded(&desk), ["large", "small"]);
    assert_eq!(lent(desk.acquire(&ask("llm.smart"), "t".into(), now)).model, "large");
    assert_eq!(host.engines.len(), 2, "the host has no engine that the desk does not have");
}

#[test]
fn what_is_in_use_or_pinned_does_not_give_way() {
    let (mut desk, mut host, now) = tight();
    lent(desk.acquire(&ask("llm.fast"), "ticket".into(), now));
    let patient = Ask { until: now + SECOND, ..ask("llm.smart") };
    let fault = refused(desk.acquire(&patient, "t".into(), now));
    assert_eq!(fault.code, Code::ResourceExhausted, "a patient caller waits for room");
    assert!(fault.message.contains("middle 487 MiB (used by solo/a/B)"), "{fault}");
    let grant = lent(desk.acquire(&Ask { until: now, ..patient }, "t".into(), now));
    assert_eq!(grant.bound_to.as_str(), "llm.fast", "one who waits no longer gets a stand-in");
    assert!(grant.fallback.contains("large needs 1042 MiB"), "{}", grant.fallback);
    host.settle(&mut desk, now);
    assert_eq!(loaded(&desk), ["middle", "small"]);
    // A ticket kept for later is no use; an answer that is under way is.
    let later = now + Duration::from_secs(40);
    desk.wish("large", 1, later, later);
    host.engine("middle").info = Some(Info { busy: 1, ..info(300 * MIB) });
    host.look(&mut desk, later);
    assert_eq!(desk.next_step(later), Step::Rest);
    host.engine("middle").info = Some(info(300 * MIB));
    desk.pin("middle", true);
    host.look(&mut desk, later);
    assert_eq!(desk.next_step(later), Step::Rest);
    desk.pin("middle", false);
    assert!(matches!(desk.next_step(later), Step::Stop { model, .. } if model == "middle"));
}

#[test]
fn a_load_that_fails_is_tried_again_ever_later() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert!(matches!(desk.next_step(now), Step::Start(_)));
        desk.not_started("small", Fault::unavailable(reason::ENGINE_LOST, "it does not start"), now);
        assert_eq!(desk.share().leased, 0);
        let mut pause = 0;
        while desk.next_step(now + Duration::from_secs(pause + 1)) == Step::Rest && pause < 400 {
            pause += 1;
        }
        // The probe above took the step; give it back.
        desk.not_started("small", Fault::unavailable(reason::ENGINE_LOST, "it does not start"), now);
        pauses.push(pause + 1);
        now = now + Duration::from_secs(1_000);
    }
    assert_eq!(pauses, [5, 20, 80, 300, 300, 300, 300, 300]);
}

#[test]
fn unloading_drains_and_spares_the_resident() {
    let (mut desk, mut host, now) = tight();
    assert_eq!(desk.unload("small", now).unwrap_err().code, Code::FailedPrecondition);
    assert_eq!(desk.unload("unheard", now).unwrap_err().code, Code::NotFound);
    assert!(!desk.unload("large", now).unwrap(), "it is not loaded");
    lent(desk.acquire(&ask("llm.fast"), "ticket".into(), now));
    assert!(desk.unload("middle", now + Duration::from_secs(20)).unwrap());
    assert_eq!(desk.next_step(now + SECOND), Step::Rest, "an answer may be under way");
    desk.release("ticket", now + SECOND).unwrap();
    assert!(matches!(desk.next_step(now + SECOND), Step::Stop { .. }));
    let before = desk.share().leased;
    assert!(desk.stopped("middle").is_some_and(|freed| freed > 0));
    assert!(desk.share().leased < before);
    host.engines.retain(|seen| seen.model != "middle");
    host.settle(&mut desk, now + 2 * SECOND);
    assert_eq!(loaded(&desk), ["small"], "nobody asked for it again");
}

#[test]
fn a_quarantined_file_is_not_loaded_until_it_changes() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small"), ("llm.fast", "middle")]);
    desk.set_file("small", FileState::Quarantined("small.gguf has sha256 00 instead of 11".into()));
    desk.warm_up(at(0));
    assert!(!matches!(desk.next_step(at(0)), Step::Start(order) if order.model == "small"));
    let fault = refused(desk.acquire(&ask("llm.tiny"), "t".into(), at(0)));
    assert_eq!(fault.code, Code::Internal, "{fault}");
    assert_eq!(desk.view("small", at(0)).unwrap().state, "quarantined");
    desk.set_file("small", here(100));
    assert_eq!(refused(desk.acquire(&ask("llm.tiny"), "t".into(), at(0))).reason, reason::MODEL_LOADING);
}

#[test]
fn an_engine_too_small_for_a_new_role_is_started_anew() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    let larger = Profile { context_tokens: 8_192, slots: 1 };
    desk.needs.insert(role("llm.fast"), RoleNeed { profile: larger, at_most: u64::MAX });
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    desk.set_word(&role("llm.fast"), "small");
    host.settle(&mut desk, now);
    assert_eq!(host.started, ["small", "small"]);
    assert_eq!(desk.wanted_profile("small"), Profile { context_tokens: 8_192, slots: 2 });
}

//! Whatever happens.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tandem_types::reason;

use super::*;

/// Something that happens to a desk.
#[derive(Debug, Clone)]
enum Event {
    Ask(usize, bool),
    Release(usize),
    Record(usize, bool),
    Step(bool),
    Look,
    Die(usize),
    Grow(usize, u64),
    Unload(usize),
    Wait(u8),
}

const ROLES: [&str; 3] = ["llm.tiny", "llm.fast", "llm.smart"];
const MODELS: [&str; 3] = ["small", "middle", "large"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3usize, any::<bool>()).prop_map(|(role, patient)| Event::Ask(role, patient)),
        2 => (0..60usize).prop_map(Event::Release),
        2 => (0..60usize, any::<bool>()).prop_map(|(ticket, ok)| Event::Record(ticket, ok)),
        6 => prop::bool::weighted(0.9).prop_map(Event::Step),
        4 => Just(Event::Look),
        1 => (0..3usize).prop_map(Event::Die),
        1 => (0..3usize, 50..1_000u64).prop_map(|(model, mib)| Event::Grow(model, mib)),
        1 => (0..3usize).prop_map(Event::Unload),
        3 => (1..40u8).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Whatever happens: leases stay within the share, one engine loads at a time, no model has two, a ticket is for an
    /// engine that serves, and whoever asks gets a ticket or a reason.
    #[test]
    fn the_desk_keeps_its_promises(share in 300u64..2_500, events in prop::collection::vec(event(), 0..150)) {
        let mut desk = desk(share, all_here(), &[("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")]);
        desk.warm_up(at(0));
        let (mut host, mut now, mut tickets) = (Host::default(), at(0), Vec::new());
        for event in events {
            match event {
                Event::Ask(which, patient) => {
                    let until = if patient { now + SECOND } else { now };
                    let ticket = format!("t{}", tickets.len());
                    match desk.acquire(&Ask { until, ..ask(ROLES[which]) }, ticket.clone(), now) {
                        Answer::Lent(grant) => {
                            let engine = host.ever.iter().find(|seen| seen.endpoint == grant.endpoint);
                            prop_assert_eq!(engine.map(|seen| seen.model.clone()), Some(grant.model));
                            prop_assert_eq!(grant.bound_to.as_str() == ROLES[which], grant.fallback.is_empty());
                            tickets.push(ticket);
                        }
                        Answer::Wait(fault) | Answer::Refused(fault) => {
                            prop_assert!(!fault.reason.is_empty() && !fault.message.is_empty());
                        }
                    }
                }
                Event::Release(n) => drop(tickets.get(n).map(|ticket| desk.release(ticket, now))),
                Event::Record(n, ok) => {
                    let outcome = if ok { "ok" } else { "unavailable" };
                    drop(tickets.get(n).map(|ticket| desk.record(ticket, outcome, now)));
                }
                Event::Step(well) => match desk.next_step(now) {
                    Step::Start(order) if well => {
                        prop_assert!(host.engines.iter().all(|seen| seen.model != order.model), "loaded twice");
                        let seen = host.start(&order);
                        desk.started(&order.model, &seen, now);
                    }
                    Step::Start(order) => {
                        desk.not_started(&order.model, Fault::unavailable(reason::ENGINE_LOST, "no"), now);
                    }
                    Step::Stop { model, engine } => {
                        prop_assert!(desk.tiny() != Some(model.as_str()), "the resident leaves");
                        host.engines.retain(|seen| seen.id != engine);
                        desk.stopped(&model);
                    }
                    Step::Rest => {}
                },
                Event::Look => host.look(&mut desk, now),
                Event::Die(which) => host.engines.retain(|seen| seen.model != MODELS[which]),
                Event::Grow(which, mib) => {
                    for seen in host.engines.iter_mut().filter(|seen| seen.model == MODELS[which]) {
                        seen.info = Some(info(mib * MIB));
                    }
                }
                Event::Unload(which) => drop(desk.unload(MODELS[which], now + SECOND)),
                Event::Wait(seconds) => now = now + Duration::from_secs(seconds.into()),
            }
            let shares = desk.share();
            prop_assert!(shares.leased <= shares.budget, "{:?}", shares);
            let leases: u64 = desk.models(now).iter().map(|view| view.leased_bytes).sum();
            prop_assert_eq!(leases, shares.leased, "no lease is lost");
            prop_assert!(desk.models(now).iter().filter(|view| view.state == "loading").count() <= 1);
        }
    }

    /// Fifty callers of three roles in a share that holds two models: all are answered in the end.
    #[test]
    fn everybody_is_answered(order in prop::collection::vec(0..3usize, 50)) {
        let (mut desk, mut host, mut now) = tight();
        let mut answers: BTreeMap<usize, Result<String, Fault>> = BTreeMap::new();
        for round in 0..60 {
            for (caller, which) in order.iter().enumerate() {
                if answers.contains_key(&caller) {
                    continue;
                }
                let until = if round < 50 { now + SECOND } else { now };
                let ticket = format!("t{round}-{caller}");
                match desk.acquire(&Ask { until, ..ask(ROLES[*which]) }, ticket.clone(), now) {
                    Answer::Lent(grant) => {
                        // Uses it, and gives it back in the same round.
                        desk.record(&ticket, "ok", now).unwrap();
                        desk.release(&ticket, now).unwrap();
                        answers.insert(caller, Ok(grant.model));
                    }
                    Answer::Refused(fault) => drop(answers.insert(caller, Err(fault))),
                    Answer::Wait(_) => {}
                }
            }
            now = host.settle(&mut desk, now);
            let resident: u64 = host.engines.iter().filter_map(|seen| seen.info).map(|info| info.resident).sum();
            prop_assert!(resident <= desk.share().budget);
        }
        prop_assert_eq!(answers.len(), 50);
        for (caller, which) in order.iter().enumerate() {
            prop_assert_eq!(answers[&caller].as_deref().ok(), Some(MODELS[*which]));
        }
    }
}

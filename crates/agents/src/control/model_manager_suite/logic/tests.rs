use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tandem_engine::gguf::GgufInfo;
use tandem_types::{Code, Fault, Role, State, Timestamp, reason};

use super::{Answer, Ask, Card, Desk, FileState, Info, Limits, Order, Profile, RoleNeed, Seen, Step};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const PROFILE: Profile = Profile { context_tokens: 2_048, slots: 2 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn role(name: &str) -> Role {
    name.parse().unwrap()
}

/// A file of so many MiB whose engine takes little beside them: about 70 MiB, and 8 % of all.
fn here(mib: u64) -> FileState {
    let info = GgufInfo {
        architecture: "llama".into(),
        name: String::new(),
        layers: 1,
        embedding: 1,
        feed_forward: 1,
        heads: 1,
        kv_heads: vec![0],
        key_width: 1,
        value_width: 1,
        context_length: 32_768,
        vocabulary: 1,
        chat_template: true,
        tensor_bytes: mib * MIB,
        file_bytes: mib * MIB,
    };
    FileState::Here { path: format!("/models/{mib}.gguf").into(), info: Arc::new(info) }
}

fn absent(name: &str) -> FileState {
    FileState::Absent(format!("model {name} is not on this machine: get it with `tandem models pull {name}`"))
}

fn card(name: &str, quality: u64, roles: &[&str]) -> Card {
    Card {
        name: name.into(),
        roles: roles.iter().map(|name| role(name)).collect(),
        quality,
        context_tokens: 8_192,
        file_bytes: 100 * MIB,
        sha256: String::new(),
        licence: "MIT".into(),
        languages: vec!["en".into()],
    }
}

fn limits() -> Limits {
    let need = RoleNeed { profile: PROFILE, at_most: u64::MAX };
    Limits { ticket_life: Duration::from_secs(600), tickets: 100, batch: 128, need }
}

/// A desk over a share of so many MiB with three models: `small` (100 MiB, tiny and fast), `middle` (400 MiB, fast) and
/// `large` (900 MiB, fast and smart), each with its file as given.
fn desk(share: u64, files: [FileState; 3], words: &[(&str, &str)]) -> Desk {
    let need = |at_most: u64| RoleNeed { profile: PROFILE, at_most: at_most * MIB };
    let needs = [("llm.tiny", need(900)), ("llm.fast", need(2_700)), ("llm.smart", need(6_300))];
    let needs = needs.into_iter().map(|(name, need)| (role(name), need)).collect();
    let mut desk = Desk::new("solo/coordination".parse().unwrap(), share * MIB, limits(), needs);
    let [small, middle, large] = files;
    desk.add_model(card("small", 1, &["llm.tiny", "llm.fast"]), small);
    desk.add_model(card("middle", 2, &["llm.fast"]), middle);
    desk.add_model(card("large", 3, &["llm.fast", "llm.smart"]), large);
    desk.set_words(words.iter().map(|(name, word)| (role(name), (*word).to_owned())).collect());
    desk
}

fn all_here() -> [FileState; 3] {
    [here(100), here(400), here(900)]
}

fn ask(name: &str) -> Ask {
    Ask { role: role(name), context_tokens: 0, priority: 2, holder: "solo/a/B".into(), until: at(0) }
}

/// A host that does as it is told.
#[derive(Default)]
struct Host {
    engines: Vec<Seen>,
    /// All engines there have been.
    ever: Vec<Seen>,
    started: Vec<String>,
    number: u32,
}

impl Host {
    fn start(&mut self, order: &Order) -> Seen {
        self.number += 1;
        self.started.push(order.model.clone());
        let seen = Seen {
            id: format!("{}-{}", order.model, self.number),
            model: order.model.clone(),
            endpoint: format!("http://127.0.0.1:{}", 9_000 + self.number),
            down: None,
            failed: false,
            lease_bytes: order.bytes,
            measured: None,
            restarts: 0,
            load: SECOND,
            info: Some(info(order.bytes * 9 / 10)),
        };
        self.engines.push(seen.clone());
        self.ever.push(seen.clone());
        seen
    }

    /// Does everything the desk wants, looking at the engines every second, and returns the time it was done.
    fn settle(&mut self, desk: &mut Desk, mut now: Timestamp) -> Timestamp {
        for _ in 0..20 {
            match desk.next_step(now) {
                Step::Start(order) => {
                    let seen = self.start(&order);
                    desk.started(&order.model, &seen, now);
                }
                Step::Stop { model, engine } => {
                    self.engines.retain(|seen| seen.id != engine);
                    desk.stopped(&model);
                }
                Step::Rest => {
                    now = now + SECOND;
                    self.look(desk, now);
                }
            }
        }
        now
    }

    fn look(&mut self, desk: &mut Desk, now: Timestamp) {
        let epoch = desk.epoch();
        for stray in desk.observe(&self.engines.clone(), epoch, now) {
            self.engines.retain(|seen| seen.id != stray);
        }
    }

    fn engine(&mut self, model: &str) -> &mut Seen {
        self.engines.iter_mut().find(|seen| seen.model == model).expect("an engine of this model")
    }
}

fn info(resident: u64) -> Info {
    Info { profile: PROFILE, busy: 0, resident, answered: Timestamp::default() }
}

fn lent(answer: Answer) -> super::Grant {
    match answer {
        Answer::Lent(grant) => grant,
        other => panic!("not lent: {other:?}"),
    }
}

fn refused(answer: Answer) -> Fault {
    match answer {
        Answer::Refused(fault) | Answer::Wait(fault) => fault,
        Answer::Lent(grant) => panic!("lent: {grant:?}"),
    }
}

fn loaded(desk: &Desk) -> Vec<String> {
    desk.models(at(0)).into_iter().filter(|view| view.state == "loaded").map(|view| view.card.name).collect()
}

#[test]
fn roles_get_models_and_stand_ins() {
    let none = || [absent("small"), absent("middle"), absent("large")];
    let only_small = || [here(100), absent("middle"), absent("large")];
    // Share, files, words, role; the model that answers, whose it is, and how the role is doing before anything is loaded.
    let cases: Vec<(u64, [FileState; 3], &[(&str, &str)], &str, &str, &str, &str)> = vec![
        (
            4_000,
            all_here(),
            &[("llm.tiny", "small"), ("llm.fast", "auto")],
            "llm.fast",
            "large",
            "",
            "degraded: large is not loaded; the first to ask waits for it",
        ),
        (
            4_000,
            all_here(),
            &[("llm.tiny", "small"), ("llm.fast", "auto")],
            "llm.smart",
            "large",
            "llm.fast",
            "degraded: large is not loaded; the first to ask waits for it",
        ),
        (
            1_000,
            all_here(),
            &[("llm.tiny", "small"), ("llm.fast", "auto")],
            "llm.fast",
            "middle",
            "",
            "degraded: middle is not loaded; the first to ask waits for it",
        ),
        (
            600,
            all_here(),
            &[("llm.tiny", "small"), ("llm.fast", "auto")],
            "llm.fast",
            "small",
            "",
            "degraded: small is not loaded; the first to ask waits for it",
        ),
        (
            4_000,
            only_small(),
            &[("llm.tiny", "auto"), ("llm.fast", "auto")],
            "llm.smart",
            "small",
            "llm.fast",
            "degraded: small is not loaded; the first to ask waits for it",
        ),
        (
            4_000,
            only_small(),
            &[("llm.tiny", "small"), ("llm.fast", "middle")],
            "llm.fast",
            "small",
            "llm.tiny",
            "degraded: no model for llm.fast: model middle is not on this machine: get it with `tandem models pull middle`; llm.tiny stands in",
        ),
        (
            4_000,
            all_here(),
            &[("llm.tiny", "small")],
            "llm.fast",
            "small",
            "llm.tiny",
            "degraded: small is not loaded; the first to ask waits for it",
        ),
        (
            4_000,
            none(),
            &[("llm.tiny", "small"), ("llm.fast", "auto")],
            "llm.fast",
            "",
            "",
            "unavailable: no model for llm.fast: model large is not on this machine: get it with `tandem models pull large`",
        ),
        (
            4_000,
            none(),
            &[("llm.tiny", "small"), ("llm.fast", "auto")],
            "llm.tiny",
            "",
            "",
            "unavailable: no model for llm.tiny: model small is not on this machine: get it with `tandem models pull small`",
        ),
        (
            4_000,
            all_here(),
            &[("llm.tiny", "nothing"), ("llm.fast", "auto")],
            "llm.tiny",
            "",
            "",
            "unavailable: no model for llm.tiny: `nothing` is in no catalogue",
        ),
        (
            100,
            all_here(),
            &[("llm.tiny", "auto")],
            "llm.tiny",
            "",
            "",
            "unavailable: no model for llm.tiny: small is larger than 100 MiB of the share or the 900 MiB of the role",
        ),
        (4_000, all_here(), &[("stt", "auto")], "stt", "", "", "unavailable: no model for stt: the catalogue has none"),
    ];
    for (share, files, words, name, model, bound_to, health) in cases {
        let mut desk = desk(share, files, words);
        let view = desk.role(&role(name), at(0)).unwrap();
        let said = format!("{}: {}", view.health.state, view.health.cause);
        assert_eq!(
            (view.model.as_str(), view.bound_to.as_str(), said.as_str()),
            (model, bound_to, health),
            "{share} {words:?}"
        );
        assert!(!view.capable);
    }
}

#[test]
fn no_model_is_no_ticket() {
    let mut desk = desk(4_000, [absent("small"), absent("middle"), absent("large")], &[("llm.tiny", "small")]);
    for name in ["llm.tiny", "llm.fast", "llm.smart"] {
        let answer = desk.acquire(&ask(name), "t".into(), at(0));
        assert_eq!(answer, Answer::Refused(Fault::no_model(name)));
    }
    assert_eq!(refused(desk.acquire(&ask("llm.unheard"), "t".into(), at(0))).code, Code::NotFound);
}

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
fn a_stand_in_says_why() {
    let mut desk =
        desk(4_000, [here(100), absent("middle"), absent("large")], &[("llm.tiny", "small"), ("llm.fast", "middle")]);
    desk.warm_up(at(0));
    Host::default().settle(&mut desk, at(0));
    let grant = lent(desk.acquire(&ask("llm.fast"), "t".into(), at(9)));
    assert_eq!((grant.bound_to.as_str(), grant.model.as_str()), ("llm.tiny", "small"));
    assert!(
        grant.fallback.starts_with("no model for llm.fast: model middle is not on this machine"),
        "{}",
        grant.fallback
    );
}

#[test]
fn a_context_that_does_not_fit_is_told_with_both_counts() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    Host::default().settle(&mut desk, at(0));
    lent(desk.acquire(&Ask { context_tokens: 2_048, ..ask("llm.tiny") }, "t".into(), at(9)));
    let fault = refused(desk.acquire(&Ask { context_tokens: 2_049, ..ask("llm.tiny") }, "t".into(), at(9)));
    assert_eq!((fault.code, fault.reason.as_str()), (Code::InvalidArgument, reason::CONTEXT_LENGTH));
    assert!(fault.message.contains("2049 tokens") && fault.message.contains("2048 tokens"), "{fault}");
}

/// `small` and one of two others fit.
fn tight() -> (Desk, Host, Timestamp) {
    let mut desk = desk(1_300, all_here(), &[("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")]);
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    assert_eq!(loaded(&desk), ["middle", "small"]);
    (desk, host, now)
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
    assert!(fault.message.contains("middle 452 MiB (used by solo/a/B)"), "{fault}");
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
fn larger_than_the_share_is_said_with_the_sum() {
    let mut desk = desk(500, all_here(), &[("llm.tiny", "small"), ("llm.smart", "large")]);
    let fault = refused(desk.acquire(&ask("llm.smart"), "t".into(), at(0)));
    assert_eq!(fault.code, Code::FailedPrecondition);
    assert_eq!(
        fault.message,
        "large needs weights 900 MiB + context 0 MiB (2048 tokens for each of 2) + work 65 MiB and at most 8 % more = \
         1042 MiB; the share of solo/coordination is 500 MiB"
    );
    let refused = desk.check_binding(&role("llm.fast"), "large").unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition, "{refused}");
}

#[test]
fn roles_are_bound_to_what_suits_them() {
    let desk = desk(4_000, all_here(), &[]);
    for (name, word, code) in [
        ("llm.fast", "middle", None),
        ("llm.fast", "auto", None),
        ("llm.unheard", "middle", Some(Code::NotFound)),
        ("llm.fast", "unheard", Some(Code::NotFound)),
        ("llm.tiny", "large", Some(Code::FailedPrecondition)),
    ] {
        assert_eq!(desk.check_binding(&role(name), word).err().map(|fault| fault.code), code, "{name} {word}");
    }
}

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
fn measured_memory_replaces_the_estimate() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    let view = desk.view("small", now).unwrap();
    // Measured were nine tenths of the upper bound, which is above the lower bound.
    let measured = host.engine("small").lease_bytes * 9 / 10;
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

#[test]
fn tickets_end_and_are_bounded() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    let now = Host::default().settle(&mut desk, at(0));
    for n in 0..100 {
        lent(desk.acquire(&ask("llm.tiny"), format!("t{n}"), now));
    }
    let fault = refused(desk.acquire(&ask("llm.tiny"), "one more".into(), now));
    assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::QUEUE_FULL));
    desk.release("t0", now).unwrap();
    desk.release("t0", now).unwrap();
    lent(desk.acquire(&ask("llm.tiny"), "one more".into(), now));
    assert_eq!(
        desk.record("t0", "ok", now).unwrap().model,
        "small",
        "a use may be told after the ticket was given back"
    );
    assert_eq!(desk.release("nonsense", now).unwrap_err().code, Code::NotFound);
    let later = now + Duration::from_secs(601);
    lent(desk.acquire(&ask("llm.tiny"), "after all ended".into(), later));
    desk.expire(later + Duration::from_secs(601));
    assert_eq!(desk.record("t1", "ok", later).unwrap_err().code, Code::NotFound);
}

#[test]
fn capable_is_who_answered_lately() {
    let mut desk = desk(4_000, all_here(), &[("llm.tiny", "small")]);
    desk.warm_up(at(0));
    let now = Host::default().settle(&mut desk, at(0));
    let capable = |desk: &mut Desk, now| desk.role(&role("llm.tiny"), now).unwrap().capable;
    assert!(!capable(&mut desk, now));
    assert_eq!(desk.unproven(now).len(), 1);
    desk.answered("small", now);
    assert_eq!(desk.unproven(now), []);
    assert!(capable(&mut desk, now + Duration::from_secs(600)));
    assert!(!capable(&mut desk, now + Duration::from_secs(601)));
}

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

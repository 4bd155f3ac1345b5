//! What is laid over models, for whom, and what it takes.

use tandem_store::models::Published;
use tandem_types::{Code, State};

use super::super::adapters::share;
use super::*;

fn published(adapter: &str, percent: u8, others: Option<&str>) -> Published {
    Published { adapter: adapter.into(), percent, others: others.map(str::to_owned) }
}

fn add(desk: &mut Desk, name: &str, base: &str, mib: u64) {
    let card = Card { base: Some(base.into()), file_bytes: mib * MIB, ..card(name, 0, &[]) };
    desk.add_adapter(card, FileState::Adapter { path: format!("/adapters/{name}.gguf").into() });
}

/// `small` and `middle` run in a share of so many MiB; `warm` and `new` (10 MiB each) and `huge` are made for `middle`.
fn running(share: u64) -> (Desk, Host, Timestamp) {
    let words = [("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")];
    let mut desk = desk(share, all_here(), &words);
    for (name, base, mib) in
        [("warm", "middle", 10), ("new", "middle", 10), ("huge", "middle", 5_000), ("other", "small", 10)]
    {
        add(&mut desk, name, base, mib);
    }
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    assert_eq!(loaded(&desk), ["middle", "small"]);
    (desk, host, now)
}

/// Publishes as the agent does; what the role has then.
fn publish(desk: &mut Desk, name: &str, percent: u8) -> Published {
    let fast = role("llm.fast");
    let (model, published) = desk.check_publishing(&fast, name, percent).unwrap();
    desk.set_word(&fast, &model);
    desk.publish(&fast, Some(published.clone()));
    published
}

#[test]
fn conversations_are_shared_out_by_percentage_and_stay() {
    let get = |published: &Published| {
        let all = (0..2_000).map(|n| share(published, &format!("session-{n}")).map(str::to_owned));
        all.collect::<Vec<_>>()
    };
    for (percent, others) in [(1, None), (10, Some("old")), (50, None), (100, Some("old"))] {
        let given = get(&published("warm", percent, others));
        let count = given.iter().filter(|name| name.as_deref() == Some("warm")).count();
        let expected = usize::from(percent) * 20;
        assert!(count.abs_diff(expected) <= 60, "{count} of 2000 instead of {expected}");
        assert!(given.iter().all(|name| name.as_deref() == Some("warm") || name.as_deref() == others));
        if percent == 100 {
            assert_eq!(count, 2_000);
        }
    }
    let (few, more) = (get(&published("warm", 10, None)), get(&published("warm", 40, None)));
    assert!(few.iter().zip(&more).all(|(few, more)| few.is_none() || more.is_some()), "who had it keeps it");
    let other = get(&published("new", 10, None));
    let both = few.iter().zip(&other).filter(|(few, other)| few.is_some() && other.is_some()).count();
    assert!(both < 60, "{both} conversations try everything");
    // The same on every machine and in every version, so that a restart changes nobody's adapter.
    let first: Vec<usize> = (0..2_000).filter(|n| few[*n].is_some()).take(5).collect();
    assert_eq!(first, FIRST);
}

/// The first of 2,000 sessions that get `warm` at 10 %.
const FIRST: [usize; 5] = [6, 19, 22, 28, 32];

#[test]
fn an_adapter_is_published_where_its_model_serves() {
    let (desk, ..) = running(4_000);
    for (name, adapter, code, says) in [
        ("llm.fast", "warm", None, ""),
        ("llm.fast", "unheard", Some(Code::NotFound), "no adapter `unheard`; known are huge, new, other, warm"),
        ("llm.unheard", "warm", Some(Code::NotFound), "no role `llm.unheard`"),
        (
            "llm.tiny",
            "warm",
            Some(Code::FailedPrecondition),
            "warm was made for middle and llm.tiny has small; bind llm.tiny to middle first",
        ),
        ("llm.judge", "warm", Some(Code::FailedPrecondition), "llm.judge has no model of its own"),
        (
            "llm.fast",
            "huge",
            Some(Code::FailedPrecondition),
            "MiB of middle; the share of solo/coordination is 4000 MiB",
        ),
    ] {
        let fault = desk.check_publishing(&role(name), adapter, 10).err();
        assert_eq!(fault.as_ref().map(|fault| fault.code), code, "{name} {adapter}");
        assert!(fault.is_none_or(|fault| fault.message.contains(says)), "{name} {adapter} {says}");
    }
}

#[test]
fn the_others_go_on_with_what_all_had() {
    let (mut desk, ..) = running(4_000);
    for (name, percent, others) in [
        ("warm", 10, None),
        ("warm", 100, None),
        ("new", 20, Some("warm")),
        // A canary takes the place of the one before it, not of what the others have.
        ("new", 40, Some("warm")),
        ("new", 100, None),
        ("warm", 5, Some("new")),
    ] {
        assert_eq!(publish(&mut desk, name, percent), published(name, percent, others));
    }
}

#[test]
fn a_ticket_names_the_adapter_of_its_conversation() {
    let (mut desk, mut host, now) = running(4_000);
    let of = |desk: &mut Desk, name: &str, conversation: &str, ticket: &str| {
        let grant = lent(desk.acquire(&Ask { conversation: conversation.into(), ..ask(name) }, ticket.into(), now));
        (grant.adapter, grant.one_conversation)
    };
    assert_eq!(of(&mut desk, "llm.fast", "ann", "t"), (None, false));
    publish(&mut desk, "warm", 100);
    assert_eq!(of(&mut desk, "llm.fast", "ann", "t"), (Some("warm".into()), false));
    assert_eq!(of(&mut desk, "llm.judge", "ann", "t"), (None, false), "it stands in as it is");
    assert_eq!(of(&mut desk, "llm.tiny", "ann", "t"), (None, false));
    let half = publish(&mut desk, "new", 50);
    for n in 0..30 {
        let name = n.to_string();
        let expected = (share(&half, &name).map(str::to_owned), true);
        assert_eq!(of(&mut desk, "llm.fast", &name, "t"), expected, "by the conversation");
        assert_eq!(of(&mut desk, "llm.fast", "", &name), expected, "by the ticket where there is none");
    }
    desk.set_word(&role("llm.fast"), "middle");
    assert_eq!(of(&mut desk, "llm.fast", "ann", "t"), (None, false), "a binding is to the model alone");
    host.look(&mut desk, now);
}

#[test]
fn a_broken_adapter_is_gone_without_and_it_is_said() {
    let (mut desk, _, now) = running(4_000);
    publish(&mut desk, "warm", 100);
    desk.take_changes(now);
    let why = "warm.gguf has sha256 00 instead of 11".to_owned();
    desk.set_file("warm", FileState::Quarantined(why));
    let grant = lent(desk.acquire(&ask("llm.fast"), "t".into(), now));
    assert_eq!((grant.adapter, grant.model.as_str()), (None, "middle"));
    let view = desk.role(&role("llm.fast"), now).unwrap();
    assert_eq!((view.health.state, view.published), (State::Degraded, Some(published("warm", 100, None))));
    let cause = "adapter warm is in quarantine: warm.gguf has sha256 00 instead of 11; answers go without it";
    assert_eq!(view.health.cause, cause);
    assert_eq!(desk.check_publishing(&role("llm.fast"), "warm", 100).unwrap_err().code, Code::Internal);
    assert_eq!(desk.view("warm", now).unwrap().state, "quarantined");
    let told: Vec<String> = desk.take_changes(now).into_iter().map(|change| change.role.to_string()).collect();
    assert_eq!(told, ["llm.fast"]);
    desk.set_file("warm", FileState::Adapter { path: "/adapters/warm.gguf".into() });
    assert_eq!(lent(desk.acquire(&ask("llm.fast"), "t".into(), now)).adapter.as_deref(), Some("warm"));
}

#[test]
fn whoever_keeps_tickets_hears_of_a_new_share() {
    let (mut desk, _, now) = running(4_000);
    desk.take_changes(now);
    for (name, percent) in [("warm", 10), ("warm", 20), ("new", 20)] {
        publish(&mut desk, name, percent);
        let changes = desk.take_changes(now);
        let [change] = &changes[..] else { panic!("one change: {changes:?}") };
        assert_eq!((change.role.as_str(), change.adapter.as_str(), change.state), ("llm.fast", name, State::Ready));
    }
    assert_eq!(desk.take_changes(now), []);
}

#[test]
fn adapters_are_charged_to_the_lease_of_their_model() {
    let (mut desk, mut host, now) = running(4_000);
    let before = desk.share().leased;
    publish(&mut desk, "warm", 10);
    assert_eq!(desk.share().leased, before + 10 * MIB);
    desk.check_adapter("middle", "new").unwrap();
    desk.hold_adapter("middle", "new");
    assert_eq!(desk.share().leased, before + 20 * MIB);
    desk.hold_adapter("middle", "new");
    let now = host.settle(&mut desk, now);
    assert_eq!(desk.share().leased, before + 20 * MIB, "once each, whatever was measured");
    desk.publish(&role("llm.fast"), None);
    let now = host.settle(&mut desk, now);
    assert_eq!(desk.share().leased, before + 20 * MIB, "its engine holds them a while longer");
    desk.unload("middle", now).unwrap();
    host.settle(&mut desk, now);
    desk.wish("middle", 1, now + 60 * SECOND, now + 40 * SECOND);
    host.settle(&mut desk, now + 40 * SECOND);
    assert_eq!(loaded(&desk), ["middle", "small"]);
    assert_eq!(desk.share().leased, before, "a new engine holds none");
}

#[test]
fn no_room_for_an_adapter_is_said_with_the_sum() {
    let (mut desk, ..) = running(4_000);
    // It would fit beside its model alone, and small runs too.
    let free = 4_000 - desk.share().leased.div_ceil(MIB);
    add(&mut desk, "wide", "middle", free + 50);
    let fault = desk.check_publishing(&role("llm.fast"), "wide", 10).unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, "share_full"));
    assert!(fault.message.starts_with(&format!("wide needs {} MiB beside the ", free + 50)), "{fault}");
    assert!(fault.message.contains("of the 4000 MiB of solo/coordination are free: unload a model"), "{fault}");
}

#[test]
fn a_better_model_is_asked_again_where_there_is_one() {
    for (words, asked, again) in [
        (&[("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")][..], "llm.fast", Some("llm.smart")),
        (&[("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")], "llm.tiny", None),
        (&[("llm.tiny", "small"), ("llm.fast", "middle")], "llm.fast", None),
        (&[("llm.tiny", "small"), ("llm.fast", "large"), ("llm.smart", "large")], "llm.fast", None),
        (&[("llm.tiny", "small"), ("llm.smart", "large")], "llm.fast", Some("llm.smart")),
    ] {
        let mut desk = desk(4_000, all_here(), words);
        desk.warm_up(at(0));
        let now = Host::default().settle(&mut desk, at(0));
        let grant = lent(desk.acquire(&ask(asked), "t".into(), now));
        assert_eq!(grant.ask_again.as_ref().map(Role::as_str), again, "{words:?} {asked}");
    }
}

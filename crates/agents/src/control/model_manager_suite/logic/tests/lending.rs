//! Tickets.

use tandem_types::{Code, reason};

use super::*;

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
fn who_speaks_the_language_and_is_good_enough_answers() {
    let words = [("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")];
    let mut desk = desk(4_000, all_here(), &words);
    desk.add_model(Card { languages: vec!["en".into(), "tl-PH".into()], ..card("small", 1, &["llm.tiny"]) }, here(100));
    desk.warm_up(at(0));
    let mut host = Host::default();
    host.settle(&mut desk, at(0));
    desk.wish("large", 1, at(0), at(0));
    let now = host.settle(&mut desk, at(10));
    let mut asked = |name: &str, language: &str, min_quality| {
        desk.acquire(&Ask { language: language.into(), min_quality, ..ask(name) }, "t".into(), now)
    };
    for (name, language, quality, model, why) in [
        ("llm.smart", "", 0, "large", ""),
        ("llm.smart", "en-GB", 0, "large", ""),
        ("llm.smart", "fil", 0, "small", "large does not declare `fil`"),
        ("llm.smart", "taglish", 0, "small", "large does not declare `taglish`"),
        // Nobody speaks it, so the order stays.
        ("llm.smart", "de", 0, "large", ""),
        // Nobody good enough speaks it.
        ("llm.smart", "tl", 2, "large", ""),
        ("llm.fast", "en", 2, "middle", ""),
    ] {
        let grant = lent(asked(name, language, quality));
        assert_eq!((grant.model.as_str(), grant.fallback.as_str()), (model, why), "{name} {language} {quality}");
    }
    let fault = refused(asked("llm.fast", "en", 3));
    assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, "unsuited"));
    assert!(fault.message.contains("middle has quality 2, and 3 is asked for"), "{fault}");
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

//! Which model a role gets.

use tandem_types::Code;

use super::*;

/// Share, files, words and role; the model that answers, whose it is, and how the role is doing before anything is loaded.
type Case = (
    u64,
    [FileState; 3],
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

#[test]
fn roles_get_models_and_stand_ins() {
    let none = || [absent("small"), absent("middle"), absent("large")];
    let only_small = || [here(100), absent("middle"), absent("large")];
    let cases: Vec<Case> = vec![
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

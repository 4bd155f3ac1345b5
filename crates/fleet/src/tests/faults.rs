//! Every kind of finding, provoked; and all problems of a file at once.

use std::collections::{BTreeMap, BTreeSet};

use unicode_width::UnicodeWidthStr as _;

use super::{SMALL, agent, built, code, node, planned};
use crate::{AgentRef, Card, Document, Facts, Finding, MAINPC_PC2, Machine, Severity, check, render_findings};

/// A terminal in which nothing is wrapped.
const WIDE: usize = 200;

/// What the table below is checked with.
fn facts() -> Facts {
    let mut facts = built(&["First", "Second", "Third", "Spare"]);
    facts.agents.get_mut(&agent("Second")).unwrap().needs = vec![agent("First")];
    facts.agents.get_mut(&agent("Second")).unwrap().uses = vec![AgentRef::from(agent("Third"))];
    facts.agents.get_mut(&agent("Third")).unwrap().needs = vec![agent("First")];
    facts.agents.get_mut(&agent("Third")).unwrap().roles = vec!["llm.fast".parse().unwrap()];
    facts.models = Some(BTreeSet::from(["tiny".to_owned()]));
    facts.contracts = Some(BTreeSet::from(["session.v1.Sessions".to_owned()]));
    facts
}

fn findings(text: &str, facts: &Facts) -> Vec<Finding> {
    check(&Document::read("fleet.toml", text), facts)
}

#[test]
fn the_small_fleet_has_no_finding() {
    assert_eq!(render_findings(&findings(SMALL, &facts()), SMALL, WIDE), "no findings\n");
}

/// Each line: what is replaced in the small fleet, by what, the finding it must cause, and text its line must hold.
const FAULTS: &[(&str, &str, &str, &str)] = &[
    ("name = \"small\"", "name = \"small", "toml-syntax", "name = \"small"),
    ("port = 8200", "port = 8200\nport = 8201", "duplicate-key", "port = 8201"),
    ("port = 8200", "prot = 8200", "unknown-key", "prot"),
    ("port = 8200", "port = \"8200\"", "wrong-type", "\"8200\""),
    ("port = 8200", "port = 99999", "out-of-range", "99999"),
    ("ram_mib = 8192", "ram_mib = \"detcet\"", "bad-value", "detcet"),
    ("ram_mib = 1024\n", "", "missing-key", "a/one"),
    ("[node.a]", "[node.A]", "bad-name", "[node.A]"),
    ("\"First\", {", "\"first\", {", "bad-name", "first"),
    ("[group.\"a/one\"]", "[group.one]", "bad-name", "[group.one]"),
    ("[group.\"a/one\"]", "[group.\"b/one\"]", "unknown-node", "b/one"),
    ("needs = [\"one\"]", "needs = [\"oen\"]", "unknown-group", "oen"),
    ("needs = [\"one\"]", "needs = [\"one\"]\nafter = [\"b/one\"]", "unknown-group", "b/one"),
    ("\"First\", {", "\"First\", \"First\", {", "duplicate-agent", "agents = "),
    ("agents = [\"First\", {", "agents = []\nenv = { X = \"", "toml-syntax", "env"),
    ("cpu = 2", "env = { \"1X\" = \"\" }", "bad-name", "1X"),
    ("ram_mib = 1024", "ram_mib = 1024\nneeds = [\"two\"]", "group-circle", "needs = [\"two\"]"),
    ("\"First\", {", "{ name = \"First\", needs = [\"Second\"] }, {", "agent-circle", "needs = [\"Second\"]"),
    ("required = true, needs = [\"First\"]", "needs = [\"Furst\"]", "need-missing", "Furst"),
    ("\"First\", {", "{ name = \"First\", needs = [\"Third\"] }, {", "need-later-stage", "needs = [\"Third\"]"),
    ("needs = [\"one\"]", "needs = [\"one\"]\nstage = 1", "stage-order", "stage = 1"),
    ("needs = [\"one\"]", "needs = [\"b/one\"]", "need-across-nodes", "b/one"),
    ("needs = [\"one\"]", "needs = [\"one\"]\nafter = [\"a/one\"]", "after-same-node", "after"),
    ("uses = [\"Third\"]", "uses = [\"Thrid\"]", "unknown-agent", "Thrid"),
    ("uses = [\"Third\"]", "uses = [\"First\"]", "facts-differ", "uses = [\"First\"]"),
    (
        "agents = [{ name = \"Third\", required = true, needs = [\"First\"] }]",
        "agents = []",
        "empty-group",
        "agents = []",
    ),
    ("[roles]", "[settings.Frist]\nx = 1\n[roles]", "settings-of-nobody", "[settings.Frist]"),
    ("[roles]", "[settings.First]\nx = 99999999999999999999\n[roles]", "out-of-range", "99999999999999999999"),
    ("\"First\", {", "\"First\", \"Sparre\", {", "similar-agent", "Sparre"),
    ("\"First\", {", "\"First\", \"Elsewhere\", {", "not-built", "[fleet]"),
    ("needs = [\"First\"], uses", "needs = [\"First\", \"Spear\"], uses", "need-missing", "Spear"),
    ("needs = [\"one\"]", "needs = [\"one\"]\nport = 8200", "port-clash", "port = 8200"),
    ("needs = [\"one\"]", "needs = [\"one\"]\nport = 8280", "port-clash", "port = 8280"),
    ("port = 8200", "port = 80", "port-outside", "port = 80"),
    ("port = 8200", "scrape_port = 8200", "port-outside", "scrape_port = 8200"),
    ("[node.a]", "contract_ports = \"8300-8200\"\n[node.a]", "bad-ports", "8300-8200"),
    ("[node.a]", "scrape_ports = \"8250-8400\"\n[node.a]", "port-ranges-overlap", "8250-8400"),
    ("[node.a]", "contract_ports = \"8200-8200\"\n[node.a]", "ports-exhausted", "a/two"),
    ("[node.a]", "[node.b]\nlink_port = 80\n[node.a]", "port-outside", "link_port = 80"),
    ("[node.a]", "[node.b]\n[node.a]\nlink_port = 8200", "port-clash", "link_port = 8200"),
    ("[node.a]", "[node.a]\nlan = \"127.0.0.1\"", "same-path", "lan"),
    ("[node.a]", "[node.a]\naddress = \"here\"", "bad-address", "here"),
    ("[node.a]", "[node.a]\naddress = \"0.0.0.0\"", "bad-address", "0.0.0.0"),
    ("[node.a]", "[node.a]\naddress = \"8.8.8.8\"", "public-address", "8.8.8.8"),
    ("ram_mib = 8192", "ram_mib = 3000", "ram-over", "ram_mib = 3000"),
    ("ram_mib = 8192", "ram_mib = 3100", "ram-tight", "ram_mib = 3100"),
    ("ram_mib = 8192", "ram_mib = \"detect\"", "not-detected", "cpus"),
    ("ram_mib = 1024", "ram_mib = \"rest\"\nenv = {}", "", ""),
    ("cpus = 8", "cpus = 1", "cpu-over", "cpus = 1"),
    ("cpus = 8", "cpus = 1", "cpu-ceiling-idle", "cpu = 2"),
    ("gpu = { share = 40 }", "gpu = { share = 40, card = 1 }", "no-card", "card = 1"),
    ("gpu = { share = 40 }", "gpu = { share = 100 }", "gpu-full", "[[node.a.gpu]]"),
    ("gpu = { share = 40 }", "gpu = { share = 80, overflow = [{ for = \"a/one\", share = 30 }] }", "gpu-over", "gpu]]"),
    (
        "gpu = { share = 40 }",
        "gpu = { share = 40, overflow = [{ for = \"a/oen\", share = 3 }] }",
        "unknown-group",
        "a/oen",
    ),
    ("gpu = { share = 40 }", "gpu = { share = 1 }", "share-empty", "share = 1"),
    ("sm = 128", "sm = 128\nsharing = [\"mig\"]", "mig-unavailable", "mig"),
    ("home = [\"a/two\"]", "home = [\"a/one\"], device = \"gpu\"", "role-without-share", "llm.fast"),
    ("home = [\"a/two\"]", "home = [\"a/two\"], overflow = true", "role-without-share", "llm.fast"),
    ("home = [\"a/two\"]", "home = [\"a/tow\"]", "unknown-group", "a/tow"),
    ("max_mib = 4000", "max_mib = 9040", "role-over-budget", "9040"),
    ("[callers]", "\"llm.b\" = { home = [\"a/two\"], max_mib = 6000 }\n[callers]", "roles-over-budget", "a/two"),
    ("model = \"tiny\"", "model = \"tinny\"", "unknown-model", "tinny"),
    ("model = \"tiny\"", "alias = \"llm.fst\"", "unknown-role", "llm.fst"),
    ("model = \"tiny\"", "alias = \"llm.fast\"", "alias-circle", "llm.fast"),
    ("\"llm.fast\"", "\"llm.slow\"", "role-unbound", "[roles]"),
    ("\"llm.fast\"", "llm.fast", "unknown-key", "llm.fast"),
    ("\"session.v1.Sessions\"", "\"session.v1.Session\"", "unknown-contract", "session.v1.Session"),
    ("\"session.v1.Sessions\"", "\"Sessions\"", "bad-name", "Sessions"),
    ("\"host\"]", "\"hots\"]", "bad-name", "hots"),
    ("\"host\"]", "\"Foreign\"]", "unknown-caller", "Foreign"),
    ("127.0.0.1:8280", "0.0.0.0:8280", "web-open", "0.0.0.0"),
    ("127.0.0.1:8280", "localhost", "bad-address", "localhost"),
];

/// Findings that need more than one replacement; the tests below this table cause them.
const ELSEWHERE: &[&str] = &[
    "after-circle",
    "card-absent",
    "card-differs",
    "contracts-not-built",
    "need-not-built",
    "ram-beyond-machine",
    "ram-detect-shared",
    "ram-rest-small",
    "ram-rest-twice",
    "uses-across-nodes",
    "web-local",
];

#[test]
fn every_fault_is_found_at_its_place() {
    for (from, to, code, line) in FAULTS {
        assert!(SMALL.contains(from), "the small fleet has no {from:?}");
        let text = SMALL.replacen(from, to, 1);
        let found = findings(&text, &facts());
        let at = |f: &Finding| text.lines().nth(f.span.map_or(0, |s| s.line - 1)).unwrap_or_default().to_owned();
        let rendered = render_findings(&found, &text, WIDE);
        if code.is_empty() {
            assert_eq!(rendered, "no findings\n", "{to}");
            continue;
        }
        assert!(
            found.iter().any(|f| f.code == *code && at(f).contains(line)),
            "{to:?}: no {code} at {line:?} in\n{rendered}"
        );
        assert!(!found.iter().any(|f| f.code == "unreadable"), "{rendered}");
        let refused = planned(&text, &facts()).is_err();
        assert_eq!(refused, found.iter().any(|f| f.severity == Severity::Error), "{rendered}");
    }
}

#[test]
fn the_manual_explains_exactly_the_findings_there_are() {
    let manual = include_str!("../../../../docs/fleet-file.md");
    let rows = manual.lines().filter_map(|l| l.strip_prefix("| `")).filter_map(|l| l.split_once("` | "));
    let severities = ["error", "warning", "note"];
    let explained: BTreeSet<&str> =
        rows.filter(|(_, rest)| severities.iter().any(|s| rest.starts_with(s))).map(|(code, _)| code).collect();
    let caused = FAULTS.iter().map(|f| f.2).filter(|c| !c.is_empty()).chain(ELSEWHERE.iter().copied());
    // This one says that schema and model disagree, which the properties show never to happen.
    assert_eq!(explained, caused.chain(["unreadable"]).collect());
}

fn codes(text: &str, facts: &Facts) -> Vec<&'static str> {
    findings(text, facts).iter().map(|f| f.code).collect()
}

#[test]
fn what_the_machine_has_is_held_against_the_file() {
    let card = |vram_mib, sm| Card { name: "NVIDIA GeForce RTX 4090".into(), vram_mib, sm, sharing: vec![] };
    let mut facts = facts();
    for (machine, expected) in [
        (Machine { ram_mib: 16_384, cpus: 8, cards: Some(vec![card(24_564, 128)]) }, vec![]),
        (Machine { ram_mib: 4_096, cpus: 8, cards: None }, vec!["ram-beyond-machine"]),
        (Machine { ram_mib: 16_384, cpus: 8, cards: Some(vec![]) }, vec!["card-absent"]),
        (Machine { ram_mib: 16_384, cpus: 8, cards: Some(vec![card(16_380, 76)]) }, vec!["card-differs"]),
    ] {
        facts.machines = BTreeMap::from([(node("a"), machine)]);
        assert_eq!(codes(SMALL, &facts), expected);
    }
    assert_eq!(planned(SMALL, &facts).unwrap().nodes[&node("a")].cards[0].vram_mib, 16_380);
}

#[test]
fn a_built_agent_starts_without_one_that_is_not() {
    let mut facts = facts();
    facts.agents.remove(&agent("First"));
    assert_eq!(codes(SMALL, &facts), ["not-built", "need-not-built", "need-not-built"]);
    assert!(planned(SMALL, &facts).is_ok());
}

#[test]
fn code_and_file_may_differ_about_what_the_fleet_does_not_have() {
    let mut facts = facts();
    let second = facts.agents.get_mut(&agent("Second")).unwrap();
    second.needs.push(agent("Absent"));
    second.uses.push(AgentRef::from(agent("Absent")));
    assert_eq!(codes(SMALL, &facts), [""; 0]);
    facts.agents.get_mut(&agent("Second")).unwrap().needs.push(agent("Third"));
    assert_eq!(codes(SMALL, &facts), ["facts-differ"]);
    let second = facts.agents.get_mut(&agent("Second")).unwrap();
    (second.needs, second.uses) = (vec![agent("First"), agent("Third")], vec![]);
    let elsewhere = SMALL.replace("required = true, needs", "needs");
    assert!(!findings(&elsewhere, &facts).iter().any(|f| f.key.ends_with("uses")), "a need may be stated as a use");
    facts.agents.remove(&agent("Third"));
    assert!(!codes(SMALL, &facts).contains(&"facts-differ"), "what is not built is nothing to agree about");
}

#[test]
fn one_group_of_a_node_takes_the_rest_and_it_must_be_worth_it() {
    let rest = SMALL.replace("ram_mib = 2048", "ram_mib = \"rest\"");
    let plan = planned(&rest, &facts()).unwrap();
    assert_eq!(plan.group(&super::group("a/two")).unwrap().ram_mib, Some(7_168));
    assert_eq!(codes(&rest.replace("ram_mib = 8192", "ram_mib = 1200"), &facts()), ["ram-rest-small"]);
    assert_eq!(codes(&rest.replace("ram_mib = 1024", "ram_mib = \"rest\""), &facts()), ["ram-rest-twice"]);
}

#[test]
fn two_nodes_of_one_machine_cannot_both_take_all_of_it() {
    let text = "[fleet]\nname = \"x\"\n[node.a]\n[node.b]\n[group]\n";
    assert!(codes(text, &Facts::default()).contains(&"ram-detect-shared"));
    let apart = text.replace("[node.b]", "[node.b]\naddress = \"10.0.0.2\"");
    assert!(!codes(&apart, &Facts::default()).contains(&"ram-detect-shared"));
}

#[test]
fn contracts_of_agents_to_come_are_one_note() {
    let text = SMALL.replace("[callers]", "[callers]\n\"dream.v1.Dreams\" = []\n\"tool.v1.Tool\" = []");
    assert_eq!(codes(&text, &facts()), ["unknown-contract", "unknown-contract"]);
    let mut facts = facts();
    facts.agents.remove(&agent("Second"));
    let found = findings(&text, &facts);
    let note = found.iter().find(|f| f.code == "contracts-not-built").unwrap();
    let words = "2 of 3 lists of callers are for contracts that are not built: `dream.v1.Dreams` and `tool.v1.Tool`";
    assert_eq!(note.message, words);
    let typed = text.replace("\"session.v1.Sessions\"", "\"session.v1.Session\"");
    assert!(codes(&typed, &facts).contains(&"unknown-contract"));
}

#[test]
fn an_agent_in_a_refused_group_is_somewhere() {
    let text = SMALL.replace("[group.\"a/two\"]", "[group.\"b/two\"]").replace("\"a/two\", \"host\"]", "\"Third\"]");
    let found = codes(&text, &facts());
    assert!(found.contains(&"unknown-node"), "{found:?}");
    assert!(!found.contains(&"unknown-agent") && !found.contains(&"unknown-caller"), "{found:?}");
}

#[test]
fn groups_that_wait_for_each_other_across_nodes_are_named() {
    let text = r#"
        [fleet]
        name = "x"
        [node.a]
        ram_mib = 1000
        [node.b]
        ram_mib = 1000
        [group."a/one"]
        agents = ["First"]
        ram_mib = 10
        after = ["b/one"]
        [group."b/one"]
        agents = ["Second"]
        ram_mib = 10
        after = ["a/one"]
    "#;
    let found = findings(text, &built(&["First", "Second"]));
    let circle = found.iter().find(|f| f.code == "after-circle").unwrap();
    assert!(circle.message.ends_with("a/one -> b/one -> a/one"), "{}", circle.message);
}

#[test]
fn what_a_node_goes_without_while_another_is_away() {
    let text = format!(
        "{SMALL}\n[node.b]\naddress = \"10.0.0.2\"\nram_mib = 100\ncpus = 1\n[group.\"b/one\"]\nram_mib = 10\nagents = \
         [\"First\", {{ name = \"Spare\", uses = [\"Second\", \"Third\", \"First\"] }}]\n"
    );
    let found = findings(&text, &facts());
    let message = |code| found.iter().filter(|f| f.code == code).map(|f| f.message.as_str()).collect::<Vec<_>>();
    // First is on both nodes: its own is asked.
    let words = "while `a` is away, 1 agent of `b` go without 2 of its agents; no start waits";
    assert_eq!(message("uses-across-nodes"), [words], "{found:?}");
    let page = "the page at 127.0.0.1:8280 opens on the machine that serves it, and on no other of 2";
    assert_eq!(message("web-local"), [page]);
}

#[test]
fn findings_keep_to_the_width_of_a_terminal() {
    let text = MAINPC_PC2.replace("needs = [", "neds = [").replace("uses = [", "uses = [\"Nobody\", ");
    let found = findings(&text, &Facts::default());
    assert!(found.len() > 100, "{}", found.len());
    for width in [80, 120] {
        for line in render_findings(&found, &text, width).lines() {
            assert!(line.width() <= width, "{line}");
        }
    }
}

#[test]
fn twelve_planted_faults_come_in_one_answer() {
    let text = r#"[fleet]
name = "broken"
contract_ports = "8200-8210"

[node.a]
ram_mib = 1000
cpus = 4
colour = "red"

[[node.a.gpu]]
name = "NVIDIA GeForce RTX 3060"
vram_mib = 12288
sm = 28

[node.b]
address = "127.0.0.1"
ram_mib = 1000
cpus = 4

[group."a/one"]
agents = ["Alpha", { name = "Beta", needs = ["Gamma"] }, { name = "Gamma", needs = ["Beta"] }, "Alpha"]
needs = ["two"]
ram_mib = 600
port = 8200
gpu = { share = 70 }

[group."a/two"]
agents = [{ name = "Delta", needs = ["Nowhere", "Omega"] }]
needs = ["one"]
ram_mib = 600
port = 9999
gpu = { share = 40 }

[group."b/one"]
agents = ["Omega", "not a name"]
ram_mib = 100
port = 8200

[group."c/one"]
agents = ["Psi"]
ram_mib = 100

[roles]
"llm.fast" = "missing"
"#;
    let facts = Facts { models: Some(BTreeSet::from(["tiny".to_owned()])), ..Facts::default() };
    let errors: BTreeSet<&str> =
        findings(text, &facts).iter().filter(|f| f.severity == Severity::Error).map(|f| f.code).collect();
    assert_eq!(
        errors,
        BTreeSet::from([
            "agent-circle",
            "bad-name",
            "duplicate-agent",
            "gpu-over",
            "group-circle",
            "need-across-nodes",
            "need-missing",
            "port-clash",
            "port-outside",
            "ram-over",
            "unknown-key",
            "unknown-model",
            "unknown-node",
        ])
    );
}

#[test]
fn a_finding_reads_like_a_compiler_s() {
    let text = SMALL.replace("needs = [\"one\"]", "needs = [\"oen\"]");
    assert_eq!(
        render_findings(&findings(&text, &facts()), &text, WIDE),
        r#"error[need-later-stage]: `Third` in `a/two` (stage 1) needs `First` in `a/one` (stage 1), which does not start earlier
  --> fleet.toml:20:55
   |
20 | agents = [{ name = "Third", required = true, needs = ["First"] }]
   |                                                       ^^^^^^^
   = fix: add "one" to the needs of `a/two`, or make it a use

error[unknown-group]: `a/two` needs `oen`, and `a` has no such group
  --> fleet.toml:21:10
   |
21 | needs = ["oen"]
   |          ^^^^^
   = fix: did you mean `one`?

2 errors
"#
    );
}

#[test]
fn carets_stand_under_wide_characters() {
    let text = "[fleet]\nname = \"犬\"\nverzion = 1 # ü\n\tx = \"犬\" ,";
    let rendered = render_findings(Document::read("f", text).findings(), text, WIDE);
    assert!(rendered.contains("3 | verzion = 1 # ü\n  | ^^^^^^^\n"), "{rendered}");
    for line in rendered.lines().filter(|l| l.ends_with('^')) {
        assert!(!line.contains('\t'), "{rendered}");
    }
}

#[test]
fn a_fleet_made_by_a_program_has_keys_for_places() {
    let mut fleet = Document::read("fleet.toml", SMALL).fleet().clone();
    fleet.group.get_mut("a/two").unwrap().needs = vec!["oen".into()];
    let found = check(&Document::from(fleet), &facts());
    assert_eq!((found[0].key.as_str(), found[0].span), ("group.\"a/two\".agents[0].needs[0]", None));
    assert!(render_findings(&found, "", WIDE).contains("--> fleet: group.\"a/two\".needs[0]\n"));
    assert_eq!(code("First").name, agent("First"));
}

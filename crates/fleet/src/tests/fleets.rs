//! The two fleets that come with the program.

use std::collections::BTreeMap;

use tandem_types::{AgentId, Role};

use super::{agent, built, group, node, planned};
use crate::{AgentRef, Document, Facts, MAINPC_PC2, Machine, Plan, SOLO, json_schema, plan};

fn two() -> Plan {
    plan(&Document::read("fleets/mainpc-pc2.toml", MAINPC_PC2), &Facts::default()).unwrap()
}

fn solo(ram_mib: u64) -> Plan {
    let names: Vec<String> = {
        let doc = Document::read("fleets/solo.toml", SOLO);
        doc.fleet().group.values().flat_map(|g| g.agents.iter().map(|a| a.name().to_owned())).collect()
    };
    let mut facts = built(&names.iter().map(String::as_str).collect::<Vec<_>>());
    facts.machines.insert(node("solo"), Machine { ram_mib, cpus: 2, cards: Some(vec![]) });
    plan(&Document::read("fleets/solo.toml", SOLO), &facts).unwrap()
}

#[test]
fn two_nodes_hold_all_groups_and_agents() {
    let plan = two();
    let groups = |n: &str| plan.nodes[&node(n)].groups.len();
    let agents = |n: &str| plan.agents().filter(|(id, _)| id.node == node(n)).count();
    assert_eq!((groups("mainpc"), groups("pc2")), (11, 7));
    assert_eq!((agents("mainpc"), agents("pc2")), (53, 23));
    // 76 identities; only the ObservabilityHub has two, one on each node.
    let mut placements: BTreeMap<_, usize> = BTreeMap::new();
    plan.agents().for_each(|(id, _)| *placements.entry(id.agent).or_default() += 1);
    assert_eq!(placements.len(), 75);
    let twice: Vec<_> = placements.iter().filter(|(_, n)| **n > 1).map(|(name, _)| name.as_str()).collect();
    assert_eq!(twice, ["ObservabilityHub"]);
    assert_eq!(plan.agents().filter(|(_, a)| a.required).count(), 36);
    assert_eq!(plan.agents().map(|(_, a)| a.needs.len()).sum::<usize>(), 68);
    assert_eq!(plan.agents().map(|(_, a)| a.uses.len()).sum::<usize>(), 323);
}

/// Group, stage, agents, vCPU, weight, RAM in MiB, GPU percent, VRAM in MiB, SM.
type Row = (&'static str, u32, usize, f64, u32, u64, Option<(u32, u64, u32)>);

const GROUPS: [Row; 18] = [
    ("mainpc/infra_core", 1, 3, 2.0, 300, 768, None),
    ("mainpc/coordination", 2, 3, 4.0, 300, 7_168, Some((40, 9_039, 50))),
    ("mainpc/observability", 3, 1, 2.0, 100, 512, None),
    ("mainpc/memory_stack", 4, 3, 2.0, 200, 1_536, None),
    ("mainpc/language_stack", 5, 11, 4.0, 200, 2_048, None),
    ("mainpc/emotion_system", 6, 6, 2.0, 100, 1_024, None),
    ("mainpc/vision_gpu", 7, 1, 4.0, 100, 2_048, Some((10, 2_259, 12))),
    ("mainpc/speech_gpu", 7, 9, 4.0, 400, 4_096, Some((10, 2_259, 12))),
    ("mainpc/reasoning_gpu", 7, 3, 4.0, 150, 2_560, Some((20, 4_519, 24))),
    ("mainpc/learning_gpu", 7, 7, 4.0, 25, 4_096, Some((20, 4_519, 24))),
    ("mainpc/utility_cpu", 8, 6, 4.0, 100, 2_560, None),
    ("pc2/infra_core", 1, 2, 2.0, 200, 512, None),
    ("pc2/memory_stack", 2, 5, 4.0, 300, 2_560, None),
    ("pc2/async_pipeline", 3, 4, 2.0, 200, 768, None),
    ("pc2/tutoring_cpu", 3, 2, 2.0, 100, 768, None),
    ("pc2/vision_dream_gpu", 3, 3, 4.0, 100, 3_584, Some((70, 7_884, 18))),
    ("pc2/utility_cpu", 4, 6, 2.0, 100, 1_280, None),
    ("pc2/web_interface", 5, 1, 2.0, 200, 1_024, None),
];

#[test]
fn budgets_and_shares_are_as_drawn_up() {
    let plan = two();
    for (id, stage, agents, cpu, weight, ram, share) in GROUPS {
        let planned = plan.group(&group(id)).unwrap();
        let gpu = planned.gpu.as_ref().map(|s| (s.percent, s.vram_mib, s.sm));
        assert_eq!(
            (planned.stage, planned.agents.len(), planned.cpu, planned.cpu_weight, planned.ram_mib, gpu),
            (stage, agents, Some(cpu), weight, Some(ram), share),
            "{id}"
        );
    }
    let ram = |n: &str| plan.nodes[&node(n)].groups.iter().filter_map(|g| g.ram_mib).sum::<u64>();
    assert_eq!((ram("mainpc"), ram("pc2")), (28_416, 10_496));
    let slot = &plan.group(&group("pc2/vision_dream_gpu")).unwrap().overflow[0];
    assert_eq!((slot.percent, slot.vram_mib, slot.sm), (30, 3_379, 8));
    assert_eq!(slot.owner, group("mainpc/coordination"));
    assert_eq!(plan.shares(&slot.owner).len(), 2);
}

#[test]
fn stages_that_are_stated_are_those_that_follow_from_the_needs() {
    let mut fleet = Document::read("fleets/mainpc-pc2.toml", MAINPC_PC2).fleet().clone();
    fleet.group.values_mut().for_each(|g| g.stage = None);
    let derived = plan(&Document::from(fleet), &Facts::default()).unwrap();
    for stated in two().groups() {
        assert_eq!(derived.group(&stated.id).unwrap().stage, stated.stage, "{}", stated.id);
    }
}

#[test]
fn the_two_machines_findings_are_reported() {
    let found: Vec<(&str, String)> = two().findings.iter().map(|f| (f.code, f.key.clone())).collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(code, key)| (*code, key.as_str())).collect();
    assert_eq!(
        found,
        [
            ("not-built", "fleet"),
            ("uses-across-nodes", "node.mainpc"),
            ("ram-tight", "node.mainpc.ram_mib"),
            ("not-detected", "node.mainpc.cpus"),
            ("gpu-full", "node.mainpc.gpu[0]"),
            ("mig-unavailable", "node.mainpc.gpu[0].sharing[1]"),
            ("uses-across-nodes", "node.pc2"),
            ("ram-tight", "node.pc2.ram_mib"),
            ("not-detected", "node.pc2.cpus"),
            ("gpu-full", "node.pc2.gpu[0]"),
            ("web-local", "web.listen"),
        ]
    );
}

#[test]
fn the_longest_chains_of_two_machines() {
    let plan = two();
    let chain = |n: &str| plan.nodes[&node(n)].critical_path.groups.iter().map(|g| g.to_string()).collect::<Vec<_>>();
    assert_eq!(chain("mainpc").len(), 8);
    assert_eq!(chain("pc2").len(), 5);
    let slow = |id: &tandem_types::GroupId| if *id == group("mainpc/vision_gpu") { 900 } else { 500 };
    let path = plan.critical_path(&node("mainpc"), slow).unwrap();
    assert_eq!(path.total, 7 * 500 + 900);
    assert_eq!(path.groups[6].as_str(), "vision_gpu");
}

#[test]
fn the_peer_s_hub_is_where_the_environment_says() {
    let plan = two();
    let hub = plan.address(&group("mainpc/observability"), &node("pc2")).unwrap();
    assert_eq!(plan.group(&group("pc2/infra_core")).unwrap().env["mainpc_hub_endpoint"], hub.to_string());
}

#[test]
fn a_group_is_reached_on_loopback_by_its_own_node_and_on_the_overlay_by_others() {
    let plan = two();
    let reached = |by: &str| plan.address(&group("pc2/memory_stack"), &node(by)).unwrap().to_string();
    let port = plan.group(&group("pc2/memory_stack")).unwrap().contract.port();
    assert_eq!(reached("pc2"), format!("http://127.0.0.1:{port}"));
    assert_eq!(reached("mainpc"), format!("https://10.77.0.2:{port}"));
    assert!(plan.groups().all(|g| g.scrape.ip().is_loopback()));
    let links: Vec<String> = plan.nodes.values().map(|n| n.link.unwrap().overlay.to_string()).collect();
    assert_eq!(links, ["10.77.0.1:8300", "10.77.0.2:8300"]);
    assert!(plan.nodes.values().all(|n| n.link.unwrap().lan.is_none()));
    let alone = solo(16_384);
    assert!(alone.nodes.values().all(|n| n.link.is_none()) && alone.groups().all(|g| g.overlay.is_none()));
}

#[test]
fn lookups_answer_for_agents_and_roles() {
    let plan = two();
    let hub = |from: &str| plan.find(&AgentRef::from(agent("ObservabilityHub")), &node(from));
    assert_eq!(hub("pc2")[0].to_string(), "pc2/infra_core/ObservabilityHub");
    assert_eq!(hub("mainpc")[0].to_string(), "mainpc/observability/ObservabilityHub");
    assert_eq!(plan.find(&"pc2/ObservabilityHub".parse().unwrap(), &node("mainpc")).len(), 1);
    let id: AgentId = "mainpc/memory_stack/KnowledgeBase".parse().unwrap();
    assert_eq!(plan.agent(&id).unwrap().needs, [agent("MemoryClient")]);
    let judge = plan.role(&Role::new("llm.judge").unwrap()).unwrap();
    assert_eq!(judge.max_mib, Some(6_300));
}

#[test]
fn solo_is_accepted_without_a_finding_and_gives_models_what_is_left() {
    for (ram, rest) in [(4_096, 1_792), (24_105, 18_004), (65_536, 51_148)] {
        let plan = solo(ram);
        assert_eq!(plan.findings, []);
        assert_eq!(plan.group(&group("solo/coordination")).unwrap().ram_mib, Some(rest), "{ram} MiB");
    }
}

#[test]
fn solo_starts_in_three_steps_on_the_first_ports() {
    let plan = solo(8_192);
    let chain: Vec<_> = plan.nodes[&node("solo")].critical_path.groups.iter().map(|g| g.as_str()).collect();
    assert_eq!(chain, ["infra_core", "coordination", "language_stack"]);
    let mut ports: Vec<_> = plan.groups().map(|g| (g.contract.port(), g.scrape.port())).collect();
    ports.sort_unstable();
    assert_eq!(ports, [(8200, 9100), (8201, 9101), (8202, 9102), (8203, 9103), (8204, 9104), (8205, 9105)]);
    assert!(plan.groups().all(|g| g.contract.ip().is_loopback()));
    assert_eq!(plan.role(&Role::new("llm.tiny").unwrap()).unwrap().model.as_deref(), Some("smollm2-135m"));
    assert_eq!(plan.role(&Role::new("llm.fast").unwrap()).unwrap().model, None);
}

#[test]
fn solo_is_refused_on_a_machine_that_is_too_small() {
    let mut facts = Facts::default();
    facts.machines.insert(node("solo"), Machine { ram_mib: 2_048, cpus: 1, cards: None });
    let refused = planned(SOLO, &facts).unwrap_err();
    assert_eq!(refused.to_string(), "fleet.toml is refused: 1 error, 1 note");
    assert!(refused.findings.iter().any(|f| f.code == "ram-over"));
}

#[test]
fn the_editor_schema_is_the_model_s() {
    let kept: serde_json::Value = serde_json::from_str(include_str!("../../../../fleets/fleet.schema.json"))
        .expect("the checked-in schema is JSON");
    assert!(kept == json_schema(), "fleets/fleet.schema.json is stale: run `cargo xtask schema`");
    for text in [SOLO, MAINPC_PC2] {
        assert!(text.starts_with("#:schema ./fleet.schema.json\n"));
    }
}

#[test]
fn the_manual_names_every_key() {
    fn keys(schema: &serde_json::Value, out: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            out.extend(properties.keys().cloned());
        }
        match schema {
            serde_json::Value::Object(map) => map.values().for_each(|v| keys(v, out)),
            serde_json::Value::Array(list) => list.iter().for_each(|v| keys(v, out)),
            _ => {}
        }
    }
    let manual = include_str!("../../../../docs/fleet-file.md");
    let mut all = Vec::new();
    keys(&json_schema(), &mut all);
    let missing: Vec<&String> =
        all.iter().filter(|k| !manual.contains(&format!("`{k}`")) && !manual.contains(&format!("`[{k}"))).collect();
    assert!(missing.is_empty(), "docs/fleet-file.md does not explain {missing:?}");
}

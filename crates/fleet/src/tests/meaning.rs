//! What a plan says: its hash, who may call, who provides, how it is shown.

use super::{SMALL, agent, built, code, group, node, planned};
use crate::render::Chosen;
use crate::{Facts, MAINPC_PC2, Peer, render};

fn hash(text: &str) -> String {
    planned(text, &Facts::default()).unwrap().plan_hash
}

#[test]
fn the_hash_is_of_what_the_file_means() {
    let small = hash(SMALL);
    assert_eq!(small.len(), 64);
    for same in [
        format!("# a comment\n{SMALL}"),
        SMALL.replace("\"First\", {", "{ name = \"First\" }, {"),
        SMALL.replace("[node.a]", "contract_ports = \"8200-8300\"\n[node.a]\naddress = \"127.0.0.1\""),
        SMALL.replace("cpu = 2\nport = 8200", "port = 8200\ncpu = 2.0"),
    ] {
        assert_eq!(hash(&same), small, "{same}");
    }
    for other in [
        SMALL.replace("ram_mib = 1024", "ram_mib = 1025"),
        SMALL.replace("\"llm.fast\"", "\"llm.slow\""),
        SMALL.replace("uses = [\"Third\"]", "uses = []"),
        SMALL.replace("port = 8200", ""),
    ] {
        assert_ne!(hash(&other), small, "{other}");
    }
    let built = planned(SMALL, &built(&["First"])).unwrap();
    assert_eq!(built.plan_hash, small, "what is built is no part of it");
}

#[test]
fn settings_reach_the_agent_as_they_are_written() {
    let text = format!(
        "{SMALL}\n[settings.Second]\nwarmth = 0.5\nlist = [1, \"two\", true]\nfrom = 2026-01-02\n[settings.Second.inner]\nx = -1\n"
    );
    let plan = planned(&text, &built(&["First", "Second", "Third"])).unwrap();
    let of = |id: &str| plan.agent(&id.parse().unwrap()).unwrap().settings.clone().map(serde_json::Value::Object);
    let written = serde_json::json!({
        "warmth": 0.5, "list": [1, "two", true], "from": "2026-01-02", "inner": { "x": -1 },
    });
    assert_eq!(of("a/one/Second"), Some(written));
    assert_eq!(of("a/one/First"), None);
    assert_ne!(plan.plan_hash, hash(SMALL));
}

#[test]
fn callers_are_those_of_the_list() {
    let plan = planned(SMALL, &Facts::default()).unwrap();
    let agent = |id: &str| Peer::Agent(id.parse().unwrap());
    for (caller, may) in [
        (agent("a/one/First"), true),
        (agent("a/one/Second"), false),
        (agent("a/two/Third"), true),
        (Peer::Host(group("a/one")), true),
        (Peer::Cli, false),
    ] {
        assert_eq!(plan.may_call("session.v1.Sessions", &caller), may, "{caller:?}");
        assert_eq!(plan.may_call("tandem.session.v1.Sessions", &caller), may, "{caller:?}");
        assert!(plan.may_call("twin.v1.Twin", &caller), "a contract without a list is open");
    }
}

#[test]
fn providers_are_found_by_contract_and_by_call() {
    let mut facts = built(&[]);
    for name in ["First", "Third"] {
        let provides = vec!["tandem.tool.v1.Tool/Invoke".into(), "tandem.tool.v1.Tool/ListTools".into()];
        facts.agents.insert(agent(name), crate::AgentFacts { provides, ..code(name) });
    }
    let plan = planned(SMALL, &facts).unwrap();
    for (call, found) in [("tool.v1.Tool", 2), ("tool.v1.Tool/Invoke", 2), ("tool.v1.Too", 0), ("tool.v1.Tool/In", 0)] {
        assert_eq!(plan.providers(call, &node("a")).len(), found, "{call}");
    }
}

#[test]
fn agents_that_need_more_than_their_group_make_it_wait() {
    let text = format!(
        "{}\n[group.\"a/three\"]\nagents = [{{ name = \"Fourth\", needs = [\"First\"] }}]\nstage = 2\nram_mib = 1\n",
        SMALL.replace("[web]\nlisten = \"127.0.0.1:8280\"\n", "")
    );
    let plan = planned(&text, &Facts::default()).unwrap();
    let three = plan.group(&group("a/three")).unwrap();
    assert_eq!((three.needs.len(), three.waits_for.len()), (0, 1));
    let chain = |id: &tandem_types::GroupId| if *id == group("a/three") { 5 } else { 1 };
    let path = plan.critical_path(&node("a"), chain).unwrap();
    assert_eq!(path.groups.iter().map(|g| g.as_str()).collect::<Vec<_>>(), ["one", "three"]);
    let stops: Vec<u32> = plan.nodes[&node("a")].stop_order().map(|g| g.stage).collect();
    assert_eq!(stops, [2, 2, 1]);
}

#[test]
fn the_text_of_a_plan() {
    let mut facts = built(&["First", "Third"]);
    facts.agents.get_mut(&agent("Third")).unwrap().needs = vec![agent("First")];
    let plan = planned(SMALL, &facts).unwrap();
    let expected = format!(
        r#"fleet small: 1 node, 2 groups, 3 agents (2 built), plan {}

node a at 127.0.0.1: RAM 3,072 of 8,192 MiB, 8 CPUs
  critical path (2 groups): one -> two
  stage  group  RAM MiB  CPU (weight)  GPU share  port  scrape
  1      one      1,024  2 (100)       -          8200  9100
         First
         not built: Second
  2      two      2,048  - (100)       40 %       8201  9101
         after one
         Third*

  card 0 NVIDIA GeForce RTX 4090: 24,564 MiB, 128 SM, reserve 1,966 MiB,
    shared by MPS or time slices
    a/two   40 %    9,039 MiB   50 SM

model roles
  llm.fast  tiny on GPU, at most 4,000 MiB, paid by a/two

page at http://127.0.0.1:8280

1 note
  note[not-built] fleet.toml:1:2: 1 of 3 agents are not built: they are shown and never started
"#,
        &plan.plan_hash[..12]
    );
    assert_eq!(render::text(&plan, 100, None, &Chosen::new()), expected);
    let ready = [(group("a/one"), 1_500), (group("a/two"), 20)].into();
    assert!(render::text(&plan, 100, Some(&ready), &Chosen::new()).contains("critical path (1,520 ms): one -> two\n"));
    let open = planned(&SMALL.replace("model = \"tiny\"", "model = \"auto\""), &facts).unwrap();
    let chosen = Chosen::from([("llm.fast".parse().unwrap(), "middle".to_owned())]);
    assert!(render::text(&open, 100, None, &Chosen::new()).contains("\n  llm.fast  auto on GPU, at most"));
    assert!(render::text(&open, 100, None, &chosen).contains("\n  llm.fast  auto, here middle, on GPU, at most"));
}

#[test]
fn text_keeps_to_its_width() {
    let plan = planned(MAINPC_PC2, &Facts::default()).unwrap();
    for width in [80, 100] {
        for line in render::text(&plan, width, None, &Chosen::new()).lines().chain(render::agents(&plan, width).lines())
        {
            assert!(line.chars().count() <= width, "{line}");
        }
    }
}

#[test]
fn agents_are_shown_with_what_they_need_and_use() {
    let plan = planned(SMALL, &built(&["First", "Third"])).unwrap();
    let expected = r"3 agents, 2 needs, 1 use

a/one
  First
  Second  not built
      needs First
      uses  Third

a/two
  Third*
      needs First
";
    assert_eq!(render::agents(&plan, 100), expected);
}

#[test]
fn json_has_the_findings_and_mermaid_the_arrows() {
    let plan = planned(SMALL, &Facts::default()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&render::json(&plan)).unwrap();
    assert_eq!(json["nodes"]["a"]["groups"][1]["gpu"]["vram_mib"], 9_039);
    assert_eq!(json["nodes"]["a"]["groups"][1]["contract"], "127.0.0.1:8201");
    assert_eq!(json["findings"][0]["code"], "not-built");
    let expected = r#"flowchart TD
  subgraph n0["a"]
    g0["one<br/>2 agents, 0 built"]
    g1["two<br/>1 agent, 0 built, GPU 40 %"]
  end
  g0 --> g1
  classDef missing stroke-dasharray: 4 4
  class g0,g1 missing
"#;
    assert_eq!(render::mermaid(&plan), expected);
}

//! Commands where no node runs: what a person sees first.

#![allow(clippy::unwrap_used, reason = "tests say what went wrong by panicking")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program on an empty data folder.
fn tandem(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    for name in ["TANDEM_FLEET", "TANDEM_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    command.env("TANDEM_DATA", data).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn two() -> String {
    format!("{}/../../fleets/mainpc-pc2.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_plan_of_two_machines_shows_every_group_and_agent_and_the_findings() {
    let folder = tempfile::tempdir().unwrap();
    let plan = tandem(folder.path(), &["plan", &two()]);
    assert!(plan.status.success(), "{}", err(&plan));
    let text = out(&plan);
    assert!(!text.contains('\u{1b}'), "colours where there is no terminal: {text:?}");
    let json: serde_json::Value =
        serde_json::from_str(&out(&tandem(folder.path(), &["plan", &two(), "--json"]))).unwrap();
    let groups: Vec<&serde_json::Value> =
        json["nodes"].as_object().unwrap().values().flat_map(|node| node["groups"].as_array().unwrap()).collect();
    let agents: Vec<&serde_json::Value> = groups.iter().flat_map(|group| group["agents"].as_array().unwrap()).collect();
    assert_eq!((groups.len(), agents.len()), (18, 76));
    for agent in &agents {
        assert!(text.contains(agent["name"].as_str().unwrap()), "{agent}");
    }
    for words in ["leave no reserve", "cannot be divided by MIG", "not built", "critical path", "while `pc2` is away"] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    let edges = out(&tandem(folder.path(), &["plan", &two(), "--agents"]));
    assert!(edges.starts_with("76 agents, ") && edges.contains("      needs "), "{edges}");
    let diagram = out(&tandem(folder.path(), &["plan", &two(), "--mermaid"]));
    assert!(diagram.starts_with("flowchart"), "{diagram}");
}

#[test]
fn a_wrong_file_is_refused_with_all_that_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.toml");
    let text = std::fs::read_to_string(two()).unwrap();
    let wrong = text
        .replace("port = 8201\n", "port = 8200\n")
        .replace("port = 8202\n", "port = 80\n")
        .replace("share = 10 }", "share = 50 }")
        .replace("cpu_weight = 25\n", "cpu_wieght = 25\n")
        .replace("needs = [\"observability\"]", "needs = [\"language_stack\"]");
    std::fs::write(&file, wrong).unwrap();
    for command in ["plan", "up"] {
        let refused = tandem(folder.path(), &[command, file.to_str().unwrap(), "--node", "mainpc"]);
        assert_eq!(refused.status.code(), Some(1));
        let words = err(&refused);
        for part in [
            "error[port-clash]",
            "error[port-outside]",
            "error[gpu-over]",
            "did you mean `cpu_weight`?",
            "language_stack -> memory_stack -> language_stack",
            "fleet.toml:",
            "fleet.toml is refused: ",
        ] {
            assert!(words.contains(part), "no {part:?} in\n{words}");
        }
    }
}

#[test]
fn without_a_command_the_help_says_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let help = tandem(folder.path(), &[]);
    assert_eq!(help.status.code(), Some(2));
    let words = out(&help);
    assert!(words.contains("Usage: tandem") && words.contains("To begin:"), "{words}");
    assert!(!words.contains("serve"), "what only the node types is not for people: {words}");
}

#[test]
fn without_a_node_every_command_says_so_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code, words) in [
        (&["status"][..], 3, "no node runs on "),
        (&["status", "--json"][..], 3, "\"running\": false"),
        (&["probe"][..], 3, "--fleet says where groups listen"),
        (&["down"][..], 0, "no node runs on "),
        (&["ask", "Are you there?"][..], 3, "tandem up"),
        (&["logs"][..], 0, "nothing has been logged in "),
        (&["logs", "coordination"][..], 1, "there is no log of `coordination`"),
        (&["restart", "coordination"][..], 1, "tandem up"),
        (&["plan", "nowhere.toml"][..], 1, "cannot read nowhere.toml"),
    ] {
        let output = tandem(folder.path(), arguments);
        let said = out(&output) + &err(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_fleet_is_founded_and_a_machine_invited_and_shut_out_without_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| tandem(folder.path(), arguments);
    for command in [&["trust"][..], &["invite", "pc2"], &["revoke", "pc2"]] {
        let refused = run(command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        assert!(err(&refused).contains("this machine belongs to no fleet: `tandem init`"), "{}", err(&refused));
    }
    assert!(!folder.path().join("trust").exists(), "a question makes nothing");

    let founded = run(&["init", &two(), "--node", "mainpc"]);
    assert!(founded.status.success(), "{}", err(&founded));
    let words = out(&founded);
    assert!(
        words.contains("mainpc has founded the fleet mainpc-pc2") && words.contains("tandem invite pc2"),
        "{words}"
    );
    let again = run(&["init", &two(), "--node", "mainpc"]);
    assert!(err(&again).contains("already") && err(&again).contains("founded here"), "{}", err(&again));

    let planned = run(&["invite", "pc2"]);
    assert!(err(&planned).contains("reaches this machine at 10.77.0.1:8300"), "{}", err(&planned));
    let invited = run(&["invite", "pc2", "--for", "10m", "--at", "10.77.0.1:8190"]);
    assert!(invited.status.success(), "{}", err(&invited));
    let line = out(&invited);
    assert!(line.starts_with("tandem join tandem1.") && line.lines().count() == 1, "{line}");
    assert!(
        err(&invited).contains("on pc2 within 10 min") && err(&invited).contains("10.77.0.1:8190"),
        "{}",
        err(&invited)
    );
    let text = out(&run(&["trust"]));
    assert!(text.contains("mainpc  founder, member for") && text.contains("holds for"), "{text}");
    assert!(text.contains("pc2     invited, "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&out(&run(&["trust", "--json"]))).unwrap();
    assert_eq!((&json["fleet"]["node"], &json["invited"][0]["node"]), (&"mainpc".into(), &"pc2".into()));

    let revoked = run(&["revoke", "pc2"]);
    assert!(revoked.status.success(), "{}", err(&revoked));
    assert!(!out(&run(&["trust"])).contains("invited"), "the invitation has ended");
    for (arguments, words) in [
        (&["invite", "pc2", "--for", "2d"][..], "such as 30s, 15m or 2h"),
        (&["invite", "pc2", "--for", "48h", "--at", "a:1"], "at most 24 h"),
        (&["invite", "mainpc", "--at", "a:1"], "mainpc is this machine"),
        (&["revoke", "pc9"], "no member is called pc9"),
        (&["revoke", "mainpc"], "holds its CA"),
    ] {
        let refused = run(arguments);
        assert!(!refused.status.success() && err(&refused).contains(words), "{arguments:?}: {}", err(&refused));
    }
}

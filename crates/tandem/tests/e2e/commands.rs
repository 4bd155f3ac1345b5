//! The command line as people use it.

use std::process::Output;

use tandem_contract::{Call, rpc};

use crate::harness::{Fleet, LIMIT, LOOK, MODEL};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is said to hold a process to its limits does, and what does not says why.
fn kept(limits: &serde_json::Value, pid: u64) {
    let said = limits["enforcement"].as_str().unwrap();
    if !said.starts_with("cgroup v") {
        assert!(said.starts_with("not enforced: ") && said.len() > "not enforced: ".len(), "{limits}");
        return;
    }
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |controller: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller)).unwrap_or_default();
        line.splitn(3, ':').last().unwrap_or_default().to_owned()
    };
    let place = if said.starts_with("cgroup v2") { of("") } else { of("pids") };
    assert!(place.contains("/tandem-"), "process {pid} is in {place}: {said}");
}

#[tokio::test]
async fn the_commands_agree_about_a_running_fleet() {
    let fleet = Fleet::up().await;

    let asked = fleet.tandem(&["ask", "--path", "Say hello."]);
    assert!(asked.status.success(), "{}\n{}", err(&asked), fleet.said());
    let said = out(&asked);
    assert!(said.contains(MODEL) && said.contains(" ms"), "{said}");
    assert!(said.contains("agents that are not built"), "{said}");
    let both = said.clone() + &err(&asked);
    assert!(!both.contains("NLUAgent"), "one line is enough: {both}");
    assert!(!said.contains('\u{1b}'), "colours where there is no terminal: {said:?}");

    let asked = fleet.tandem(&["ask", "--json", "Say hello."]);
    let events: Vec<serde_json::Value> = out(&asked).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.first().unwrap().get("accepted").is_some(), "{events:?}");
    let answer = events.last().unwrap().get("final").unwrap_or_else(|| panic!("{events:?}"));
    assert!(!answer["notBuilt"].as_array().unwrap().is_empty(), "{answer}");
    let numbers: Vec<u64> = events.iter().map(|e| e["number"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());

    let status = fleet.tandem(&["status", "--json"]);
    let tree: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((tree["running"].as_bool(), tree["node"].as_str()), (Some(true), Some("solo")));
    for group in tree["groups"].as_array().unwrap() {
        assert!(group["pid"].is_u64() && group["rss_bytes"].as_u64() > Some(0), "{group}");
        kept(&group["limits"], group["pid"].as_u64().unwrap());
        assert!(!group["health"]["agents"].as_array().unwrap().is_empty(), "{group}");
    }
    let shown = out(&fleet.tandem(&["status"]));
    for word in ["coordination", "RequestCoordinator", "SessionMemoryAgent", "page: http://"] {
        assert!(shown.contains(word), "{shown}");
    }

    let probed = fleet.tandem(&["probe"]);
    assert!(probed.status.success() && out(&probed).contains("solo/memory_stack"), "{probed:?}");
    assert_eq!(fleet.tandem(&["probe", "nobody"]).status.code(), Some(1));
    let logs = out(&fleet.tandem(&["logs", "coordination"]));
    assert!(logs.contains("ready"), "{logs}");
    let doctor = fleet.tandem(&["doctor", fleet.file()]);
    assert!(doctor.status.success(), "{}", out(&doctor));

    let second = fleet.tandem(&["up", fleet.file()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("tandem down"), "{}", err(&second));
    let page = tandem_node::get(fleet.page(), "/", LIMIT).await.unwrap();
    assert!(page.status == 200 && String::from_utf8_lossy(&page.body).contains("<html"), "{}", page.status);
}

#[tokio::test]
async fn a_model_is_evaluated_where_it_runs() {
    let fleet = Fleet::up().await;
    let evaluated = fleet.tandem(&["models", "evaluate", "nobody", MODEL, "--json"]);
    assert_eq!(evaluated.status.code(), Some(1));
    assert!(err(&evaluated).contains("no model `nobody`"), "{}", err(&evaluated));
    let reports: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    let [report] = &reports.as_array().unwrap()[..] else { panic!("the other is evaluated all the same: {reports}") };
    let questions = report["questions"].as_array().unwrap();
    assert!(questions.iter().all(|question| !question["answer"].as_str().unwrap().is_empty()), "{report}");
    let score = report["score"].as_f64().unwrap();
    assert!(score > 0.2 && score < 1.0, "the smallest model knows something, and not all: {report}");
    assert!(
        report["tokens_per_second"].as_f64() > Some(0.0) && report["first_token_ms"].as_u64() > Some(0),
        "{report}"
    );
}

#[tokio::test]
async fn an_adapter_is_laid_over_the_model_of_a_role_and_taken_away() {
    let fleet = Fleet::up().await;
    let model = tandem_engine::catalogue::Store::open().unwrap().path_of(MODEL).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("warm.gguf");
    let model = tandem_engine::gguf::GgufInfo::read(&model).unwrap();
    std::fs::write(&file, tandem_engine::gguf::sample_adapter(&model, 1)).unwrap();
    let run = |args: &[&str]| {
        let output = fleet.tandem(&[&["models"], args].concat());
        (output.status.code(), out(&output) + &err(&output))
    };
    let added = run(&["add-adapter", file.to_str().unwrap(), "--base", "nobody"]);
    assert!(added.0 == Some(1) && added.1.contains("model.base: `nobody` is no model that is known here"), "{added:?}");
    let added = run(&["add-adapter", file.to_str().unwrap(), "--base", MODEL]);
    assert!(added.0 == Some(0) && added.1.contains(&format!("warm for {MODEL}")), "{added:?}");

    let plain = fleet.turn("Say hello.", "").await;
    let published = run(&["publish", "warm", "--role", "llm.fast"]);
    assert!(published.0 == Some(0) && published.1.contains(&format!("llm.fast  {MODEL} + warm")), "{published:?}");
    // Whoever keeps tickets hears of it by an event.
    let deadline = std::time::Instant::now() + LIMIT;
    let changed = loop {
        let answer = fleet.turn("Say hello.", "").await;
        if answer.provenance.adapter == "warm" {
            break answer;
        }
        assert!(std::time::Instant::now() < deadline, "the adapter is never used: {answer:?}");
        tokio::time::sleep(LOOK).await;
    };
    assert_eq!((plain.provenance.adapter.as_str(), changed.provenance.model.as_str()), ("", MODEL));
    assert!(!changed.text.is_empty() && changed.text != plain.text, "{changed:?}");
    let asked = fleet.tandem(&["ask", "--json", "Say hello."]);
    assert!(out(&asked).contains(r#""adapter":"warm""#), "{}", out(&asked));
    let listed = run(&["list"]);
    let role = listed.1.lines().find(|line| line.starts_with("llm.fast ")).unwrap_or_default();
    assert!(listed.1.contains("Adapters") && role.ends_with(&format!(" {MODEL} + warm")), "{listed:?}");
    let report = run(&["evaluate", "--adapter", "warm", "--json"]);
    assert!(report.0 == Some(0) && report.1.contains(r#""adapter": "warm""#), "{report:?}");

    let back = run(&["rollback", "llm.fast"]);
    assert!(back.0 == Some(0) && !back.1.contains("warm"), "{back:?}");
    let again = run(&["rollback", "llm.fast"]);
    assert!(again.0 == Some(1) && again.1.contains("has had no other model"), "{again:?}");
}

#[tokio::test]
async fn ctrl_c_ends_the_turn_where_it_is_thought() {
    let fleet = Fleet::up().await;
    let mut asking = fleet.spawn_tandem(&["ask", "Tell me a very long story about a ship and its crew."]);
    let mut words = asking.stdout.take().unwrap();
    let begun = tokio::task::spawn_blocking(move || {
        let mut byte = [0];
        (std::io::Read::read(&mut words, &mut byte).unwrap(), words)
    });
    assert_eq!(begun.await.unwrap().0, 1);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(asking.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = tokio::task::spawn_blocking(move || asking.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", err(&output));
    assert!(err(&output).contains("stopped") && !err(&output).contains("may go on"), "{}", err(&output));
    let client = fleet.client("coordination").await;
    let queue =
        client.unary(rpc::coordinator::QUEUE_STATUS, Default::default(), &Call::from_door("cli")).await.unwrap();
    assert_eq!(queue.running, 0, "the turn goes on for nobody");
}

#[tokio::test]
async fn one_process_runs_the_same_fleet() {
    let fleet = Fleet::up_with("", &["--one-process"]).await;
    let status = fleet.status().await;
    assert!(status.groups.iter().all(|g| g.pid == Some(status.pid)), "{status:?}");
    assert!(!fleet.turn("Say hello.", "").await.text.is_empty());
    let down = fleet.tandem(&["down"]);
    assert!(down.status.success(), "{}", err(&down));
}

#[tokio::test]
async fn a_fleet_in_the_background_comes_up_and_goes_down() {
    let fleet = Fleet::prepare("").await;
    let up = fleet.tandem(&["up", fleet.file(), "--detach"]);
    assert!(up.status.success(), "{}\n{}\n{}", out(&up), err(&up), fleet.said());
    let shown = out(&up);
    assert!(shown.contains("6 of 6 groups are up"), "{shown}");
    for group in fleet.status().await.groups {
        let name = group.group.group.as_str();
        let arrived = |line: &str| line.contains(name) && (line.contains(" ready ") || line.contains(" degraded "));
        assert!(shown.lines().any(arrived), "{name} never arrives in\n{shown}");
    }
    assert_eq!(fleet.tandem(&["status"]).status.code(), Some(0));
    let down = fleet.tandem(&["down"]);
    assert!(down.status.success() && out(&down).contains("everything has ended"), "{down:?}");
    assert_eq!(fleet.tandem(&["status"]).status.code(), Some(3));
    assert_eq!(fleet.tandem(&["ask", "Are you there?"]).status.code(), Some(3));
    assert!(fleet.tandem(&["down"]).status.success(), "nothing to end is no failure");
}

#[tokio::test]
async fn everything_in_the_way_of_a_start_is_said_at_once() {
    let fleet = Fleet::prepare("").await;
    let text = std::fs::read_to_string(fleet.file()).unwrap();
    let taken: Vec<std::net::TcpListener> =
        (0..2).map(|i| std::net::TcpListener::bind(("127.0.0.1", fleet.page().port() - 1 - i)).unwrap()).collect();
    let refused = fleet.tandem(&["up", fleet.file()]);
    assert_eq!(refused.status.code(), Some(1));
    for listener in &taken {
        let address = listener.local_addr().unwrap().to_string();
        assert!(err(&refused).contains(&address), "{address} is not named: {}", err(&refused));
    }
    std::fs::write(fleet.file(), text.replace("needs = [\"infra_core\"]", "needs = [\"infra_kore\"]")).unwrap();
    let refused = fleet.tandem(&["plan", fleet.file()]);
    let words = err(&refused);
    assert_eq!(refused.status.code(), Some(1));
    assert!(words.matches("unknown-group").count() >= 3 && words.contains("did you mean `infra_core`?"), "{words}");
    let up = fleet.tandem(&["up", fleet.file(), "--detach"]);
    assert!(err(&up).contains("unknown-group"), "{}", err(&up));
}

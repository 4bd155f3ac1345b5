//! Processes that end in the middle of things.

use tandem_contract::pb::tandem::coordinator::v1::GetResultRequest;
use tandem_contract::{Call, rpc};
use tandem_node::{GroupState, Happening};
use tandem_types::{Code, reason};

use crate::harness::{Fleet, LIMIT, kill_9, runs, stop};

const LONG: &str = "Tell me a very long story about a ship and its crew.";

#[tokio::test]
async fn a_handlers_group_killed_in_mid_answer_ends_the_turn_and_comes_back() {
    let fleet = Fleet::up().await;
    let mut events = fleet.events().await;
    let mut turn = fleet.submit(LONG, "a").await.unwrap();
    turn.first_words().await;
    let before = fleet.group("language_stack").await.pid;
    kill_9(before.unwrap());
    let fault = turn.finish().await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "{fault:?}");
    fleet.anew(&mut events, "language_stack", before).await;
    let group = fleet.group("language_stack").await;
    assert_eq!(group.restarts, 1);
    assert_eq!(group.last_exit.unwrap().how, "killed by SIGKILL");
    assert!(!fleet.turn("Are you there?", "a").await.text.is_empty());
}

#[tokio::test]
async fn the_coordinators_group_killed_in_mid_answer_takes_its_engine_along_and_comes_back() {
    let fleet = Fleet::up().await;
    let mut events = fleet.events().await;
    let mut turn = fleet.submit(LONG, "a").await.unwrap();
    turn.first_words().await;
    let request = turn.accepted().request_id.clone();
    let (before, engine) = (fleet.group("coordination").await.pid, fleet.engine().await);
    kill_9(before.unwrap());
    let fault = turn.finish().await.unwrap_err();
    assert_eq!(fault.code, Code::Unavailable, "{fault:?}");
    fleet.anew(&mut events, "coordination", before).await;
    assert_ne!(fleet.engine().await, engine);
    assert!(!runs(engine), "the engine outlived the group that paid for it");
    // Whoever asked can still learn what became of it.
    let client = fleet.client("coordination").await;
    let ask = GetResultRequest { user_id: "owner".into(), request_id: request, ..Default::default() };
    let result = client.unary(rpc::coordinator::GET_RESULT, ask, &Call::from_door("cli")).await.unwrap();
    assert!(["queued", "running", "done", "failed"].contains(&result.state.as_str()), "{result:?}");
    assert!(!fleet.turn("Are you there?", "b").await.text.is_empty());
}

#[tokio::test]
async fn an_engine_killed_in_mid_answer_fails_that_answer_only_and_is_started_again() {
    let fleet = Fleet::up().await;
    let mut turn = fleet.submit(LONG, "a").await.unwrap();
    turn.first_words().await;
    let (engine, group) = (fleet.engine().await, fleet.group("coordination").await.pid);
    kill_9(engine);
    let fault = turn.finish().await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::ENGINE_LOST), "{fault:?}");
    assert_eq!(fleet.group("coordination").await.pid, group, "its group goes on");
    assert_ne!(fleet.engine().await, engine);
    assert!(!fleet.turn("Are you there?", "b").await.text.is_empty());
}

#[tokio::test]
async fn an_engine_that_hangs_in_mid_answer_is_ended_and_started_again() {
    let fleet = Fleet::up().await;
    let mut turn = fleet.submit(LONG, "a").await.unwrap();
    turn.first_words().await;
    let (engine, group) = (fleet.engine().await, fleet.group("coordination").await.pid);
    stop(engine);
    let fault = turn.finish().await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::ENGINE_LOST), "{fault:?}");
    assert!(!runs(engine));
    assert_eq!(fleet.group("coordination").await.pid, group, "its group goes on");
    assert!(!fleet.turn("Are you there?", "b").await.text.is_empty());
}

#[tokio::test]
async fn down_in_mid_answer_lets_it_end_and_leaves_nothing_behind() {
    let mut fleet = Fleet::up().await;
    let mut events = fleet.events().await;
    let mut turn = fleet.submit(LONG, "a").await.unwrap();
    turn.first_words().await;
    let status = fleet.status().await;
    let mut pids: Vec<u32> = status.groups.iter().filter_map(|g| g.pid).collect();
    pids.push(fleet.engine().await);
    let mut down = fleet.spawn_tandem(&["down"]);
    match turn.finish().await {
        Ok(answer) => assert!(!answer.text.is_empty()),
        Err(fault) => assert!(matches!(fault.code, Code::Unavailable | Code::Cancelled), "{fault:?}"),
    }
    fleet.wait_for(&mut events, |event| event.what == Happening::Ended).await;
    assert!(fleet.ended().await.success(), "{}", fleet.said());
    assert!(tokio::task::spawn_blocking(move || down.wait().unwrap()).await.unwrap().success());
    assert_eq!(pids.iter().filter(|pid| runs(**pid)).count(), 0, "something outlived `down`");
}

#[tokio::test]
async fn groups_of_a_node_that_died_in_mid_answer_go_on_and_the_next_node_takes_them_over() {
    let mut fleet = Fleet::up().await;
    let mut turn = fleet.submit(LONG, "a").await.unwrap();
    turn.first_words().await;
    let (before, engine) = (fleet.status().await, fleet.engine().await);
    fleet.kill_node();
    assert!(!turn.finish().await.unwrap().text.is_empty(), "the answer needs no node");
    let status = fleet.tandem(&["status"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(3));
    assert!(said.contains("still run") && said.contains("coordination"), "{said}");
    fleet.start(&[]).await;
    let words = format!("took over 6 groups of node solo (process {}), which died", before.pid);
    assert!(fleet.said().contains(&words), "{words}\n{}", fleet.said());
    let after = fleet.status().await;
    let again = after.since;
    for (before, after) in before.groups.iter().zip(&after.groups) {
        assert_eq!((before.pid, before.restarts), (after.pid, after.restarts));
        assert_eq!(before.limits, after.limits, "what holds {} is the same", before.group);
        assert!(after.since < again, "{after:?}");
    }
    assert_eq!(fleet.engine().await, engine);
    assert!(!fleet.turn("Are you there?", "a").await.text.is_empty());
    // Taken over or started, a group is watched and ended.
    let mut events = fleet.events().await;
    let web = fleet.group("web_interface").await.pid;
    kill_9(web.unwrap());
    fleet.anew(&mut events, "web_interface", web).await;
    let mut pids: Vec<u32> = fleet.status().await.groups.iter().filter_map(|g| g.pid).collect();
    pids.extend(before.groups.iter().filter_map(|g| g.pid).chain([engine]));
    let down = fleet.tandem(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert_eq!(pids.iter().filter(|pid| runs(**pid)).count(), 0, "something outlived `down`");
}

#[tokio::test]
async fn groups_of_a_node_that_died_end_first_when_they_would_be_started_otherwise_and_by_down() {
    let mut fleet = Fleet::up().await;
    let before = fleet.status().await;
    fleet.kill_node();
    let text = std::fs::read_to_string(fleet.file()).unwrap();
    std::fs::write(fleet.file(), text + "\n[settings.SessionMemoryAgent]\nwindow_tokens = 1000\n").unwrap();
    fleet.start(&[]).await;
    assert!(fleet.said().contains("the fleet file means something else now"), "{}", fleet.said());
    assert!(!before.groups.iter().filter_map(|g| g.pid).any(runs));
    let before = fleet.status().await;
    fleet.kill_node();
    let down = fleet.tandem(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert!(!before.groups.iter().filter_map(|g| g.pid).any(runs), "something outlived `down`");
}

#[tokio::test]
async fn a_group_whose_port_is_taken_is_shown_with_its_words_and_can_be_started_later() {
    let fleet = Fleet::up().await;
    let mut events = fleet.events().await;
    let group = fleet.group("web_interface").await;
    let (port, pid) = (group.port, group.pid.unwrap());
    // Whoever takes the port while the group is away keeps it away.
    let thief = tokio::task::spawn_blocking(move || {
        kill_9(pid);
        let end = std::time::Instant::now() + LIMIT;
        loop {
            match std::net::TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => return listener,
                Err(e) => assert!(std::time::Instant::now() < end, "{e}"),
            }
        }
    })
    .await
    .unwrap();
    fleet
        .wait_for(&mut events, |event| {
            let Happening::Group(group) = &event.what else { return false };
            let words = group.last_exit.iter().flat_map(|exit| &exit.evidence).any(|line| line.contains("ss -ltnp"));
            group.group.group.as_str() == "web_interface" && group.state == GroupState::BackingOff && words
        })
        .await;
    drop(thief);
    let restarted = fleet.tandem(&["restart", "web_interface"]);
    assert!(restarted.status.success(), "{restarted:?}");
}

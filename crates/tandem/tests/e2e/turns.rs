//! Turns that nothing disturbs.

use tandem_contract::pb::tandem::session::v1::{GetWindowRequest, GetWindowResponse};
use tandem_contract::{Call, rpc};
use tandem_types::{Code, reason};

use crate::harness::{Fleet, MODEL};

async fn window(fleet: &Fleet, session: &str) -> GetWindowResponse {
    let request = GetWindowRequest { user_id: "owner".into(), session_id: session.into(), ..Default::default() };
    let client = fleet.client("memory_stack").await;
    client.unary(rpc::sessions::GET_WINDOW, request, &Call::from_door("cli")).await.unwrap()
}

#[tokio::test]
async fn a_turn_is_answered_by_the_model_and_shows_its_path() {
    let fleet = Fleet::up().await;
    let answer = fleet.turn("What is the capital of France?", "").await;
    assert!(!answer.text.trim().is_empty());
    assert_eq!(answer.provenance.as_option().unwrap().model, MODEL);
    let usage = answer.usage.as_option().unwrap();
    assert!(usage.prompt_tokens > 0 && usage.completion_tokens > 0, "{usage:?}");
    assert!(answer.timings.iter().any(|t| t.micros > 0 && !t.agent.is_empty()), "{:?}", answer.timings);
    // Kernels of which nobody may ask for huge pages, or all have them, are not asked.
    let asked = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if asked.contains("[madvise]") {
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", fleet.engine().await)).unwrap();
        let huge = maps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" hg "));
        assert!(huge, "the engine never asked for huge pages");
    }
}

#[tokio::test]
async fn a_conversation_survives_the_restart_of_its_keeper() {
    let fleet = Fleet::up().await;
    let first = fleet.turn("My cat is called Whiskers.", "cat").await;
    let before = fleet.group("memory_stack").await.pid;
    let restarted = fleet.tandem(&["restart", "memory_stack"]);
    assert!(restarted.status.success(), "{restarted:?}");
    assert_ne!(fleet.group("memory_stack").await.pid, before);
    let kept = window(&fleet, "cat").await;
    let said: Vec<(&str, &str)> = kept.turns.iter().map(|t| (t.role.as_str(), t.text.as_str())).collect();
    assert_eq!(said[0], ("user", "My cat is called Whiskers."));
    assert_eq!(said[1].0, "assistant");
    // What was said before is part of the next prompt.
    let second = fleet.turn("What is it called?", "cat").await;
    let read =
        |answer: &tandem_contract::pb::tandem::coordinator::v1::Final| answer.usage.as_option().unwrap().prompt_tokens;
    assert!(read(&second) > read(&first), "{} after {}", read(&second), read(&first));
    assert_eq!(window(&fleet, "cat").await.turns.len(), 4);
}

#[tokio::test]
async fn two_people_at_once_are_both_answered() {
    let fleet = Fleet::up().await;
    let (one, two) = tokio::join!(fleet.turn("Name a colour.", "one"), fleet.turn("Name a fruit.", "two"));
    assert!(!one.text.trim().is_empty() && !two.text.trim().is_empty());
    for session in ["one", "two"] {
        assert_eq!(window(&fleet, session).await.turns.len(), 2, "{session}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let fleet = Fleet::up_with("\n[settings.RequestCoordinator]\nqueued = 1\nrunning = 1\nper_user = 1\n", &[]).await;
    let mut running = fleet.submit("Tell me a long story about a ship.", "a").await.unwrap();
    running.first_words().await;
    let mut waiting = fleet.submit("Tell me another one.", "b").await.unwrap();
    waiting.next().await.unwrap().unwrap();
    assert_eq!(waiting.accepted().position, 1);
    let refused = match fleet.submit("And a third.", "c").await {
        Err(fault) => fault,
        Ok(turn) => turn.finish().await.unwrap_err(),
    };
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, reason::QUEUE_FULL));
    assert!(refused.retry_after.is_some(), "{refused:?}");
    // The refusal cost the others nothing.
    assert!(!running.finish().await.unwrap().text.is_empty());
    assert!(!waiting.finish().await.unwrap().text.is_empty());
}

#[tokio::test]
async fn what_people_say_and_hear_is_in_no_log() {
    let fleet = Fleet::up().await;
    let answer = fleet.turn("Remember the words zephyranthes quokkaberry.", "secret-garden").await;
    let refused = fleet.tandem(&["ask", "--session", "bad/name", "zephyranthes"]);
    assert!(!refused.status.success());
    let logs = fleet.logs();
    assert!(logs.len() >= 6, "{logs:?}");
    for path in logs {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["zephyranthes", "quokkaberry"] {
            assert!(!text.contains(word), "{} holds a person's words", path.display());
        }
        assert!(!text.contains(answer.text.trim()), "{} holds an answer", path.display());
    }
}

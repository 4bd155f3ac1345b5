//! Many turns at once.

use std::time::Duration;

use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::json;
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::rpc::coordinator;
use tandem_types::{Code, reason};

use super::fakes::{Handler, Script, Sessions, accepted, all, check, ending, next, rig, submit, text, until};

#[tokio::test]
async fn of_two_hundred_requests_at_once_108_are_answered_and_none_is_lost() {
    let (handler, gate) = Handler::new(Script::Say(vec!["Yes", "."])).gated();
    let sessions = Sessions::default();
    let rig = rig(&handler, &sessions, json!({})).await;
    let modalities = [pb::Modality::MODALITY_AUDIO, pb::Modality::MODALITY_TEXT, pb::Modality::MODALITY_BACKGROUND];
    let submitted = futures::future::join_all((0..200u32).map(|n| {
        let modality = modalities[n as usize % 3];
        let mut request =
            pb::SubmitRequest { user_id: format!("u{}", n % 60), modality: modality.into(), ..text(n, "hi") };
        if modality == pb::Modality::MODALITY_AUDIO {
            request.transcript = std::mem::take(&mut request.text);
        }
        submit(&rig, request)
    }))
    .await;
    let status = rig.client().unary(coordinator::QUEUE_STATUS, Default::default(), &rig.call()).await.unwrap();
    let waiting: u32 = status.queued.iter().map(|count| count.queued).sum();
    assert_eq!((status.running, waiting, status.queue_limit), (8, 100, 100));
    assert_eq!(status.roles_awaited, ["llm.fast"]);
    assert!(status.expected_wait_ms > 0);
    gate.add_permits(200);
    let (mut answered, mut refused) = (0, 0);
    for submitted in submitted {
        match submitted {
            Ok(events) => {
                let events = all(events).await;
                assert_eq!(ending(&events).unwrap().text, "Yes.");
                answered += 1;
            }
            Err(fault) => {
                assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::QUEUE_FULL));
                assert!(fault.retry_after.is_some_and(|after| after >= Duration::from_secs(1)));
                refused += 1;
            }
        }
    }
    assert_eq!((answered, refused), (108, 92));
    assert!(handler.most() <= 8, "{} ran at once", handler.most());
    assert_eq!(handler.asked().len(), 108, "what was refused was not begun");
}

#[tokio::test]
async fn what_cannot_be_answered_side_by_side_waits_its_turn_and_is_answered() {
    let (mut handler, gate) = Handler::new(Script::Say(vec!["Yes."])).gated();
    handler.parallel = 2;
    let rig = rig(&handler, &Sessions::default(), json!({})).await;
    rig.reconcile("handlers").await.unwrap();
    let turns = futures::future::join_all(
        (0..10).map(|n| submit(&rig, pb::SubmitRequest { user_id: format!("u{n}"), ..text(n, "hi") })),
    )
    .await;
    let status = rig.client().unary(coordinator::QUEUE_STATUS, Default::default(), &rig.call()).await.unwrap();
    let waiting: u32 = status.queued.iter().map(|count| count.queued).sum();
    assert_eq!((status.running, status.running_limit, waiting), (2, 2, 8));
    gate.add_permits(10);
    for turn in turns {
        assert_eq!(ending(&all(turn.unwrap()).await).unwrap().text, "Yes.");
    }
    assert_eq!(handler.most(), 2);
}

#[tokio::test]
async fn who_waits_is_told_its_place_until_it_begins() {
    let (handler, gate) = Handler::new(Script::Say(vec!["Yes."])).gated();
    let rig = rig(&handler, &Sessions::default(), json!({"running": 1})).await;
    let first = submit(&rig, text(1, "first")).await.unwrap();
    let second = submit(&rig, text(2, "second")).await.unwrap();
    let mut third = submit(&rig, text(3, "third")).await.unwrap();
    let (_, Event::Accepted(begun)) = next(&mut third).await else { panic!("not accepted") };
    assert_eq!(begun.position, 2);
    let request =
        pb::GetResultRequest { user_id: "ana".into(), request_id: begun.request_id.clone(), ..Default::default() };
    let result = rig.client().unary(coordinator::GET_RESULT, request, &rig.call()).await.unwrap();
    assert_eq!((result.state.as_str(), result.position), ("queued", 2));
    gate.add_permits(1);
    all(first).await;
    let (_, Event::Status(moved)) = next(&mut third).await else { panic!("its place was not told") };
    assert_eq!((moved.stage.as_str(), moved.position), ("queued", 1));
    gate.add_permits(2);
    all(second).await;
    let rest: Vec<pb::TurnEvent> = third.map(|event| event.unwrap().event.into_option().unwrap()).collect().await;
    check(&rest);
}

/// What becomes of one turn.
#[derive(Debug, Clone)]
enum Fate {
    Answered,
    FailsAtOnce,
    FailsLater,
    Cancelled,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever happens to it, a request that was accepted ends in exactly one final or error, and all slots are free then.
    #[test]
    fn every_accepted_request_ends_once(
        fates in proptest::collection::vec(
            prop_oneof![Just(Fate::Answered), Just(Fate::FailsAtOnce), Just(Fate::FailsLater), Just(Fate::Cancelled)],
            1..12,
        ),
        running in 1usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let handler = Handler::new(Script::Say(vec![]));
            let rig = rig(&handler, &Sessions::default(), json!({"running": running, "queued": 2})).await;
            for (n, fate) in (0u32..).zip(&fates) {
                handler.tell(match fate {
                    Fate::Answered => Script::Say(vec!["a", "b"]),
                    // Not one that counts against the handler: three in a row would open its breaker.
                    Fate::FailsAtOnce => Script::Fail(vec![], Code::InvalidArgument),
                    Fate::FailsLater => Script::Fail(vec!["a"], Code::Unavailable),
                    Fate::Cancelled => Script::Stall(vec!["a"]),
                });
                let mut events = submit(&rig, text(n, "go")).await.unwrap();
                if matches!(fate, Fate::Cancelled) {
                    let (_, Event::Accepted(begun)) = next(&mut events).await else { panic!("not accepted") };
                    let cancel = pb::CancelRequest { user_id: "ana".into(), turn_id: begun.turn_id, ..Default::default() };
                    let cancelled = rig.client().unary(coordinator::CANCEL, cancel, &rig.call()).await.unwrap();
                    assert!(cancelled.was_active);
                    let rest: Vec<pb::TurnEvent> = events.map(|e| e.unwrap().event.into_option().unwrap()).collect().await;
                    check(&rest);
                } else {
                    let events = all(events).await;
                    accepted(&events);
                    assert_eq!(ending(&events).is_ok(), matches!(fate, Fate::Answered));
                }
            }
            until("all streams are closed", || handler.open() == 0).await;
            let status = rig.client().unary(coordinator::QUEUE_STATUS, Default::default(), &rig.call()).await.unwrap();
            assert_eq!((status.running, status.queued.len()), (0, 0));
        });
    }
}

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::within;

fn frame(turn: u64, payload: u32) -> Frame<u32> {
    Frame { turn: TurnNumber::new(turn), at: Duration::ZERO, payload }
}

/// What is done to a queue.
#[derive(Debug, Clone, Copy)]
enum Do {
    /// A frame of the turn that is this much newer than the current one, or older.
    Send(i64),
    Take,
    Begin,
}

fn doing() -> impl Strategy<Value = Do> {
    prop_oneof![5 => (-1..=1_i64).prop_map(Do::Send), 3 => Just(Do::Take), 1 => Just(Do::Begin)]
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::DropOldest), Just(Policy::Wait), Just(Policy::FlushedByTurn)]
}

proptest! {
    /// Bounds hold, order holds, nothing stale comes out, and every frame is handed out, refused, counted or still there.
    #[test]
    fn every_frame_is_accounted_for(policy in policy(), capacity in 1..5_usize, doings in prop::collection::vec(doing(), 0..80)) {
        let (current, mut ring) = (Current::new(), Ring::new(Bound::new(policy, capacity)));
        let mut now = TurnNumber::new(1);
        current.begin(now);
        let (mut sent, mut full, mut out) = (0_u64, 0, Vec::new());
        for doing in doings {
            match doing {
                Do::Send(ahead) => {
                    let turn = now.get().saturating_add_signed(ahead);
                    sent += 1;
                    let offer = ring.offer(frame(turn, u32::try_from(sent).unwrap()), &current);
                    match offer {
                        Offer::Full(back) => {
                            prop_assert!(policy != Policy::DropOldest, "a microphone never waits");
                            prop_assert_eq!(back.payload, u32::try_from(sent).unwrap());
                            full += 1;
                        }
                        Offer::Is(is) => prop_assert_ne!(is, Sent::Closed),
                    }
                    if policy == Policy::FlushedByTurn {
                        prop_assert!(ring.frames.iter().all(|frame| frame.turn == ring.frames[0].turn), "two turns to be heard");
                    }
                }
                Do::Take => if let Some(frame) = ring.take(&current) {
                    prop_assert!(frame.turn >= now, "a stale frame");
                    out.push(frame.payload);
                },
                Do::Begin => {
                    now = now.next();
                    current.begin(now);
                }
            }
            prop_assert!(ring.frames.len() <= capacity);
            let lost = ring.lost;
            prop_assert!(policy == Policy::DropOldest || lost.dropped == 0, "what waits loses nothing");
            prop_assert_eq!(sent, out.len() as u64 + full + lost.dropped + lost.stale + ring.frames.len() as u64);
        }
        prop_assert!(out.is_sorted(), "the order was lost");
    }
}

fn pair(policy: Policy, capacity: usize) -> (Current, Sender<u32>, Receiver<u32>) {
    let current = Current::new();
    current.begin(TurnNumber::new(1));
    let (sender, receiver) = queue(Bound::new(policy, capacity), current.clone());
    (current, sender, receiver)
}

#[tokio::test]
async fn text_waits_for_room() {
    within(async {
        let (_current, sender, mut receiver) = pair(Policy::Wait, 1);
        let sending = async {
            for n in 0..100 {
                assert_eq!(sender.send(frame(1, n)).await, Sent::Taken);
            }
            drop(sender);
        };
        let receiving = async {
            let mut got = vec![];
            while let Some(frame) = receiver.recv().await {
                got.push(frame.payload);
            }
            got
        };
        let ((), got) = tokio::join!(sending, receiving);
        assert_eq!(got, (0..100).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_full_microphone_lets_go_of_the_oldest_and_counts() {
    within(async {
        let (_current, sender, mut receiver) = pair(Policy::DropOldest, 2);
        for n in 0..5 {
            assert_eq!(sender.send(frame(1, n)).await, Sent::Taken);
        }
        assert_eq!(sender.lost(), Lost { dropped: 3, stale: 0 });
        assert_eq!((receiver.try_recv().unwrap().payload, receiver.try_recv().unwrap().payload), (3, 4));
        assert_eq!(receiver.try_recv(), None);
    })
    .await;
}

#[tokio::test]
async fn a_sender_does_not_wait_for_longer_than_its_turn_lives() {
    within(async {
        let (current, sender, _receiver) = pair(Policy::FlushedByTurn, 1);
        sender.send(frame(1, 0)).await;
        let (sent, _) = tokio::join!(sender.send(frame(1, 1)), async { current.begin(TurnNumber::new(2)) });
        assert_eq!(sent, Sent::Stale);
    })
    .await;
}

#[tokio::test]
async fn a_frame_of_a_newer_turn_flushes_what_is_to_be_heard() {
    within(async {
        let (_current, sender, mut receiver) = pair(Policy::FlushedByTurn, 4);
        for n in 0..4 {
            sender.send(frame(1, n)).await;
        }
        assert_eq!(sender.send(frame(2, 9)).await, Sent::Taken);
        assert_eq!(receiver.recv().await.unwrap().payload, 9);
        assert_eq!(receiver.lost().stale, 4);
        assert_eq!(sender.send(frame(1, 5)).await, Sent::Stale, "the older turn is over for good");
    })
    .await;
}

#[tokio::test]
async fn a_sender_whose_reader_has_gone_does_not_wait() {
    within(async {
        let (_current, sender, receiver) = pair(Policy::Wait, 1);
        sender.send(frame(1, 0)).await;
        let (sent, ()) = tokio::join!(sender.send(frame(1, 1)), async { drop(receiver) });
        assert_eq!(sent, Sent::Closed);
    })
    .await;
}

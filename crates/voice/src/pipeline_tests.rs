use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tandem_types::Fault;

use super::*;
use crate::queue::Sender;
use crate::within;
use crate::{Frame, Outlet, TurnNumber};

fn frame<T>(turn: u64, payload: T) -> Frame<T> {
    Frame { turn: TurnNumber::new(turn), at: Duration::ZERO, payload }
}

/// Splits text into words, and counts what it was begun for.
#[derive(Default)]
struct Words {
    begun: Arc<AtomicU64>,
}

impl Stage for Words {
    type In = &'static str;
    type Out = String;

    fn name(&self) -> &'static str {
        "words"
    }

    fn begin(&mut self, turn: TurnNumber) {
        self.begun.store(turn.get(), Ordering::Relaxed);
    }

    async fn step(&mut self, input: Frame<&'static str>, out: &mut Outlet<'_, String>) -> Result<(), Fault> {
        for word in input.payload.split(' ') {
            out.send(word.to_owned()).await;
        }
        Ok(())
    }
}

/// Measures words. `wait` keeps it for ever, `fail` breaks it.
struct Lengths {
    cut_off: Arc<AtomicBool>,
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Stage for Lengths {
    type In = String;
    type Out = usize;

    fn name(&self) -> &'static str {
        "lengths"
    }

    async fn step(&mut self, input: Frame<String>, out: &mut Outlet<'_, usize>) -> Result<(), Fault> {
        match input.payload.as_str() {
            "wait" => {
                let _flag = Flag(self.cut_off.clone());
                std::future::pending().await
            }
            "fail" => Err(Fault::internal("it broke")),
            word => {
                out.send(word.len()).await;
                Ok(())
            }
        }
    }
}

struct Rig {
    current: Current,
    source: Sender<&'static str>,
    work: Running,
    tail: Receiver<usize>,
    cut_off: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
}

fn rig() -> Rig {
    let (current, cut_off, begun) = (Current::new(), Arc::default(), Arc::default());
    current.begin(TurnNumber::new(1));
    let (source, queue) = queue(Bound::TEXT, current.clone());
    let (work, tail) = pipeline(current.clone(), queue)
        .then(Words { begun: Arc::clone(&begun) }, Bound::new(Policy::Wait, 1))
        .then(Lengths { cut_off: Arc::clone(&cut_off) }, Bound::TEXT)
        .split();
    Rig { current, source, work, tail, cut_off, begun }
}

async fn all<T>(mut tail: Receiver<T>) -> Vec<(u64, T)> {
    let mut got = Vec::new();
    while let Some(frame) = tail.recv().await {
        got.push((frame.turn.get(), frame.payload));
    }
    got
}

#[tokio::test]
async fn data_goes_right_in_order_and_with_its_turn() {
    within(async {
        let Rig { source, work, tail, .. } = rig();
        source.send(frame(1, "one three")).await;
        source.send(frame(1, "seven")).await;
        drop(source);
        let ((), got) = tokio::join!(work, all(tail));
        assert_eq!(got, [(1, 3), (1, 5), (1, 5)]);
    })
    .await;
}

#[tokio::test]
async fn a_newer_turn_cuts_off_what_is_being_worked_on() {
    within(async {
        let Rig { current, source, work, tail, cut_off, begun } = rig();
        source.send(frame(1, "a wait never heard")).await;
        let driver = async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            current.begin(TurnNumber::new(2));
            source.send(frame(1, "stale")).await;
            source.send(frame(2, "fresh")).await;
            drop(source);
        };
        let ((), (), got) = tokio::join!(work, driver, all(tail));
        assert!(cut_off.load(Ordering::Relaxed), "the work was not dropped");
        assert_eq!(got, [(1, 1), (2, 5)]);
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    })
    .await;
}

#[tokio::test]
async fn an_error_ends_its_turn_once_and_the_next_turn_goes_on() {
    within(async {
        let Rig { current, source, work, tail, .. } = rig();
        source.send(frame(1, "fail fail never heard")).await;
        let driver = async {
            let ending = current.ending(TurnNumber::new(1)).await.unwrap();
            assert_eq!(ending.fault.message, "it broke");
            assert!(!current.end(TurnNumber::new(1), Fault::internal("again")));
            current.begin(TurnNumber::new(2));
            source.send(frame(2, "on")).await;
            drop(source);
        };
        let ((), (), got) = tokio::join!(work, driver, all(tail));
        assert_eq!(got, [(2, 2)]);
    })
    .await;
}

#[tokio::test]
async fn side_readers_get_copies_and_delay_nothing() {
    within(async {
        let current = Current::new();
        let (source, queue) = queue(Bound::TEXT, current.clone());
        let (tapped, mut copies) = pipeline(current, queue).tap(2, Bound::TEXT);
        let (work, tail) = tapped.split();
        for n in 0..9 {
            source.send(frame(1, n)).await;
        }
        drop(source);
        let ((), got) = tokio::join!(work, all(tail));
        assert_eq!(got.len(), 9);
        assert_eq!(copies.lost().dropped, 7, "nobody read the copies");
        assert_eq!(copies.try_recv().unwrap().payload, 7);
    })
    .await;
}

//! The two things that go left in a pipeline: the number of the current turn, and the error that ended it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tandem_types::Fault;
use tokio::sync::watch;

use crate::TurnNumber;

/// What everybody in a pipeline is told.
#[derive(Debug, Clone, Default)]
struct Told {
    current: TurnNumber,
    ended: Option<Ending>,
}

/// How a turn ended before its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// The turn.
    pub turn: TurnNumber,
    /// The first error in it.
    pub fault: Fault,
}

/// The current turn of a session, as its owner, its stages and its queues share it. Copies are handles of the same.
#[derive(Debug, Clone)]
pub struct Current {
    /// The oldest turn that lives. Asked for each frame, so it is kept beside the watch. Written only while the watch is.
    oldest: Arc<AtomicU64>,
    told: watch::Sender<Told>,
}

impl Default for Current {
    fn default() -> Self {
        Self { oldest: Arc::default(), told: watch::Sender::new(Told::default()) }
    }
}

impl Current {
    /// Before the first turn.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of the current turn.
    pub fn turn(&self) -> TurnNumber {
        self.told.borrow().current
    }

    /// Begins a turn: everything older is stale from now on. Says whether it is newer than the current one; numbers never fall.
    pub fn begin(&self, turn: TurnNumber) -> bool {
        self.told.send_if_modified(|told| {
            let newer = turn > told.current;
            if newer {
                told.current = turn;
                self.oldest.fetch_max(turn.get(), Ordering::Release);
            }
            newer
        })
    }

    /// Ends the current turn by an error: its frames are stale from now on. Says whether this was the first error in it; of a
    /// turn that is over nobody needs to hear.
    pub fn end(&self, turn: TurnNumber, fault: Fault) -> bool {
        self.told.send_if_modified(|told| {
            let first = turn == told.current && self.lives(turn);
            if first {
                told.ended = Some(Ending { turn, fault });
                self.oldest.fetch_max(turn.next().get(), Ordering::Release);
            }
            first
        })
    }

    /// Whether frames of this turn are still wanted. Those of a turn that has yet to begin are.
    pub fn lives(&self, turn: TurnNumber) -> bool {
        turn.get() >= self.oldest.load(Ordering::Acquire)
    }

    /// Waits until frames of this turn are stale.
    pub async fn outlived(&self, turn: TurnNumber) {
        let mut told = self.told.subscribe();
        // The sender is in `self`, so that the watch cannot close.
        let _ = told.wait_for(|_| !self.lives(turn)).await;
    }

    /// Waits until an error has ended the turn, or the turn is over otherwise.
    pub async fn ending(&self, turn: TurnNumber) -> Option<Ending> {
        self.outlived(turn).await;
        self.told.borrow().ended.clone().filter(|ended| ended.turn == turn)
    }
}

#[cfg(test)]
mod tests {
    use tandem_types::Fault;

    use super::*;

    fn turn(number: u64) -> TurnNumber {
        TurnNumber::new(number)
    }

    #[test]
    fn numbers_never_fall() {
        let current = Current::new();
        assert!(current.begin(turn(3)));
        assert!(!current.begin(turn(2)) && !current.begin(turn(3)));
        assert_eq!(current.turn(), turn(3));
        assert!(current.lives(turn(3)) && current.lives(turn(4)) && !current.lives(turn(2)));
    }

    #[test]
    fn errors_end_a_turn_once_and_no_other_turn() {
        let current = Current::new();
        current.begin(turn(2));
        assert!(!current.end(turn(1), Fault::internal("too late")), "a turn that is over");
        assert!(!current.end(turn(3), Fault::internal("too early")), "a turn that has not begun");
        assert!(current.lives(turn(2)));
        assert!(current.end(turn(2), Fault::internal("first")));
        assert!(!current.end(turn(2), Fault::internal("second")));
        assert!(!current.lives(turn(2)) && current.lives(turn(3)));
        assert_eq!(current.turn(), turn(2));
    }

    #[tokio::test]
    async fn the_owner_hears_the_first_error_of_the_turn_it_asks_for() {
        let current = Current::new();
        current.begin(turn(1));
        let (ending, ()) = tokio::join!(current.ending(turn(1)), async {
            current.end(turn(1), Fault::internal("first"));
            current.end(turn(1), Fault::internal("second"));
        });
        assert_eq!(ending.unwrap().fault.message, "first");
        current.begin(turn(2));
        current.begin(turn(3));
        assert_eq!(current.ending(turn(2)).await, None, "it was overtaken");
    }
}

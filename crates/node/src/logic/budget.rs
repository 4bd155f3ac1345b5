//! How often things may happen: restarts of a group and of all groups together, and when a group counts as flapping.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;

/// In so long a time everything here is counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(600);
/// Restarts of one group.
const GROUP_MOST: usize = 5;
/// Restarts of all groups together.
const NODE_MOST: usize = 20;
/// Wait before the first restart, before any other one (doubled with each), and at most.
const AT_ONCE: Duration = Duration::from_millis(200);
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// So many changes, or ends by itself, are flapping.
const CHANGES: usize = 6;
const ENDS: usize = 3;

/// A number by chance: so many of 65,535 parts of a whole.
pub(crate) type Chance = u16;

/// Moments within the last ten minutes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Recent(VecDeque<Moment>);

impl Recent {
    /// Something happened.
    pub(crate) fn note(&mut self, at: Moment) {
        self.forget(at);
        self.0.push_back(at);
    }

    /// How often it happened until `now`.
    pub(crate) fn count(&self, now: Moment) -> usize {
        self.0.iter().filter(|at| now < **at + WINDOW).count()
    }

    fn forget(&mut self, now: Moment) {
        while self.0.front().is_some_and(|at| now >= *at + WINDOW) {
            self.0.pop_front();
        }
    }
}

/// When a process is started again: at once after its first end in ten minutes, then after 2 s doubling to 60 s, five
/// times at most. Chance takes up to half of each wait away, so that groups that ended together do not start together.
#[derive(Debug, Default, Clone)]
pub(crate) struct Backoff {
    ends: Recent,
}

impl Backoff {
    /// The process ended at `now`: how long to wait, or nothing when it did so too often.
    pub(crate) fn failed(&mut self, now: Moment, chance: Chance) -> Option<Duration> {
        let before = self.ends.count(now);
        self.ends.note(now);
        let wait = match before {
            GROUP_MOST.. => return None,
            0 => AT_ONCE,
            n => (FIRST * (1 << n)).min(LONGEST),
        };
        Some(wait / 2 + wait / 2 * u32::from(chance) / u32::from(Chance::MAX))
    }

    /// An end that a former node saw.
    pub(crate) fn remember(&mut self, at: Moment) {
        self.ends.note(at);
    }

    /// How often it ended by itself, where that is often enough to be said.
    pub(crate) fn flaps(&self, now: Moment) -> Option<usize> {
        Some(self.ends.count(now)).filter(|ends| *ends >= ENDS)
    }
}

/// Restarts without an order that a node does, whichever group they are of.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    taken: Recent,
}

impl Pool {
    /// Takes one out of it.
    ///
    /// # Errors
    /// When there is one again.
    pub(crate) fn take(&mut self, now: Moment) -> Result<(), Moment> {
        self.taken.forget(now);
        match self.taken.0.front() {
            Some(first) if self.taken.0.len() >= NODE_MOST => Err(*first + WINDOW),
            _ => {
                self.taken.note(now);
                Ok(())
            }
        }
    }

    /// One that a former node did.
    pub(crate) fn remember(&mut self, at: Moment) {
        self.taken.note(at);
    }
}

/// Whether a group keeps changing between serving and not.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flaps {
    serves: Option<bool>,
    changes: Recent,
}

impl Flaps {
    /// Whether it serves now.
    pub(crate) fn seen(&mut self, now: Moment, serves: bool) {
        if self.serves.replace(serves).is_some_and(|before| before != serves) {
            self.changes.note(now);
        }
    }

    /// How often it changed, where that is often enough to be said.
    pub(crate) fn count(&self, now: Moment) -> Option<usize> {
        Some(self.changes.count(now)).filter(|changes| *changes >= CHANGES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_and_old_ends_are_forgotten() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..6).map(|i| backoff.failed(at(i), Chance::MAX)).collect();
        let expected = [200, 2_000, 4_000, 8_000, 16_000].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!(waits, expected.into_iter().chain([None]).collect::<Vec<_>>());
        assert_eq!(backoff.failed(at(602), Chance::MAX), Some(at(8)), "three of them count still");
        assert_eq!(backoff.failed(at(2_000), Chance::MAX), Some(AT_ONCE));
    }

    #[test]
    fn chance_takes_up_to_half_of_a_wait_away() {
        let wait = |chance| {
            let mut backoff = Backoff::default();
            backoff.remember(at(0));
            backoff.failed(at(1), chance).unwrap().as_millis()
        };
        assert_eq!((wait(0), wait(Chance::MAX)), (1_000, 2_000));
        assert!((1_499..=1_501).contains(&wait(Chance::MAX / 2)), "{}", wait(Chance::MAX / 2));
    }

    #[test]
    fn a_node_restarts_twenty_times_in_ten_minutes() {
        let mut pool = Pool::default();
        pool.remember(at(0));
        assert!((1..20).all(|i| pool.take(at(i)).is_ok()));
        assert_eq!(pool.take(at(20)), Err(at(600)));
        assert_eq!(pool.take(at(600)), Ok(()));
        assert_eq!(pool.take(at(600)), Err(at(601)));
    }

    #[test]
    fn who_keeps_changing_flaps() {
        let mut flaps = Flaps::default();
        for i in 0..7u64 {
            assert_eq!(flaps.count(at(i)), None);
            flaps.seen(at(i), i % 2 == 0);
            flaps.seen(at(i), i % 2 == 0);
        }
        assert_eq!(flaps.count(at(7)), Some(6));
        assert_eq!(flaps.count(at(601)), None);
    }
}

//! Which adapter the next step is computed with. An adapter lies over a whole step, so requests with different ones take
//! turns.

use std::time::Duration;

/// A turn lasts so long while others wait. Changing the adapter makes llama.cpp lay out its memory anew.
const TURN: Duration = Duration::from_millis(100);

/// The turns of those who ask.
#[derive(Debug)]
pub(crate) struct Rota<A> {
    now: Option<A>,
    /// Time computed in this turn.
    spent: Duration,
    /// Steps so far.
    step: u64,
    /// The last step of each that asks and has had one.
    served: Vec<(A, u64)>,
}

impl<A: Copy + PartialEq> Rota<A> {
    /// Nobody had a turn yet.
    pub(crate) fn new() -> Self {
        Self { now: None, spent: Duration::ZERO, step: 0, served: Vec::new() }
    }

    /// Whose step is next, of all requests at work: their adapter and priority, 1 first. None when there are none.
    ///
    /// Who has the turn keeps it while alone, else for [`TURN`]; then whoever waits longest has it. Somebody more urgent
    /// takes it at once, and the others still get a step each time their turn comes.
    pub(crate) fn next(&mut self, asking: &[(A, u8)]) -> Option<A> {
        self.step += 1;
        self.served.retain(|(known, _)| asking.iter().any(|(adapter, _)| adapter == known));
        let served = |of: A| self.served.iter().find(|(known, _)| *known == of).map_or(0, |(_, step)| *step);
        let urgency = |of: A| asking.iter().filter(|(adapter, _)| *adapter == of).map(|(_, p)| *p).min();
        let now = self.now.filter(|now| urgency(*now).is_some());
        let others = || asking.iter().map(|(adapter, _)| *adapter).filter(|adapter| Some(*adapter) != now);
        let longest = others().min_by_key(|of| (served(*of), urgency(*of)));
        let next = match (now, longest) {
            (Some(now), None) => now,
            (None, longest) => longest?,
            (Some(now), Some(longest)) => {
                let urgent = others().filter(|of| urgency(*of) < urgency(now));
                match urgent.min_by_key(|of| (urgency(*of), served(*of))) {
                    Some(urgent) => urgent,
                    None if self.spent < TURN => now,
                    None => longest,
                }
            }
        };
        if self.now != Some(next) {
            self.spent = Duration::ZERO;
        }
        self.now = Some(next);
        self.served.retain(|(known, _)| *known != next);
        self.served.push((next, self.step));
        Some(next)
    }

    /// The step of whoever has the turn took so long.
    pub(crate) fn took(&mut self, time: Duration) {
        self.spent += time;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whose steps they are when everybody goes on asking, at so many milliseconds a step.
    fn steps(asking: &[(char, u8)], ms: u64, count: usize) -> String {
        let mut rota = Rota::new();
        let step = |_| {
            let next = rota.next(asking).unwrap_or('-');
            rota.took(Duration::from_millis(ms));
            next
        };
        (0..count).map(step).collect()
    }

    #[test]
    fn turns_go_round() {
        for (asking, ms, expected) in [
            (&[][..], 10, "---"),
            (&[('a', 2)], 60, "aaaaaa"),
            (&[('a', 2), ('a', 5), ('b', 2)], 60, "aabbaabb"),
            (&[('a', 2), ('b', 2), ('c', 2)], 100, "abcabc"),
            (&[('a', 2), ('b', 2)], 25, "aaaabbbbaaaa"),
            // The one who waits less urgently gets a step for each turn of the other.
            (&[('a', 10), ('b', 1)], 50, "bbabbabb"),
            (&[('a', 1), ('b', 10), ('c', 10)], 50, "aabaacaabaac"),
        ] {
            assert_eq!(steps(asking, ms, expected.len()), expected, "{asking:?} {ms}");
        }
    }

    #[test]
    fn who_comes_anew_waits_for_the_end_of_a_turn_and_who_left_is_forgotten() {
        let mut rota = Rota::new();
        let mut step = |asking: &[(char, u8)], ms| {
            let next = rota.next(asking);
            rota.took(Duration::from_millis(ms));
            next
        };
        assert_eq!(step(&[('a', 2)], 60), Some('a'));
        assert_eq!(step(&[('a', 2), ('b', 2)], 60), Some('a'));
        assert_eq!(step(&[('a', 2), ('b', 2)], 60), Some('b'));
        assert_eq!(step(&[('a', 2)], 60), Some('a'), "b has left in the middle of its turn");
        assert_eq!(step(&[], 0), None);
        assert_eq!(step(&[('b', 2)], 60), Some('b'));
    }

    proptest! {
        #[test]
        fn nobody_starves(
            asking in prop::collection::vec((0..5u8, 1..=10u8), 1..8),
            ms in 1..200u64,
        ) {
            let mut rota = Rota::new();
            let each = 100usize.div_ceil(ms as usize);
            // Everybody's turn and, between the turns, a step for each of those who are more urgent.
            let bound = 5 * (each + 5) * 2;
            let mut last = [0usize; 5];
            for now in 1..500 {
                let next = rota.next(&asking).unwrap();
                prop_assert!(asking.iter().any(|(adapter, _)| *adapter == next));
                rota.took(Duration::from_millis(ms));
                last[usize::from(next)] = now;
                for (adapter, _) in &asking {
                    prop_assert!(now - last[usize::from(*adapter)] <= bound, "{adapter} waits since {last:?} at {now}");
                }
            }
        }
    }
}

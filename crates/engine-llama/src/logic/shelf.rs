//! Conversations without a slot: their state waits here for the next thing said in them.

use std::time::{Duration, Instant};

use super::place::common_prefix;

/// Conversations that wait at most.
const MOST: usize = 50;
/// One that nobody went on with for so long is dropped.
const WAITS: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
struct Kept<T, S> {
    session: String,
    adapter: Option<u64>,
    tokens: Vec<T>,
    state: S,
    bytes: usize,
    since: Instant,
}

/// The states, within a number of bytes.
#[derive(Debug)]
pub(crate) struct Shelf<T, S> {
    /// The longest waiting first.
    kept: Vec<Kept<T, S>>,
    room: usize,
}

impl<T: PartialEq, S> Shelf<T, S> {
    /// An empty one for so many bytes.
    pub(crate) fn new(room: usize) -> Self {
        Self { kept: Vec::new(), room }
    }

    /// Whether a state of so many bytes has room once others have left.
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        bytes <= self.room
    }

    /// Takes the state of a conversation whose first tokens these are, read with this adapter, in the place of an earlier
    /// one; the longest waiting leave for it. One that is too large is dropped.
    pub(crate) fn put(
        &mut self,
        (session, adapter): (&str, Option<u64>),
        tokens: Vec<T>,
        state: S,
        bytes: usize,
        now: Instant,
    ) {
        self.drop_old(now);
        self.kept.retain(|kept| kept.session != session);
        if !self.takes(bytes) {
            return;
        }
        while self.kept.len() >= MOST || self.bytes() + bytes > self.room {
            self.kept.remove(0);
        }
        self.kept.push(Kept { session: session.to_owned(), adapter, tokens, state, bytes, since: now });
    }

    /// Drops those that nobody came back for.
    pub(crate) fn drop_old(&mut self, now: Instant) {
        self.kept.retain(|kept| now.saturating_duration_since(kept.since) < WAITS);
    }

    /// The state that saves most of reading a prompt with this adapter, that of the same conversation first, and how many
    /// tokens it saves.
    pub(crate) fn find(&self, prompt: &[T], session: Option<&str>, adapter: Option<u64>) -> Option<(usize, usize)> {
        let most = prompt.len().saturating_sub(1);
        let saves = |kept: &Kept<T, S>| match kept.adapter == adapter {
            true => common_prefix(&kept.tokens, prompt).min(most),
            false => 0,
        };
        let rank = |(_, kept): &(usize, &Kept<T, S>)| {
            let saved = saves(kept);
            (saved > 0 && session == Some(kept.session.as_str()), saved)
        };
        let (place, best) = self.kept.iter().enumerate().max_by_key(rank)?;
        Some((place, saves(best))).filter(|(_, saved)| *saved > 0)
    }

    /// Takes a state off, as [`Shelf::find`] named it.
    pub(crate) fn take(&mut self, place: usize) -> S {
        self.kept.remove(place).state
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shelf(sessions: &[(&str, &[u8])], now: Instant) -> Shelf<u8, String> {
        let mut shelf = Shelf::new(100);
        for (session, tokens) in sessions {
            shelf.put((session, None), tokens.to_vec(), (*session).to_owned(), 10, now);
        }
        shelf
    }

    #[test]
    fn a_conversation_finds_its_state_and_others_what_they_share() {
        let now = Instant::now();
        for (prompt, session, found) in [
            (&b"sysANNmore"[..], Some("ann"), Some(("ann", 6))),
            (b"sysBEN", Some("ben"), Some(("ben", 5))),
            (b"sysBENmore", None, Some(("ben", 6))),
            (b"sysXYZ", Some("cho"), Some(("cho", 3))),
            (b"other", Some("ann"), None),
            (b"s", None, None),
        ] {
            let mut shelf = shelf(&[("ann", b"sysANN"), ("ben", b"sysBEN"), ("cho", b"sysCHO")], now);
            let got = shelf.find(prompt, session, None).map(|(place, saved)| (shelf.take(place), saved));
            let got = got.as_ref().map(|(session, saved)| (session.as_str(), *saved));
            assert_eq!(got, found, "{prompt:?} {session:?}");
        }
    }

    #[test]
    fn what_was_read_with_another_adapter_is_of_no_use() {
        let now = Instant::now();
        let mut shelf = Shelf::new(100);
        shelf.put(("ann", Some(1)), b"sysANN".to_vec(), (), 10, now);
        shelf.put(("ben", None), b"sysBEN".to_vec(), (), 10, now);
        for (adapter, found) in [(Some(1), Some((0, 6))), (None, Some((1, 3))), (Some(2), None)] {
            assert_eq!(shelf.find(b"sysANNmore", Some("ann"), adapter), found, "{adapter:?}");
        }
    }

    #[test]
    fn the_longest_waiting_leave_for_others_and_all_leave_in_time() {
        let now = Instant::now();
        let names = |shelf: &Shelf<u8, String>| shelf.kept.iter().map(|k| k.state.clone()).collect::<Vec<_>>();
        let mut shelf = shelf(&[("a", b"a"), ("b", b"b"), ("c", b"c")], now);
        shelf.put(("a", None), b"aa".to_vec(), "again".into(), 10, now);
        assert_eq!(names(&shelf), ["b", "c", "again"]);
        shelf.put(("large", None), vec![], "large".into(), 85, now + Duration::from_secs(1));
        assert_eq!(names(&shelf), ["again", "large"]);
        shelf.put(("larger", None), vec![], "larger".into(), 101, now);
        assert_eq!(names(&shelf), ["again", "large"]);
        shelf.drop_old(now + WAITS);
        assert_eq!(names(&shelf), ["large"]);
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may(
            puts in prop::collection::vec((0..80u8, 0..60usize, 0..200u64), 0..200),
        ) {
            let (mut shelf, mut now) = (Shelf::new(1_000), Instant::now());
            for (session, bytes, later) in puts {
                now += Duration::from_secs(later);
                shelf.put((&session.to_string(), None), vec![session], (), bytes, now);
                prop_assert!(shelf.kept.len() <= MOST && shelf.bytes() <= 1_000);
                prop_assert!(shelf.kept.iter().filter(|kept| kept.session == session.to_string()).count() == 1);
                prop_assert!(shelf.kept.is_sorted_by_key(|kept| kept.since));
            }
        }
    }
}

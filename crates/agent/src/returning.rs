//! Groups that said they are about to end and will be back, as one that is told to start anew does.
//!
//! What such a group refused it has not begun, so the same call may be sent again, whatever it does; and until it is back
//! nobody answers at its address, which says nothing about its health.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tandem_contract::is_unsent;
use tandem_types::{Code, Fault, GroupId, State, reason};

/// How long a group that said so is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// Who speaks for a group.
const HOST: &str = "Host";

/// How long a group that ended without a word is waited for, counted from the first call that found nobody; and how long
/// a group that ends itself goes on waiting for any other, which may end for good as it does.
const MOMENT: Duration = Duration::from_secs(3);

/// Time between two tries.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// Since when which groups are on their way.
#[derive(Debug, Default)]
pub(crate) struct Returning {
    since: HashMap<GroupId, Instant>,
    /// Since when nobody takes calls, without a word before.
    silent: HashMap<GroupId, Instant>,
    /// Since when groups of this process end.
    ending: HashMap<GroupId, Instant>,
}

impl Returning {
    /// Something was heard of an agent of this group.
    pub(crate) fn heard(&mut self, group: &GroupId, state: State, now: Instant) {
        if state == State::Draining {
            self.leaves(group, now);
        } else if state.serves() {
            self.is_back(group);
        }
    }

    /// A call to this group went well, or it refused it for another reason.
    pub(crate) fn is_back(&mut self, group: &GroupId) {
        self.since.remove(group);
        self.silent.remove(group);
    }

    /// A group of this process ends.
    pub(crate) fn ends(&mut self, own: &GroupId, now: Instant) {
        self.ending.entry(own.clone()).or_insert(now);
    }

    /// A group of this process begins, again or for the first time.
    pub(crate) fn begins(&mut self, own: &GroupId) {
        self.ending.remove(own);
    }

    /// Whether a call of group `own` that failed in this way waits for its provider's group instead.
    pub(crate) fn is_awaited(&mut self, own: &GroupId, group: &GroupId, fault: &Fault, now: Instant) -> bool {
        // Not for itself, and for others only a moment.
        let is_over = |since: &Instant| own == group || now.saturating_duration_since(*since) >= MOMENT;
        if fault.code != Code::Unavailable || self.ending.get(own).is_some_and(is_over) {
            return false;
        }
        if fault.reason == reason::DRAINING {
            self.leaves(group, now);
        }
        let lately = self.since.get(group).is_some_and(|since| now.saturating_duration_since(*since) < LIMIT);
        if lately && (fault.reason == reason::DRAINING || is_silence(fault)) {
            return true;
        }
        // Without a word before, it has ended by itself: its node starts it again at once, or after a while that is too long.
        let comes = is_unsent(fault) || (fault.retry_after.is_some() && is_silence(fault));
        comes && now.saturating_duration_since(*self.silent.entry(group.clone()).or_insert(now)) < MOMENT
    }

    fn leaves(&mut self, group: &GroupId, now: Instant) {
        let since = self.since.entry(group.clone()).or_insert(now);
        if now.saturating_duration_since(*since) >= 2 * LIMIT {
            *since = now;
        }
    }
}

/// Nobody was there to say anything, or only the host of an agent that does not run yet.
fn is_silence(fault: &Fault) -> bool {
    fault.reason == reason::PEER_AWAY && fault.agent.as_ref().is_none_or(|agent| agent.agent.as_str() == HOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupId {
        "solo/talk".parse().unwrap()
    }

    fn own() -> GroupId {
        "solo/door".parse().unwrap()
    }

    #[test]
    fn a_group_that_ends_waits_a_moment_longer_for_others_and_not_for_itself() {
        let (mut returning, begin) = (Returning::default(), Instant::now());
        let at = |s: u64| begin + Duration::from_secs(s);
        let draining = Fault::unavailable(reason::DRAINING, "");
        returning.ends(&own(), at(1));
        assert!(returning.is_awaited(&own(), &group(), &draining, at(3)));
        assert!(!returning.is_awaited(&own(), &group(), &draining, at(4)));
        assert!(!returning.is_awaited(&own(), &own(), &draining, at(3)));
        assert!(returning.is_awaited(&"solo/other".parse().unwrap(), &own(), &draining, at(3)));
        returning.begins(&own());
        assert!(returning.is_awaited(&own(), &group(), &draining, at(4)));
    }

    #[test]
    fn only_a_group_that_said_it_leaves_is_waited_for() {
        let (mut returning, begin) = (Returning::default(), Instant::now());
        let at = |s: u64| begin + Duration::from_secs(s);
        let (draining, away) =
            (Fault::unavailable(reason::DRAINING, ""), Fault::unavailable(reason::PEER_AWAY, "nobody listens"));
        assert!(!returning.is_awaited(&own(), &group(), &away, at(0)), "a crash is no leave-taking");
        let unsent = Fault::unavailable(reason::PEER_AWAY, "nobody took the request: Connection refused");
        assert!(returning.is_awaited(&own(), &group(), &unsent, at(0)), "what nobody has seen may be sent again");
        assert!(returning.is_awaited(&own(), &group(), &unsent, at(2)));
        assert!(!returning.is_awaited(&own(), &group(), &unsent, at(3)), "a moment only");
        returning.is_back(&group());
        assert!(returning.is_awaited(&own(), &group(), &draining, at(0)));
        assert!(returning.is_awaited(&own(), &group(), &away, at(20)));
        assert!(!returning.is_awaited(&own(), &"solo/other".parse().unwrap(), &away, at(20)));
        let said = Fault { agent: Some("solo/talk/Talker".parse().unwrap()), ..away.clone() };
        assert!(!returning.is_awaited(&own(), &group(), &said, at(20)), "whoever speaks is there");
        let starting = Fault { agent: Some("solo/talk/Host".parse().unwrap()), ..away.clone() };
        assert!(returning.is_awaited(&own(), &group(), &starting, at(20)));
        let soon = starting.clone().retry_after(Duration::from_millis(500));
        let other = "solo/other".parse().unwrap();
        assert!(returning.is_awaited(&own(), &other, &soon, at(20)), "it is on its way up");
        assert!(!returning.is_awaited(&own(), &other, &starting, at(20)), "it is not");
        let late = Fault::new(Code::DeadlineExceeded, reason::TIME_UP, "");
        assert!(!returning.is_awaited(&own(), &group(), &late, at(20)), "what was begun is not sent again");
        assert!(!returning.is_awaited(&own(), &group(), &away, at(30)), "not for ever");
        assert!(
            !returning.is_awaited(&own(), &group(), &draining, at(31)),
            "one that goes on saying so does not come back"
        );
        assert!(returning.is_awaited(&own(), &group(), &draining, at(90)), "another time");
    }

    #[test]
    fn what_is_heard_of_a_group_counts() {
        let (mut returning, now) = (Returning::default(), Instant::now());
        let away = Fault::unavailable(reason::PEER_AWAY, "nobody listens");
        returning.heard(&group(), State::Draining, now);
        returning.heard(&group(), State::Stopped, now);
        assert!(returning.is_awaited(&own(), &group(), &away, now));
        returning.heard(&group(), State::Ready, now);
        assert!(!returning.is_awaited(&own(), &group(), &away, now));
        returning.heard(&group(), State::Draining, now);
        returning.is_back(&group());
        assert!(!returning.is_awaited(&own(), &group(), &away, now));
    }
}

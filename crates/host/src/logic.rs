//! The host's thinking: when an agent is started again, and how a group is doing. No IO, no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tandem_types::{AgentName, Health, State, Timestamp};

/// What to do after an agent has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start it again after this long.
    Restart(Duration),
    /// It has failed too often; a person decides.
    GiveUp,
}

/// When an agent is started again: after 1 s doubling to 60 s, at most 5 times in 10 minutes.
#[derive(Debug, Default)]
pub(crate) struct RestartPolicy {
    recent: VecDeque<Timestamp>,
}

impl RestartPolicy {
    const MOST: usize = 5;
    const WINDOW: Duration = Duration::from_secs(600);
    const LONGEST: Duration = Duration::from_secs(60);

    /// The agent failed at `now`.
    pub(crate) fn failed(&mut self, now: Timestamp) -> Next {
        while self.recent.front().is_some_and(|at| now.since(*at) >= Self::WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() >= Self::MOST {
            return Next::GiveUp;
        }
        let wait = Duration::from_secs(1 << self.recent.len()).min(Self::LONGEST);
        self.recent.push_back(now);
        Next::Restart(wait)
    }
}

/// Whether a process hangs, from its heartbeats, one each second. One that never sent any is not judged.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beat: Option<Instant>,
    looked: Option<Instant>,
}

impl Pulse {
    /// Whoever sends nothing for so long hangs.
    pub(crate) const SILENCE: Duration = Duration::from_secs(15);
    /// Looks are made every other second: whoever makes one this much later did not run, and has heard nothing for that.
    const LATE: Duration = Duration::from_secs(5);

    /// A heartbeat has come.
    pub(crate) fn beat(&mut self, now: Instant) {
        self.beat = Some(now);
    }

    /// Looks whether the process hangs.
    pub(crate) fn hangs(&mut self, now: Instant) -> bool {
        let before = self.looked.replace(now);
        if before.is_some_and(|before| now.saturating_duration_since(before) >= Self::LATE) {
            self.beat = self.beat.map(|_| now);
        }
        self.beat.is_some_and(|beat| now.saturating_duration_since(beat) >= Self::SILENCE)
    }
}

/// What an agent needs and has lost, in words; empty when there is nothing. What nothing is known of is not lost.
pub(crate) fn lost_needs<'a>(needs: impl Iterator<Item = (&'a AgentName, Option<State>)>) -> String {
    let words: Vec<String> = needs
        .filter_map(|(name, state)| state.map(|state| (name, state)))
        .filter(|(_, state)| !state.serves() && *state != State::Unknown)
        .map(|(name, state)| format!("{name}, which it needs, is {state}"))
        .collect();
    words.join("; ")
}

/// One agent in the roll-up of its group.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) name: String,
    /// Whether the group fails with it.
    pub(crate) required: bool,
    /// How it is doing; none when this build has no code for it.
    pub(crate) health: Option<Health>,
}

/// How a group is doing. An optional agent cannot make it fail, and neither can a missing model.
pub(crate) fn roll_up(members: &[Member], draining: bool, since: Timestamp) -> Health {
    if draining {
        return Health::new(State::Draining, "finishing what there is", since);
    }
    let state = |member: &Member| member.health.as_ref().map(|h| h.state);
    let words = |member: &Member| match &member.health {
        None => format!("{} is not built", member.name),
        Some(health) if health.cause.is_empty() => format!("{} is {}", member.name, health.state),
        Some(health) => format!("{} is {}: {}", member.name, health.state, health.cause),
    };
    if members.iter().all(|m| m.health.is_none()) {
        return Health::new(State::Unavailable, "none of its agents is built", since);
    }
    if let Some(member) = members.iter().find(|m| m.required && state(m) == Some(State::Failed)) {
        return Health::new(State::Failed, words(member), since);
    }
    let starting = |m: &&Member| m.required && state(m) == Some(State::Starting);
    if let Some(member) = members.iter().find(starting) {
        return Health::new(State::Starting, words(member), since);
    }
    // What was never missed makes nothing poorer: an optional agent on its way is shown beside the others.
    let whole = |m: &&Member| matches!(state(m), Some(State::Ready | State::Starting));
    let poorer: Vec<String> = members.iter().filter(|m| !whole(m)).map(words).collect();
    match poorer.is_empty() {
        true => Health::new(State::Ready, "", since),
        false => Health::new(State::Degraded, poorer.join("; "), since),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn restarts_back_off_and_then_stop() {
        let mut policy = RestartPolicy::default();
        let now = Timestamp::from_secs(1000);
        let waits: Vec<Next> = (0..6).map(|_| policy.failed(now)).collect();
        let seconds = [1, 2, 4, 8, 16].map(|s| Next::Restart(Duration::from_secs(s)));
        assert_eq!(waits[..5], seconds);
        assert_eq!(waits[5], Next::GiveUp);
        let later = now + Duration::from_secs(600);
        assert_eq!(policy.failed(later), Next::Restart(Duration::from_secs(1)));
    }

    #[test]
    fn a_process_hangs_when_its_heartbeats_stay_away_unless_nobody_could_hear_them() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut pulse = Pulse::default();
        // Looks at these seconds; a beat comes before those that say so.
        let mut look = |at: u32, beats: bool| {
            let now = began + second * at;
            if beats {
                pulse.beat(now);
            }
            pulse.hangs(now)
        };
        let silent: Vec<u32> = (0..40).step_by(2).filter(|at| look(*at, false)).collect();
        assert!(silent.is_empty(), "it never sent any");
        let hung: Vec<u32> = (40..60).step_by(2).filter(|at| look(*at, *at < 44)).collect();
        assert_eq!(hung, [58]);
        assert!(!look(90, false), "whoever looks did not run for half a minute");
        let hung: Vec<u32> = (92..110).step_by(2).filter(|at| look(*at, false)).collect();
        assert_eq!(hung, [106, 108]);
        assert!(!look(110, true));
    }

    fn member(name: &str, required: bool, state: Option<State>, cause: &str) -> Member {
        let health = state.map(|s| Health::new(s, cause, Timestamp(0)));
        Member { name: name.into(), required, health }
    }

    #[test]
    fn the_roll_up_names_what_is_wrong() {
        use State::*;
        let ready = member("A", true, Some(Ready), "");
        for (others, state, cause) in [
            (vec![], Ready, ""),
            (vec![member("B", true, Some(Failed), "disk full")], Failed, "B is failed: disk full"),
            (vec![member("B", false, Some(Failed), "disk full")], Degraded, "B is failed: disk full"),
            (vec![member("B", true, Some(Starting), "")], Starting, "B is starting"),
            (vec![member("B", false, Some(Starting), "waiting for C")], Ready, ""),
            (
                vec![member("B", true, Some(Unavailable), "no model for llm.fast")],
                Degraded,
                "B is unavailable: no model for llm.fast",
            ),
            (vec![member("B", true, None, "")], Degraded, "B is not built"),
        ] {
            let members: Vec<Member> = [ready.clone()].into_iter().chain(others).collect();
            let health = roll_up(&members, false, Timestamp(0));
            assert_eq!((health.state, health.cause.as_str()), (state, cause), "{members:?}");
        }
        assert_eq!(roll_up(&[ready], true, Timestamp(0)).state, Draining);
        assert_eq!(roll_up(&[member("B", true, None, "")], false, Timestamp(0)).state, Unavailable);
    }

    #[test]
    fn what_is_needed_is_lost_when_it_is_known_not_to_serve() {
        let (a, b): (AgentName, AgentName) = ("ServiceRegistry".parse().unwrap(), "Twin".parse().unwrap());
        for (of_a, of_b, words) in [
            (Some(State::Ready), Some(State::Degraded), ""),
            (None, Some(State::Unknown), ""),
            (Some(State::Failed), Some(State::Ready), "ServiceRegistry, which it needs, is failed"),
            (
                Some(State::Stopped),
                Some(State::Starting),
                "ServiceRegistry, which it needs, is stopped; Twin, which it needs, is starting",
            ),
        ] {
            assert_eq!(lost_needs([(&a, of_a), (&b, of_b)].into_iter()), words);
        }
    }

    proptest! {
        #[test]
        fn an_optional_agent_never_fails_a_group(states in proptest::collection::vec(0usize..8, 1..6)) {
            let members: Vec<Member> = states
                .iter()
                .map(|s| member("X", false, Some(State::ALL[*s]), ""))
                .chain([member("A", true, Some(State::Ready), "")])
                .collect();
            let health = roll_up(&members, false, Timestamp(0));
            prop_assert!(matches!(health.state, State::Ready | State::Degraded));
        }
    }
}

//! How a group is doing, in words.

use tandem_types::{GroupId, State, Timestamp};

use super::Driver;
use crate::logic::budget::WINDOW;
use crate::logic::watch::Verdict;
use crate::logic::{Moment, Phase};
use crate::status::GroupState;

impl Driver {
    /// What the node noticed by itself of a group that is ready, in words.
    pub(super) fn notice(&self, i: usize) -> String {
        if self.machine.phase(i) != Phase::Ready {
            return String::new();
        }
        let now = self.now();
        let watched = self.groups[i].verdict.and_then(|verdict| match verdict {
            Verdict::Well => None,
            Verdict::Slow(usual) => Some(format!("answers in {:.1} s", usual.as_secs_f32())),
            Verdict::Suspect { quiet: true } => Some("sends no heartbeats: asked twice a second".to_owned()),
            Verdict::Suspect { quiet: false } => Some("does not answer: asked each second".to_owned()),
            Verdict::Paused => Some("its process is stopped, by a signal or a debugger".to_owned()),
        });
        let changes = self.groups[i]
            .flaps
            .count(now)
            .map(|n| format!("flaps: served or not, it changed {n} times in 10 minutes"));
        let ends = self.machine.flaps(i, now).map(|n| format!("flaps: ended by itself {n} times in 10 minutes"));
        [watched, changes, ends].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// A group's state and the reason for it, in words.
    pub(super) fn describe(&self, i: usize, notice: &str) -> (GroupState, String) {
        let names = |places: Vec<usize>| {
            places.into_iter().map(|p| self.config.groups[p].id.group.as_str()).collect::<Vec<_>>().join(", ")
        };
        let ended = || self.groups[i].last_exit.as_ref().map(|e| e.how.clone()).unwrap_or_default();
        let name = &self.config.groups[i].id.group;
        match self.machine.phase(i) {
            Phase::NotBuilt => (GroupState::NotBuilt, "there is no code for any of its agents".into()),
            Phase::Waiting => (GroupState::Waiting, format!("for {}", names(self.machine.missing(i)))),
            Phase::WaitingForPeers => {
                let peers: Vec<String> = self.config.groups[i].after.iter().map(GroupId::to_string).collect();
                (GroupState::Waiting, format!("for {}", peers.join(", ")))
            }
            Phase::Starting if self.machine.is_late(i) => {
                (GroupState::Starting, format!("not ready within {} s", self.config.start_wait.as_secs()))
            }
            Phase::Starting => (GroupState::Starting, String::new()),
            Phase::Ready => {
                let group = &self.groups[i];
                let (state, cause) = group.health.as_ref().map_or((State::Ready, ""), |h| (h.state, &h.cause[..]));
                let state = match (group.verdict, state) {
                    (Some(Verdict::Paused), _) => GroupState::Paused,
                    (Some(Verdict::Suspect { .. }), _) => GroupState::Suspect,
                    (Some(Verdict::Slow(_)), State::Ready) => GroupState::Degraded,
                    (_, state) => state.into(),
                };
                let without = names(self.machine.without(i));
                let without = if without.is_empty() { without } else { format!("started without {without}") };
                let reason = [cause, notice, &without].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>();
                (state, reason.join("; "))
            }
            Phase::BackingOff(until) => {
                let when = if self.machine.is_held(i) {
                    format!("the node's restart budget is spent until {}", clock_time(self.wall(until)))
                } else {
                    let ended = self.groups[i].ended.map(|at| self.moment(at)).unwrap_or_default();
                    format!("starts again {:.1} s after that", until.saturating_sub(ended).as_secs_f32())
                };
                (GroupState::BackingOff, format!("{}; {when}", ended()))
            }
            Phase::CrashLoop => (
                GroupState::CrashLoop,
                format!("{}, too often; `tandem logs {name}` shows why, `tandem restart {name}` tries again", ended()),
            ),
            Phase::Stopping => (GroupState::Stopping, "finishing what there is".into()),
            Phase::Stopped => (GroupState::Stopped, String::new()),
        }
    }

    /// The time of day at a moment, if the clock of the day goes on as it is.
    fn wall(&self, at: Moment) -> Timestamp {
        self.since + at.saturating_sub(WINDOW)
    }
}

/// `15:04:05 UTC`.
fn clock_time(at: Timestamp) -> String {
    let seconds = at.micros().div_euclid(1_000_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_told_to_the_second() {
        let day = 20_000 * 86_400;
        assert_eq!(clock_time(Timestamp::from_secs(day)), "00:00:00 UTC");
        assert_eq!(clock_time(Timestamp::from_secs(day + 15 * 3_600 + 4 * 60 + 5)), "15:04:05 UTC");
    }
}

//! The conversations of a machine, one for each session.

use std::collections::BTreeMap;

use tandem_types::SessionId;

use crate::Moment;
use crate::turn::{Action, Event, State, step};

/// Conversations that share nothing: what happens in one changes no other.
#[derive(Debug, Default)]
pub struct Sessions(BTreeMap<SessionId, State>);

impl Sessions {
    /// Nobody is here yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something has happened in a session, which begins by it if it is new. Returns what is to be done there.
    pub fn step(&mut self, session: &SessionId, event: Event, now: Moment) -> Vec<Action> {
        let before = self.0.remove(session).unwrap_or_default();
        let (state, actions) = step(before, event, now);
        self.0.insert(session.clone(), state);
        actions
    }

    /// How a session stands.
    pub fn get(&self, session: &SessionId) -> Option<&State> {
        self.0.get(session)
    }

    /// The session that wants an [`Event::Tick`] first, and when.
    pub fn due(&self, now: Moment) -> Option<(&SessionId, Moment)> {
        let dues = self.0.iter().filter_map(|(session, state)| Some((session, state.due(now)?)));
        dues.min_by_key(|(_, at)| *at)
    }

    /// A session is over. Returns what is to be done there: its turn ends, and its ear closes.
    pub fn leave(&mut self, session: &SessionId, now: Moment) -> Vec<Action> {
        let Some(state) = self.0.remove(session) else { return Vec::new() };
        let (state, mut actions) = step(state, Event::Stop, now);
        // The first stop ends what goes on, also speech that goes on; the second closes the ear.
        let (state, rest) = step(state, Event::SpeechEnd, now);
        actions.extend(rest);
        actions.extend(step(state, Event::Stop, now).1);
        actions
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::TurnNumber;
    use crate::interrupt::Said;

    fn event() -> impl Strategy<Value = Event> {
        let turn = || (1..6_u64).prop_map(TurnNumber::new);
        let said = prop_oneof![Just(Said::Other(2)), Just(Said::Stop), Just(Said::Wait), Just(Said::Continue)];
        prop_oneof![
            Just(Event::Wake),
            Just(Event::Stop),
            Just(Event::Tick),
            Just(Event::SpeechStart),
            Just(Event::SpeechEnd),
            (turn(), said.clone()).prop_map(|(turn, said)| Event::Partial { turn, said }),
            (turn(), said).prop_map(|(turn, said)| Event::Final { turn, said }),
            turn().prop_map(|turn| Event::Segment { turn }),
            turn().prop_map(|turn| Event::AnswerEnded { turn }),
            turn().prop_map(|turn| Event::Failed { turn }),
        ]
    }

    proptest! {
        /// Whatever is done in one session, another hears and does what it would alone.
        #[test]
        fn no_session_ends_the_turn_of_another(events in prop::collection::vec((any::<bool>(), event(), 0..2_000_u64), 0..120)) {
            let names = ["ana", "ben"].map(|name| SessionId::new(name).unwrap());
            let (mut both, mut alone, mut now) = (Sessions::new(), [State::new(), State::new()], Duration::ZERO);
            for (second, event, wait) in events {
                now += Duration::from_millis(wait);
                let place = usize::from(second);
                let (state, actions) = step(std::mem::take(&mut alone[place]), event, now);
                alone[place] = state;
                prop_assert_eq!(both.step(&names[place], event, now), actions);
                for (name, state) in names.iter().zip(&alone) {
                    prop_assert_eq!(both.get(name).cloned().unwrap_or_default(), state.clone());
                }
                let due = both.due(now).map(|(_, at)| at);
                prop_assert_eq!(due, alone.iter().filter_map(|state| state.due(now)).min());
            }
            let turn = both.get(&names[1]).map(State::turn);
            let last = both.leave(&names[0], now);
            prop_assert!(both.get(&names[0]).is_none() && both.get(&names[1]).map(State::turn) == turn);
            prop_assert!(alone[0].phase() == crate::turn::Phase::Idle || last.contains(&Action::CloseEar));
        }
    }
}

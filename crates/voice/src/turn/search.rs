//! Every order of events up to a depth, and long random ones: no promise is ever broken, and each conversation comes to rest.
//!
//! Time passes only from one thing that is due to the next in the exhaustive part, and freely in the random one.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::promises::{Promises, normal};
use super::{Action, Event, Phase, State, step};
use crate::interrupt::Said;
use crate::{Moment, TurnNumber};

/// What the time is in every state of the search.
const NOW: Moment = Moment::from_secs(1_000);
/// A conversation rests after so many ticks at most, when nothing else happens.
const TICKS: usize = 60;

/// A conversation in its world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct World {
    state: State,
    promises: Promises,
}

/// How a search ended badly: the events and what they broke.
type Broken = (Vec<(Moment, Event)>, String);

impl World {
    /// The event happens; says which promise that breaks.
    fn happen(&mut self, event: Event, now: Moment) -> Result<Vec<Action>, String> {
        let (state, actions) = step(std::mem::take(&mut self.state), event, now);
        self.state = state;
        self.promises.follow(event, &actions, &self.state, now)?;
        Ok(actions)
    }

    /// The same, in a world where it is always [`NOW`], after so much time.
    fn after(&self, wait: Duration, event: Event) -> Result<Self, String> {
        let mut next = self.clone();
        next.happen(event, NOW + wait)?;
        normal(&mut next.state, &mut next.promises, NOW + wait, NOW);
        Ok(next)
    }

    /// The next time at which something is due.
    fn due(&self) -> Option<Duration> {
        self.state.due(NOW).map(|due| due - NOW)
    }

    /// What may happen now.
    fn events(&self) -> Vec<(Duration, Event)> {
        let (state, promises) = (&self.state, &self.promises);
        let mut events = vec![Event::Wake, Event::Stop];
        events.push(if promises.sound { Event::SpeechEnd } else { Event::SpeechStart });
        let mut utterances: Vec<TurnNumber> = promises.heard.iter().map(|heard| heard.turn).collect();
        utterances.extend(state.utterances.iter().map(|utterance| utterance.turn));
        utterances.extend([promises.submitted, promises.cancelled, promises.current]);
        utterances.sort();
        utterances.dedup();
        for turn in utterances.into_iter().filter(|turn| *turn != TurnNumber::NONE) {
            let said = [Said::Other(2), Said::Other(1), Said::Stop, Said::Wait, Said::Continue, Said::BackChannel];
            events.extend(said.map(|said| Event::Partial { turn, said }));
            let said = [Said::Other(2), Said::Other(1), Said::Stop, Said::Continue, Said::Echo];
            events.extend(said.map(|said| Event::Final { turn, said }));
            events.push(Event::NoSpeech { turn });
        }
        let mut answers: Vec<TurnNumber> = promises.answer.iter().map(|answer| answer.turn).collect();
        answers.push(promises.cancelled);
        answers.sort();
        answers.dedup();
        let (given, samples) = promises.answer.as_ref().map_or((0, 0), |answer| (answer.given, answer.samples));
        for turn in answers.into_iter().filter(|turn| *turn != TurnNumber::NONE) {
            events.extend([Event::AnswerEnded { turn }, Event::Failed { turn }]);
            events.extend([Event::Position { turn, samples: samples + 1 }, Event::Played { turn, segments: given }]);
            events.extend((given < 2).then_some(Event::Segment { turn }));
        }
        let later = self.due().map(|wait| (wait, Event::Tick));
        events.into_iter().map(|event| (Duration::ZERO, event)).chain(later).collect()
    }

    /// Whether it comes to rest when nothing more happens. What has rested before does so again.
    fn rests(&self, known: &mut HashSet<Self>) -> Result<(), String> {
        let mut world = self.clone();
        for _ in 0..TICKS {
            if !known.insert(world.clone()) {
                return Ok(());
            }
            let Some(wait) = world.due() else {
                let rests = world.promises.rests() && world.state.phase() == Phase::Idle;
                return rests.then_some(()).ok_or(format!("it is stuck: {:?}", world.state));
            };
            world = world.after(wait, Event::Tick)?;
        }
        Err(format!("it does not come to rest: {:?}", world.state))
    }
}

/// Follows every order of events up to a depth, or until nothing new comes. Returns how many states there were.
fn search(start: &World, depth: usize) -> Result<usize, Broken> {
    let mut seen = vec![(start.clone(), 0, (Duration::ZERO, Event::Tick))];
    let mut known = HashSet::from([start.clone()]);
    let mut resting = HashSet::new();
    let (mut begin, mut place) = (0, 0);
    for _ in 0..depth {
        let end = seen.len();
        for from in begin..end {
            for (wait, event) in seen[from].0.events() {
                let path = |what: String| {
                    place = from;
                    let mut path = vec![(wait, event)];
                    while place != 0 {
                        path.push(seen[place].2);
                        place = seen[place].1;
                    }
                    path.reverse();
                    (path, what)
                };
                let next = seen[from].0.after(wait, event);
                let next = next.and_then(|next| next.rests(&mut resting).map(|()| next)).map_err(path)?;
                if known.insert(next.clone()) {
                    seen.push((next, from, (wait, event)));
                }
            }
        }
        begin = end;
        if begin == seen.len() {
            break;
        }
    }
    Ok(seen.len())
}

/// A world after these events.
fn after(events: &[Event]) -> World {
    let next = |world: World, event: &Event| world.after(Duration::from_millis(100), *event).unwrap();
    events.iter().fold(World::default(), next)
}

fn turn(number: u64) -> TurnNumber {
    TurnNumber::new(number)
}

/// A question was asked.
fn asked() -> Vec<Event> {
    vec![Event::Wake, Event::SpeechStart, Event::SpeechEnd, Event::Final { turn: turn(1), said: Said::Other(3) }]
}

/// It is being answered.
fn answering() -> Vec<Event> {
    [asked(), vec![Event::Segment { turn: turn(1) }, Event::Position { turn: turn(1), samples: 1 }]].concat()
}

/// No order of events after these breaks a promise. `TANDEM_SEARCH_DEEPER` says by how much deeper to look than usual.
fn holds(start: &[Event], depth: usize) {
    let deeper = std::env::var("TANDEM_SEARCH_DEEPER").ok().and_then(|text| text.parse().ok()).unwrap_or(0_usize);
    match search(&after(start), depth + deeper) {
        Ok(states) => assert!(states > 1_000, "the search has seen only {states} states"),
        Err((path, what)) => panic!("{what}: after {start:?}: {path:#?}"),
    }
}

#[test]
fn every_beginning_keeps_the_promises() {
    holds(&[], 6);
}

#[test]
fn everything_that_can_happen_to_an_answer_keeps_the_promises() {
    holds(&answering(), 5);
}

#[test]
fn everything_that_can_happen_while_somebody_interrupts_keeps_the_promises() {
    holds(&[answering(), vec![Event::SpeechStart]].concat(), 4);
}

#[test]
fn everything_that_can_happen_to_two_utterances_keeps_the_promises() {
    let first = vec![Event::SpeechStart, Event::SpeechEnd, Event::Partial { turn: turn(2), said: Said::Other(1) }];
    holds(&[asked(), first, vec![Event::Tick; 7], vec![Event::SpeechStart]].concat(), 3);
}

#[test]
fn everything_that_can_happen_to_a_held_answer_keeps_the_promises() {
    let wait = vec![Event::SpeechStart, Event::Partial { turn: turn(2), said: Said::Wait }];
    holds(&[answering(), wait].concat(), 4);
}

/// Kinds of events, so that what is frequent in life is frequent in a random conversation.
fn kind(event: &Event) -> usize {
    match event {
        Event::Wake | Event::Talk | Event::Stop | Event::Failed { .. } => 0,
        Event::SpeechStart | Event::SpeechEnd | Event::Silence | Event::Tick => 1,
        Event::Partial { .. } | Event::EndOfTurn { .. } => 2,
        Event::Final { .. } | Event::NoSpeech { .. } => 3,
        Event::Segment { .. } | Event::AnswerEnded { .. } | Event::Position { .. } | Event::Played { .. } => 4,
    }
}

/// What happens next: an event of this kind, which of them, whether it may be of something that is over, and how much of the
/// time until something is due passes before, in thousandths.
type Choice = (usize, prop::sample::Index, bool, Option<u32>);

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let kind = prop_oneof![1 => Just(0_usize), 8 => Just(1), 4 => Just(2), 4 => Just(3), 8 => Just(4)];
    let wait = prop::option::weighted(0.5, 0..=1_000_u32);
    prop::collection::vec((kind, any::<prop::sample::Index>(), prop::bool::weighted(0.2), wait), 0..300)
}

impl World {
    /// All that may happen, also what only shifts times.
    fn all_events(&self, stale: bool) -> Vec<Event> {
        let live: Vec<TurnNumber> = self.state.utterances.iter().map(|utterance| utterance.turn).collect();
        let mut events: Vec<Event> = self.events().into_iter().map(|(_, event)| event).collect();
        events.extend([Event::Talk, Event::Silence, Event::Tick]);
        events.extend(live.iter().map(|turn| Event::EndOfTurn { turn: *turn, score: 80, unfinished: false }));
        let answer = self.promises.answer.as_ref().map(|answer| answer.turn);
        events.retain(|event| match event {
            Event::Partial { turn, .. } | Event::Final { turn, .. } | Event::NoSpeech { turn } => {
                stale || live.contains(turn)
            }
            Event::Segment { turn } | Event::AnswerEnded { turn } | Event::Position { turn, .. } => {
                stale || answer == Some(*turn)
            }
            _ => true,
        });
        events
    }
}

proptest! {
    /// As in the search, but long, with time that passes as it likes, and with the events that only shift times.
    #[test]
    fn long_conversations_keep_the_promises(choices in choices()) {
        let (mut world, mut now) = (World::default(), Duration::ZERO);
        let mut happened = Vec::new();
        for (wanted, which, stale, wait) in choices {
            let due = world.state.due(now).unwrap_or(now + Duration::from_secs(3));
            now += (due - now) * wait.unwrap_or(0) / 1_000;
            let mut events = world.all_events(stale);
            if events.iter().any(|event| kind(event) == wanted) {
                events.retain(|event| kind(event) == wanted);
            }
            let event = *which.get(&events);
            happened.push((now, event));
            let kept = world.happen(event, now).map(|_| ());
            prop_assert_eq!(kept, Ok(()), "after {:?}", happened);
        }
        normal(&mut world.state, &mut world.promises, now, NOW);
        prop_assert_eq!(world.rests(&mut HashSet::new()), Ok(()), "after {:?}", happened);
    }
}

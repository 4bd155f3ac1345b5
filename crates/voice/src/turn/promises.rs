//! What a conversation promises, checked with a memory of its own: it sees events and actions, as people and machines around
//! the conversation do, and believes nothing the state says.

use std::time::Duration;

use super::{Action, Event, Notice, State, UTTERANCE, WATCHDOG};
use crate::interrupt::{HOLD, Said};
use crate::{Moment, TurnNumber};

/// What has happened, as far as promises depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Promises {
    pub(super) current: TurnNumber,
    pub(super) ear: Option<TurnNumber>,
    /// Somebody speaks.
    pub(super) sound: bool,
    /// Speech that goes on begins another utterance, as soon as the ear has a number for it;
    /// over an answer or not.
    pub(super) begins: Option<bool>,
    /// Utterances without final words.
    pub(super) heard: Vec<Heard>,
    /// Utterances with final words that are not settled.
    pub(super) finals: Vec<Complete>,
    pub(super) submitted: TurnNumber,
    pub(super) answer: Option<Told>,
    /// The answer that was cancelled last.
    pub(super) cancelled: TurnNumber,
    pub(super) ducked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Heard {
    pub(super) turn: TurnNumber,
    pub(super) since: Moment,
    pub(super) live: bool,
    /// There was an answer meanwhile.
    pub(super) over: bool,
    pub(super) said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Complete {
    pub(super) turn: TurnNumber,
    pub(super) said: Said,
    /// It must become a turn.
    pub(super) owed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub(super) turn: TurnNumber,
    pub(super) given: u32,
    pub(super) played: u32,
    pub(super) ended: bool,
    pub(super) samples: u64,
    pub(super) heard: Moment,
    pub(super) held: Option<Moment>,
}

/// Says what was promised and not kept.
fn promise(kept: bool, what: &str) -> Result<(), String> {
    if kept { Ok(()) } else { Err(what.to_owned()) }
}

impl Promises {
    /// Follows a step, and says which promise it broke.
    pub(super) fn follow(
        &mut self,
        event: Event,
        actions: &[Action],
        state: &State,
        now: Moment,
    ) -> Result<(), String> {
        self.wait(now)?;
        self.happen(event, now);
        for action in actions {
            self.act(*action, now)?;
        }
        self.settle(event, actions, state, now)
    }

    /// How long anything may take.
    fn wait(&self, now: Moment) -> Result<(), String> {
        if let Some(answer) = &self.answer {
            match answer.held {
                Some(since) => promise(now <= since + HOLD, "an answer is held for 30 s at most")?,
                None => promise(now <= answer.heard + WATCHDOG, "nobody waits for 5 s and hears nothing")?,
            }
        }
        let mut live = self.heard.iter().filter(|heard| heard.live);
        promise(live.all(|heard| now <= heard.since + UTTERANCE), "nobody speaks for more than 60 s")
    }

    fn happen(&mut self, event: Event, now: Moment) {
        match event {
            Event::SpeechStart if !self.sound => {
                self.sound = true;
                self.hear(self.answer.is_some(), now);
            }
            Event::SpeechEnd => self.sound = false,
            Event::Wake | Event::Talk => self.begins = self.sound.then_some(self.answer.is_some()),
            Event::Partial { turn, said } => {
                self.heard.iter_mut().filter(|heard| heard.turn == turn).for_each(|heard| heard.said = said);
            }
            Event::Final { turn, said: Said::Nothing } | Event::NoSpeech { turn } | Event::Failed { turn } => {
                self.heard.retain(|heard| heard.turn != turn);
            }
            Event::Final { turn, said } => {
                let mut place = self.heard.iter();
                let is_turn = |heard: &Heard| !heard.over || matches!(said, Said::Other(2..));
                let owed = place.find(|heard| heard.turn == turn).is_some_and(is_turn);
                let live = self.heard.iter().any(|heard| heard.turn == turn && heard.live);
                self.begins = (live && self.sound).then_some(self.answer.is_some());
                self.heard.retain(|heard| heard.turn != turn);
                // A second time is a mistake of the recogniser's and changes nothing.
                if !self.finals.iter().any(|complete| complete.turn == turn) {
                    self.finals.push(Complete { turn, said, owed });
                }
            }
            Event::AnswerEnded { turn } => self.told(turn, |answer| answer.ended = true),
            Event::Played { turn, segments } => self.told(turn, |answer| {
                answer.played = answer.played.max(segments.min(answer.given));
                answer.heard = now;
            }),
            Event::Position { turn, samples } => self.told(turn, |answer| {
                if samples > answer.samples {
                    (answer.samples, answer.heard) = (samples, now);
                }
            }),
            Event::Stop => {
                self.heard.clear();
                self.finals.clear();
            }
            _ => {}
        }
        self.answer.take_if(|answer| answer.ended && answer.given == answer.played);
    }

    fn hear(&mut self, over: bool, now: Moment) {
        if let Some(turn) = self.ear.filter(|_| !self.heard.iter().any(|heard| heard.live)) {
            self.heard.push(Heard { turn, since: now, live: true, over, said: Said::Nothing });
        }
    }

    fn told(&mut self, turn: TurnNumber, tell: impl FnOnce(&mut Told)) {
        if let Some(answer) = self.answer.as_mut().filter(|answer| answer.turn == turn) {
            tell(answer);
        }
    }

    fn act(&mut self, action: Action, now: Moment) -> Result<(), String> {
        let of = |turn: TurnNumber| self.answer.as_ref().filter(|answer| answer.turn == turn);
        match action {
            Action::OpenEar { turn } => {
                promise(
                    self.ear != Some(turn) && turn >= self.current,
                    "the ear is told a number once, and no old one",
                )?;
                self.ear = Some(turn);
                if let Some(over) = self.begins.take() {
                    self.hear(over || self.answer.is_some(), now);
                }
            }
            Action::CloseEar => {
                promise(
                    self.ear.is_some() && self.heard.is_empty() && self.answer.is_none(),
                    "the ear is open when needed",
                )?;
                self.ear = None;
            }
            Action::Finish { turn } => {
                for heard in self.heard.iter_mut().filter(|heard| heard.turn == turn) {
                    heard.live = false;
                    if self.sound && heard.said != Said::Nothing {
                        self.begins = Some(self.answer.is_some());
                    }
                }
            }
            Action::Begin { turn } => {
                promise(turn > self.current, "numbers rise")?;
                self.current = turn;
            }
            Action::Submit { turn } => {
                promise(self.finals.iter().any(|complete| complete.turn == turn), "only what was said is submitted")?;
                promise(turn > self.submitted, "nothing is submitted twice")?;
                promise(turn == self.current, "only the current turn is submitted")?;
                promise(self.answer.is_none(), "one answer at a time")?;
                self.finals.retain(|complete| complete.turn != turn);
                // What waits behind it counts as said over its answer.
                self.heard.iter_mut().for_each(|heard| heard.over = true);
                self.finals.iter_mut().for_each(|complete| complete.owed &= matches!(complete.said, Said::Other(2..)));
                self.submitted = turn;
                let (given, played, samples) = (0, 0, 0);
                self.answer = Some(Told { turn, given, played, ended: false, samples, heard: now, held: None });
            }
            Action::Cancel { turn } => {
                promise(of(turn).is_some() && self.current > turn, "what is cancelled was made stale first")?;
                (self.answer, self.cancelled) = (None, turn);
                // Who said stop does not wait for an answer, neither to that nor to what was said before.
                let heard = self.heard.iter().map(|heard| (heard.turn, heard.said));
                let all = heard.chain(self.finals.iter().map(|complete| (complete.turn, complete.said)));
                let stops = all.filter(|(turn, said)| *said == Said::Stop && *turn <= self.current);
                if let Some((stop, _)) = stops.max_by_key(|(turn, _)| *turn) {
                    self.heard.retain(|heard| heard.turn > stop);
                    self.finals.retain(|complete| complete.turn > stop);
                }
            }
            Action::Play { turn, segment } => {
                let fresh = of(turn).is_some_and(|answer| answer.given == segment && !answer.ended);
                promise(fresh && turn == self.current, "no stale frame is played")?;
                self.told(turn, |answer| answer.given += 1);
            }
            Action::Duck | Action::Unduck => {
                let ducked = action == Action::Duck;
                promise(ducked != self.ducked, "the answer is made quieter once, and louder once")?;
                let audible = |answer: &Told| answer.given > answer.played && answer.held.is_none();
                promise(!ducked || self.answer.as_ref().is_some_and(audible), "only what is heard is made quieter")?;
                self.ducked = ducked;
            }
            Action::Pause { turn } => {
                promise(of(turn).is_some_and(|answer| answer.held.is_none()), "only what goes on is held")?;
                self.told(turn, |answer| answer.held = Some(now));
            }
            Action::Resume { turn, samples } => {
                let held = of(turn).is_some_and(|answer| answer.held.is_some() && answer.samples == samples);
                promise(held, "only what is held goes on, and where it was")?;
                self.told(turn, |answer| (answer.held, answer.heard) = (None, now));
            }
            Action::StopPlayback { turn } => {
                promise(of(turn).is_some() && self.current > turn, "a stop makes stale first")?
            }
            Action::Notice { turn, notice } => {
                if notice == Notice::NotHeard {
                    promise(
                        !self.finals.iter().any(|complete| complete.turn == turn && complete.owed),
                        "what was said in full is not said to be lost",
                    )?;
                    self.heard.retain(|heard| heard.turn != turn);
                }
                if let Some(answer) = &mut self.answer {
                    answer.heard = now;
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, event: Event, actions: &[Action], state: &State, now: Moment) -> Result<(), String> {
        self.wait(now)?;
        if let Some(over) = self.begins.take() {
            promise(self.ear.is_some(), "speech that goes on is heard on")?;
            self.hear(over, now);
        }
        let audible = |answer: &Told| answer.given > answer.played && answer.held.is_none();
        let may_interrupt = self.answer.as_ref().is_some_and(audible) && !state.utterances.is_empty();
        promise(!self.ducked || may_interrupt, "an answer is quieter only while somebody may be interrupting")?;
        let busy = self.answer.is_some() || !self.heard.is_empty() || self.finals.iter().any(|complete| complete.owed);
        promise(!busy || state.due(now).is_some(), "who waits for something looks at the clock")?;
        let known = |turn: TurnNumber| state.utterances.iter().any(|utterance| utterance.turn == turn);
        promise(self.heard.iter().all(|heard| known(heard.turn)), "what is being said is not forgotten")?;
        promise(
            self.finals.iter().all(|complete| !complete.owed || known(complete.turn)),
            "no turn of a person is lost",
        )?;
        self.finals.retain(|complete| known(complete.turn));
        promise(self.answer.is_some() == state.answer.is_some(), "an answer ends when it is over, not before")?;
        promise(event != Event::Stop || self.answer.is_none(), "the stop button stops")?;
        let ends = match event {
            Event::Failed { turn } => actions.contains(&Action::Cancel { turn }),
            _ => false,
        };
        let told = actions.iter().any(|action| matches!(action, Action::Notice { notice: Notice::Failed, .. }));
        promise(ends == told, "who waits is told that an error ended the turn, once")
    }

    /// Whether nobody waits for anything.
    pub(super) fn rests(&self) -> bool {
        self.answer.is_none() && self.heard.is_empty() && self.finals.is_empty() && self.ear.is_none()
    }
}

/// Makes a conversation and what it promised comparable with others: now becomes `now`, numbers and counts begin low.
pub(super) fn normal(state: &mut State, promises: &mut Promises, then: Moment, now: Moment) {
    let shift = |at: &mut Moment| *at = (*at + now).saturating_sub(then);
    let low = [promises.current, promises.cancelled, promises.submitted];
    let low = low.into_iter().filter(|turn| *turn != TurnNumber::NONE).map(TurnNumber::get).min().unwrap_or(0);
    let lower = |turn: &mut TurnNumber| *turn = TurnNumber::new((turn.get() + 1).saturating_sub(low.max(1)));
    state.stopped.take_if(|at| *at + Duration::from_secs(2) <= then);
    state.listening.iter_mut().chain(&mut state.stopped).for_each(shift);
    [&mut state.current, &mut state.last].into_iter().chain(&mut state.ear).for_each(lower);
    for utterance in &mut state.utterances {
        lower(&mut utterance.turn);
        shift(&mut utterance.since);
        utterance.until.iter_mut().for_each(shift);
    }
    let (played, samples) =
        promises.answer.as_ref().map_or((0, 0), |answer| (answer.played, answer.samples.saturating_sub(1)));
    if let Some(answer) = &mut state.answer {
        lower(&mut answer.turn);
        [&mut answer.heard, &mut answer.sign].into_iter().chain(&mut answer.held).for_each(shift);
        (answer.given, answer.played) = (answer.given.saturating_sub(played), answer.played.saturating_sub(played));
        answer.samples = answer.samples.saturating_sub(samples);
    }
    [&mut promises.current, &mut promises.submitted, &mut promises.cancelled].into_iter().for_each(lower);
    promises.ear.iter_mut().for_each(lower);
    for heard in &mut promises.heard {
        lower(&mut heard.turn);
        shift(&mut heard.since);
    }
    promises.finals.iter_mut().for_each(|complete| lower(&mut complete.turn));
    if let Some(answer) = &mut promises.answer {
        lower(&mut answer.turn);
        [&mut answer.heard].into_iter().chain(&mut answer.held).for_each(shift);
        (answer.given, answer.played, answer.samples) = (answer.given - played, 0, answer.samples - samples);
    }
}

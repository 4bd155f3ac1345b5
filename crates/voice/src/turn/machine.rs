//! How events change a conversation.

use super::state::{Answer, Fate, State, Utterance};
use super::{Action, Event, FOLLOW_UP, LISTEN, Notice, SILENCE, SILENCE_SURE, SILENCE_UNFINISHED, SURE, UTTERANCES};
use crate::interrupt::Said;
use crate::{Moment, TurnNumber};

/// The next state, and what is to be done. Time never runs backwards.
pub fn step(state: State, event: Event, now: Moment) -> (State, Vec<Action>) {
    let mut floor = Floor { state, now, actions: Vec::new() };
    floor.take(event);
    floor.watch();
    while floor.judge() {}
    floor.tell();
    (floor.state, floor.actions)
}

pub(super) struct Floor {
    pub(super) state: State,
    pub(super) now: Moment,
    actions: Vec<Action>,
}

impl Floor {
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn notice(&mut self, turn: TurnNumber, notice: Notice) {
        self.act(Action::Notice { turn, notice });
        if let Some(answer) = &mut self.state.answer {
            answer.heard = self.now;
        }
    }

    /// Takes the event in, as far as it is of something that is still wanted.
    fn take(&mut self, event: Event) {
        match event {
            Event::SpeechStart if !self.state.sound => {
                self.state.sound = true;
                self.hear();
            }
            Event::SpeechEnd if self.state.sound => {
                self.state.sound = false;
                let now = self.now;
                if let Some(live) = self.state.live() {
                    live.until = Some(now);
                }
                self.state.utterances.retain(|utterance| utterance.fate != Fate::Spent);
            }
            Event::Partial { turn, said } => {
                if let Some(utterance) = self.open(turn) {
                    utterance.said = said;
                }
            }
            Event::EndOfTurn { turn, score, unfinished } => {
                if let Some(utterance) = self.open(turn) {
                    utterance.silence = match unfinished {
                        true => SILENCE_UNFINISHED,
                        false if score >= SURE => SILENCE_SURE,
                        false => SILENCE,
                    };
                }
            }
            Event::Final { turn, said: Said::Nothing } | Event::NoSpeech { turn } => self.unheard(turn, false),
            Event::Final { turn, said } => {
                let now = self.now;
                let Some(utterance) = self.open(turn) else { return };
                let went_on = !utterance.asked;
                utterance.said = said;
                (utterance.asked, utterance.complete) = (true, true);
                utterance.until.get_or_insert(now);
                if went_on && self.state.sound {
                    self.hear();
                }
            }
            Event::Segment { turn } => {
                let now = self.now;
                let Some(answer) = self.answer(turn).filter(|answer| !answer.ended) else { return };
                let segment = answer.given;
                answer.given += 1;
                answer.sign = now;
                self.act(Action::Play { turn, segment });
            }
            Event::AnswerEnded { turn } => {
                let Some(answer) = self.answer(turn) else { return };
                answer.ended = true;
                if answer.given == 0 {
                    self.notice(turn, Notice::Done);
                }
                self.finish_if_over();
            }
            Event::Failed { turn } if self.answer(turn).is_some() => {
                let younger = self.younger();
                self.end_answer(younger);
                self.notice(turn, Notice::Failed);
            }
            Event::Failed { turn } => self.unheard(turn, true),
            Event::Position { turn, samples } => {
                let now = self.now;
                if let Some(answer) = self.answer(turn).filter(|answer| samples > answer.samples) {
                    answer.samples = samples;
                    (answer.heard, answer.sign) = (now, now);
                }
            }
            Event::Played { turn, segments } => {
                let now = self.now;
                let Some(answer) = self.answer(turn).filter(|answer| segments > answer.played) else { return };
                answer.played = segments.min(answer.given);
                (answer.heard, answer.sign) = (now, now);
                self.finish_if_over();
            }
            Event::Wake | Event::Talk => self.call(),
            Event::Stop => self.stop_all(),
            Event::Silence => {
                if self.state.answer.is_none() && self.state.utterances.is_empty() {
                    self.state.listening = None;
                }
            }
            Event::SpeechStart | Event::SpeechEnd | Event::Tick => {}
        }
    }

    /// The utterance of this number, if its words still matter.
    fn open(&mut self, turn: TurnNumber) -> Option<&mut Utterance> {
        let wanted = |utterance: &&mut Utterance| utterance.fate != Fate::Spent && !utterance.complete;
        self.state.utterances.iter_mut().find(|utterance| utterance.turn == turn).filter(wanted)
    }

    /// The answer to this turn, if it still matters.
    fn answer(&mut self, turn: TurnNumber) -> Option<&mut Answer> {
        self.state.answer.as_mut().filter(|answer| answer.turn == turn)
    }

    pub(super) fn ear_is_open(&self) -> bool {
        let listening = self.state.listening.is_some_and(|until| self.now < until);
        listening || self.state.answer.is_some() || !self.state.utterances.is_empty()
    }

    /// Speech goes on or begins.
    pub(super) fn hear(&mut self) {
        // An ear that is about to close still hears.
        if self.state.ear.is_none() && !self.ear_is_open() {
            return;
        }
        let (now, over) = (self.now, self.state.answer.is_some());
        if let Some(live) = self.state.live() {
            let was_silent = live.until.take().is_some();
            // Words that come only now were not said over an answer that is gone.
            if was_silent && live.said == Said::Nothing {
                live.over = over;
            }
            return;
        }
        if self.state.utterances.len() >= UTTERANCES {
            let oldest = self.state.utterances[0].turn;
            self.unheard(oldest, true);
        }
        let turn = self.fresh();
        self.state.utterances.push(Utterance::new(turn, now, over));
    }

    /// A number that nothing has.
    fn fresh(&mut self) -> TurnNumber {
        self.state.last = self.state.last.next();
        self.state.last
    }

    /// An utterance comes to nothing. The person is told when it was to be a turn, or may have been one (`lost`).
    pub(super) fn unheard(&mut self, turn: TurnNumber, lost: bool) {
        let Some(utterance) = self.open(turn) else { return };
        let tell = utterance.fate == Fate::Turn || lost;
        self.state.utterances.retain(|utterance| utterance.turn != turn);
        if tell {
            self.listen(FOLLOW_UP);
            self.notice(turn, Notice::NotHeard);
        }
    }

    pub(super) fn listen(&mut self, span: std::time::Duration) {
        self.state.listening = self.state.listening.max(Some(self.now + span));
    }

    pub(super) fn begin(&mut self, turn: TurnNumber) {
        if turn > self.state.current {
            self.state.current = turn;
            self.act(Action::Begin { turn });
        }
    }

    /// A number that makes the answer stale, but nothing that was said after it.
    pub(super) fn younger(&mut self) -> TurnNumber {
        let first = self
            .state
            .utterances
            .iter()
            .find(|utterance| utterance.fate != Fate::Spent)
            .map(|utterance| utterance.turn);
        first.unwrap_or_else(|| self.fresh())
    }

    /// Ends the answer before its time, by a younger turn.
    pub(super) fn end_answer(&mut self, by: TurnNumber) {
        let Some(answer) = self.state.answer.take() else { return };
        self.begin(by);
        if answer.given > 0 {
            self.act(Action::StopPlayback { turn: answer.turn });
        }
        self.act(Action::Cancel { turn: answer.turn });
        self.listen(FOLLOW_UP);
    }

    fn finish_if_over(&mut self) {
        if self.state.answer.as_ref().is_some_and(Answer::is_over) {
            self.state.answer = None;
            self.listen(FOLLOW_UP);
        }
    }

    /// Somebody called the assistant: it is silent and listens. What is being said is for it.
    fn call(&mut self) {
        if self.state.answer.is_some() {
            let by = self.younger();
            self.end_answer(by);
            if let Some(first) = self.state.utterances.iter_mut().find(|utterance| utterance.turn == by) {
                first.fate = Fate::Turn;
            }
        }
        self.listen(LISTEN);
        self.state.utterances.retain(|utterance| utterance.fate != Fate::Spent);
        // What was over by now is not what the person called for.
        self.ask();
        if self.state.sound {
            self.hear();
        }
    }

    /// Everything ends, also what is being said. Where nothing is left to end, the ear closes.
    fn stop_all(&mut self) {
        if self.state.answer.is_none() && self.state.utterances.is_empty() {
            self.state.listening = None;
            return;
        }
        let by = self.fresh();
        self.end_answer(by);
        self.begin(by);
        self.spend(by);
        self.state.stopped = Some(self.now);
    }

    /// What was said up to this number has done what it was for.
    pub(super) fn spend(&mut self, up_to: TurnNumber) {
        let spent = self.state.utterances.iter_mut().filter(|utterance| utterance.turn <= up_to);
        spent.for_each(|utterance| utterance.fate = Fate::Spent);
        let sound = self.state.sound;
        self.state.utterances.retain(|utterance| utterance.fate != Fate::Spent || sound && !utterance.asked);
    }
}

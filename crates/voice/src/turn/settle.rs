//! What follows once an event is taken in: what time demands, what was said decides, and who is to be told.

use super::machine::Floor;
use super::state::{Answer, Fate, Utterance};
use super::{Action, GIVE_UP, Notice, WATCHDOG};
use crate::interrupt::{Decision, HOLD, Said, decide};

impl Floor {
    /// Does what is due.
    pub(super) fn watch(&mut self) {
        let now = self.now;
        self.state.listening = self.state.listening.filter(|until| now < *until);
        if self.state.utterances.iter().any(|utterance| utterance.fate == Fate::Spent && now >= utterance.end()) {
            self.state.utterances.retain(|utterance| utterance.fate != Fate::Spent);
        }
        self.ask();
        let late = |utterance: &&Utterance| utterance.asked && !utterance.complete && now >= utterance.end();
        while let Some(utterance) = self.state.utterances.iter().find(late) {
            let turn = utterance.turn;
            self.unheard(turn, true);
        }
        let Some(answer) = &mut self.state.answer else { return };
        let turn = answer.turn;
        let over = match answer.held {
            Some(until) => (now >= until).then_some(Notice::HoldOver),
            None => (now >= answer.sign + GIVE_UP).then_some(Notice::GaveUp),
        };
        if let Some(notice) = over {
            let by = self.younger();
            self.end_answer(by);
            self.notice(turn, notice);
        } else if answer.held.is_none() && now >= answer.heard + WATCHDOG {
            self.notice(turn, Notice::Working);
        }
    }

    /// Asks for the final words of what seems to be over.
    pub(super) fn ask(&mut self) {
        let now = self.now;
        if let Some(live) = self.state.live().filter(|live| now >= live.end()) {
            live.asked = true;
            live.until.get_or_insert(now);
            let (turn, said) = (live.turn, live.said);
            self.act(Action::Finish { turn });
            // Sound that never ends and has no words is a machine.
            if self.state.sound && said != Said::Nothing {
                self.hear();
            }
        }
    }

    /// Decides about one utterance; says whether that may have settled another.
    pub(super) fn judge(&mut self) -> bool {
        let since_stop = self.state.stopped.map(|stopped| self.now.saturating_sub(stopped));
        if let Some(answer) = &self.state.answer {
            let held = answer.held.is_some();
            for (place, utterance) in self.state.utterances.iter().enumerate() {
                if utterance.fate != Fate::Open {
                    continue;
                }
                let turn = utterance.turn;
                match decide(utterance.said, utterance.speech(self.now), since_stop, held) {
                    Decision::Stop => {
                        self.end_answer(turn);
                        self.spend(turn);
                        self.state.stopped = Some(self.now);
                        return true;
                    }
                    // Before what was said first is settled, only a stop cuts in.
                    _ if place > 0 => {}
                    Decision::Hold => {
                        self.hold();
                        return true;
                    }
                    Decision::Resume => {
                        self.resume();
                        return true;
                    }
                    Decision::NewTurn => {
                        self.end_answer(turn);
                        self.state.utterances[0].fate = Fate::Turn;
                        return true;
                    }
                    Decision::Undecided => {}
                }
            }
        }
        let Some(first) = self.state.utterances.first().filter(|first| first.complete) else { return false };
        let (turn, said, fate, over) = (first.turn, first.said, first.fate, first.over);
        self.state.utterances.remove(0);
        let only_to_an_answer = !matches!(said, Said::Other(_));
        let answers = match fate {
            Fate::Open => self.state.answer.is_none() && !(over && only_to_an_answer),
            Fate::Turn => !(over && said == Said::Stop),
            Fate::Spent => false,
        };
        if answers {
            self.begin(turn);
            self.act(Action::Submit { turn });
            // The request is there; how long to listen on is said when its answer is over.
            self.state.listening = None;
            self.state.answer = Some(Answer::new(turn, self.now));
        }
        true
    }

    fn hold(&mut self) {
        let Some(answer) = &mut self.state.answer else { return };
        answer.held = Some(self.now + HOLD);
        let turn = answer.turn;
        self.act(Action::Pause { turn });
        self.notice(turn, Notice::Holding);
    }

    fn resume(&mut self) {
        let Some(answer) = &mut self.state.answer else { return };
        answer.held = None;
        (answer.heard, answer.sign) = (self.now, self.now);
        let (turn, samples) = (answer.turn, answer.samples);
        self.act(Action::Resume { turn, samples });
    }

    /// Tells the ear and the loudspeaker what has changed for them.
    pub(super) fn tell(&mut self) {
        let audible = self.state.answer.as_ref().is_some_and(|answer| answer.is_audible() && answer.held.is_none());
        let ducked = audible && self.state.utterances.iter().any(|utterance| utterance.ducks(self.now));
        if ducked != self.state.ducked {
            self.state.ducked = ducked;
            self.act(if ducked { Action::Duck } else { Action::Unduck });
        }
        let next = self.state.last.next();
        let ear = self.ear_is_open().then(|| self.state.live().map_or(next, |live| live.turn));
        if ear != self.state.ear {
            self.state.ear = ear;
            self.act(ear.map_or(Action::CloseEar, |turn| Action::OpenEar { turn }));
        }
    }
}

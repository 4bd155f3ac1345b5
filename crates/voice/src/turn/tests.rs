//! Conversations as one reads them.

use std::time::Duration;

use super::*;
use crate::Moment;
use crate::interrupt::Said;

/// A conversation that is told event by event.
struct Talk {
    state: State,
    now: Moment,
}

fn n(number: u64) -> TurnNumber {
    TurnNumber::new(number)
}

impl Talk {
    fn new() -> Self {
        Self { state: State::new(), now: Duration::from_secs(100) }
    }

    /// After so many milliseconds this happens; time is told whenever something is due. Returns what is done.
    fn at(&mut self, wait: u64, event: Event) -> Vec<Action> {
        let then = self.now + Duration::from_millis(wait);
        let mut actions = Vec::new();
        while let Some(due) = self.state.due(self.now).filter(|due| *due <= then) {
            self.now = due;
            actions.extend(self.step(Event::Tick));
        }
        self.now = then;
        actions.extend(self.step(event));
        actions
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let (state, actions) = step(std::mem::take(&mut self.state), event, self.now);
        self.state = state;
        actions
    }

    /// A question was asked, and its answer is being spoken.
    fn answering() -> Self {
        let mut talk = Self::new();
        talk.at(0, Event::Wake);
        talk.at(500, Event::SpeechStart);
        talk.at(900, Event::SpeechEnd);
        talk.at(800, Event::Final { turn: n(1), said: Said::Other(4) });
        talk.at(300, Event::Segment { turn: n(1) });
        talk.at(100, Event::Position { turn: n(1), samples: 800 });
        assert_eq!(talk.state.phase(), Phase::Speaking);
        talk
    }
}

#[test]
fn a_voice_turn_from_the_name_to_the_end_of_listening() {
    let mut talk = Talk::new();
    assert_eq!(talk.at(0, Event::SpeechStart), [], "nobody was called");
    talk.at(300, Event::SpeechEnd);
    assert_eq!(talk.state.phase(), Phase::Idle);
    assert_eq!(talk.at(0, Event::Wake), [Action::OpenEar { turn: n(1) }]);
    assert_eq!(talk.state.phase(), Phase::Listening);
    talk.at(400, Event::SpeechStart);
    assert_eq!(talk.state.phase(), Phase::UserSpeaking);
    talk.at(900, Event::EndOfTurn { turn: n(1), score: 80, unfinished: false });
    talk.at(10, Event::SpeechEnd);
    let ended = talk.at(200, Event::Tick);
    assert_eq!(ended, [Action::Finish { turn: n(1) }, Action::OpenEar { turn: n(2) }], "200 ms of silence are enough");
    let said = talk.at(150, Event::Final { turn: n(1), said: Said::Other(4) });
    assert_eq!(said, [Action::Begin { turn: n(1) }, Action::Submit { turn: n(1) }]);
    assert_eq!(talk.state.phase(), Phase::Thinking);
    assert_eq!(talk.at(400, Event::Segment { turn: n(1) }), [Action::Play { turn: n(1), segment: 0 }]);
    assert_eq!(talk.at(20, Event::Segment { turn: n(1) }), [Action::Play { turn: n(1), segment: 1 }]);
    talk.at(20, Event::AnswerEnded { turn: n(1) });
    talk.at(900, Event::Position { turn: n(1), samples: 16_000 });
    assert_eq!(talk.at(900, Event::Played { turn: n(1), segments: 1 }), [], "a piece is still on its way");
    assert_eq!(talk.state.phase(), Phase::Speaking);
    talk.at(900, Event::Played { turn: n(1), segments: 2 });
    assert_eq!(talk.state.phase(), Phase::Listening);
    assert_eq!(talk.at(7_999, Event::Tick), []);
    assert_eq!(talk.at(1, Event::Tick), [Action::CloseEar], "8 s for a follow-up");
    assert_eq!(talk.state.phase(), Phase::Idle);
}

#[test]
fn silence_ends_an_utterance_later_after_an_unfinished_clause() {
    for (score, unfinished, silence) in [(49, false, 700), (50, false, 200), (90, true, 1_500)] {
        let mut talk = Talk::new();
        talk.at(0, Event::Wake);
        talk.at(0, Event::SpeechStart);
        talk.at(500, Event::EndOfTurn { turn: n(1), score, unfinished });
        talk.at(0, Event::SpeechEnd);
        assert_eq!(talk.at(silence - 1, Event::Tick), [], "{score} {unfinished}");
        assert!(talk.at(1, Event::Tick).contains(&Action::Finish { turn: n(1) }), "{score} {unfinished}");
    }
}

#[test]
fn a_stop_word_ends_the_answer_and_is_not_answered() {
    let mut talk = Talk::answering();
    assert_eq!(talk.at(100, Event::SpeechStart), []);
    assert_eq!(talk.at(96, Event::Tick), [Action::Duck]);
    assert_eq!(talk.state.phase(), Phase::Ducked);
    let stopped = talk.at(300, Event::Partial { turn: n(2), said: Said::Stop });
    let (by, old) = (Action::Begin { turn: n(2) }, n(1));
    assert_eq!(stopped, [by, Action::StopPlayback { turn: old }, Action::Cancel { turn: old }, Action::Unduck]);
    assert_eq!(talk.at(10, Event::Segment { turn: old }), [], "it was on its way");
    assert_eq!(talk.at(10, Event::SpeechEnd), [Action::OpenEar { turn: n(3) }]);
    assert_eq!(talk.at(300, Event::Final { turn: n(2), said: Said::Stop }), []);
    assert_eq!(talk.state.phase(), Phase::Listening);
}

#[test]
fn words_of_ones_own_make_the_next_turn() {
    let mut talk = Talk::answering();
    talk.at(100, Event::SpeechStart);
    let interrupted = talk.at(400, Event::Partial { turn: n(2), said: Said::Other(2) });
    assert!(interrupted.contains(&Action::Cancel { turn: n(1) }), "{interrupted:?}");
    assert_eq!(talk.state.phase(), Phase::UserSpeaking);
    talk.at(600, Event::SpeechEnd);
    let said = talk.at(300, Event::Final { turn: n(2), said: Said::Other(6) });
    assert!(said.contains(&Action::Submit { turn: n(2) }), "{said:?}");
}

#[test]
fn one_word_interrupts_when_it_is_long_enough() {
    let mut talk = Talk::answering();
    talk.at(0, Event::SpeechStart);
    talk.at(300, Event::Partial { turn: n(2), said: Said::Other(1) });
    assert_eq!(talk.at(399, Event::Tick), []);
    assert!(talk.at(1, Event::Tick).contains(&Action::Cancel { turn: n(1) }), "700 ms");
}

#[test]
fn a_false_interruption_leaves_the_answer_as_it_was() {
    for said in [Said::BackChannel, Said::Echo, Said::Nothing, Said::Other(1), Said::Continue] {
        let mut talk = Talk::answering();
        talk.at(0, Event::SpeechStart);
        assert_eq!(talk.at(96, Event::Tick), [Action::Duck]);
        talk.at(250, Event::SpeechEnd);
        let done = talk.at(300, Event::Final { turn: n(2), said });
        assert_eq!(done, [Action::Unduck, Action::OpenEar { turn: n(3) }], "{said:?}");
        assert_eq!((talk.state.phase(), talk.state.turn()), (Phase::Speaking, n(1)), "{said:?}");
    }
}

#[test]
fn sound_without_words_makes_the_answer_quieter_for_5_s_at_most() {
    let mut talk = Talk::answering();
    talk.at(0, Event::SpeechStart);
    let mut actions = Vec::new();
    for samples in 1..=6 {
        actions.extend(talk.at(1_000, Event::Position { turn: n(1), samples: 1_000 * samples }));
    }
    assert_eq!(actions, [Action::Duck, Action::Unduck]);
}

#[test]
fn a_held_answer_goes_on_where_it_was() {
    let mut talk = Talk::answering();
    talk.at(0, Event::SpeechStart);
    let held = talk.at(300, Event::Partial { turn: n(2), said: Said::Wait });
    let (pause, notice) = (Action::Pause { turn: n(1) }, Action::Notice { turn: n(1), notice: Notice::Holding });
    assert_eq!(held, [Action::Duck, pause, notice, Action::Unduck]);
    talk.at(100, Event::SpeechEnd);
    talk.at(100, Event::Final { turn: n(2), said: Said::Wait });
    assert_eq!(talk.state.phase(), Phase::Held);
    talk.at(20, Event::Position { turn: n(1), samples: 900 });
    talk.at(10_000, Event::SpeechStart);
    let on = talk.at(500, Event::Partial { turn: n(3), said: Said::Continue });
    assert_eq!(on, [Action::Resume { turn: n(1), samples: 900 }, Action::Duck], "who spoke may speak on");
}

#[test]
fn a_held_answer_is_dropped_after_30_s() {
    let mut talk = Talk::answering();
    talk.at(0, Event::SpeechStart);
    talk.at(300, Event::Partial { turn: n(2), said: Said::Wait });
    talk.at(100, Event::SpeechEnd);
    talk.at(100, Event::Final { turn: n(2), said: Said::Wait });
    assert_eq!(talk.at(29_799, Event::Tick), []);
    let over = talk.at(1, Event::Tick);
    assert!(over.contains(&Action::Notice { turn: n(1), notice: Notice::HoldOver }), "{over:?}");
    assert_eq!(talk.state.phase(), Phase::Listening);
}

#[test]
fn who_waits_is_told_every_5_s_and_at_last_that_nothing_comes() {
    let mut talk = Talk::new();
    talk.at(0, Event::Wake);
    talk.at(0, Event::SpeechStart);
    talk.at(500, Event::Final { turn: n(1), said: Said::Other(2) });
    talk.at(0, Event::SpeechEnd);
    talk.at(0, Event::NoSpeech { turn: n(2) });
    let told = talk.at(60_000, Event::Tick);
    let working = Action::Notice { turn: n(1), notice: Notice::Working };
    assert_eq!(told.iter().filter(|action| **action == working).count(), 11);
    assert!(told.contains(&Action::Notice { turn: n(1), notice: Notice::GaveUp }));
    assert_eq!(talk.at(0, Event::Segment { turn: n(1) }), [], "too late");
}

#[test]
fn what_could_not_be_understood_is_said_to_be_lost() {
    let mut talk = Talk::new();
    talk.at(0, Event::Wake);
    talk.at(0, Event::SpeechStart);
    talk.at(500, Event::SpeechEnd);
    let told = talk.at(5_000, Event::Tick);
    assert!(told.contains(&Action::Notice { turn: n(1), notice: Notice::NotHeard }), "{told:?}");
    assert_eq!(talk.at(0, Event::Final { turn: n(1), said: Said::Other(2) }), [], "the person says it again meanwhile");
}

#[test]
fn the_name_and_the_buttons_interrupt_without_a_recogniser() {
    for event in [Event::Wake, Event::Talk, Event::Stop] {
        let mut talk = Talk::answering();
        let actions = talk.at(0, event);
        assert!(actions.contains(&Action::StopPlayback { turn: n(1) }), "{event:?}: {actions:?}");
        assert_eq!(talk.state.phase(), Phase::Listening, "{event:?}");
    }
}

#[test]
fn an_error_ends_the_turn_and_is_told_once() {
    let mut talk = Talk::answering();
    let failed = talk.at(0, Event::Failed { turn: n(1) });
    assert!(failed.contains(&Action::Notice { turn: n(1), notice: Notice::Failed }), "{failed:?}");
    assert_eq!(talk.at(0, Event::Failed { turn: n(1) }), []);
}

#[test]
fn what_was_said_is_taken_in_the_order_it_was_said_in() {
    let mut talk = Talk::new();
    talk.at(0, Event::Wake);
    talk.at(0, Event::SpeechStart);
    talk.at(500, Event::SpeechEnd);
    talk.at(700, Event::SpeechStart);
    assert_eq!(talk.at(500, Event::Final { turn: n(2), said: Said::Other(2) }), [Action::OpenEar { turn: n(3) }]);
    let both = talk.at(200, Event::Final { turn: n(1), said: Said::Other(3) });
    let submitted: Vec<_> = both.iter().filter(|action| matches!(action, Action::Submit { .. })).collect();
    assert_eq!(submitted, [&Action::Submit { turn: n(1) }, &Action::Submit { turn: n(2) }]);
}

#[test]
fn the_ends_of_an_answer_that_come_back_are_no_question() {
    let mut talk = Talk::answering();
    talk.at(0, Event::AnswerEnded { turn: n(1) });
    talk.at(100, Event::SpeechStart);
    talk.at(200, Event::Partial { turn: n(2), said: Said::Echo });
    talk.at(0, Event::Played { turn: n(1), segments: 1 });
    talk.at(100, Event::SpeechEnd);
    let done = talk.at(200, Event::Final { turn: n(2), said: Said::Echo });
    assert!(!done.contains(&Action::Submit { turn: n(2) }), "{done:?}");
}

#[test]
fn an_ear_that_is_about_to_close_still_hears() {
    let mut talk = Talk::new();
    talk.at(0, Event::Wake);
    talk.now += LISTEN;
    talk.step(Event::SpeechStart);
    assert_eq!(talk.state.phase(), Phase::UserSpeaking);
}

#[test]
fn who_calls_is_heard_although_something_was_stopped_in_the_same_breath() {
    let mut talk = Talk::answering();
    talk.at(0, Event::SpeechStart);
    talk.at(300, Event::Partial { turn: n(2), said: Said::Stop });
    talk.at(500, Event::Wake);
    let asked = talk.at(900, Event::Final { turn: n(3), said: Said::Other(4) });
    assert!(asked.contains(&Action::Submit { turn: n(3) }), "{asked:?}");
}

#[test]
fn who_calls_is_heard_although_a_machine_has_made_noise_for_long() {
    let mut talk = Talk::new();
    talk.at(0, Event::SpeechStart);
    talk.at(0, Event::Wake);
    talk.now += UTTERANCE;
    let called = talk.step(Event::Talk);
    assert_eq!(called, [Action::Finish { turn: n(1) }, Action::OpenEar { turn: n(2) }]);
    assert_eq!(talk.at(500, Event::Final { turn: n(2), said: Said::Other(4) }), [Action::OpenEar { turn: n(3) }]);
    let settled = talk.at(100, Event::NoSpeech { turn: n(1) });
    assert!(settled.contains(&Action::Submit { turn: n(2) }), "{settled:?}");
}

//! Who has the floor: one conversation as a state that events change.
//!
//! [`step`] takes a state, an event and the time, and gives the next state and what is to be done. It does no IO, asks no clock
//! and never sees a word: events say what an utterance comes to ([`Said`]), whoever submits a turn has its text. A
//! conversation is of one session; two share nothing, so that nobody can end another's turn.
//!
//! What is heard gets a number of its own at once. It becomes a turn when its final words are there, or earlier, when it
//! interrupts an answer. The numbers of what comes to nothing stay unused. Utterances are taken in the order in which they were
//! spoken, whatever order their words arrive in.

mod machine;
mod settle;
mod state;

pub use machine::step;
pub use state::{Phase, State};

use std::time::Duration;

use crate::TurnNumber;
use crate::interrupt::Said;

/// For so long the ear stays open for the request after it was called (WakeWordDetector).
pub const LISTEN: Duration = Duration::from_secs(15);
/// For so long it stays open for a follow-up after a reply (WakeWordDetector).
pub const FOLLOW_UP: Duration = Duration::from_secs(8);
/// Silence that ends an utterance of which the recogniser thinks that it is over (StreamingSpeechRecognition).
pub const SILENCE_SURE: Duration = Duration::from_millis(200);
/// Silence that ends an utterance otherwise.
pub const SILENCE: Duration = Duration::from_millis(700);
/// Silence that ends an utterance after an unfinished clause.
pub const SILENCE_UNFINISHED: Duration = Duration::from_millis(1_500);
/// From this score on, in percent, an utterance counts as over.
pub const SURE: u8 = 50;
/// The longest utterance.
pub const UTTERANCE: Duration = Duration::from_secs(60);
/// Who waits for an answer hears at least a notice within this time.
pub const WATCHDOG: Duration = Duration::from_secs(5);
/// An answer that has shown no sign of life for so long is given up, as calls of the coordinator are.
pub const GIVE_UP: Duration = Duration::from_secs(60);
/// So many utterances wait for their final words at most.
pub const UTTERANCES: usize = 4;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The front end hears speech.
    SpeechStart,
    /// It hears none any longer.
    SpeechEnd,
    /// The stable words of an utterance so far.
    Partial {
        /// The number the ear was given for it.
        turn: TurnNumber,
        /// What they come to.
        said: Said,
    },
    /// How likely it is that the speaker has said all.
    EndOfTurn {
        /// The utterance.
        turn: TurnNumber,
        /// The probability, in percent.
        score: u8,
        /// The last clause lacks something.
        unfinished: bool,
    },
    /// All words of an utterance.
    Final {
        /// The utterance.
        turn: TurnNumber,
        /// What they come to; [`Said::Nothing`] is as good as [`Event::NoSpeech`].
        said: Said,
    },
    /// The utterance was none.
    NoSpeech {
        /// The utterance.
        turn: TurnNumber,
    },
    /// The answer has one more piece to be spoken.
    Segment {
        /// The turn it answers.
        turn: TurnNumber,
    },
    /// The answer has no more pieces.
    AnswerEnded {
        /// The turn it answers.
        turn: TurnNumber,
    },
    /// An error ended a turn, or the recognition of an utterance.
    Failed {
        /// The turn.
        turn: TurnNumber,
    },
    /// The loudspeaker says the answer and has come to here. To be told once a second at least.
    Position {
        /// The turn.
        turn: TurnNumber,
        /// Samples of the answer that were heard.
        samples: u64,
    },
    /// The loudspeaker has said so many pieces to their end and has nothing left to say.
    Played {
        /// The turn.
        turn: TurnNumber,
        /// Pieces since the answer began.
        segments: u32,
    },
    /// The assistant was called by name.
    Wake,
    /// The talk button was pressed.
    Talk,
    /// The stop button was pressed.
    Stop,
    /// Whoever else watches the ear is tired of silence.
    Silence,
    /// Time has passed; wanted at [`State::due`] at the latest.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Hear; what is heard from now on has this number.
    OpenEar {
        /// The number.
        turn: TurnNumber,
    },
    /// Hear no longer, except for the name.
    CloseEar,
    /// The speaker seems to have said all: ask the recogniser for the final words.
    Finish {
        /// The utterance.
        turn: TurnNumber,
    },
    /// The current turn has this number: everything older is stale.
    Begin {
        /// The number.
        turn: TurnNumber,
    },
    /// Give the words of this turn to the coordinator.
    Submit {
        /// The turn.
        turn: TurnNumber,
    },
    /// Drop what is being done for this turn.
    Cancel {
        /// The turn.
        turn: TurnNumber,
    },
    /// Let this piece of the answer be spoken, behind those before.
    Play {
        /// The turn.
        turn: TurnNumber,
        /// Its place in the answer, from 0.
        segment: u32,
    },
    /// Make the answer quieter by [`crate::interrupt::DUCK_BY`].
    Duck,
    /// Make it as loud as it was.
    Unduck,
    /// Be silent but keep what is still to be said.
    Pause {
        /// The turn.
        turn: TurnNumber,
    },
    /// Say the rest.
    Resume {
        /// The turn.
        turn: TurnNumber,
        /// Samples of the answer that were heard.
        samples: u64,
    },
    /// Be silent and forget what was still to be said.
    StopPlayback {
        /// The turn.
        turn: TurnNumber,
    },
    /// Let the person know.
    Notice {
        /// The turn it is about.
        turn: TurnNumber,
        /// What.
        notice: Notice,
    },
}

/// What a person is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The answer takes its time.
    Working,
    /// What was said could not be understood; it is to be said again.
    NotHeard,
    /// The answer is held until somebody says to go on, at most for [`crate::interrupt::HOLD`].
    Holding,
    /// Nobody said to go on: the rest of the answer is dropped.
    HoldOver,
    /// It was done, and there is nothing to say to it.
    Done,
    /// An error ended the turn.
    Failed,
    /// No sign of the answer came for [`GIVE_UP`].
    GaveUp,
}

#[cfg(test)]
mod promises;
#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;

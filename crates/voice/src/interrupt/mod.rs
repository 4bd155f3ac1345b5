//! What it means when somebody speaks over an answer.
//!
//! [`read`] tells from the stable words what was said, [`decide`] what follows from it. The rules and their figures are those of
//! StreamingInterruptHandler in the specification of agents.

mod words;

use std::time::Duration;

pub use words::read;

/// Speech of this length over an answer makes the answer quieter.
pub const DUCK_AFTER: Duration = Duration::from_millis(96);
/// By so much, in decibels.
pub const DUCK_BY: f32 = 12.0;
/// Speech of this length that has a word of its own starts a new turn.
pub const LONG: Duration = Duration::from_millis(700);
/// For so long a back-channel may last.
pub const BACK_CHANNEL: Duration = Duration::from_secs(1);
/// After a stop so much time passes before the next stop word counts.
pub const STOP_PAUSE: Duration = Duration::from_secs(2);
/// For so long an answer is held.
pub const HOLD: Duration = Duration::from_secs(30);

/// What was said, as far as it matters to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Said {
    /// No words.
    #[default]
    Nothing,
    /// The answer itself, come back from the loudspeaker.
    Echo,
    /// Only signs of listening: "uh-huh", "oo".
    BackChannel,
    /// That the answer is to end.
    Stop,
    /// That the answer is to wait.
    Wait,
    /// That a held answer is to go on.
    Continue,
    /// Words of its own, so many that are more than politeness; 255 stands for more.
    Other(u8),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Nothing yet. When nothing more comes, the answer goes on as if nobody had spoken.
    Undecided,
    /// End the answer; do not answer what was said.
    Stop,
    /// Hold the answer.
    Hold,
    /// Go on with the held answer.
    Resume,
    /// End the answer; what was said is the next turn.
    NewTurn,
}

/// What follows from what was said so far.
///
/// `speech` is how long it was spoken, `since_stop` how long ago the last stop was decided, if ever. Sound without a word
/// decides nothing however long it lasts: without a recogniser only the wake word and the button interrupt, and coughs stop
/// nothing.
pub fn decide(said: Said, speech: Duration, since_stop: Option<Duration>, held: bool) -> Decision {
    match said {
        Said::Stop if since_stop.is_none_or(|since| since >= STOP_PAUSE) => Decision::Stop,
        Said::Wait if !held => Decision::Hold,
        Said::Continue if held => Decision::Resume,
        Said::BackChannel if speech > BACK_CHANNEL => Decision::NewTurn,
        Said::Other(words) if words >= 2 || speech >= LONG => Decision::NewTurn,
        _ => Decision::Undecided,
    }
}

#[cfg(test)]
mod tests;

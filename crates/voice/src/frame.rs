//! What walks through a pipeline: frames, each with the turn it was born in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Moment;

/// The number of a turn: of one session, only ever rising, never given twice.
///
/// What the ear hears is stamped with the number that its turn would have, so that words spoken over an answer are younger
/// than the answer. Numbers of utterances that came to nothing stay unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TurnNumber(u64);

impl TurnNumber {
    /// Before the first turn of a session.
    pub const NONE: Self = Self(0);

    /// The turn with this number, as another part of Tandem knows it.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for TurnNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One piece of data on its way to the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<T> {
    /// The turn it was born in.
    pub turn: TurnNumber,
    /// When what it tells of was heard or said.
    pub at: Moment,
    /// The data.
    pub payload: T,
}

impl<T> Frame<T> {
    /// Another payload of the same turn and time.
    pub fn with<U>(&self, payload: U) -> Frame<U> {
        Frame { turn: self.turn, at: self.at, payload }
    }
}

/// Samples in a second of every sound that is listened to; AudioCapture resamples to it.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples in a frame of the microphone, 20 ms.
pub const FRAME_SAMPLES: usize = 320;

/// How long so many samples last at 16 kHz.
pub fn duration(samples: u64) -> Duration {
    let rate = u64::from(SAMPLE_RATE);
    Duration::from_secs(samples / rate) + Duration::from_micros(samples % rate * 1_000_000 / rate)
}

/// Sound that was heard: 16 kHz, one channel, 16 bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// The position of the first sample since the source was opened. A gap between two frames is sound that was lost.
    pub position: u64,
    /// The samples; copies for side readers share them.
    pub samples: Arc<[i16]>,
}

impl Sound {
    /// The position behind the last sample, which the next frame has if nothing was lost.
    pub fn end(&self) -> u64 {
        self.position + self.samples.len() as u64
    }

    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        duration(self.samples.len() as u64)
    }

    /// Samples that are missing between this and the next frame; none where they overlap.
    pub fn gap_to(&self, next: &Self) -> u64 {
        next.position.saturating_sub(self.end())
    }
}

/// What was understood of an utterance.
#[derive(Debug, Clone, PartialEq)]
pub enum Transcript {
    /// While it is being said. Each partial replaces the one before.
    Partial {
        /// Words that two successive decodings agreed on (LocalAgreement-2); they do not change any more.
        stable: String,
        /// What may still change.
        rest: String,
    },
    /// The whole of it, decoded once more.
    Final {
        /// The words as text; empty when it was no speech.
        text: String,
        /// How sure the recogniser is, 0 to 1.
        confidence: f32,
        /// The language, as its ISO 639-1 code, where it is known.
        language: Option<String>,
    },
}

impl Transcript {
    /// The words that will not change.
    pub fn stable(&self) -> &str {
        match self {
            Self::Partial { stable, .. } => stable,
            Self::Final { text, .. } => text,
        }
    }
}

/// A sentence or clause of an answer, to be spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its place in the answer, from 0.
    pub index: u32,
    /// What to say.
    pub text: String,
    /// The language, as its ISO 639-1 code, where it is known.
    pub language: Option<String>,
}

/// Sound that is to be heard: a piece of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speech {
    /// The segment it belongs to.
    pub segment: u32,
    /// Samples a second, as the voice gives them.
    pub rate: u32,
    /// The position of the first sample in the whole answer.
    pub position: u64,
    /// The samples, one channel.
    pub samples: Arc<[i16]>,
    /// Where words begin: position in the whole answer, and bytes of the segment's text that are then behind it. By these a
    /// stop knows to the word what was heard.
    pub words: Vec<(u64, usize)>,
}

impl Speech {
    /// Bytes of the segment's text that were heard when the loudspeaker stopped at this position of the answer.
    pub fn heard(&self, position: u64) -> usize {
        self.words.iter().take_while(|(begin, _)| *begin < position).last().map_or(0, |(_, bytes)| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise() {
        assert!(TurnNumber::NONE < TurnNumber::NONE.next());
        assert_eq!(TurnNumber::new(7).next().get(), 8);
    }

    #[test]
    fn a_gap_between_sounds_is_what_was_lost() {
        let sound = |position, len| Sound { position, samples: vec![0; len].into() };
        let first = sound(0, FRAME_SAMPLES);
        assert_eq!(first.duration(), Duration::from_millis(20));
        assert_eq!(first.gap_to(&sound(320, 320)), 0);
        assert_eq!(first.gap_to(&sound(960, 320)), 640);
        assert_eq!(first.gap_to(&sound(0, 320)), 0);
    }

    #[test]
    fn a_day_of_sound_is_a_day_long() {
        assert_eq!(duration(u64::from(SAMPLE_RATE) * 86_400 + 1), Duration::from_micros(86_400_000_062));
    }

    #[test]
    fn a_stop_knows_the_words_that_were_heard() {
        let words = vec![(1_000, 3), (5_000, 9), (9_000, 14)];
        let speech = Speech { segment: 0, rate: 22_050, position: 1_000, samples: Arc::from([]), words };
        for (position, bytes) in [(0, 0), (1_000, 0), (1_001, 3), (5_001, 9), (20_000, 14)] {
            assert_eq!(speech.heard(position), bytes, "at {position}");
        }
    }
}

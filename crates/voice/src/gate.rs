//! Where speech begins and ends in sound, from how likely each window of it holds speech.
//!
//! A window counts as voiced from a threshold on, and goes on counting until it falls well below it. Speech has begun when
//! voiced windows have lasted for a while, less while the assistant itself speaks, as somebody who cuts in is to be heard
//! at once; it has ended when for a while none was voiced. The threshold follows how much speech there was lately.

use std::collections::VecDeque;
use std::time::Duration;

use crate::SAMPLE_RATE;

/// Windows whose mean says how much speech there was lately.
const LATELY: usize = 50;
/// With less than this lately the threshold is lower, with more than that higher.
const QUIET: f32 = 0.1;
const BUSY: f32 = 0.3;

/// When speech begins and ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateRules {
    /// Samples of a window, at 16 kHz.
    pub window: u64,
    /// From this probability on a window is voiced, in usual times, after quiet ones, after busy ones.
    pub threshold: [f32; 3],
    /// So much lower may the windows after it be.
    pub hysteresis: f32,
    /// Voiced sound that is speech.
    pub start: Duration,
    /// The same while the assistant speaks.
    pub start_while_playing: Duration,
    /// Silence that ends it, unless the recogniser asks for another.
    pub end: Duration,
    /// Least and most silence that may be asked for.
    pub end_between: [Duration; 2],
    /// Sound before and after that is given along.
    pub padding: Duration,
}

impl Default for GateRules {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            window: 512,
            threshold: [0.5, 0.4, 0.6],
            hysteresis: 0.15,
            start: ms(250),
            start_while_playing: ms(96),
            end: ms(700),
            end_between: [ms(200), ms(700)],
            padding: ms(100),
        }
    }
}

/// An edge of speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Somebody speaks, from this sample of the source on.
    Began(u64),
    /// Nobody does any more, from this sample on.
    Ended(u64),
}

/// Finds the edges of speech in one source.
#[derive(Debug, Clone)]
pub struct SpeechGate {
    rules: GateRules,
    silence: Duration,
    /// The position behind the last window.
    position: u64,
    lately: VecDeque<f32>,
    /// Where the voiced sound began that is not speech yet.
    candidate: Option<u64>,
    /// Where the last voiced window of the speech ended that goes on.
    voiced_until: Option<u64>,
    /// Where the last speech ended: nothing of it is given twice.
    ended: u64,
}

impl SpeechGate {
    /// For a source that begins.
    pub fn new(rules: GateRules) -> Self {
        Self {
            silence: rules.end,
            rules,
            position: 0,
            lately: VecDeque::with_capacity(LATELY),
            candidate: None,
            voiced_until: None,
            ended: 0,
        }
    }

    /// The silence that ends speech, as the recogniser asks for it; kept within its bounds.
    pub fn end_after(&mut self, silence: Duration) {
        let [least, most] = self.rules.end_between;
        self.silence = silence.clamp(least, most);
    }

    /// Whether somebody speaks.
    pub fn is_open(&self) -> bool {
        self.voiced_until.is_some()
    }

    /// From which probability on the next window is voiced.
    pub fn threshold(&self) -> f32 {
        let [usual, after_quiet, after_busy] = self.rules.threshold;
        let mean = self.lately.iter().sum::<f32>() / LATELY as f32;
        let threshold = match mean {
            _ if self.lately.len() < LATELY => usual,
            mean if mean < QUIET => after_quiet,
            mean if mean > BUSY => after_busy,
            _ => usual,
        };
        if self.candidate.is_some() || self.is_open() { threshold - self.rules.hysteresis } else { threshold }
    }

    /// Takes the probability of the next window; `playing` says whether the assistant speaks meanwhile.
    pub fn push(&mut self, probability: f32, playing: bool) -> Option<Edge> {
        let begin = self.position;
        self.position += self.rules.window;
        // A figure that is none is no speech.
        let voiced = probability >= self.threshold();
        if self.lately.len() == LATELY {
            self.lately.pop_front();
        }
        self.lately.push_back(if probability.is_finite() { probability.clamp(0.0, 1.0) } else { 0.0 });
        match (self.voiced_until, voiced) {
            (Some(_), true) => {
                self.voiced_until = Some(self.position);
                None
            }
            (Some(until), false) => (self.position - until >= samples(self.silence)).then(|| self.close(until)),
            (None, false) => {
                self.candidate = None;
                None
            }
            (None, true) => {
                let from = *self.candidate.get_or_insert(begin);
                let wanted = if playing { self.rules.start_while_playing } else { self.rules.start };
                (self.position - from >= samples(wanted)).then(|| self.open(from))
            }
        }
    }

    /// So many samples of the source were lost. Who spoke before has ended, as far as anybody can tell, when more is missing
    /// than the silence that ends speech.
    pub fn lose(&mut self, lost: u64) -> Option<Edge> {
        self.position += lost;
        self.candidate = None;
        let until = self.voiced_until?;
        (self.position - until >= samples(self.silence)).then(|| self.close(until))
    }

    fn open(&mut self, from: u64) -> Edge {
        self.candidate = None;
        self.voiced_until = Some(self.position);
        Edge::Began(from.saturating_sub(samples(self.rules.padding)).max(self.ended))
    }

    fn close(&mut self, until: u64) -> Edge {
        self.voiced_until = None;
        self.ended = (until + samples(self.rules.padding)).min(self.position);
        Edge::Ended(self.ended)
    }
}

fn samples(of: Duration) -> u64 {
    let rate = u64::from(SAMPLE_RATE);
    of.as_secs() * rate + u64::from(of.subsec_micros()) * rate / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u64 = 512;

    /// Edges, with the window after which each was found.
    fn edges(gate: &mut SpeechGate, windows: impl IntoIterator<Item = f32>, playing: bool) -> Vec<(usize, Edge)> {
        windows.into_iter().enumerate().filter_map(|(n, p)| Some((n, gate.push(p, playing)?))).collect()
    }

    fn repeated(parts: &[(usize, f32)]) -> Vec<f32> {
        parts.iter().flat_map(|(count, probability)| std::iter::repeat_n(*probability, *count)).collect()
    }

    #[test]
    fn speech_has_both_edges_with_a_little_around_it() {
        let mut gate = SpeechGate::new(GateRules::default());
        // 32 ms each: eight windows are 256 ms, 22 are 704 ms.
        let found = edges(&mut gate, repeated(&[(20, 0.01), (10, 0.9), (30, 0.01)]), false);
        let (began, ended) = (20 * WINDOW - 1_600, 30 * WINDOW + 1_600);
        assert_eq!(found, [(27, Edge::Began(began)), (51, Edge::Ended(ended))]);
        assert!(!gate.is_open());
    }

    #[test]
    fn who_cuts_in_is_heard_sooner() {
        for (playing, after) in [(false, 27), (true, 22)] {
            let mut gate = SpeechGate::new(GateRules::default());
            let found = edges(&mut gate, repeated(&[(20, 0.01), (10, 0.9)]), playing);
            assert_eq!(found.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [after], "{playing}");
        }
    }

    #[test]
    fn short_sounds_are_no_speech_and_short_silences_no_end() {
        let mut gate = SpeechGate::new(GateRules::default());
        let clicks = repeated(&[(5, 0.0), (7, 0.9), (1, 0.0), (7, 0.9), (20, 0.0)]);
        assert_eq!(edges(&mut gate, clicks, false), []);
        let pauses = repeated(&[(10, 0.9), (20, 0.0), (5, 0.9), (20, 0.0), (5, 0.9)]);
        assert_eq!(edges(&mut gate, pauses, false).len(), 1);
        gate.end_after(Duration::from_millis(10));
        assert_eq!(edges(&mut gate, repeated(&[(6, 0.0)]), false), [], "200 ms at least");
        assert_eq!(edges(&mut gate, repeated(&[(1, 0.0)]), false).len(), 1);
    }

    #[test]
    fn the_threshold_follows_what_was_lately_and_holds_what_goes_on() {
        let after = |parts: &[(usize, f32)]| {
            let mut gate = SpeechGate::new(GateRules { start: Duration::from_secs(60), ..GateRules::default() });
            edges(&mut gate, repeated(parts), false);
            gate.threshold()
        };
        for (parts, expected) in [
            (vec![], 0.5),
            (vec![(49, 0.0)], 0.5),
            (vec![(50, 0.0)], 0.4),
            (vec![(50, 0.2)], 0.5),
            (vec![(25, 0.9), (25, 0.0)], 0.6),
            (vec![(50, 0.2), (1, 0.5)], 0.35),
            (vec![(50, f32::NAN)], 0.4),
        ] {
            assert!((after(&parts) - expected).abs() < 1e-6, "{parts:?}: {}", after(&parts));
        }
    }

    #[test]
    fn lost_sound_ends_speech_when_it_lasts_and_never_begins_one() {
        let mut gate = SpeechGate::new(GateRules::default());
        assert_eq!(edges(&mut gate, repeated(&[(7, 0.9)]), false), []);
        assert_eq!(gate.lose(WINDOW), None);
        assert_eq!(edges(&mut gate, repeated(&[(7, 0.9)]), false), [], "it begins anew");
        assert_eq!(edges(&mut gate, repeated(&[(1, 0.9)]), false).len(), 1);
        assert_eq!(gate.lose(5 * WINDOW), None);
        assert!(gate.is_open());
        assert_eq!(gate.lose(30 * WINDOW), Some(Edge::Ended(16 * WINDOW + 1_600)));
    }

    proptest! {
        /// Whatever is heard, edges take turns, rise, overlap nowhere and lie in the sound that was there.
        #[test]
        fn edges_take_turns_and_never_overlap(
            windows in proptest::collection::vec((prop_oneof![0.0f32..1.0, Just(0.95f32), Just(0.0f32)], any::<bool>(), 0u64..40), 1..400),
        ) {
            let mut gate = SpeechGate::new(GateRules::default());
            let (mut open, mut last, mut position) = (false, 0, 0);
            for (probability, playing, lost) in windows {
                let lose = if lost > 37 { (lost - 37) * 9_000 } else { 0 };
                position += lose;
                let first = if lose > 0 { gate.lose(lose) } else { None };
                position += WINDOW;
                for edge in first.into_iter().chain(gate.push(probability, playing)) {
                    let at = match edge {
                        Edge::Began(at) => { prop_assert!(!open); open = true; at }
                        Edge::Ended(at) => { prop_assert!(open); open = false; at }
                    };
                    prop_assert!(last <= at && at <= position, "{edge:?} after {last} at {position}");
                    last = at;
                }
                prop_assert_eq!(open, gate.is_open());
            }
        }
    }
}

//! The picture of sound that Whisper and its kin look at: log-mel features of 16 kHz sound.
//!
//! Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2: 80 channels over windows of 25 ms
//! with a stride of 10 ms. Mels and their areas are those of Slaney's Auditory Toolbox (Malcolm Slaney, Technical Report
//! 1998-010), as librosa has them.

use std::f64::consts::TAU;
use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Channels.
pub const MELS: usize = 80;
const RATE: f64 = 16_000.0;
const WINDOW: usize = 400;
const STRIDE: usize = 160;
const BINS: usize = WINDOW / 2 + 1;
/// What is quieter counts as this quiet.
const FLOOR: f64 = 1e-10;
/// Decades below the loudest that are still told apart.
const RANGE: f64 = 8.0;

/// Makes log-mel features. What it needs for that is made once.
pub struct LogMel {
    transform: Arc<dyn RealToComplex<f64>>,
    hann: Vec<f64>,
    /// For each channel its first bin and the weights from there on; the others are zero.
    filters: Vec<(usize, Vec<f64>)>,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").finish_non_exhaustive()
    }
}

impl Default for LogMel {
    fn default() -> Self {
        let hann = (0..WINDOW).map(|n| 0.5 - 0.5 * (TAU * n as f64 / WINDOW as f64).cos()).collect();
        Self { transform: RealFftPlanner::new().plan_fft_forward(WINDOW), hann, filters: filters() }
    }
}

impl LogMel {
    /// Frames for so many samples.
    pub fn frames(samples: usize) -> usize {
        samples / STRIDE
    }

    /// The features of `sound`, channel after channel, each with a value for every 10 ms: about -1 to 1. Sound of fewer than
    /// 201 samples has none, as its ends are mirrored.
    pub fn features(&self, sound: &[f32]) -> Vec<f32> {
        let frames = Self::frames(sound.len());
        if sound.len() <= WINDOW / 2 {
            return Vec::new();
        }
        let mut logs = vec![0.0_f64; MELS * frames];
        let (mut window, mut spectrum) = (vec![0.0; WINDOW], self.transform.make_output_vec());
        let mut scratch = self.transform.make_scratch_vec();
        for frame in 0..frames {
            for (n, (value, weight)) in window.iter_mut().zip(&self.hann).enumerate() {
                *value = f64::from(sound[mirrored(frame * STRIDE + n, sound.len())]) * weight;
            }
            // The lengths are those of the plan, which is all that could be wrong.
            if self.transform.process_with_scratch(&mut window, &mut spectrum, &mut scratch).is_err() {
                return Vec::new();
            }
            let power: Vec<f64> = spectrum.iter().map(Complex::norm_sqr).collect();
            for (mel, (first, weights)) in self.filters.iter().enumerate() {
                let sum: f64 = weights.iter().zip(&power[*first..]).map(|(weight, power)| weight * power).sum();
                logs[mel * frames + frame] = sum.max(FLOOR).log10();
            }
        }
        let quietest = logs.iter().copied().fold(f64::MIN, f64::max) - RANGE;
        #[allow(clippy::cast_possible_truncation, reason = "a value of about one")]
        logs.into_iter().map(|log| ((log.max(quietest) + 4.0) / 4.0) as f32).collect()
    }
}

/// The sample at a place of the sound with half a window before and after it, in which the sound is mirrored.
fn mirrored(at: usize, len: usize) -> usize {
    let at = at.abs_diff(WINDOW / 2);
    if at < len { at } else { (2 * len - 2).saturating_sub(at) }
}

/// Hertz as mels: linear up to 1 kHz, logarithmic from there on.
fn mels(hertz: f64) -> f64 {
    if hertz < 1_000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1_000.0).ln() * 27.0 / 6.4_f64.ln() }
}

fn hertz(mels: f64) -> f64 {
    if mels < 15.0 { 200.0 * mels / 3.0 } else { 1_000.0 * ((mels - 15.0) * 6.4_f64.ln() / 27.0).exp() }
}

/// Triangles of equal area.
fn filters() -> Vec<(usize, Vec<f64>)> {
    let top = mels(RATE / 2.0);
    let corner = |n: usize| hertz(top * n as f64 / (MELS + 1) as f64);
    let of_bin = |bin: usize| bin as f64 * RATE / WINDOW as f64;
    let filter = |mel: usize| {
        let (low, middle, high) = (corner(mel), corner(mel + 1), corner(mel + 2));
        let weight = |bin: usize| {
            let at = of_bin(bin);
            ((at - low) / (middle - low)).min((high - at) / (high - middle)).max(0.0) * 2.0 / (high - low)
        };
        let weights: Vec<f64> = (0..BINS).map(weight).collect();
        let first = weights.iter().position(|weight| *weight > 0.0).unwrap_or(0);
        let last = weights.iter().rposition(|weight| *weight > 0.0).map_or(0, |last| last + 1);
        (first, weights[first..last.max(first)].to_vec())
    };
    (0..MELS).map(filter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_in_the_channel_of_its_pitch() {
        let mel = LogMel::default();
        for pitch in [300.0_f64, 1_000.0, 3_000.0] {
            #[allow(clippy::cast_possible_truncation, reason = "a test tone")]
            let tone: Vec<f32> = (0..8_000).map(|n| (TAU * pitch * f64::from(n) / RATE).sin() as f32).collect();
            let features = mel.features(&tone);
            let frames = LogMel::frames(tone.len());
            assert_eq!(features.len(), MELS * frames);
            let loudest = (0..MELS)
                .max_by(|a, b| features[a * frames + frames / 2].total_cmp(&features[b * frames + frames / 2]));
            let expected = mels(pitch) / mels(RATE / 2.0) * (MELS + 1) as f64 - 1.0;
            assert!((loudest.unwrap() as f64 - expected).abs() <= 1.0, "{pitch} Hz is in {loudest:?}");
        }
    }

    #[test]
    fn silence_and_scraps_are_no_trouble() {
        let mel = LogMel::default();
        assert_eq!(mel.features(&[]), []);
        assert_eq!(mel.features(&[0.5; 200]), []);
        let silence = mel.features(&[0.0; 1_600]);
        assert!(silence.iter().all(|value| (*value - -1.5).abs() < 1e-6));
    }

    #[test]
    fn mels_and_hertz_are_inverse_and_every_channel_hears_something() {
        for pitch in [0.0, 440.0, 999.0, 1_000.0, 4_321.0, 8_000.0] {
            assert!((hertz(mels(pitch)) - pitch).abs() < 1e-6);
        }
        assert!(filters().iter().all(|(_, weights)| weights.iter().sum::<f64>() > 0.0));
    }
}

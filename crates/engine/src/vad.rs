//! What a speech detector does: it says how likely a window of sound holds speech.

use std::sync::Arc;

use async_trait::async_trait;
use tandem_types::{Fault, Violation};

/// What a detector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectorInfo {
    /// The model's name.
    pub model: String,
    /// What runs it.
    pub engine: String,
    /// Samples in a second that it wants.
    pub sample_rate: u32,
    /// Samples of one window.
    pub window: usize,
}

/// What a detector remembers of a stream between two windows. Only the detector that made it knows what is in it; a fresh
/// one belongs to a stream that begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VadMemory(Vec<f32>);

impl VadMemory {
    /// What a detector keeps.
    pub fn new(kept: Vec<f32>) -> Self {
        Self(kept)
    }

    /// What was kept; nothing at the beginning of a stream.
    pub fn kept(&self) -> &[f32] {
        &self.0
    }
}

/// Says how likely sound holds speech. Streams do not disturb each other, as each brings its own memory.
#[async_trait]
pub trait SpeechDetector: Send + Sync {
    /// What it is.
    fn info(&self) -> &DetectorInfo;

    /// The probability of speech in the next window of a stream, 0 to 1, and what to remember of it.
    ///
    /// # Errors
    /// `invalid_argument` for a window of another length, a sample that is no number, or a memory of another detector;
    /// `unavailable`, `engine_lost`, when the model is gone.
    async fn hear(&self, memory: VadMemory, window: Vec<f32>) -> Result<(f32, VadMemory), Fault>;
}

impl DetectorInfo {
    /// Refuses a window that is not one.
    ///
    /// # Errors
    /// `invalid_argument` with what is wrong.
    pub fn check(&self, window: &[f32]) -> Result<(), Fault> {
        let mut violations = Vec::new();
        let mut wrong = |problem: String| violations.push(Violation { field: "window".into(), problem });
        if window.len() != self.window {
            wrong(format!("has {} samples, {} wants {}", window.len(), self.model, self.window));
        }
        if let Some(at) = window.iter().position(|sample| !sample.is_finite()) {
            wrong(format!("sample {at} is no number"));
        }
        if violations.is_empty() { Ok(()) } else { Err(Fault::invalid(violations)) }
    }
}

/// One stream of sound on its way through a detector.
pub struct SpeechStream {
    detector: Arc<dyn SpeechDetector>,
    memory: VadMemory,
    rest: Vec<f32>,
}

impl SpeechStream {
    /// A stream that begins.
    pub fn new(detector: Arc<dyn SpeechDetector>) -> Self {
        Self { detector, memory: VadMemory::default(), rest: Vec::new() }
    }

    /// Takes any number of samples; one probability for each window that is full, oldest first. What is left over waits for
    /// more. After an error the stream goes on with the samples that come next.
    ///
    /// # Errors
    /// Those of [`SpeechDetector::hear`].
    pub async fn push(&mut self, samples: &[f32]) -> Result<Vec<f32>, Fault> {
        self.rest.extend_from_slice(samples);
        let size = self.detector.info().window.max(1);
        let mut heard = Vec::with_capacity(self.rest.len() / size);
        while self.rest.len() >= size {
            let window: Vec<f32> = self.rest.drain(..size).collect();
            let (probability, memory) = self.detector.hear(self.memory.clone(), window).await?;
            self.memory = memory;
            heard.push(probability);
        }
        Ok(heard)
    }
}

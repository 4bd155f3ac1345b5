//! A speech detector without weights: loud is speech. For tests only.

use async_trait::async_trait;
use tandem_types::Fault;

use crate::{DetectorInfo, SpeechDetector, VadMemory};

/// Mean square at which the fake is undecided.
const UNDECIDED: f32 = 1e-3;

/// Keeps every promise of [`SpeechDetector`]: what is as loud as a voice is speech, with a short memory.
#[derive(Debug, Clone)]
pub struct FakeDetector(DetectorInfo);

impl Default for FakeDetector {
    fn default() -> Self {
        let (model, engine) = ("fake-vad".to_owned(), "fake".to_owned());
        Self(DetectorInfo { model, engine, sample_rate: 16_000, window: 512 })
    }
}

#[async_trait]
impl SpeechDetector for FakeDetector {
    fn info(&self) -> &DetectorInfo {
        &self.0
    }

    async fn hear(&self, memory: VadMemory, window: Vec<f32>) -> Result<(f32, VadMemory), Fault> {
        self.0.check(&window)?;
        let loudness = window.iter().map(|sample| sample * sample).sum::<f32>() / self.0.window as f32;
        let before = match memory.kept() {
            [] => loudness,
            [before] => *before,
            _ => return Err(Fault::invalid_field("memory", "is of another detector")),
        };
        let now = 0.5 * before + 0.5 * loudness;
        Ok((now / (now + UNDECIDED), VadMemory::new(vec![now])))
    }
}

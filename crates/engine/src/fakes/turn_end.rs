use async_trait::async_trait;
use tandem_types::Fault;

use crate::{TurnEndDetector, TurnEndInfo};

/// Keeps every promise of [`TurnEndDetector`]: a turn is over when its end is quieter than the rest.
#[derive(Debug, Clone)]
pub struct FakeTurnEnd(TurnEndInfo);

impl Default for FakeTurnEnd {
    fn default() -> Self {
        let (model, engine) = ("fake-turn-end".to_owned(), "fake".to_owned());
        Self(TurnEndInfo { model, engine, sample_rate: 16_000, most_samples: 128_000 })
    }
}

#[async_trait]
impl TurnEndDetector for FakeTurnEnd {
    fn info(&self) -> &TurnEndInfo {
        &self.0
    }

    async fn ended(&self, utterance: Vec<f32>) -> Result<f32, Fault> {
        let heard = self.0.heard(&utterance)?;
        let loudness = |part: &[f32]| part.iter().map(|sample| sample * sample).sum::<f32>() / part.len() as f32;
        let end = loudness(&heard[heard.len().saturating_sub(3_200)..]);
        Ok(1.0 - (end / loudness(heard).max(f32::MIN_POSITIVE)).min(1.0))
    }
}

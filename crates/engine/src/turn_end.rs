//! What a detector of turn ends does: it says from the sound of an utterance how likely its speaker has finished.

use async_trait::async_trait;
use tandem_types::Fault;

/// What a detector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnEndInfo {
    /// The model's name.
    pub model: String,
    /// What runs it.
    pub engine: String,
    /// Samples in a second that it wants.
    pub sample_rate: u32,
    /// Samples that it listens to; of a longer utterance the last ones.
    pub most_samples: usize,
}

/// Says whether somebody who has paused has also finished.
#[async_trait]
pub trait TurnEndDetector: Send + Sync {
    /// What it is.
    fn info(&self) -> &TurnEndInfo;

    /// The probability, 0 to 1, that the turn is over at the end of this utterance.
    ///
    /// # Errors
    /// `invalid_argument` for no sound at all or a sample that is no number; `unavailable`, `engine_lost`, when the model is
    /// gone.
    async fn ended(&self, utterance: Vec<f32>) -> Result<f32, Fault>;
}

impl TurnEndInfo {
    /// What of an utterance is listened to.
    ///
    /// # Errors
    /// `invalid_argument` with what is wrong.
    pub fn heard<'a>(&self, utterance: &'a [f32]) -> Result<&'a [f32], Fault> {
        if utterance.is_empty() {
            return Err(Fault::invalid_field("utterance", "has no samples"));
        }
        let heard = &utterance[utterance.len().saturating_sub(self.most_samples)..];
        match heard.iter().position(|sample| !sample.is_finite()) {
            Some(at) => Err(Fault::invalid_field("utterance", format!("sample {at} of its end is no number"))),
            None => Ok(heard),
        }
    }
}

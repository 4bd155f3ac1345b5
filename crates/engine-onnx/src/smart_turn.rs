//! Smart Turn 3: the encoder of Whisper tiny with a head that says whether a turn is over (pipecat-ai/smart-turn).
//!
//! It looks at log-mel features of the last 8 s, a shorter utterance with silence before it; the sound is brought to mean 0
//! and variance 1 before.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ort::session::Session;
use ort::value::TensorRef;
use tandem_engine::{Lease, TurnEndDetector, TurnEndInfo};
use tandem_types::Fault;

use crate::Runtime;
use crate::batch::{Handle, Model};
use crate::mel::{LogMel, MELS};
use crate::session::{Shape, open};

const RATE: u32 = 16_000;
const SAMPLES: usize = 128_000;
/// Keeps silence from being divided by nothing.
const LEAST_VARIANCE: f64 = 1e-7;
const SHAPE: Shape = Shape { inputs: &["input_features"], outputs: &["logits"] };

/// How to load it.
#[derive(Debug, Clone)]
pub struct SmartTurnOptions {
    /// The model's name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Threads that one utterance is computed by, 1 to 64.
    pub threads: usize,
    /// Utterances that may wait.
    pub queue: usize,
}

impl SmartTurnOptions {
    /// For a few speakers.
    pub fn new(name: &str, path: PathBuf) -> Self {
        Self { name: name.to_owned(), path, threads: 1, queue: 8 }
    }
}

/// A loaded Smart Turn. Clones are handles to the same model; it is unloaded with the last.
#[derive(Debug, Clone)]
pub struct SmartTurn {
    info: Arc<TurnEndInfo>,
    handle: Handle<Vec<f32>, f32>,
}

impl SmartTurn {
    /// Loads the model on a thread of its own. The lease is given back when the model is gone.
    ///
    /// # Errors
    /// `invalid_argument` for impossible options; `not_found`, `model_missing`; `internal`, `model_corrupt`, with file and
    /// cause.
    pub async fn load(runtime: Runtime, options: SmartTurnOptions, lease: Lease) -> Result<Self, Fault> {
        if !(1..=64).contains(&options.threads) {
            return Err(Fault::invalid_field("threads", "must be between 1 and 64"));
        }
        let info = TurnEndInfo {
            model: options.name.clone(),
            engine: runtime.version(),
            sample_rate: RATE,
            most_samples: SAMPLES,
        };
        let SmartTurnOptions { name, path, threads, queue } = options;
        let of = name.clone();
        let load = move || {
            let session = open(&runtime, &of, &path, threads, &SHAPE)?;
            Ok(Encoder { session, mel: LogMel::default() })
        };
        // Each utterance is work enough for a step.
        Ok(Self { info: Arc::new(info), handle: Handle::load(&name, lease, 1, queue, load).await? })
    }

    /// Unloads the model after its current step.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.handle.stop().await
    }
}

#[async_trait]
impl TurnEndDetector for SmartTurn {
    fn info(&self) -> &TurnEndInfo {
        &self.info
    }

    async fn ended(&self, utterance: Vec<f32>) -> Result<f32, Fault> {
        let sound = prepared(self.info.heard(&utterance)?);
        self.handle.ask(sound).await
    }
}

/// Eight seconds that end as `heard` does, with mean 0 and variance 1.
fn prepared(heard: &[f32]) -> Vec<f32> {
    let mut sound = vec![0.0; SAMPLES - heard.len()];
    sound.extend_from_slice(heard);
    // In small numbers the rounding of long sums would be heard: the model rounds its input to 8 bits.
    let mean = sound.iter().copied().map(f64::from).sum::<f64>() / SAMPLES as f64;
    let variance = sound.iter().map(|sample| (f64::from(*sample) - mean).powi(2)).sum::<f64>() / SAMPLES as f64;
    #[allow(clippy::cast_possible_truncation, reason = "sound is about one")]
    let (mean, spread) = (mean as f32, (variance + LEAST_VARIANCE).sqrt() as f32);
    sound.iter_mut().for_each(|sample| *sample = (*sample - mean) / spread);
    sound
}

struct Encoder {
    session: Session,
    mel: LogMel,
}

impl Model for Encoder {
    /// Eight seconds of sound.
    type Question = Vec<f32>;
    /// How likely the turn is over.
    type Answer = f32;
    const DOES: &'static str = "look for the end of a turn";

    fn answer(&mut self, sounds: &[Vec<f32>]) -> ort::Result<Vec<f32>> {
        sounds.iter().map(|sound| self.look(sound)).collect()
    }
}

impl Encoder {
    fn look(&mut self, sound: &[f32]) -> ort::Result<f32> {
        let features = self.mel.features(sound);
        let shape = [1, MELS, LogMel::frames(sound.len())];
        let outputs =
            self.session.run(ort::inputs!["input_features" => TensorRef::from_array_view((shape, &*features))?])?;
        let (_, ended) = outputs["logits"].try_extract_tensor::<f32>()?;
        // The graph ends with the sigmoid, whatever its output is called.
        ended.first().map(|p| p.clamp(0.0, 1.0)).ok_or_else(|| ort::Error::new("it did not answer"))
    }
}

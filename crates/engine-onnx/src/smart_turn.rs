//! Smart Turn 3: the encoder of Whisper tiny with a head that says whether a turn is over (pipecat-ai/smart-turn).
//!
//! It looks at log-mel features of the last 8 s, a shorter utterance with silence before it; the sound is brought to mean 0
//! and variance 1 before.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ort::session::Session;
use ort::value::TensorRef;
use tandem_engine::{Engine, EngineThread, Lease, Progress, Runner, TurnEndDetector, TurnEndInfo, engine_lost};
use tandem_types::Fault;
use tokio::sync::oneshot;

use crate::Runtime;
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
    runner: Runner<Ask>,
}

struct Ask {
    sound: Vec<f32>,
    answer: oneshot::Sender<Result<f32, Fault>>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What people said is in it.
        f.debug_struct("Ask").finish_non_exhaustive()
    }
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
        let (name, queue) = (options.name.clone(), options.queue);
        let body = move |_: &Lease, thread: &mut EngineThread<Ask, ()>| {
            let session = open(&runtime, &options.name, &options.path, options.threads, &SHAPE)?;
            thread.serve((), &mut Utterances { session, mel: LogMel::default(), waiting: VecDeque::new() })
        };
        let (runner, ()) = Runner::start(&name, lease, queue, body).await?;
        Ok(Self { info: Arc::new(info), runner })
    }

    /// Unloads the model after its current step.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.runner.stop().await
    }
}

#[async_trait]
impl TurnEndDetector for SmartTurn {
    fn info(&self) -> &TurnEndInfo {
        &self.info
    }

    async fn ended(&self, utterance: Vec<f32>) -> Result<f32, Fault> {
        let sound = prepared(self.info.heard(&utterance)?);
        let (answer, ended) = oneshot::channel();
        self.runner.send(Ask { sound, answer }).await?;
        ended.await.map_err(|_| engine_lost())?
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

/// The model and the utterances that wait for it.
struct Utterances {
    session: Session,
    mel: LogMel,
    waiting: VecDeque<Ask>,
}

impl Engine for Utterances {
    type Command = Ask;

    fn accept(&mut self, command: Ask) {
        self.waiting.push_back(command);
    }

    fn step(&mut self) -> Result<Progress, Fault> {
        self.waiting.retain(|ask| !ask.answer.is_closed());
        let Some(ask) = self.waiting.pop_front() else { return Ok(Progress::Idle) };
        let ended = self.look(&ask.sound);
        let ended = ended.map_err(|error| Fault::internal(format!("look for the end of a turn: {error}")));
        // Whoever left meanwhile does not want it any more.
        let _ = ask.answer.send(ended);
        Ok(if self.waiting.is_empty() { Progress::Idle } else { Progress::Busy })
    }
}

impl Utterances {
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

//! Silero VAD: a small recurrent network over windows of 32 ms (snakers4/silero-vad, version 6).
//!
//! Its file takes 64 samples of the window before with each window of 512, and a state of 2 × 128 numbers per stream. Windows
//! of several streams that wait together are computed in one step.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ort::session::Session;
use ort::value::TensorRef;
use tandem_engine::{
    DetectorInfo, Engine, EngineThread, Lease, Progress, Runner, SpeechDetector, VadMemory, engine_lost,
};
use tandem_types::Fault;
use tokio::sync::oneshot;

use crate::Runtime;
use crate::session::{Shape, open};

const RATE: u32 = 16_000;
const WINDOW: usize = 512;
/// Samples of the window before that it looks at again.
const CONTEXT: usize = 64;
/// Numbers of one of the two layers of its state.
const LAYER: usize = 128;
const REMEMBERED: usize = CONTEXT + 2 * LAYER;
const SHAPE: Shape = Shape { inputs: &["input", "state", "sr"], outputs: &["output", "stateN"] };

/// How to load it.
#[derive(Debug, Clone)]
pub struct SileroOptions {
    /// The model's name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Most streams whose windows are computed in one step, 1 to 256.
    pub batch: usize,
    /// Windows that may wait.
    pub queue: usize,
}

impl SileroOptions {
    /// For a few microphones.
    pub fn new(name: &str, path: PathBuf) -> Self {
        Self { name: name.to_owned(), path, batch: 16, queue: 64 }
    }
}

/// A loaded Silero VAD. Clones are handles to the same model; it is unloaded with the last.
#[derive(Debug, Clone)]
pub struct SileroDetector {
    info: Arc<DetectorInfo>,
    runner: Runner<Ask>,
}

struct Ask {
    memory: VadMemory,
    window: Vec<f32>,
    answer: oneshot::Sender<Result<(f32, VadMemory), Fault>>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What people said is in it.
        f.debug_struct("Ask").finish_non_exhaustive()
    }
}

impl SileroDetector {
    /// Loads the model on a thread of its own. The lease is given back when the model is gone.
    ///
    /// # Errors
    /// `invalid_argument` for impossible options; `not_found`, `model_missing`; `internal`, `model_corrupt`, with file and
    /// cause.
    pub async fn load(runtime: Runtime, options: SileroOptions, lease: Lease) -> Result<Self, Fault> {
        if !(1..=256).contains(&options.batch) {
            return Err(Fault::invalid_field("batch", "must be between 1 and 256"));
        }
        let info =
            DetectorInfo { model: options.name.clone(), engine: runtime.version(), sample_rate: RATE, window: WINDOW };
        let (name, queue) = (options.name.clone(), options.queue);
        let body = move |_: &Lease, thread: &mut EngineThread<Ask, ()>| {
            // One window is too little work to be shared between threads.
            let session = open(&runtime, &options.name, &options.path, 1, &SHAPE)?;
            thread.serve((), &mut Windows { session, waiting: VecDeque::new(), most: options.batch })
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
impl SpeechDetector for SileroDetector {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    async fn hear(&self, memory: VadMemory, window: Vec<f32>) -> Result<(f32, VadMemory), Fault> {
        self.info.check(&window)?;
        if !matches!(memory.kept().len(), 0 | REMEMBERED) {
            return Err(Fault::invalid_field("memory", "is of another detector"));
        }
        let (answer, heard) = oneshot::channel();
        self.runner.send(Ask { memory, window, answer }).await?;
        heard.await.map_err(|_| engine_lost())?
    }
}

/// The model and the windows that wait for it.
struct Windows {
    session: Session,
    waiting: VecDeque<Ask>,
    most: usize,
}

impl Engine for Windows {
    type Command = Ask;

    fn accept(&mut self, command: Ask) {
        self.waiting.push_back(command);
    }

    fn step(&mut self) -> Result<Progress, Fault> {
        self.waiting.retain(|ask| !ask.answer.is_closed());
        let asks: Vec<Ask> = self.waiting.drain(..self.most.min(self.waiting.len())).collect();
        if asks.is_empty() {
            return Ok(Progress::Idle);
        }
        match self.hear(&asks) {
            Ok(heard) => {
                for (ask, heard) in asks.into_iter().zip(heard) {
                    // Whoever left meanwhile does not want it any more.
                    let _ = ask.answer.send(Ok(heard));
                }
            }
            Err(error) => {
                let fault = Fault::internal(format!("listen for speech in {} windows: {error}", asks.len()));
                for ask in asks {
                    let _ = ask.answer.send(Err(fault.clone()));
                }
            }
        }
        Ok(if self.waiting.is_empty() { Progress::Idle } else { Progress::Busy })
    }
}

impl Windows {
    /// Probability and memory of each window.
    fn hear(&mut self, asks: &[Ask]) -> ort::Result<Vec<(f32, VadMemory)>> {
        let count = asks.len();
        let mut input = vec![0.0_f32; count * (CONTEXT + WINDOW)];
        // All first layers, then all second ones.
        let mut state = vec![0.0_f32; 2 * count * LAYER];
        for (n, ask) in asks.iter().enumerate() {
            let row = &mut input[n * (CONTEXT + WINDOW)..][..CONTEXT + WINDOW];
            row[CONTEXT..].copy_from_slice(&ask.window);
            if let Some((context, layers)) = ask.memory.kept().split_at_checked(CONTEXT) {
                row[..CONTEXT].copy_from_slice(context);
                for (layer, values) in layers.chunks_exact(LAYER).enumerate() {
                    state[(layer * count + n) * LAYER..][..LAYER].copy_from_slice(values);
                }
            }
        }
        let rate = [i64::from(RATE)];
        let outputs = self.session.run(ort::inputs![
            "input" => TensorRef::from_array_view(([count, CONTEXT + WINDOW], &*input))?,
            "state" => TensorRef::from_array_view(([2, count, LAYER], &*state))?,
            "sr" => TensorRef::from_array_view((ort::value::Shape::default(), &rate[..]))?,
        ])?;
        let (_, probabilities) = outputs["output"].try_extract_tensor::<f32>()?;
        let (_, state) = outputs["stateN"].try_extract_tensor::<f32>()?;
        if probabilities.len() != count || state.len() != 2 * count * LAYER {
            return Err(ort::Error::new("it answered for another number of windows"));
        }
        let of = |n: usize| {
            let mut kept = Vec::with_capacity(REMEMBERED);
            kept.extend_from_slice(&asks[n].window[WINDOW - CONTEXT..]);
            for layer in 0..2 {
                kept.extend_from_slice(&state[(layer * count + n) * LAYER..][..LAYER]);
            }
            (probabilities[n].clamp(0.0, 1.0), VadMemory::new(kept))
        };
        Ok((0..count).map(of).collect())
    }
}

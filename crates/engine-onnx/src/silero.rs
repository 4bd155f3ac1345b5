//! Silero VAD: a small recurrent network over windows of 32 ms (snakers4/silero-vad, version 6).
//!
//! Its file takes 64 samples of the window before with each window of 512, and a state of 2 × 128 numbers per stream. Windows
//! of several streams that wait together are computed in one step.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ort::session::Session;
use ort::value::TensorRef;
use tandem_engine::{DetectorInfo, Lease, SpeechDetector, VadMemory};
use tandem_types::Fault;

use crate::Runtime;
use crate::batch::{Handle, Model};
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
    handle: Handle<Window, (f32, VadMemory)>,
}

struct Window {
    memory: VadMemory,
    samples: Vec<f32>,
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
        let SileroOptions { name, path, batch, queue } = options;
        let of = name.clone();
        // One window is too little work to be shared between threads.
        let load = move || open(&runtime, &of, &path, 1, &SHAPE).map(Silero);
        Ok(Self { info: Arc::new(info), handle: Handle::load(&name, lease, batch, queue, load).await? })
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
impl SpeechDetector for SileroDetector {
    fn info(&self) -> &DetectorInfo {
        &self.info
    }

    async fn hear(&self, memory: VadMemory, window: Vec<f32>) -> Result<(f32, VadMemory), Fault> {
        self.info.check(&window)?;
        if !matches!(memory.kept().len(), 0 | REMEMBERED) {
            return Err(Fault::invalid_field("memory", "is of another detector"));
        }
        self.handle.ask(Window { memory, samples: window }).await
    }
}

struct Silero(Session);

impl Model for Silero {
    type Question = Window;
    /// Probability of speech, and what to remember.
    type Answer = (f32, VadMemory);
    const DOES: &'static str = "listen for speech";

    fn answer(&mut self, windows: &[Window]) -> ort::Result<Vec<Self::Answer>> {
        let count = windows.len();
        let mut input = vec![0.0_f32; count * (CONTEXT + WINDOW)];
        // All first layers, then all second ones.
        let mut state = vec![0.0_f32; 2 * count * LAYER];
        for (n, window) in windows.iter().enumerate() {
            let row = &mut input[n * (CONTEXT + WINDOW)..][..CONTEXT + WINDOW];
            row[CONTEXT..].copy_from_slice(&window.samples);
            if let Some((context, layers)) = window.memory.kept().split_at_checked(CONTEXT) {
                row[..CONTEXT].copy_from_slice(context);
                for (layer, values) in layers.chunks_exact(LAYER).enumerate() {
                    state[(layer * count + n) * LAYER..][..LAYER].copy_from_slice(values);
                }
            }
        }
        let rate = [i64::from(RATE)];
        let outputs = self.0.run(ort::inputs![
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
            kept.extend_from_slice(&windows[n].samples[WINDOW - CONTEXT..]);
            for layer in 0..2 {
                kept.extend_from_slice(&state[(layer * count + n) * LAYER..][..LAYER]);
            }
            (probabilities[n].clamp(0.0, 1.0), VadMemory::new(kept))
        };
        Ok((0..count).map(of).collect())
    }
}

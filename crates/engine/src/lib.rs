//! What a model can do, one trait a file; the thread that owns a model; the lease it holds; and the fakes that
//! stand in for it in tests.
//!
//! Nothing here knows a native library. An engine crate loads a model on a [`Runner`]'s thread and implements the
//! trait of its kind, for example [`TextGenerator`]; the rest of the house sees only the trait.

pub mod catalogue;
#[cfg(feature = "fakes")]
pub mod conformance;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod gguf;
mod lease;
mod runner;
mod text;
mod turn_end;
mod vad;

pub use lease::{Lease, LeaseId, LeaseInfo, Ledger, SharedLedger};
pub use runner::{Engine, EngineThread, Progress, Runner, engine_lost};
pub use text::{
    ADAPTER_UNFIT, ChatMessage, ChatRole, FinishReason, Finished, GeneratorInfo, GeneratorLoad, NAME_RULE, NO_ADAPTER,
    NO_CHAT_TEMPLATE, Prompt, Sampling, TextEvent, TextGenerator, TextRequest, TextSink, TextStream, TokenCounts,
    is_name,
};
pub use turn_end::{TurnEndDetector, TurnEndInfo};
pub use vad::{DetectorInfo, SpeechDetector, SpeechStream, VadMemory};

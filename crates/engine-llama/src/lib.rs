//! llama.cpp behind [`tandem_engine::TextGenerator`]: one thread owns the model and answers several conversations side
//! by side, mixing the reading of new prompts into the writing of answers, and keeping what it has read for the next
//! turn.
//!
//! The process `tandem-llama` serves it to the rest of the house; nothing else links llama.cpp.

mod adapters;
mod chat;
mod generator;
mod logic;
mod machine;
mod model;
mod native;
mod options;
mod processor;
mod sampler;
mod scheduler;
mod text;

pub use generator::LlamaGenerator;
pub use machine::{default_threads, resident_bytes};
pub use model::{LEASE_TOO_SMALL, MODEL_CORRUPT, MODEL_MISSING};
pub use options::{ENGINE_VERSION, LlamaOptions};
pub use processor::{OTHER_PROCESSOR, check_processor};
pub use scheduler::EngineStats;

//! ONNX Runtime behind the engine traits.
//!
//! The library is no part of the program: [`Runtime::load`] loads it from a file, once for a process. Each model is loaded on
//! a thread of its own, which owns it.

#![allow(clippy::result_large_err, reason = "a Fault says everything a caller needs; it is made when something failed")]

mod batch;
mod mel;
mod runtime;
mod session;
mod silero;
mod smart_turn;

pub use mel::{LogMel, MELS};
pub use runtime::{LIBRARY, LIBRARY_VARIABLE, Runtime, library};
pub use silero::{SileroDetector, SileroOptions};
pub use smart_turn::{SmartTurn, SmartTurnOptions};

/// A file that is not there.
const MODEL_MISSING: &str = "model_missing";
/// A file that cannot be used.
const MODEL_CORRUPT: &str = "model_corrupt";

//! The promises of the traits, as tests that any implementation must pass.

mod text;
mod vad;

pub use text::{adapters, text_generator};
pub use vad::speech_detector;

//! The promises of the traits, as tests that any implementation must pass.

mod text;
mod turn_end;
mod vad;

pub use text::{adapters, text_generator};
pub use turn_end::turn_end_detector;
pub use vad::speech_detector;

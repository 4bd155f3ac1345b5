//! Models without weights, told what to do and how to fail. For tests only.

mod text;
mod vad;

pub use text::*;
pub use vad::FakeDetector;

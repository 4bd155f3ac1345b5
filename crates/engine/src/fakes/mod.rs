//! Models without weights, told what to do and how to fail. For tests only.

mod text;
mod turn_end;
mod vad;

pub use text::*;
pub use turn_end::FakeTurnEnd;
pub use vad::FakeDetector;

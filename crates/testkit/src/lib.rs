//! Rigs for tests: one agent with fake peers under a clock that moves when told.

mod clock;
mod rig;

pub use clock::FakeClock;
pub use rig::{Rig, Running};

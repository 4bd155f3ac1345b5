//! Rigs for tests: one agent with fake peers under a clock that moves when told.

mod clock;
mod fleet;
pub mod http;
mod node;
mod rig;

pub use clock::FakeClock;
pub use fleet::{Find, Fleet, FleetBuilder, free_port};
pub use node::FakeNode;
pub use rig::{Rig, Running};

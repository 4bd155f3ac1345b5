//! A conversation by voice: what walks through its pipeline, who may speak, and what it means to be interrupted.
//!
//! Data goes right as [`Frame`]s, each with the turn it was born in. Only two things go left, through [`Current`]: the number of
//! the current turn and the error that ended it. **Interruption is a new turn number**: stages drop what is older, queues flush
//! it, and work on it is dropped, by which remote streams are cancelled.
//!
//! The thinking is plain functions: [`interrupt`] reads what was said over an answer, [`turn`] decides who has the floor, [`gate`]
//! finds where speech begins and ends, [`spoken`] puts numbers and short words into words that a voice can read. They do no IO and
//! ask no clock: time is a [`Moment`] of the caller's.

mod current;
mod frame;
pub mod gate;
pub mod interrupt;
mod pipeline;
pub mod queue;
mod sessions;
pub mod spoken;
mod stage;
pub mod turn;

use std::time::Duration;

pub use current::{Current, Ending};
pub use frame::{FRAME_SAMPLES, Frame, SAMPLE_RATE, Segment, Sound, Speech, Transcript, TurnNumber, duration};
pub use pipeline::{Pipeline, Running, pipeline};
pub use sessions::Sessions;
pub use stage::{Outlet, Stage};

/// Time since the caller's own beginning, on a clock that only goes forward.
pub type Moment = Duration;

/// Waits for a test's end, so that a wait for ever fails it.
#[cfg(test)]
async fn within(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(10), test).await.expect("it waits for ever");
}

//! What nodes tell each other, and when one counts as away.
//!
//! Two machines have no quorum, so nothing here votes. Each fact has one owner, which keeps it in an [`Own`] table and numbers its
//! changes; every other node has a [`Copy`] that only follows. What is missing travels as a [`Delta`]; a digest of the whole
//! tells when a copy is not what its owner has. A [`Detector`] says from the times at which a peer was heard whether it is away,
//! and [`reach`] tells a peer that is away from a path that is dead.
//!
//! No IO and no clock: time is a [`Moment`] of the caller's, so that a simulation can drive all of it.

mod detect;
mod table;

#[cfg(test)]
mod sim;

use std::time::Duration;

pub use detect::{Detector, Reach, reach};
pub use table::{Copy, Delta, Digest, Item, Own, Taken, Version};

/// Time since the caller's own beginning, on a clock that only goes forward.
pub type Moment = Duration;

//! What the scheduler decides, as plain functions: who is next, into which slot, and how much of whose prompt is read
//! in a step with which adapter. No model, no clock.

mod place;
mod rota;
mod share;
mod shelf;
#[cfg(test)]
mod tests;

pub(crate) use place::{Candidate, CopyRule, Placement, place};
pub(crate) use rota::Rota;
pub(crate) use share::{Demand, LEAST_READ, Pace, share};
pub(crate) use shelf::Shelf;

use std::time::Duration;

/// Waiting so long moves a request up by one priority, so that nobody waits for ever.
const AGING: Duration = Duration::from_secs(10);

/// Which of the waiting requests goes next: the smallest priority after aging, then the longest wait.
///
/// Each entry is a priority, 1 first, and the time it has waited.
pub(crate) fn next_waiting(waiting: &[(u8, Duration)]) -> Option<usize> {
    let aged = |&(priority, waited): &(u8, Duration)| {
        let steps = waited.as_secs() / AGING.as_secs();
        u64::from(priority).saturating_sub(steps).max(1)
    };
    (0..waiting.len()).min_by_key(|&i| (aged(&waiting[i]), std::cmp::Reverse(waiting[i].1)))
}

/// When to try again after being refused: when the queue will have moved by one, from what answers took so far.
pub(crate) fn retry_after(slots: usize, answer: Duration) -> Duration {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
    (answer / slots).clamp(Duration::from_millis(250), Duration::from_secs(30))
}

//! How much an agent is doing for others right now. Its group waits for that before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of calls and requests that are being served.
///
/// Whoever begins one and then finds that nothing new is taken, and whoever says that nothing new is taken and then counts,
/// must not miss each other; so all of it is in one order that everybody sees (`SeqCst`).
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Served(Arc<AtomicUsize>);

impl InFlight {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// One more.
    pub fn begin(&self) -> Served {
        self.0.fetch_add(1, Ordering::SeqCst);
        Served(self.0.clone())
    }

    /// One more, unless there are `most` already.
    pub fn begin_within(&self, most: usize) -> Option<Served> {
        let more = |count| (count < most).then_some(count + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Served(self.0.clone()))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_counts_until_it_ends() {
        let in_flight = InFlight::default();
        let (first, second) = (in_flight.begin(), in_flight.begin_within(2).unwrap());
        assert!(in_flight.begin_within(2).is_none());
        drop(first);
        assert_eq!(in_flight.count(), 1);
        let third = in_flight.begin_within(2).unwrap();
        drop((second, third));
        assert_eq!(in_flight.count(), 0);
    }
}

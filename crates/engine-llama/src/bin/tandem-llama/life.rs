//! The life of the process: serving, draining, and the answers under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tandem_types::{Fault, Health, State, Timestamp, reason};
use tokio::sync::watch;

/// An engine counts as capable for so long after its last real answer.
const CAPABLE_FOR: Duration = Duration::from_secs(600);

pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

#[derive(Debug)]
struct Inner {
    health: Health,
    under_way: usize,
}

/// Shared by everything that serves.
#[derive(Debug)]
pub(crate) struct Life {
    inner: watch::Sender<Inner>,
    last_answer_us: AtomicI64,
}

/// An answer under way; dropped with its stream.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Life>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.inner.send_modify(|inner| inner.under_way -= 1);
    }
}

impl Life {
    /// A process that serves from `at` on, having proved itself with an answer at that time.
    pub(crate) fn ready(at: Timestamp) -> Arc<Self> {
        let inner = Inner { health: Health::new(State::Ready, "", at), under_way: 0 };
        Arc::new(Self { inner: watch::Sender::new(inner), last_answer_us: AtomicI64::new(at.micros()) })
    }

    pub(crate) fn health(&self) -> Health {
        self.inner.borrow().health.clone()
    }

    /// Enters an answer into the books.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<UnderWay, Fault> {
        let taken = self.inner.send_if_modified(|inner| {
            let serves = inner.health.state.serves();
            inner.under_way += usize::from(serves);
            serves
        });
        if taken {
            return Ok(UnderWay(Arc::clone(self)));
        }
        Err(Fault::unavailable(reason::DRAINING, "the engine is ending and takes nothing new")
            .retry_after(Duration::from_secs(1)))
    }

    /// Takes nothing new from now on.
    pub(crate) fn drain(&self, cause: &str) {
        self.inner.send_modify(|inner| inner.health = Health::new(State::Draining, cause, now()));
    }

    /// Waits until no answer is under way.
    pub(crate) async fn idle(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.inner.subscribe().wait_for(|inner| inner.under_way == 0).await;
    }

    pub(crate) fn answered(&self, at: Timestamp) {
        self.last_answer_us.fetch_max(at.micros(), Ordering::Relaxed);
    }

    pub(crate) fn last_answer(&self) -> Timestamp {
        Timestamp(self.last_answer_us.load(Ordering::Relaxed))
    }

    /// Whether a real answer was given within the last ten minutes.
    pub(crate) fn capable(&self, now: Timestamp) -> bool {
        now.since(self.last_answer()) <= CAPABLE_FOR
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
        let life = Life::ready(now());
        let one = life.begin().unwrap();
        assert!(life.idle().now_or_never().is_none());
        life.drain("SIGTERM");
        assert_eq!(life.begin().unwrap_err().reason, reason::DRAINING);
        drop(one);
        life.idle().await;
        assert_eq!(life.health().state, State::Draining);
    }

    #[test]
    fn capable_means_answered_lately() {
        let start = Timestamp::from_secs(1_000);
        let life = Life::ready(start);
        assert!(life.capable(start + Duration::from_secs(600)));
        assert!(!life.capable(start + Duration::from_secs(601)));
        life.answered(start + Duration::from_secs(300));
        assert!(life.capable(start + Duration::from_secs(601)));
    }
}

//! The threads that read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;
use tandem_types::Fault;
use tokio::sync::{mpsc, oneshot};

use super::error::Error;

/// A read that waits for a thread.
pub(super) type Read = Box<dyn FnOnce(&mut Connection) + Send>;

/// Wraps `work` so that its result, or the news that it panicked, goes to `reply`.
pub(super) fn job<T, F>(work: F, reply: oneshot::Sender<Result<T, Error>>) -> Read
where
    T: Send + 'static,
    F: FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
{
    Box::new(move |connection| {
        if reply.is_closed() {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| work(connection)));
        // The caller may have left meanwhile; a read leaves nothing behind.
        let _ = reply.send(result.unwrap_or_else(|_| Err(panicked().into())));
    })
}

/// What a caller hears whose work panicked; the panic itself was reported by the panic hook.
pub(super) fn panicked() -> Fault {
    Fault::internal("the work on a store panicked; nothing of it was kept")
}

/// Serves reads until the queue is closed and empty. Whoever is free takes the next.
pub(super) fn run(mut connection: Connection, queue: &Mutex<mpsc::Receiver<Read>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        match next {
            Some(read) => read(&mut connection),
            None => return,
        }
    }
}

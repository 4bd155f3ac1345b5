//! The thread that writes, and group commit.
//!
//! Writes that wait together run one after the other inside one transaction, each in a savepoint of its own, and are
//! answered after the one COMMIT that makes them all durable (group commit: DeWitt et al., *Implementation Techniques
//! for Main Memory Database Systems*, SIGMOD 1984, on recovery). Nobody waits for company: the transaction ends as soon
//! as the queue is empty, so a lone write costs one `fsync` and nothing more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, ffi};
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::files::checkpoint;
use super::reader::panicked;

/// After this long no further write joins a transaction.
const GROUP_TIME: Duration = Duration::from_millis(2);

/// Counts since a store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Writes that were answered with success.
    pub writes: u64,
    /// Transactions that were committed for them.
    pub commits: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    writes: AtomicU64,
    commits: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Stats {
        Stats { writes: self.writes.load(Ordering::Relaxed), commits: self.commits.load(Ordering::Relaxed) }
    }
}

/// What waits for the writing thread.
pub(super) enum Message {
    Write(Box<dyn Write>),
    Checkpoint(oneshot::Sender<Result<(), Error>>),
}

/// A write on its way: run inside the transaction, then told how the commit went.
pub(super) trait Write: Send {
    /// Runs it unless its caller has left. Whether it wants to be kept, or how SQLite failed.
    fn run(&mut self, tx: &Transaction<'_>) -> Result<bool, Option<ffi::Error>>;
    /// Answers the caller.
    fn settle(self: Box<Self>, lost: Option<ffi::Error>);
}

/// The [`Write`] of a closure with its result type.
pub(super) struct Pending<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T, F> Pending<T, F> {
    pub(super) fn new(work: F, reply: oneshot::Sender<Result<T, Error>>) -> Self {
        Self { work: Some(work), outcome: None, reply }
    }
}

impl<T, F> Write for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Transaction<'_>) -> Result<T, Error> + Send,
{
    fn run(&mut self, tx: &Transaction<'_>) -> Result<bool, Option<ffi::Error>> {
        let Some(work) = self.work.take().filter(|_| !self.reply.is_closed()) else { return Ok(false) };
        let result = catch_unwind(AssertUnwindSafe(|| in_savepoint(tx, work)));
        match self.outcome.insert(result.unwrap_or_else(|_| Err(panicked().into()))) {
            Ok(_) => Ok(true),
            Err(error) => Err(error.sqlite()),
        }
    }

    fn settle(self: Box<Self>, lost: Option<ffi::Error>) {
        let Some(outcome) = self.outcome else { return };
        let answer = match lost {
            Some(failure) => outcome.and_then(|_| Err(rusqlite::Error::SqliteFailure(failure, None).into())),
            None => outcome,
        };
        // A caller that left has no use for the answer; its write stands, and its key makes a repetition safe.
        let _ = self.reply.send(answer);
    }
}

/// Keeps all of `work` or nothing. A panic on the way leaves the savepoint open; [`undo`] clears it.
fn in_savepoint<T>(tx: &Transaction<'_>, work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>) -> Result<T, Error> {
    tx.prepare_cached("SAVEPOINT one")?.execute([])?;
    let result = work(tx)?;
    tx.prepare_cached("RELEASE one")?.execute([])?;
    Ok(result)
}

/// Takes back what a failed write did, where SQLite has not done so itself.
fn undo(tx: &Transaction<'_>) -> Result<(), ffi::Error> {
    if tx.is_autocommit() {
        return Ok(());
    }
    tx.execute_batch("ROLLBACK TO one; RELEASE one").map_err(|e| failure_of(&e))
}

fn failure_of(error: &rusqlite::Error) -> ffi::Error {
    error.sqlite_error().copied().unwrap_or_else(|| ffi::Error::new(ffi::SQLITE_ERROR))
}

/// Serves writes until the queue is closed and empty, then leaves an empty log behind.
pub(super) fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Message>,
    counters: &Counters,
) -> Result<(), Error> {
    let name = connection.path().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let took = metrics::histogram!("tandem_store_write_seconds", "store" => name.to_string_lossy().into_owned());
    while let Some(message) = queue.blocking_recv() {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            match message {
                Message::Write(first) => {
                    next = commit_group(&mut connection, first, &mut queue, counters, &took);
                }
                Message::Checkpoint(reply) => {
                    let _ = reply.send(checkpoint(&connection));
                }
            }
        }
    }
    let emptied = checkpoint(&connection);
    connection.close().map_err(|(_, e)| e)?;
    emptied
}

/// Commits `first` and what waits behind it; a message that is no write is handed back.
fn commit_group(
    connection: &mut Connection,
    first: Box<dyn Write>,
    queue: &mut mpsc::Receiver<Message>,
    counters: &Counters,
    took: &metrics::Histogram,
) -> Option<Message> {
    let begun = Instant::now();
    let mut group = vec![first];
    let mut kept = 0;
    let mut left_over = None;
    let committed = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failure_of(&e));
    let committed = committed.and_then(|tx| {
        while let Some(write) = group.last_mut() {
            match write.run(&tx) {
                Ok(keep) => kept += u64::from(keep),
                Err(failure) => {
                    undo(&tx)?;
                    // On some failures of the disk SQLite gives up the whole transaction, and with it the neighbours.
                    if tx.is_autocommit() {
                        return Err(failure.unwrap_or_else(|| ffi::Error::new(ffi::SQLITE_IOERR)));
                    }
                }
            }
            if begun.elapsed() >= GROUP_TIME {
                break;
            }
            match queue.try_recv() {
                Ok(Message::Write(next)) => group.push(next),
                Ok(other) => {
                    left_over = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        tx.commit().map_err(|e| failure_of(&e))
    });
    if committed.is_ok() && kept > 0 {
        counters.writes.fetch_add(kept, Ordering::Relaxed);
        counters.commits.fetch_add(1, Ordering::Relaxed);
        took.record(begun.elapsed());
    }
    let lost = committed.err();
    group.into_iter().for_each(|write| write.settle(lost));
    left_over
}

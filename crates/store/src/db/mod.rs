//! The kit every store is built on: one SQLite file with one writing thread, group commit, reading threads,
//! migrations, backup and errors that say what to do.
//!
//! SQLite allows one writer at a time, so each [`Db`] has exactly one, on a thread of its own. Writes wait in a bounded
//! queue; those that wait together share one transaction and one `fsync`. Reads run beside it on their own threads and
//! see the last commit.

mod error;
mod files;
mod migrate;
mod reader;
mod row;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use tandem_types::{Fault, reason};
use tokio::sync::{mpsc, oneshot};

pub use error::Error;
pub use migrate::Migration;
pub(crate) use row::{column, fresh_id, json_column, optional_column};
pub(crate) use store::sqlite_store;
pub use writer::Stats;

use error::file_fault;
use writer::{Counters, Message, Pending};

/// Writes that may wait; a further one waits for room before it is queued.
const QUEUED_WRITES: usize = 256;
/// Reads that may wait; a further one waits for room before it is queued.
const QUEUED_READS: usize = 256;
/// Reading threads, so that one long search does not hold up the short look-ups.
const READERS: usize = 2;

/// One SQLite file, open. Clones are handles to the same file. Dropping the last one closes it too, only that nobody
/// waits for that or hears how it went.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    path: PathBuf,
    counters: Arc<Counters>,
    lanes: Mutex<Option<Lanes>>,
}

/// The ways to the threads. Dropping them ends the threads once their queues are empty.
struct Lanes {
    writes: mpsc::Sender<Message>,
    reads: mpsc::Sender<reader::Read>,
    readers_gone: mpsc::Receiver<Infallible>,
    writer_gone: oneshot::Receiver<Result<(), Error>>,
}

impl Db {
    /// Opens the file at `path`, creating it with mode 0600 where there is none, and brings it to the newest of
    /// `migrations`. Blocks while it does so.
    ///
    /// # Errors
    /// Reason `disk`, with the path and what to do, when folder or file cannot be written, the disk is full or the file
    /// is damaged; reason `newer_schema` when a newer version wrote it. The file is then as it was before.
    pub fn open(path: impl Into<PathBuf>, migrations: &[Migration]) -> Result<Self, Fault> {
        Self::open_with(path, migrations, |_| Ok(())).map(|(db, ())| db)
    }

    /// As [`Db::open`], with a first look into the file.
    pub(crate) fn open_with<T>(
        path: impl Into<PathBuf>,
        migrations: &[Migration],
        look: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<(Self, T), Fault> {
        let path = path.into();
        files::prepare(&path)?;
        let mut connection = files::open_writer(&path).map_err(|e| e.into_fault(&path))?;
        migrate::run(&mut connection, &path, migrations)?;
        let seen = connection.transaction().map_err(Error::from).and_then(|tx| look(&tx));
        let seen = seen.map_err(|e| e.into_fault(&path))?;
        let counters = Arc::new(Counters::default());
        let lanes = Lanes::start(&path, connection, &counters)?;
        Ok((Self(Arc::new(Inner { path, counters, lanes: Mutex::new(Some(lanes)) })), seen))
    }

    /// Runs `work` inside the shared write transaction and returns once its result is on disk.
    ///
    /// An error of `work` undoes what this write did and leaves its neighbours alone. Dropping the future before the
    /// write began cancels it; later the write goes on, and its key makes a repetition safe.
    ///
    /// # Errors
    /// The fault that `work` returned, or reason `disk` when the commit failed, in which case nothing of it was kept.
    pub async fn write<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queue = self.lane(|lanes| lanes.writes.clone())?;
        queue.send(Message::Write(Box::new(Pending::new(work, reply)))).await.map_err(|_| self.closed())?;
        self.settle(answer.await)
    }

    /// Runs `work` on a reading connection, inside one read transaction, so that all its queries see the same state.
    ///
    /// # Errors
    /// The fault that `work` returned, or reason `disk` when the file cannot be read.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    {
        self.on_reader(move |connection| {
            let tx = connection.transaction()?;
            let result = work(&tx)?;
            tx.finish()?;
            Ok(result)
        })
        .await
    }

    /// Copies the whole store as it stands now into a new file at `to` (mode 0600) while reads and writes go on. The
    /// file appears under its name only when it is complete and on disk; a former one is replaced.
    ///
    /// # Errors
    /// Reason `disk` when `to` cannot be written.
    pub async fn backup(&self, to: impl Into<PathBuf>) -> Result<(), Fault> {
        let to = to.into();
        self.on_reader(move |connection| Ok(files::copy(connection, &to)?)).await
    }

    /// Looks through the whole file for damage. Takes as long as reading it.
    ///
    /// # Errors
    /// Reason `disk` when it is damaged.
    pub async fn check(&self) -> Result<(), Fault> {
        self.read(files::quick_check).await
    }

    /// Moves everything out of the write-ahead log into the file and empties the log, so that what was deleted is gone
    /// from both.
    ///
    /// # Errors
    /// Reason `disk` when a reader held the log for longer than 5 s or the disk failed.
    pub async fn checkpoint(&self) -> Result<(), Fault> {
        let (reply, answer) = oneshot::channel();
        let queue = self.lane(|lanes| lanes.writes.clone())?;
        queue.send(Message::Checkpoint(reply)).await.map_err(|_| self.closed())?;
        self.settle(answer.await)
    }

    /// Finishes what is queued, empties the write-ahead log and closes the file. Later calls on any handle answer
    /// `unavailable`; closing twice is fine.
    ///
    /// # Errors
    /// Reason `disk` when the last checkpoint failed. Acknowledged writes are safe in the log even then.
    pub async fn close(&self) -> Result<(), Fault> {
        let Some(mut lanes) = self.lanes().take() else { return Ok(()) };
        drop(lanes.reads);
        while lanes.readers_gone.recv().await.is_some() {}
        drop(lanes.writes);
        self.settle(lanes.writer_gone.await)
    }

    /// Counts since the file was opened.
    pub fn stats(&self) -> Stats {
        self.0.counters.snapshot()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    async fn on_reader<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queue = self.lane(|lanes| lanes.reads.clone())?;
        queue.send(reader::job(work, reply)).await.map_err(|_| self.closed())?;
        self.settle(answer.await)
    }

    fn lane<T>(&self, pick: impl FnOnce(&Lanes) -> mpsc::Sender<T>) -> Result<mpsc::Sender<T>, Fault> {
        self.lanes().as_ref().map(pick).ok_or_else(|| self.closed())
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Option<Lanes>> {
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle<T>(&self, answer: Result<Result<T, Error>, oneshot::error::RecvError>) -> Result<T, Fault> {
        answer.map_err(|_| self.closed())?.map_err(|e| e.into_fault(&self.0.path))
    }

    fn closed(&self) -> Fault {
        let message = format!("the store {} is closed; its agent is stopping", self.0.path.display());
        Fault::unavailable(reason::DRAINING, message)
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Db").field(&self.0.path).finish()
    }
}

impl Lanes {
    fn start(path: &Path, connection: Connection, counters: &Arc<Counters>) -> Result<Self, Fault> {
        let (reads, queue) = mpsc::channel(QUEUED_READS);
        let queue = Arc::new(Mutex::new(queue));
        let (alive, readers_gone) = mpsc::channel(1);
        for _ in 0..READERS {
            let connection = files::open_reader(path).map_err(|e| e.into_fault(path))?;
            let (queue, alive) = (queue.clone(), alive.clone());
            spawn(path, "read", move || {
                reader::run(connection, &queue);
                drop(alive);
            })?;
        }
        let (writes, queue) = mpsc::channel(QUEUED_WRITES);
        let (gone, writer_gone) = oneshot::channel();
        let counters = counters.clone();
        spawn(path, "write", move || {
            // Nobody listens when the last handle was dropped instead of closed.
            let _ = gone.send(writer::run(connection, queue, &counters));
        })?;
        Ok(Self { writes, reads, readers_gone, writer_gone })
    }
}

/// Starts a thread named after the file, for example `sessions write`; it ends when its queue is closed and empty.
fn spawn(path: &Path, does: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    std::thread::Builder::new()
        .name(format!("{stem} {does}"))
        .spawn(run)
        .map(drop)
        .map_err(|e| file_fault("start a thread for", path, &e))
}

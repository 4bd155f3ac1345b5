//! The thread that owns a model.
//!
//! Native models are bound to a thread, block it for milliseconds at a time and may panic. So each lives on a thread of
//! its own, takes commands from a bounded queue between two steps of work, and hears no async runtime.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tandem_types::{Fault, reason};
use tokio::sync::{mpsc, oneshot, watch};

use crate::Lease;

/// The answer to everything that was under way when an engine ended.
pub fn engine_lost() -> Fault {
    Fault::unavailable(reason::ENGINE_LOST, "the engine ended while it worked on this; ask again")
}

/// Work of a model, cut into steps so that commands and cancellations are noticed in between.
pub trait Engine {
    /// What it can be told.
    type Command: Send + 'static;

    /// Takes a command; the work itself belongs into [`step`](Self::step).
    fn accept(&mut self, command: Self::Command);

    /// Does the next piece of work.
    ///
    /// # Errors
    /// The model is of no use any more; the thread ends, and what was under way fails with `engine_lost`.
    fn step(&mut self) -> Result<Progress, Fault>;
}

/// What is left to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More: call again.
    Busy,
    /// Nothing until the next command.
    Idle,
}

/// What waits for the thread.
#[derive(Debug)]
enum Message<C> {
    Command(C),
    Stop,
}

/// The model's side of the thread: its queue.
#[derive(Debug)]
pub struct EngineThread<C, I> {
    inbox: mpsc::Receiver<Message<C>>,
    ready: Option<oneshot::Sender<Result<I, Fault>>>,
}

impl<C: Send + 'static, I> EngineThread<C, I> {
    /// Reports the model as loaded and works until it is told to stop or nobody holds the [`Runner`] any more.
    ///
    /// # Errors
    /// What [`Engine::step`] returned.
    pub fn serve(&mut self, info: I, engine: &mut impl Engine<Command = C>) -> Result<(), Fault> {
        if let Some(ready) = self.ready.take() {
            // The starter may have given up waiting; then its Runner is gone and the queue below is closed.
            let _ = ready.send(Ok(info));
        }
        loop {
            loop {
                match self.inbox.try_recv() {
                    Ok(Message::Command(command)) => engine.accept(command),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Ok(Message::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
                }
            }
            if engine.step()? == Progress::Idle {
                match self.inbox.blocking_recv() {
                    Some(Message::Command(command)) => engine.accept(command),
                    Some(Message::Stop) | None => return Ok(()),
                }
            }
        }
    }
}

/// A handle to a model's thread. When the last clone is dropped the thread ends after its current step, and what was
/// under way fails with `engine_lost`.
pub struct Runner<C> {
    inbox: mpsc::Sender<Message<C>>,
    ended: watch::Receiver<Option<Result<(), Fault>>>,
}

impl<C> fmt::Debug for Runner<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Commands carry what people said.
        f.debug_struct("Runner").field("ended", &*self.ended.borrow()).finish_non_exhaustive()
    }
}

impl<C> Clone for Runner<C> {
    fn clone(&self) -> Self {
        Self { inbox: self.inbox.clone(), ended: self.ended.clone() }
    }
}

impl<C: Send + 'static> Runner<C> {
    /// Starts a thread named `name`, lets `body` load the model on it, and waits until `body` calls
    /// [`EngineThread::serve`]. At most `queue` commands wait. The lease is lent to the model and given back when the
    /// model is gone.
    ///
    /// # Errors
    /// What `body` returned, `internal` when it panicked, `unavailable` when no thread could be started.
    pub async fn start<I, F>(name: &str, lease: Lease, queue: usize, body: F) -> Result<(Self, I), Fault>
    where
        I: Send + 'static,
        F: FnOnce(&Lease, &mut EngineThread<C, I>) -> Result<(), Fault> + Send + 'static,
    {
        let (sender, inbox) = mpsc::channel(queue.max(1));
        let (ready, loaded) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let model = name.to_owned();
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let mut own = EngineThread { inbox, ready: Some(ready) };
                let outcome = catch_unwind(AssertUnwindSafe(|| body(&lease, &mut own))).unwrap_or_else(|panic| {
                    Err(Fault::internal(format!("the engine of {model} panicked: {}", panic_text(&*panic))))
                });
                let ready = own.ready.take();
                drop((own, lease));
                match (ready, &outcome) {
                    (Some(ready), Err(fault)) => drop(ready.send(Err(fault.clone()))),
                    (None, Err(fault)) => tracing::error!(%model, %fault, "engine ended"),
                    _ => {}
                }
                end.send_replace(Some(outcome));
            })
            .map_err(|e| Fault::unavailable(reason::ENGINE_LOST, format!("start a thread for {name}: {e}")))?;
        let info = loaded.await.map_err(|_| Fault::internal(format!("{name} ended without serving")))??;
        Ok((Self { inbox: sender, ended }, info))
    }

    /// Hands a command to the model; waits while the queue is full.
    ///
    /// # Errors
    /// `unavailable`, `engine_lost`, when the thread has ended.
    pub async fn send(&self, command: C) -> Result<(), Fault> {
        self.inbox.send(Message::Command(command)).await.map_err(|_| engine_lost())
    }

    /// Ends the thread after its current step and waits for it; what was under way fails with `engine_lost`.
    ///
    /// # Errors
    /// As for [`ended`](Self::ended).
    pub async fn stop(&self) -> Result<(), Fault> {
        // A thread that takes nothing any more is ending already.
        let _ = self.inbox.send(Message::Stop).await;
        self.ended().await
    }

    /// Waits until the thread has ended, and says why.
    ///
    /// # Errors
    /// `internal` when the model panicked, or what its body returned.
    pub async fn ended(&self) -> Result<(), Fault> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err(engine_lost()),
        }
    }
}

/// Native inference code expects the stack of a main thread, not the 2 MiB of a Rust thread.
const STACK_BYTES: usize = 8 << 20;

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use tandem_types::Code;

    use super::*;
    use crate::lease::tests::lease;

    #[derive(Debug)]
    enum Command {
        Double(u32, oneshot::Sender<u32>),
        Panic,
    }

    /// Holds what cannot cross threads, as native models do.
    struct Doubler {
        pending: Vec<(u32, oneshot::Sender<u32>)>,
        _bound_to_thread: std::rc::Rc<()>,
    }

    impl Engine for Doubler {
        type Command = Command;
        fn accept(&mut self, command: Command) {
            match command {
                Command::Double(number, reply) => self.pending.push((number, reply)),
                Command::Panic => panic!("boom"),
            }
        }
        fn step(&mut self) -> Result<Progress, Fault> {
            if let Some((number, reply)) = self.pending.pop() {
                let _ = reply.send(2 * number);
            }
            Ok(if self.pending.is_empty() { Progress::Idle } else { Progress::Busy })
        }
    }

    async fn doubler() -> Runner<Command> {
        let body = |lease: &Lease, thread: &mut EngineThread<Command, &'static str>| {
            let mut engine = Doubler { pending: Vec::new(), _bound_to_thread: std::rc::Rc::new(()) };
            lease.report(1);
            thread.serve("loaded", &mut engine)
        };
        let (runner, info) = Runner::start("doubler", lease(10), 4, body).await.unwrap();
        assert_eq!(info, "loaded");
        runner
    }

    #[tokio::test]
    async fn commands_are_answered_and_the_thread_ends_with_its_last_handle() {
        let runner = doubler().await;
        let (reply, answer) = oneshot::channel();
        runner.send(Command::Double(21, reply)).await.unwrap();
        assert_eq!(answer.await, Ok(42));
        let mut ended = runner.ended.clone();
        drop(runner);
        assert_eq!(*ended.wait_for(Option::is_some).await.unwrap(), Some(Ok(())));
    }

    #[tokio::test]
    async fn a_stopped_thread_takes_nothing_more() {
        let runner = doubler().await;
        assert_eq!(runner.stop().await, Ok(()));
        assert_eq!(runner.send(Command::Panic).await.unwrap_err().reason, reason::ENGINE_LOST);
        assert_eq!(runner.stop().await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_fails_what_is_under_way_and_the_owner_hears_it() {
        let runner = doubler().await;
        let (reply, answer) = oneshot::channel();
        runner.send(Command::Panic).await.unwrap();
        let _ = runner.send(Command::Double(1, reply)).await;
        assert!(answer.await.is_err());
        let fault = runner.ended().await.unwrap_err();
        assert_eq!((fault.code, fault.message.contains("boom")), (Code::Internal, true));
        assert_eq!(runner.send(Command::Panic).await.unwrap_err().reason, reason::ENGINE_LOST);
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_says_why_and_gives_its_lease_back() {
        let ledger = crate::lease::tests::ledger(10);
        let lease = ledger.lease(&crate::lease::tests::group(), &crate::lease::tests::role(), 10).unwrap();
        let body = |_: &Lease, _: &mut EngineThread<Command, ()>| Err(Fault::not_found("no such file"));
        assert_eq!(Runner::start("absent", lease, 1, body).await.unwrap_err().message, "no such file");
        let body = |_: &Lease, _: &mut EngineThread<Command, ()>| panic!("native trouble");
        let lease = ledger.lease(&crate::lease::tests::group(), &crate::lease::tests::role(), 10).unwrap();
        assert_eq!(Runner::start("broken", lease, 1, body).await.unwrap_err().code, Code::Internal);
    }
}

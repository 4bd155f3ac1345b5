//! What the models have in common: a thread that owns the model, questions that wait for it, and steps that answer some of
//! them.

use std::collections::VecDeque;
use std::fmt;

use tandem_engine::{Engine, EngineThread, Lease, Progress, Runner, engine_lost};
use tandem_types::Fault;
use tokio::sync::oneshot;

/// A loaded model.
pub(crate) trait Model {
    /// What it is asked.
    type Question: Send + 'static;
    /// What it answers.
    type Answer: Send + 'static;
    /// What it does, as an error says it: `listen for speech`.
    const DOES: &'static str;

    /// One answer for each question, in their order.
    fn answer(&mut self, questions: &[Self::Question]) -> ort::Result<Vec<Self::Answer>>;
}

/// A question, and where its answer goes.
pub(crate) struct Ask<Q, A> {
    question: Q,
    answer: oneshot::Sender<Result<A, Fault>>,
}

/// A handle to a model on a thread of its own, which is unloaded with the last clone.
pub(crate) struct Handle<Q, A>(Runner<Ask<Q, A>>);

impl<Q, A> Clone for Handle<Q, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q, A> fmt::Debug for Handle<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<Q: Send + 'static, A: Send + 'static> Handle<Q, A> {
    /// Has `load` load the model `name` on its thread. At most `batch` questions are answered in one step, and `queue` wait. The
    /// lease is given back when the model is gone.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) async fn load<M: Model<Question = Q, Answer = A>>(
        name: &str,
        lease: Lease,
        batch: usize,
        queue: usize,
        load: impl FnOnce() -> Result<M, Fault> + Send + 'static,
    ) -> Result<Self, Fault> {
        let body = move |_: &Lease, thread: &mut EngineThread<Ask<Q, A>, ()>| {
            thread.serve((), &mut Waiting { model: load()?, asks: VecDeque::new(), batch })
        };
        Runner::start(name, lease, queue, body).await.map(|(runner, ())| Self(runner))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// `internal` when the model fails; `unavailable`, `engine_lost`, when it is gone.
    pub(crate) async fn ask(&self, question: Q) -> Result<A, Fault> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask { question, answer }).await?;
        answered.await.map_err(|_| engine_lost())?
    }

    /// Unloads the model after its current step.
    ///
    /// # Errors
    /// Why it had ended before.
    pub(crate) async fn stop(&self) -> Result<(), Fault> {
        self.0.stop().await
    }
}

/// A model and the questions that wait for it.
struct Waiting<M: Model> {
    model: M,
    asks: VecDeque<Ask<M::Question, M::Answer>>,
    batch: usize,
}

impl<M: Model> Engine for Waiting<M> {
    type Command = Ask<M::Question, M::Answer>;

    fn accept(&mut self, command: Self::Command) {
        self.asks.push_back(command);
    }

    fn step(&mut self) -> Result<Progress, Fault> {
        self.asks.retain(|ask| !ask.answer.is_closed());
        let some = self.asks.drain(..self.batch.min(self.asks.len()));
        let (questions, askers): (Vec<_>, Vec<_>) = some.map(|ask| (ask.question, ask.answer)).unzip();
        if askers.is_empty() {
            return Ok(Progress::Idle);
        }
        let failed = |error: ort::Error| Fault::internal(format!("{}: {error}", M::DOES));
        let answers: Vec<Result<M::Answer, Fault>> = match self.model.answer(&questions).map_err(failed) {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(fault) => askers.iter().map(|_| Err(fault.clone())).collect(),
        };
        for (asker, answer) in askers.into_iter().zip(answers) {
            // Whoever left meanwhile does not want it any more.
            let _ = asker.send(answer);
        }
        Ok(if self.asks.is_empty() { Progress::Idle } else { Progress::Busy })
    }
}

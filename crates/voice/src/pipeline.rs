//! Stages in a row. Types make the order: a stage fits only where the tail's output is its input.
//!
//! ```compile_fail,E0271
//! # use tandem_voice::{Current, Frame, Outlet, Stage, pipeline, queue::{Bound, queue}};
//! struct Upper;
//! impl Stage for Upper {
//!     type In = String;
//!     type Out = String;
//!     fn name(&self) -> &'static str { "upper" }
//!     async fn step(&mut self, input: Frame<String>, out: &mut Outlet<'_, String>) -> Result<(), tandem_types::Fault> {
//!         out.send(input.payload.to_uppercase()).await;
//!         Ok(())
//!     }
//! }
//! let (_microphone, source) = queue::<Vec<i16>>(Bound::MICROPHONE, Current::new());
//! pipeline(Current::new(), source).then(Upper, Bound::TEXT); // sound is no text
//! ```

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::queue::{Bound, Policy, Receiver, Sent, queue};
use crate::{Current, Stage, stage};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A row of stages, of which the last one gives `T`. Whoever holds it owns all of its work.
pub struct Pipeline<T> {
    current: Current,
    tail: Receiver<T>,
    work: Vec<Work>,
}

/// Begins a pipeline with what comes out of a queue.
pub fn pipeline<T>(current: Current, source: Receiver<T>) -> Pipeline<T> {
    Pipeline { current, tail: source, work: Vec::new() }
}

impl<T: Send + 'static> Pipeline<T> {
    /// Puts a stage behind the last one. What it makes goes into a queue with this bound.
    #[must_use]
    pub fn then<S: Stage<In = T, Out: 'static> + 'static>(mut self, stage: S, bound: Bound) -> Pipeline<S::Out> {
        let (sender, tail) = queue(bound, self.current.clone());
        self.work.push(Box::pin(stage::run(stage, self.tail, sender, self.current.clone())));
        Pipeline { current: self.current, tail, work: self.work }
    }

    /// Lets a reader at the side have copies of what goes by. A reader that is too slow loses the oldest of its `capacity`
    /// copies, and one that has gone loses all; neither delays what goes by.
    #[must_use]
    pub fn tap(mut self, capacity: usize, bound: Bound) -> (Self, Receiver<T>)
    where
        T: Clone + Sync,
    {
        let (side, copies) = queue(Bound::new(Policy::DropOldest, capacity), self.current.clone());
        let (sender, tail) = queue(bound, self.current.clone());
        let mut source = self.tail;
        self.work.push(Box::pin(async move {
            while let Some(frame) = source.recv().await {
                side.try_send(frame.clone());
                if sender.send(frame).await == Sent::Closed {
                    return;
                }
            }
        }));
        (Self { current: self.current, tail, work: self.work }, copies)
    }

    /// The work, to be polled by one owner, and what comes out of the last stage. Dropping the work ends all of it.
    pub fn split(self) -> (Running, Receiver<T>) {
        (Running(self.work), self.tail)
    }
}

/// The work of all stages of a pipeline. It is over when the source has ended and all was worked on.
#[must_use = "stages work only while somebody polls this"]
pub struct Running(Vec<Work>);

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.retain_mut(|work| work.as_mut().poll(context).is_pending());
        if self.0.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;

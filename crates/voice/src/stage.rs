//! One step of a pipeline.

use std::future::Future;

use tandem_types::Fault;

use crate::queue::{Sender, Sent};
use crate::{Current, Frame, Moment, TurnNumber};

/// Does one thing to what comes by. It knows neither its neighbours nor the order they stand in.
///
/// A step is dropped in mid-work when its turn is over, so what it asked of others is cancelled. Work that blocks a thread
/// belongs on a thread of its own.
pub trait Stage: Send {
    /// What it takes.
    type In: Send;
    /// What it makes of it.
    type Out: Send;

    /// Its name in measurements.
    fn name(&self) -> &'static str;

    /// A newer turn begins: what is held of the older one is to be forgotten. The step before may have been cut off.
    fn begin(&mut self, turn: TurnNumber) {
        let _ = turn;
    }

    /// Works on one frame and gives out what it makes, nothing or much. An error ends the turn.
    fn step(
        &mut self,
        input: Frame<Self::In>,
        out: &mut Outlet<'_, Self::Out>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Where a stage puts what it makes. All of it is of the turn of the frame that was worked on.
#[derive(Debug)]
pub struct Outlet<'a, T> {
    pub(crate) turn: TurnNumber,
    pub(crate) at: Moment,
    pub(crate) queue: &'a Sender<T>,
    pub(crate) closed: &'a mut bool,
}

impl<T> Outlet<'_, T> {
    /// Gives out a payload, with the time of the frame that was worked on. Waits where the queue behind waits.
    pub async fn send(&mut self, payload: T) {
        let frame = Frame { turn: self.turn, at: self.at, payload };
        *self.closed |= self.queue.send(frame).await == Sent::Closed;
    }
}

/// Runs a stage until nothing comes any more, or nobody takes what it makes.
pub(crate) async fn run<S: Stage>(
    mut stage: S,
    mut input: crate::queue::Receiver<S::In>,
    queue: Sender<S::Out>,
    current: Current,
) {
    let (mut newest, mut closed) = (TurnNumber::NONE, false);
    while let Some(frame) = input.recv().await {
        let (turn, at) = (frame.turn, frame.at);
        if turn > newest {
            newest = turn;
            stage.begin(turn);
        }
        let mut out = Outlet { turn, at, queue: &queue, closed: &mut closed };
        let fault = tokio::select! {
            biased;
            () = current.outlived(turn) => continue,
            done = stage.step(frame, &mut out) => done.err(),
        };
        if let Some(fault) = fault {
            current.end(turn, fault);
        }
        if closed {
            return;
        }
    }
}

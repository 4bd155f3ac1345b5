//! Bounded queues of frames, each with a stated policy for when it is full. None hands out a frame of a stale turn.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{Current, Frame, TurnNumber};

/// What a full queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Lets go of its oldest frame and counts it, for a source that cannot wait: the microphone.
    DropOldest,
    /// Makes the sender wait, for what must not be lost: text.
    Wait,
    /// Makes the sender wait, and empties itself when a frame of a newer turn comes: sound for the loudspeaker.
    FlushedByTurn,
}

/// How a queue is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// What happens when it is full.
    pub policy: Policy,
    /// Frames it holds at most.
    pub capacity: NonZeroUsize,
}

impl Bound {
    /// For the microphone: 2 s of 20 ms frames, the pre-roll that is kept in memory.
    pub const MICROPHONE: Self = Self::new(Policy::DropOldest, 100);
    /// For transcripts and segments.
    pub const TEXT: Self = Self::new(Policy::Wait, 32);
    /// For the loudspeaker: pieces of at most 200 ms, of two sentences ahead.
    pub const SPEAKER: Self = Self::new(Policy::FlushedByTurn, 64);

    /// A queue that holds so many frames, one at least.
    pub const fn new(policy: Policy, capacity: usize) -> Self {
        let capacity = match NonZeroUsize::new(capacity) {
            Some(capacity) => capacity,
            None => NonZeroUsize::MIN,
        };
        Self { policy, capacity }
    }
}

/// What became of a frame that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the queue.
    Taken,
    /// Its turn is over.
    Stale,
    /// Nobody will read it.
    Closed,
}

/// Frames that a queue let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Because it was full.
    pub dropped: u64,
    /// Because their turn was over.
    pub stale: u64,
}

/// The queue without its waiting.
#[derive(Debug)]
struct Ring<T> {
    bound: Bound,
    frames: VecDeque<Frame<T>>,
    newest: TurnNumber,
    lost: Lost,
    closed: bool,
}

/// What became of a frame that was offered.
#[derive(Debug, PartialEq)]
enum Offer<T> {
    Is(Sent),
    Full(Frame<T>),
}

impl<T> Ring<T> {
    fn new(bound: Bound) -> Self {
        Self { bound, frames: VecDeque::new(), newest: TurnNumber::NONE, lost: Lost::default(), closed: false }
    }

    /// Whether a frame of this turn is still to be handed out.
    fn wants(&self, turn: TurnNumber, current: &Current) -> bool {
        current.lives(turn) && (self.bound.policy != Policy::FlushedByTurn || turn >= self.newest)
    }

    fn flush(&mut self, current: &Current) {
        let frames = std::mem::take(&mut self.frames);
        let before = frames.len();
        self.frames = frames.into_iter().filter(|frame| self.wants(frame.turn, current)).collect();
        self.lost.stale += (before - self.frames.len()) as u64;
    }

    fn offer(&mut self, frame: Frame<T>, current: &Current) -> Offer<T> {
        if self.closed {
            return Offer::Is(Sent::Closed);
        }
        if !self.wants(frame.turn, current) {
            self.lost.stale += 1;
            return Offer::Is(Sent::Stale);
        }
        self.newest = self.newest.max(frame.turn);
        self.flush(current);
        if self.frames.len() >= self.bound.capacity.get() {
            if self.bound.policy != Policy::DropOldest {
                return Offer::Full(frame);
            }
            self.frames.pop_front();
            self.lost.dropped += 1;
        }
        self.frames.push_back(frame);
        Offer::Is(Sent::Taken)
    }

    fn take(&mut self, current: &Current) -> Option<Frame<T>> {
        self.flush(current);
        self.frames.pop_front()
    }
}

#[derive(Debug)]
struct Shared<T> {
    ring: Mutex<Ring<T>>,
    current: Current,
    room: Notify,
    filled: Notify,
}

impl<T> Shared<T> {
    /// No code that holds the lock can be cut off in mid-change, so that a panic elsewhere leaves the ring whole.
    fn ring(&self) -> MutexGuard<'_, Ring<T>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.ring().closed = true;
        self.room.notify_one();
        self.filled.notify_one();
    }
}

/// The end of a queue that frames go into.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// The end of a queue that frames come out of.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue of frames of the turns that `current` tells of.
pub fn queue<T>(bound: Bound, current: Current) -> (Sender<T>, Receiver<T>) {
    let ring = Mutex::new(Ring::new(bound));
    let shared = Arc::new(Shared { ring, current, room: Notify::new(), filled: Notify::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts a frame in, and waits for room where the policy says so; not for longer than the frame's turn lives.
    pub async fn send(&self, mut frame: Frame<T>) -> Sent {
        let shared = &*self.0;
        let turn = frame.turn;
        loop {
            match self.offer(frame) {
                Offer::Is(sent) => return sent,
                Offer::Full(back) => frame = back,
            }
            tokio::select! {
                () = shared.room.notified() => {}
                () = shared.current.outlived(turn) => {}
            }
        }
    }

    /// Puts a frame in without waiting; `None` when the queue is full and its policy is to wait.
    pub fn try_send(&self, frame: Frame<T>) -> Option<Sent> {
        match self.offer(frame) {
            Offer::Is(sent) => Some(sent),
            Offer::Full(_) => None,
        }
    }

    fn offer(&self, frame: Frame<T>) -> Offer<T> {
        let offer = self.0.ring().offer(frame, &self.0.current);
        if matches!(offer, Offer::Is(Sent::Taken)) {
            self.0.filled.notify_one();
        }
        offer
    }

    /// What it let go of so far.
    pub fn lost(&self) -> Lost {
        self.0.ring().lost
    }
}

impl<T> Receiver<T> {
    /// The next frame of a turn that lives; `None` when the sender has gone and nothing is left.
    pub async fn recv(&mut self) -> Option<Frame<T>> {
        loop {
            let closed = self.0.ring().closed;
            if let Some(frame) = self.try_recv() {
                return Some(frame);
            }
            if closed {
                return None;
            }
            self.0.filled.notified().await;
        }
    }

    /// The next frame of a turn that lives, if there is one now. Does not wait, for the loudspeaker's own clock.
    pub fn try_recv(&mut self) -> Option<Frame<T>> {
        let frame = self.0.ring().take(&self.0.current);
        self.0.room.notify_one();
        frame
    }

    /// What the queue let go of so far.
    pub fn lost(&self) -> Lost {
        self.0.ring().lost
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

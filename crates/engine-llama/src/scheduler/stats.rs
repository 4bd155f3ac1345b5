//! Numbers the scheduler's thread keeps and others read.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tandem_engine::{GeneratorLoad, TokenCounts};
use tandem_types::Timestamp;

/// What an engine has done since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Slots at work and requests waiting, now.
    pub load: GeneratorLoad,
    /// Tokens of prompts, kept ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens whose state was kept, so that they were not read again.
    pub reused_tokens: u64,
    /// Tokens written.
    pub written_tokens: u64,
    /// Answers that came to their end.
    pub answers: u64,
    /// Answers whose reader left before the end.
    pub cancelled: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Steps computed, and the time they took.
    pub steps: u64,
    /// Time spent computing.
    pub computing: Duration,
    /// When the last answer came to its end; none before the first.
    pub last_answer: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    busy: AtomicU32,
    waiting: AtomicU32,
    prompt: AtomicU64,
    reused: AtomicU64,
    written: AtomicU64,
    answers: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    steps: AtomicU64,
    computing_ns: AtomicU64,
    last_answer_us: AtomicI64,
}

// Plain counters that guard nothing else.
const ORDER: Ordering = Ordering::Relaxed;

impl Shared {
    pub(crate) fn read(&self) -> EngineStats {
        let last = self.last_answer_us.load(ORDER);
        EngineStats {
            load: self.load(),
            prompt_tokens: self.prompt.load(ORDER),
            reused_tokens: self.reused.load(ORDER),
            written_tokens: self.written.load(ORDER),
            answers: self.answers.load(ORDER),
            cancelled: self.cancelled.load(ORDER),
            refused: self.refused.load(ORDER),
            steps: self.steps.load(ORDER),
            computing: Duration::from_nanos(self.computing_ns.load(ORDER)),
            last_answer: (last != 0).then_some(Timestamp(last)),
        }
    }

    pub(crate) fn load(&self) -> GeneratorLoad {
        // A request is in both for a moment rather than in neither, so that "idle" is never seen too early.
        GeneratorLoad { waiting: self.waiting.load(Ordering::SeqCst), busy: self.busy.load(Ordering::SeqCst) }
    }

    pub(super) fn set_load(&self, busy: usize, waiting: usize) {
        self.busy.store(u32::try_from(busy).unwrap_or(u32::MAX), Ordering::SeqCst);
        self.waiting.store(u32::try_from(waiting).unwrap_or(u32::MAX), Ordering::SeqCst);
    }

    pub(super) fn answered(&self, tokens: TokenCounts, at: Timestamp) {
        self.count(tokens);
        self.answers.fetch_add(1, ORDER);
        self.last_answer_us.store(at.micros(), ORDER);
    }

    pub(super) fn cancelled(&self, tokens: TokenCounts) {
        self.count(tokens);
        self.cancelled.fetch_add(1, ORDER);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, ORDER);
    }

    pub(super) fn stepped(&self, took: Duration) {
        self.steps.fetch_add(1, ORDER);
        self.computing_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), ORDER);
    }

    fn count(&self, tokens: TokenCounts) {
        self.prompt.fetch_add(u64::from(tokens.prompt), ORDER);
        self.reused.fetch_add(u64::from(tokens.reused), ORDER);
        self.written.fetch_add(u64::from(tokens.written), ORDER);
    }
}

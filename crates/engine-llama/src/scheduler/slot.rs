//! A slot: the state of one conversation, and the request it works on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use tandem_engine::{FinishReason, Finished, Sampling, TextSink, TokenCounts};
use tandem_types::Fault;
use tokio::sync::oneshot;

use crate::adapters::Adapter;
use crate::text::TextGate;

/// A request on its way to a slot.
pub(crate) struct Job {
    pub(crate) prompt: Vec<LlamaToken>,
    pub(crate) sampling: Sampling,
    /// Most tokens to write; prompt and answer together fit the context.
    pub(crate) most: u32,
    pub(crate) stop: Vec<String>,
    pub(crate) session: Option<String>,
    pub(crate) priority: u8,
    pub(crate) adapter: Option<Arc<Adapter>>,
    pub(crate) sink: TextSink,
}

impl Job {
    /// The number of its adapter.
    pub(super) fn adapter(&self) -> Option<u64> {
        self.adapter.as_ref().map(|adapter| adapter.number)
    }
}

/// A request, and who hears whether it was taken.
pub(crate) struct Ask {
    pub(crate) job: Job,
    pub(crate) admitted: oneshot::Sender<Result<(), Fault>>,
}

/// A request that waits for a slot.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) arrived: Instant,
}

/// The state of one conversation.
#[derive(Default)]
pub(super) struct Slot {
    /// Prompt and answer; of these the first `fed` are in the model's memory.
    pub(super) tokens: Vec<LlamaToken>,
    pub(super) fed: usize,
    pub(super) session: Option<String>,
    /// The adapter they were and will be computed with.
    pub(super) adapter: Option<u64>,
    pub(super) used: u64,
    pub(super) work: Option<Work>,
}

/// The request a slot works on.
pub(super) struct Work {
    pub(super) sink: TextSink,
    pub(super) since: u64,
    pub(super) priority: u8,
    sampler: LlamaSampler,
    gate: TextGate,
    most: u32,
    counts: TokenCounts,
    arrived: Instant,
    placed: Instant,
    first: Option<Instant>,
}

/// What a new token means.
pub(super) enum Next {
    Continue,
    End(Finished),
}

impl Slot {
    /// Tokens in the model's memory.
    pub(super) fn kept(&self) -> &[LlamaToken] {
        &self.tokens[..self.fed]
    }

    /// Tokens to be computed before the next can be chosen.
    pub(super) fn todo(&self) -> &[LlamaToken] {
        &self.tokens[self.fed..]
    }

    /// Takes up a request of whose prompt the first `reuse` tokens are in memory.
    pub(super) fn start(&mut self, waiting: Waiting, sampler: LlamaSampler, reuse: usize, turn: u64) {
        let Waiting { job, arrived } = waiting;
        self.adapter = job.adapter();
        let counted = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        self.work = Some(Work {
            sink: job.sink,
            since: turn,
            priority: job.priority,
            sampler,
            gate: TextGate::new(job.stop),
            most: job.most,
            counts: TokenCounts { prompt: counted(job.prompt.len()), reused: counted(reuse), written: 0 },
            arrived,
            placed: Instant::now(),
            first: None,
        });
        self.tokens = job.prompt;
        self.fed = reuse;
        self.session = job.session;
        self.used = turn;
    }

    /// Ends the work, keeping what is in memory for the next turn.
    pub(super) fn release(&mut self) -> Option<Work> {
        self.tokens.truncate(self.fed);
        self.work.take()
    }
}

impl Work {
    pub(super) fn writing(&self) -> bool {
        self.counts.written > 0
    }

    pub(super) fn counts(&self) -> TokenCounts {
        self.counts
    }

    pub(super) fn sampler(&mut self) -> &mut LlamaSampler {
        &mut self.sampler
    }

    /// Takes a token the model chose: sends what text is certain, and says whether the answer goes on. `piece` is the
    /// token's text, none when it ends the turn.
    pub(super) fn take(&mut self, piece: Option<&[u8]>) -> Next {
        self.first.get_or_insert_with(Instant::now);
        self.counts.written += 1;
        let Some(piece) = piece else { return self.end(FinishReason::Stop) };
        let (text, stopped) = self.gate.push(piece);
        self.sink.text(text);
        if stopped {
            self.gate = TextGate::default();
            return self.end(FinishReason::Stop);
        }
        if self.counts.written >= self.most { self.end(FinishReason::Length) } else { Next::Continue }
    }

    fn end(&mut self, reason: FinishReason) -> Next {
        self.sink.text(self.gate.finish());
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        let span = |from: Instant, to: Instant| to.checked_duration_since(from).unwrap_or(Duration::ZERO);
        Next::End(Finished {
            reason,
            tokens: self.counts,
            waited: span(self.arrived, self.placed),
            prompt: span(self.placed, first),
            writing: span(first, now),
        })
    }
}

//! Continuous batching: every step computes one token for each slot that writes and some of the prompts that are being
//! read, all in one pass over the weights.

mod held;
mod memory;
mod slot;
mod stats;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::SeqState;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tandem_engine::{Engine, Finished, Lease, Progress};
use tandem_types::{Code, Fault, reason};

use crate::logic::{Candidate, CopyRule, Demand, Pace, Rota, Shelf, next_waiting, place, retry_after, share};
use crate::machine::resident_bytes;
use crate::model::Loaded;
use crate::sampler::sampler;
use held::Held;
pub(crate) use slot::{Ask, Job};
use slot::{Next, Slot, Waiting};
pub use stats::EngineStats;
pub(crate) use stats::Shared;

/// The engine on its thread.
pub(crate) struct Scheduler<'m> {
    loaded: &'m Loaded,
    lease: &'m Lease,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    batch_tokens: usize,
    slots: Vec<Slot>,
    waiting: Vec<Waiting>,
    queue: usize,
    copy: CopyRule,
    /// Conversations that lost their slot.
    shelf: Shelf<LlamaToken, SeqState>,
    pace: Pace,
    held: Held<'m>,
    rota: Rota<Option<u64>>,
    /// Time an answer takes from its slot to its end, the later ones counting more.
    answer_time: Duration,
    turn: u64,
    shared: Arc<Shared>,
}

impl<'m> Scheduler<'m> {
    pub(crate) fn new(
        loaded: &'m Loaded,
        lease: &'m Lease,
        context: LlamaContext<'m>,
        slots: usize,
        queue: usize,
        shared: Arc<Shared>,
    ) -> Self {
        let batch_tokens = context.n_batch() as usize;
        let context_tokens = context.n_ctx() as usize / slots.max(1);
        // A copy moves a slot's whole memory, whatever is in it; reading as many tokens as this takes longer.
        let copy = match loaded.model.is_recurrent() || loaded.model.is_hybrid() {
            true => CopyRule::OwnOnly,
            false => CopyRule::Gain((context_tokens / 128).max(16)),
        };
        Self {
            loaded,
            lease,
            context,
            batch: LlamaBatch::new(batch_tokens, 1),
            batch_tokens,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            waiting: Vec::new(),
            queue,
            copy,
            shelf: Shelf::new(loaded.kept_bytes),
            pace: Pace::default(),
            held: Held::new(&loaded.model, slots),
            rota: Rota::new(),
            answer_time: Duration::from_secs(1),
            turn: 0,
            shared,
        }
    }

    fn busy(&self) -> usize {
        self.slots.iter().filter(|slot| slot.work.is_some()).count()
    }

    fn publish_load(&self) {
        self.shared.set_load(self.busy(), self.waiting.len());
    }

    /// Frees the slots and places of readers who left.
    fn drop_cancelled(&mut self) {
        for slot in &mut self.slots {
            if slot.work.as_ref().is_some_and(|work| work.sink.is_closed())
                && let Some(work) = slot.release()
            {
                self.shared.cancelled(work.counts());
            }
        }
        self.waiting.retain(|waiting| {
            let gone = waiting.job.sink.is_closed();
            if gone {
                self.shared.cancelled(Default::default());
            }
            !gone
        });
    }

    /// Gives free slots to those who wait.
    fn place_waiting(&mut self) -> Result<(), Fault> {
        while self.busy() < self.slots.len() {
            let ages: Vec<_> = self.waiting.iter().map(|w| (w.job.priority, w.arrived.elapsed())).collect();
            let Some(next) = next_waiting(&ages) else { break };
            let waiting = self.waiting.swap_remove(next);
            if let Err(fault) = self.hold_adapter(&waiting.job) {
                self.shared.refused();
                waiting.job.sink.fail(fault);
                continue;
            }
            let candidates: Vec<_> = self
                .slots
                .iter()
                .map(|slot| Candidate {
                    busy: slot.work.is_some(),
                    kept: slot.kept(),
                    session: slot.session.as_deref(),
                    used: slot.used,
                    fits: slot.adapter == waiting.job.adapter(),
                })
                .collect();
            // Kept state was computed in other batches, which changes the last digits, and a seed promises the same.
            let rule = if waiting.job.sampling.seed.is_some() { CopyRule::NoReuse } else { self.copy };
            let job = &waiting.job;
            let Some(placed) = place(&candidates, &job.prompt, job.session.as_deref(), rule) else { break };
            let reuse = self.prepare(placed, rule, &waiting.job)?;
            let job = &waiting.job;
            let sampler = sampler(&job.sampling, self.loaded.model.n_vocab(), &job.prompt);
            self.turn += 1;
            self.slots[placed.slot].start(waiting, sampler, reuse, self.turn);
        }
        Ok(())
    }

    /// Has the adapter of a request in memory.
    fn hold_adapter(&mut self, job: &Job) -> Result<(), Fault> {
        let Some(adapter) = &job.adapter else { return Ok(()) };
        let slots = &self.slots;
        let in_use = |number| slots.iter().any(|slot| slot.work.is_some() && slot.adapter == Some(number));
        self.held.hold(adapter, in_use, &mut self.context)
    }

    /// Computes one step of those with the same adapter and hands out the tokens it gave.
    fn compute(&mut self) -> Result<(), Fault> {
        let working = || self.slots.iter().filter_map(|slot| Some((slot, slot.work.as_ref()?)));
        let asking: Vec<_> = working().map(|(slot, work)| (slot.adapter, work.priority)).collect();
        let Some(adapter) = self.rota.next(&asking) else { return Ok(()) };
        let hurried = working().any(|(slot, work)| slot.adapter != adapter && work.writing());
        let changed = self.held.lay(adapter, &mut self.context)?;
        let mine = |slot: &Slot| slot.work.is_some() && slot.adapter == adapter;
        let active: Vec<usize> = (0..self.slots.len()).filter(|&i| mine(&self.slots[i])).collect();
        let demands: Vec<_> = active
            .iter()
            .filter_map(|&i| {
                let work = self.slots[i].work.as_ref()?;
                Some(Demand {
                    todo: self.slots[i].todo().len(),
                    writing: work.writing(),
                    priority: work.priority,
                    since: work.since,
                })
            })
            .collect();
        let shares = share(&demands, self.batch_tokens, self.pace.per_token(), hurried);

        self.batch.clear();
        // Where in the batch the row of logits of a slot is.
        let mut rows = Vec::new();
        for (&i, &tokens) in active.iter().zip(&shares) {
            let slot = &self.slots[i];
            for (n, token) in slot.todo()[..tokens].iter().enumerate() {
                let last = n + 1 == slot.todo().len();
                if last {
                    rows.push((i, self.batch.n_tokens()));
                }
                let position = i32::try_from(slot.fed + n).unwrap_or(i32::MAX);
                self.batch
                    .add(*token, position, &[seq(i) as i32], last)
                    .map_err(|e| Fault::internal(format!("fill a batch: {e}")))?;
            }
        }
        let start = Instant::now();
        self.context.decode(&mut self.batch).map_err(|e| Fault::internal(format!("compute a step: {e}")))?;
        self.context.synchronize();
        let took = start.elapsed();
        self.shared.stepped(took);
        self.rota.took(took);
        if !changed {
            self.pace.learn(shares.iter().sum(), took);
        }
        for (&i, &tokens) in active.iter().zip(&shares) {
            self.slots[i].fed += tokens;
        }
        for (i, row) in rows {
            self.choose(i, row);
        }
        Ok(())
    }

    /// Chooses the next token of a slot from a row of logits.
    fn choose(&mut self, i: usize, row: i32) {
        let vocabulary = self.loaded.model.vocab();
        let slot = &mut self.slots[i];
        let Some(work) = slot.work.as_mut() else { return };
        let token = work.sampler().sample(&self.context, row);
        let piece = (!vocabulary.is_eog(token)).then(|| vocabulary.token_to_piece(token, false, None));
        match work.take(piece.as_deref()) {
            Next::Continue => slot.tokens.push(token),
            Next::End(finished) => self.finish(i, finished),
        }
    }

    fn finish(&mut self, i: usize, finished: Finished) {
        let Some(work) = self.slots[i].release() else { return };
        self.answer_time = (self.answer_time * 4 + finished.prompt + finished.writing) / 5;
        self.shared.answered(finished.tokens, SystemTime::now().into());
        self.lease.report(resident_bytes());
        // Whoever sees the end must not find the slot still busy.
        self.publish_load();
        work.sink.finish(finished);
    }
}

fn seq(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

impl Engine for Scheduler<'_> {
    type Command = Ask;

    fn accept(&mut self, Ask { job, admitted }: Ask) {
        // Who left since the last step holds no place any more.
        self.drop_cancelled();
        let room = self.queue + self.slots.len() - self.busy();
        if self.waiting.len() >= room {
            self.shared.refused();
            let message = format!("{} requests wait for {} already", self.waiting.len(), self.loaded.name);
            let after = retry_after(self.slots.len(), self.answer_time);
            let fault = Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, message).retry_after(after);
            drop(admitted.send(Err(fault)));
            return;
        }
        self.waiting.push(Waiting { job, arrived: Instant::now() });
        self.publish_load();
        // The caller may have left; its place is cleared with the next step.
        let _ = admitted.send(Ok(()));
    }

    fn step(&mut self) -> Result<Progress, Fault> {
        self.drop_cancelled();
        self.place_waiting()?;
        self.publish_load();
        if self.busy() == 0 {
            return Ok(Progress::Idle);
        }
        self.compute()?;
        self.publish_load();
        Ok(Progress::Busy)
    }
}

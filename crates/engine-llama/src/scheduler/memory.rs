//! What is in the memory of a slot when a request begins: its own state, that of another slot, or one off the shelf.

use std::time::Instant;

use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use tandem_types::Fault;

use super::slot::Job;
use super::{Scheduler, seq};
use crate::logic::{CopyRule, Placement};

/// All of a conversation's state.
const WHOLE: LlamaStateSeqFlags = LlamaStateSeqFlags::empty();

impl Scheduler<'_> {
    /// Makes a slot's memory hold as many tokens of the prompt as can be had without reading them, and nothing else; how
    /// many it holds in the end. A conversation that loses the slot to another one goes to the shelf.
    pub(super) fn prepare(&mut self, placed: Placement, rule: CopyRule, job: &Job) -> Result<usize, Fault> {
        self.shelf.drop_old(Instant::now());
        let kept = match rule {
            CopyRule::Gain(gain) => {
                let found = self.shelf.find(&job.prompt, job.session.as_deref(), job.adapter());
                found.filter(|(_, saved)| *saved >= placed.reuse + gain.max(1))
            }
            CopyRule::NoReuse | CopyRule::OwnOnly => None,
        };
        // Taken off before anything is put there, which could push it out.
        let kept = kept.map(|(place, saved)| (self.shelf.take(place), saved));
        self.put_away(placed, job);
        match kept {
            Some((state, saved)) => self.bring_back(placed.slot, &state, saved),
            None => self.reuse(placed),
        }
    }

    /// Keeps what a slot holds of a conversation, if that conversation is about to lose it.
    fn put_away(&mut self, placed: Placement, job: &Job) {
        // A state that cannot go back by a few tokens would fit no later prompt.
        let CopyRule::Gain(gain) = self.copy else { return };
        let slot = &self.slots[placed.slot];
        let stays = if placed.copy_from.is_none() { placed.reuse } else { 0 };
        let Some(session) = slot.session.as_deref().filter(|session| job.session.as_deref() != Some(*session)) else {
            return;
        };
        let id = seq(placed.slot) as i32;
        if slot.kept().len() < stays + gain.max(1) {
            return;
        }
        let bytes = self.context.state_seq_get_size_ext(id, WHOLE);
        if !self.shelf.takes(bytes) {
            return;
        }
        match self.context.state_seq_get(id, WHOLE) {
            Ok(state) => {
                self.shelf.put((session, slot.adapter), slot.kept().to_vec(), state, bytes, Instant::now());
            }
            Err(error) => tracing::warn!(%error, "the state of a conversation could not be kept"),
        }
    }

    fn bring_back(&mut self, slot: usize, state: &SeqState, saved: usize) -> Result<usize, Fault> {
        let id = seq(slot);
        self.clear(id, None)?;
        match self.context.state_seq_set(state, id as i32) {
            Ok(()) => self.trim(id, saved),
            Err(error) => {
                // It costs reading the prompt, nothing else.
                tracing::warn!(%error, "the kept state of a conversation could not be brought back");
                self.clear(id, None).map(|_| 0)
            }
        }
    }

    fn reuse(&mut self, placed: Placement) -> Result<usize, Fault> {
        let (id, from) = (seq(placed.slot), placed.copy_from.map(seq));
        if let Some(from) = from {
            self.context.copy_kv_cache_seq(from as i32, id as i32, None, None).map_err(|e| failed(&e))?;
        }
        self.trim(id, placed.reuse)
    }

    /// Leaves the first `keep` tokens in a slot's memory, or none where the model cannot go back.
    fn trim(&mut self, id: u32, keep: usize) -> Result<usize, Fault> {
        let from = u32::try_from(keep).map_err(|e| failed(&e))?;
        if self.clear(id, Some(from))? {
            return Ok(keep);
        }
        // Models whose state is not one entry for each token cannot go back by a few tokens.
        self.clear(id, None).map(|_| 0)
    }

    /// Takes everything out of a slot's memory from a position on; false where the model cannot.
    fn clear(&mut self, id: u32, from: Option<u32>) -> Result<bool, Fault> {
        self.context.clear_kv_cache_seq(Some(id), from, None).map_err(|e| failed(&e))
    }
}

fn failed(error: &dyn std::fmt::Display) -> Fault {
    Fault::internal(format!("prepare a slot's memory: {error}"))
}

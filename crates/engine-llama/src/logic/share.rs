//! How many tokens of whom go into the next step.

use std::time::Duration;

/// A busy slot as far as a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Tokens it has to compute before the next can be chosen; one while it writes.
    pub(crate) todo: usize,
    /// It writes; otherwise it still reads its prompt.
    pub(crate) writing: bool,
    /// 1 before 10.
    pub(crate) priority: u8,
    /// When it got its slot, as a growing number.
    pub(crate) since: u64,
}

/// While somebody writes, reading others' prompts may hold a step up for about so long: a stream then still moves
/// faster than anybody reads, and a prompt is read at nine tenths of its full speed.
const STALL: Duration = Duration::from_millis(150);
/// Fewer tokens at a time are read at half the speed or less.
pub(crate) const LEAST_READ: usize = 16;
/// While nobody writes a step lasts about so long at most. Who leaves, or comes with something more urgent, waits for
/// its end.
const LONGEST: Duration = Duration::from_secs(1);
/// More tokens at a time are read hardly faster, so a slow machine's steps are no shorter than these.
const ENOUGH: usize = 128;

/// Tokens for each slot in the next step, `batch` at most in all.
///
/// Writers come first with one token each. Then the first reader by priority, then admission, has its whole prompt or one
/// of equal pieces that take about 150 ms each at `per_token` while somebody writes, here or (`hurried`) in other steps,
/// so that a long prompt does not stall streams; else about a second. Other readers have what is left of that time if
/// their whole prompts fit: llama.cpp computes a step in passes in which each sequence has as many tokens
/// (`llama_batch_allocr::split_equal`), so a piece of another prompt would cost a pass without ending one.
pub(crate) fn share(demands: &[Demand], batch: usize, per_token: Option<Duration>, hurried: bool) -> Vec<usize> {
    let mut shares = vec![0; demands.len()];
    let mut left = batch;
    for (share, _) in shares.iter_mut().zip(demands).filter(|(_, d)| d.writing && d.todo > 0) {
        *share = left.min(1);
        left -= *share;
    }
    let budget = match left < batch || hurried {
        true => tokens_in(STALL, per_token).max(LEAST_READ),
        false => tokens_in(LONGEST, per_token).max(ENOUGH),
    }
    .min(left);
    let mut readers: Vec<usize> = (0..demands.len()).filter(|&i| !demands[i].writing).collect();
    readers.sort_by_key(|&i| (demands[i].priority, demands[i].since));
    let mut readers = readers.into_iter();
    let Some(first) = readers.next() else { return shares };
    shares[first] = piece(demands[first].todo, budget, left);
    let mut room = budget.saturating_sub(shares[first]);
    for i in readers {
        if demands[i].todo <= room {
            shares[i] = demands[i].todo;
            room -= shares[i];
        }
    }
    shares
}

/// The next of equal pieces of about `budget` tokens, `most` at most.
fn piece(todo: usize, budget: usize, most: usize) -> usize {
    let pieces = (todo + budget / 2).checked_div(budget).unwrap_or(1).max(1);
    todo.div_ceil(pieces).min(most)
}

fn tokens_in(time: Duration, per_token: Option<Duration>) -> usize {
    let fit = match per_token {
        Some(cost) if !cost.is_zero() => time.as_nanos() / cost.as_nanos(),
        _ => 0,
    };
    usize::try_from(fit).unwrap_or(usize::MAX)
}

/// What a token costs to read, learned from the steps so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    per_token: Option<Duration>,
}

impl Pace {
    /// Time to read a token; none before the first step that read enough to tell.
    pub(crate) fn per_token(self) -> Option<Duration> {
        self.per_token
    }

    /// Learns from a step of so many tokens, the later steps counting more.
    pub(crate) fn learn(&mut self, tokens: usize, took: Duration) {
        let Some(tokens) = u32::try_from(tokens).ok().filter(|n| *n as usize >= LEAST_READ) else { return };
        let seen = took / tokens;
        self.per_token = Some(self.per_token.map_or(seen, |old| (old * 4 + seen) / 5));
    }
}

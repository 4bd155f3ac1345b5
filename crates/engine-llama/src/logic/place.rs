//! Which slot a request gets, and what it need not read again.

use std::cmp::Reverse;

/// A slot as far as placing a request goes.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a, T> {
    /// It works on a request.
    pub(crate) busy: bool,
    /// Tokens whose state it holds, from the first position on.
    pub(crate) kept: &'a [T],
    /// The conversation they belong to.
    pub(crate) session: Option<&'a str>,
    /// They were read with the adapter of the request that is to be placed.
    pub(crate) fits: bool,
    /// Grows with every use.
    pub(crate) used: u64,
}

/// Whether state may be taken from other slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyRule {
    /// Every prompt is read from its first token.
    NoReuse,
    /// A slot goes on from its own state only.
    OwnOnly,
    /// State of another slot is copied when it saves so many tokens of reading.
    Gain(usize),
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The slot.
    pub(crate) slot: usize,
    /// The slot whose state is copied first.
    pub(crate) copy_from: Option<usize>,
    /// Tokens of the prompt whose state is there afterwards; always fewer than the prompt has, because the last one
    /// must be read to know what comes after it.
    pub(crate) reuse: usize,
}

pub(super) fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Chooses a free slot for a prompt.
///
/// First the slot of the same conversation, then one whose state this prompt goes on from, then an empty one, then the
/// one unused for longest. A slot counts as gone on from when at least half of its state stays of use, so that a shared
/// system prompt alone does not cost another conversation its state: that is copied instead.
pub(crate) fn place<T: PartialEq>(
    slots: &[Candidate<'_, T>],
    prompt: &[T],
    session: Option<&str>,
    rule: CopyRule,
) -> Option<Placement> {
    let most = prompt.len().saturating_sub(1);
    let shared = |slot: &Candidate<'_, T>| match rule {
        CopyRule::NoReuse => 0,
        _ if !slot.fits => 0,
        _ => common_prefix(slot.kept, prompt).min(most),
    };
    let rank = |i: &usize| {
        let slot = &slots[*i];
        let own = shared(slot);
        let continues = own > 0 && own * 2 >= slot.kept.len();
        let same = own > 0 && session.is_some() && slot.session == session;
        (same, if continues { own } else { 0 }, slot.kept.is_empty(), Reverse(slot.used), Reverse(*i))
    };
    let slot = (0..slots.len()).filter(|i| !slots[*i].busy).max_by_key(rank)?;
    let own = shared(&slots[slot]);
    let copy = match rule {
        CopyRule::Gain(gain) => (0..slots.len())
            .filter(|i| *i != slot)
            .map(|i| (shared(&slots[i]), i))
            .max_by_key(|(tokens, i)| (*tokens, Reverse(*i)))
            .filter(|(tokens, _)| *tokens >= own + gain.max(1)),
        _ => None,
    };
    Some(match copy {
        Some((reuse, from)) => Placement { slot, copy_from: Some(from), reuse },
        None => Placement { slot, copy_from: None, reuse: own },
    })
}

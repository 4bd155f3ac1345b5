//! Tickets that were given: who holds one for which model, until when, and how many are out.

use std::collections::HashMap;
use std::time::Duration;

use tandem_types::{Fault, Role, Timestamp};

/// Tickets stay known for this long after their end, so that their use can still be recorded.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A ticket untouched for this long is kept for later, not in use; an answer that takes longer shows as a busy slot.
const FRESH: Duration = Duration::from_secs(30);

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// The model it is for.
    pub(super) model: String,
    /// The role that was asked for.
    pub(super) role: Role,
    /// Who asked.
    pub(super) holder: String,
    /// When it ends.
    pub(super) expires: Timestamp,
    /// When it was given or its use was last recorded.
    pub(super) touched: Timestamp,
    /// Given back, or its time is over.
    over: bool,
}

impl Held {
    /// A ticket given at `now`.
    pub(super) fn new(model: String, role: Role, holder: String, expires: Timestamp, now: Timestamp) -> Self {
        Self { model, role, holder, expires, touched: now, over: false }
    }

    /// Out, and about to be used: given or used a moment ago.
    fn is_busy(&self, now: Timestamp) -> bool {
        !self.over && now.since(self.touched) < FRESH
    }
}

/// All tickets. Those that ended are remembered for a while, but never more than may be out.
#[derive(Debug)]
pub(super) struct Tickets {
    held: HashMap<String, Held>,
    out: usize,
    most: usize,
}

impl Tickets {
    /// None yet; at most `most` may be out.
    pub(super) fn new(most: usize) -> Self {
        Self { held: HashMap::new(), out: 0, most }
    }

    /// Whether no further one may be given.
    pub(super) fn all_out(&mut self, now: Timestamp) -> bool {
        if self.out >= self.most {
            self.expire(now);
        }
        self.out >= self.most
    }

    /// Gives a ticket.
    pub(super) fn give(&mut self, id: String, ticket: Held) {
        if self.held.len() >= 2 * self.most {
            self.held.retain(|_, held| !held.over);
        }
        self.out += 1;
        self.held.insert(id, ticket);
    }

    /// Takes a ticket back, once or more often; its model.
    ///
    /// # Errors
    /// `not_found` for a ticket that nobody knows any more.
    pub(super) fn take_back(&mut self, id: &str) -> Result<&str, Fault> {
        let held = self.held.get_mut(id).ok_or_else(|| unknown(id))?;
        self.out -= usize::from(!std::mem::replace(&mut held.over, true));
        Ok(&held.model)
    }

    /// Notes that a ticket was used; also one that has ended.
    ///
    /// # Errors
    /// As for [`take_back`](Self::take_back).
    pub(super) fn touch(&mut self, id: &str, now: Timestamp) -> Result<&Held, Fault> {
        let held = self.held.get_mut(id).ok_or_else(|| unknown(id))?;
        held.touched = now;
        Ok(held)
    }

    /// Ends and forgets all tickets for a model.
    pub(super) fn end(&mut self, model: &str) {
        let out = &mut self.out;
        self.held.retain(|_, held| {
            let stays = held.model != model;
            *out -= usize::from(!stays && !held.over);
            stays
        });
    }

    /// Ends tickets whose time is over and forgets those that ended long ago.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let out = &mut self.out;
        self.held.retain(|_, held| {
            if held.expires <= now {
                *out -= usize::from(!std::mem::replace(&mut held.over, true));
            }
            now < held.expires + REMEMBERED
        });
    }

    /// Whether a model is in use just now.
    pub(super) fn busy(&self, model: &str, now: Timestamp) -> bool {
        self.held.values().any(|held| held.model == model && held.is_busy(now))
    }

    /// Who uses a model just now, by name and once each.
    pub(super) fn users(&self, model: &str, now: Timestamp) -> Vec<&str> {
        let busy = self.held.values().filter(|held| held.model == model && held.is_busy(now));
        let mut users: Vec<&str> = busy.map(|held| held.holder.as_str()).collect();
        users.sort_unstable();
        users.dedup();
        users
    }
}

fn unknown(id: &str) -> Fault {
    Fault::not_found(format!("no ticket `{id}`: it ended, or its engine did; ask for another with Acquire"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Give(usize, u64),
        TakeBack(usize),
        End(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..3usize, 1..100u64).prop_map(|(model, life)| Step::Give(model, life)),
            2 => (0..40usize).prop_map(Step::TakeBack),
            1 => (0..3usize).prop_map(Step::End),
            1 => (1..500u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The count of tickets that are out is always the count, and what is remembered is bounded.
        #[test]
        fn the_count_is_right(steps in prop::collection::vec(step(), 0..120)) {
            let mut tickets = Tickets::new(8);
            let (mut now, mut number) = (Timestamp::from_secs(0), 0);
            for step in steps {
                match step {
                    Step::Give(model, life) => if !tickets.all_out(now) {
                        let role: Role = "llm.tiny".parse().unwrap();
                        let expires = now + Duration::from_secs(life);
                        tickets.give(number.to_string(), Held::new(model.to_string(), role, String::new(), expires, now));
                        number += 1;
                    },
                    Step::TakeBack(id) => drop(tickets.take_back(&id.to_string())),
                    Step::End(model) => tickets.end(&model.to_string()),
                    Step::Wait(seconds) => {
                        now = now + Duration::from_secs(seconds);
                        tickets.expire(now);
                    }
                }
                prop_assert_eq!(tickets.out, tickets.held.values().filter(|held| !held.over).count());
                prop_assert!(tickets.out <= 8 && tickets.held.len() <= 16);
            }
        }
    }
}

//! "What if I add this load?": what the answer is.

use std::collections::VecDeque;
use std::time::Duration;

use tandem_store::reservations::Resource;

use crate::load::weighing::{Basis, Limits, Outcome, Verdict, weigh};

/// What memory and video memory may be filled to before more is denied, and processor and disk before it is a risk.
pub(super) const LIMITS: Limits = Limits { ram: 0.90, vram: 0.95, cpu: 0.90, disk: 0.90 };

/// What adding `asked` for `duration` would lead to.
pub(super) fn simulate(resource: Resource, basis: &Basis, asked: f64, duration: Duration, limits: &Limits) -> Outcome {
    let over = match resource {
        Resource::Ram | Resource::Vram => Verdict::Deny,
        Resource::Cpu | Resource::Disk => Verdict::Caution,
    };
    weigh(resource, basis, asked, Some(basis.slope * duration.as_secs_f64()), limits, over)
}

/// Ids of the latest events, so that one delivered twice is taken once.
#[derive(Debug)]
pub(super) struct Seen {
    ids: VecDeque<String>,
    most: usize,
}

impl Seen {
    /// Remembers the latest `most` ids.
    pub(super) fn new(most: usize) -> Self {
        Self { ids: VecDeque::new(), most }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.iter().any(|seen| seen == id)
    }

    pub(super) fn insert(&mut self, id: String) {
        self.ids.push_back(id);
        if self.ids.len() > self.most {
            self.ids.pop_front();
        }
    }
}

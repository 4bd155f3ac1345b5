//! Who runs next. Pure: time is handed in.
//!
//! A smaller number goes first, 1 to 10. Audio begins with 1, text 2, vision 3, background 5; the person's standing and the
//! urgency move it, and so does a queue that is nearly full for what nobody waits for. Each ten seconds of waiting take one
//! off, so that everybody reaches 1, where the longest waiting goes first: nobody starves.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use tandem_types::{Timestamp, TurnId, UserId};

/// By what way the person speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Modality {
    /// Speech.
    Audio,
    /// Text.
    Text,
    /// A picture.
    Vision,
    /// Work that nobody waits for.
    Background,
}

impl Modality {
    /// Its word in rows and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Text => "text",
            Self::Vision => "vision",
            Self::Background => "background",
        }
    }

    fn base(self) -> i64 {
        match self {
            Self::Audio => 1,
            Self::Text => 2,
            Self::Vision => 3,
            Self::Background => 5,
        }
    }
}

/// What a person is in this house.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// Owns it.
    Owner,
    /// Lives in it.
    Adult,
    /// Lives in it, with less rights.
    Child,
    /// Is here for a while, or not known.
    Guest,
}

/// How pressing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// At once.
    Critical,
    /// Soon.
    High,
    /// Normal.
    Normal,
    /// Can wait.
    Low,
}

/// What decides over the place of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// Whose it is.
    pub(super) user: UserId,
    /// By what way it came.
    pub(super) modality: Modality,
    /// What the person is.
    pub(super) standing: Standing,
    /// How pressing it is.
    pub(super) urgency: Urgency,
}

/// How many may do what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    /// Requests that wait.
    pub(super) queued: usize,
    /// Requests that run; at least one may.
    pub(super) running: usize,
    /// Running requests of one person; at least one may.
    pub(super) per_user: usize,
    /// Share of the running requests that nobody waits for; one may be in any case.
    pub(super) background_share: f64,
}

impl Limits {
    /// Running requests that nobody waits for.
    pub(super) fn background(&self) -> usize {
        let share = (self.running as f64 * self.background_share).floor() as usize;
        share.max(1)
    }
}

/// There is no room; trying again makes sense after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full(pub(super) Duration);

#[derive(Debug)]
struct Waiting {
    id: TurnId,
    claim: Claim,
    since: Timestamp,
    /// Rises with each arrival.
    order: u64,
}

#[derive(Debug)]
struct Running {
    claim: Claim,
    since: Timestamp,
}

/// What waits and what runs.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    /// Requests that may run when there is somebody to answer all of them.
    most_running: usize,
    /// Off: only the way a request came counts.
    dynamic: bool,
    waiting: Vec<Waiting>,
    running: HashMap<TurnId, Running>,
    arrivals: u64,
    /// Moving average of how long a request runs, in seconds.
    service_s: f64,
}

/// Weight of the latest request in the average.
const LATEST: f64 = 0.2;
/// What a request is taken to run before any has.
const FIRST_GUESS_S: f64 = 3.0;
/// One priority for each of these.
const AGEING: Duration = Duration::from_secs(10);

impl Queue {
    /// Nothing waits and nothing runs.
    pub(super) fn new(limits: Limits, dynamic: bool) -> Self {
        let most_running = limits.running.max(1);
        let limits = Limits { running: most_running, per_user: limits.per_user.max(1), ..limits };
        Self {
            limits,
            most_running,
            dynamic,
            waiting: Vec::new(),
            running: HashMap::new(),
            arrivals: 0,
            service_s: FIRST_GUESS_S,
        }
    }

    /// Lets no more requests run than can be answered side by side, as far as that is known: the others wait here, where
    /// they have a place and their order counts. Those that run go on. True when more may run than before; then
    /// [`Queue::start`] begins them.
    pub(super) fn fit(&mut self, answerable: Option<usize>) -> bool {
        let before = self.limits.running;
        self.limits.running = answerable.map_or(self.most_running, |n| n.clamp(1, self.most_running));
        self.limits.running > before
    }

    /// Takes a request in; what begins to run because of it, itself or nothing as a rule.
    pub(super) fn offer(&mut self, id: TurnId, claim: Claim, now: Timestamp) -> Result<Vec<TurnId>, Full> {
        let starts = self.running.len() < self.limits.running && self.may_run(&claim);
        if !starts && self.waiting.len() >= self.limits.queued {
            let one_slot = self.service_s / self.limits.running.max(1) as f64;
            return Err(Full(Duration::from_secs_f64(one_slot.clamp(1.0, 60.0))));
        }
        self.restore(id, claim, now);
        Ok(self.start(now))
    }

    /// Takes a request in that was accepted before, whether there is room or not. [`Queue::start`] begins it.
    pub(super) fn restore(&mut self, id: TurnId, claim: Claim, since: Timestamp) {
        self.arrivals += 1;
        self.waiting.push(Waiting { id, claim, since, order: self.arrivals });
    }

    /// Begins what may run now, in order.
    pub(super) fn start(&mut self, now: Timestamp) -> Vec<TurnId> {
        let mut begun = Vec::new();
        while self.running.len() < self.limits.running {
            let next = self.in_order(now).into_iter().find(|n| self.may_run(&self.waiting[*n].claim));
            let Some(next) = next else { break };
            let Waiting { id, claim, .. } = self.waiting.remove(next);
            self.running.insert(id, Running { claim, since: now });
            begun.push(id);
        }
        begun
    }

    /// Takes a request out, wherever it is; false when it is nowhere.
    pub(super) fn end(&mut self, id: TurnId, now: Timestamp) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.id != id);
        match self.running.remove(&id) {
            Some(run) => {
                let took = now.since(run.since).as_secs_f64();
                self.service_s += LATEST * (took - self.service_s);
                true
            }
            None => self.waiting.len() < before,
        }
    }

    /// What waits, first to last.
    pub(super) fn places(&self, now: Timestamp) -> Vec<TurnId> {
        self.in_order(now).into_iter().map(|n| self.waiting[n].id).collect()
    }

    /// How many wait of each number, 1 to 10.
    pub(super) fn by_number(&self, now: Timestamp) -> [u32; 10] {
        let mut counts = [0; 10];
        for waiting in &self.waiting {
            counts[usize::from(self.number(&waiting.claim, waiting.since, now)) - 1] += 1;
        }
        counts
    }

    /// The number of a request that came at `since`: 1 is first, 10 is last.
    pub(super) fn number(&self, claim: &Claim, since: Timestamp, now: Timestamp) -> u8 {
        let mut number = claim.modality.base();
        if self.dynamic {
            number += match claim.standing {
                Standing::Owner => -2,
                Standing::Adult => -1,
                Standing::Child => 0,
                Standing::Guest => 1,
            };
            number += match claim.urgency {
                Urgency::Critical => -3,
                Urgency::High => -1,
                Urgency::Normal => 0,
                Urgency::Low => 1,
            };
            let nearly_full = self.waiting.len() * 5 > self.limits.queued * 4;
            number += i64::from(claim.modality == Modality::Background && nearly_full);
            number -= i64::try_from(now.since(since).as_secs() / AGEING.as_secs()).unwrap_or(i64::MAX);
        }
        u8::try_from(number.clamp(1, 10)).unwrap_or(10)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// How many may do what.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// What a request of middle number would wait, by how long requests ran so far.
    pub(super) fn expected_wait(&self, now: Timestamp) -> Duration {
        if self.running.len() < self.limits.running {
            return Duration::ZERO;
        }
        let before: u32 = self.by_number(now)[..5].iter().sum();
        Duration::from_secs_f64(f64::from(before + 1) * self.service_s / self.limits.running.max(1) as f64)
    }

    fn in_order(&self, now: Timestamp) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.waiting.len()).collect();
        order.sort_by_key(|n| {
            let waiting = &self.waiting[*n];
            (self.number(&waiting.claim, waiting.since, now), waiting.order)
        });
        order
    }

    fn may_run(&self, claim: &Claim) -> bool {
        let count = |same: &dyn Fn(&Claim) -> bool| self.running.values().filter(|run| same(&run.claim)).count();
        count(&|other| other.user == claim.user) < self.limits.per_user
            && (claim.modality != Modality::Background
                || count(&|other| other.modality == Modality::Background) < self.limits.background())
    }
}

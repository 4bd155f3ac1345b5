//! "What if I add this load?": the arithmetic, and the limits it is held against.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tandem_store::reservations::Resource;
use tandem_types::{Fault, Timestamp, Violation};

/// A sample older than this makes an answer at best a caution.
pub(super) const STALE: Duration = Duration::from_secs(15);
/// How far back the trend looks.
pub(super) const TREND: Duration = Duration::from_secs(300);
/// What the mean of the processor is over.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Shares of a machine above which an answer is no longer "go on".
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    /// Deny memory above this share.
    pub(super) ram: f64,
    /// Deny video memory above this share of card less reserve.
    pub(super) vram: f64,
    /// Caution processor above this share, 1-minute mean.
    pub(super) cpu: f64,
    /// Caution disk above this share.
    pub(super) disk: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ram: 0.90, vram: 0.95, cpu: 0.90, disk: 0.90 }
    }
}

impl Limits {
    const NAMES: [&str; 4] = ["ram_deny_ratio", "vram_deny_ratio", "cpu_caution_ratio", "disk_caution_ratio"];

    /// The share for a resource.
    pub(super) fn of(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Ram => self.ram,
            Resource::Vram => self.vram,
            Resource::Cpu => self.cpu,
            Resource::Disk => self.disk,
        }
    }

    /// The defaults with what was set, by name.
    pub(super) fn from_stored(stored: &BTreeMap<String, f64>) -> Self {
        let mut limits = Self::default();
        for (name, slot) in Self::NAMES.iter().zip(limits.slots()) {
            if let Some(value) = stored.get(*name) {
                *slot = *value;
            }
        }
        limits
    }

    fn slots(&mut self) -> [&mut f64; 4] {
        [&mut self.ram, &mut self.vram, &mut self.cpu, &mut self.disk]
    }

    /// What is to be set, by name, out of the fields of a request in the order of [`Limits`].
    ///
    /// # Errors
    /// `invalid_argument` with every ratio that is not above 0 and at most 1, or when none is given.
    pub(super) fn to_store(fields: [Option<f64>; 4]) -> Result<BTreeMap<String, f64>, Fault> {
        let given: Vec<(&str, f64)> =
            Self::NAMES.into_iter().zip(fields).filter_map(|(name, value)| Some((name, value?))).collect();
        let wrong = |(name, value): &(&str, f64)| {
            let ok = *value > 0.0 && *value <= 1.0;
            (!ok).then(|| Violation {
                field: (*name).to_owned(),
                problem: format!("is {value}; it must be above 0 and at most 1"),
            })
        };
        let violations: Vec<Violation> = given.iter().filter_map(wrong).collect();
        if !violations.is_empty() {
            return Err(Fault::invalid(violations));
        }
        if given.is_empty() {
            return Err(Fault::invalid_field("ram_deny_ratio", "no limit is given; give at least one"));
        }
        Ok(given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// The advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// Go on.
    Allow,
    /// Possible, with a risk.
    Caution,
    /// Do not.
    Deny,
}

/// What a projection rests on. Amounts are bytes, or shares of the processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Basis {
    /// In use by the last sample.
    pub(super) measured: f64,
    /// Promised and not in use yet.
    pub(super) outstanding: f64,
    /// Growth per second over the last five minutes.
    pub(super) slope: f64,
    /// All there is: bytes of the machine or of the card less its reserve, 1 for the processor.
    pub(super) capacity: f64,
    /// Age of the sample.
    pub(super) age: Duration,
}

/// The answer, with the arithmetic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// Measured + promised and not in use + asked + trend.
    pub(super) projected: f64,
    /// What it was compared with.
    pub(super) limit: f64,
    /// In words.
    pub(super) advice: String,
}

impl Outcome {
    /// What is left below the limit.
    pub(super) fn headroom(&self) -> f64 {
        self.limit - self.projected
    }
}

/// What adding `asked` for `duration` would lead to.
pub(super) fn simulate(resource: Resource, basis: &Basis, asked: f64, duration: Duration, limits: &Limits) -> Outcome {
    let trend = basis.slope * duration.as_secs_f64();
    let projected = basis.measured + basis.outstanding + asked + trend;
    let limit = limits.of(resource) * basis.capacity;
    let over = match resource {
        Resource::Ram | Resource::Vram => Verdict::Deny,
        Resource::Cpu | Resource::Disk => Verdict::Caution,
    };
    let fits = projected <= limit;
    let stale = basis.age > STALE;
    let verdict = match (fits, stale) {
        (false, _) => over,
        (true, true) => Verdict::Caution,
        (true, false) => Verdict::Allow,
    };
    let say = |amount| amount_in_words(resource, amount);
    let sum = format!(
        "{resource}: {} in use + {} promised + {} asked + {} trend = {}, the limit is {} ({:.0} % of {})",
        say(basis.measured),
        say(basis.outstanding),
        say(asked),
        say(trend),
        say(projected),
        say(limit),
        limits.of(resource) * 100.0,
        say(basis.capacity),
    );
    let advice = if stale { format!("stale: the sample is {} s old; {sum}", basis.age.as_secs()) } else { sum };
    Outcome { verdict, projected, limit, advice }
}

fn amount_in_words(resource: Resource, amount: f64) -> String {
    match resource {
        Resource::Cpu => format!("{:.1} %", amount * 100.0),
        Resource::Ram | Resource::Vram | Resource::Disk => format!("{:.0} MiB", amount / 1_048_576.0),
    }
}

/// The last five minutes of one figure.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(VecDeque<(Timestamp, f64)>);

impl Recent {
    /// Takes a sample; those older than the trend looks back are let go.
    pub(super) fn push(&mut self, at: Timestamp, value: f64) {
        if !value.is_finite() || self.0.back().is_some_and(|(last, _)| *last >= at) {
            return;
        }
        self.0.push_back((at, value));
        while self.0.front().is_some_and(|(first, _)| at.since(*first) > TREND) {
            self.0.pop_front();
        }
    }

    /// Mean of the samples of the minute before the newest; none without a sample.
    pub(super) fn minute(&self) -> Option<f64> {
        let (newest, _) = self.0.back()?;
        let values: Vec<f64> =
            self.0.iter().filter(|(at, _)| newest.since(*at) < MINUTE).map(|(_, value)| *value).collect();
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Growth per second: the slope of the line with the least squares. 0 for fewer than two samples.
    pub(super) fn slope(&self) -> f64 {
        let Some((first, _)) = self.0.front() else { return 0.0 };
        let count = self.0.len() as f64;
        let seconds = |at: &Timestamp| at.since(*first).as_secs_f64();
        let mean_x = self.0.iter().map(|(at, _)| seconds(at)).sum::<f64>() / count;
        let mean_y = self.0.iter().map(|(_, value)| value).sum::<f64>() / count;
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (at, value) in &self.0 {
            let x = seconds(at) - mean_x;
            covariance += x * (value - mean_y);
            variance += x * x;
        }
        if variance > 0.0 { covariance / variance } else { 0.0 }
    }
}

/// What of a promise is not in use yet: `used` is what its holder took since it was given.
pub(super) fn outstanding(promised: f64, used: f64) -> f64 {
    (promised - used.max(0.0)).max(0.0)
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

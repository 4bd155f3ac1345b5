//! What an answer to "may this be added?" rests on, what it is held against, and how it is said.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_store::reservations::Resource;
use tandem_types::{Fault, Violation};

/// A sample older than this makes an answer at best a caution, and promises wait for a fresh one.
pub(crate) const STALE: Duration = Duration::from_secs(15);

/// Shares of a machine above which an answer is no longer "go on".
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Of memory.
    pub(crate) ram: f64,
    /// Of video memory, card less reserve.
    pub(crate) vram: f64,
    /// Of the processors, 1-minute mean.
    pub(crate) cpu: f64,
    /// Of the disk.
    pub(crate) disk: f64,
}

impl Limits {
    const NAMES: [&str; 4] = ["ram_deny_ratio", "vram_deny_ratio", "cpu_caution_ratio", "disk_caution_ratio"];

    /// The share for a resource.
    pub(crate) fn of(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Ram => self.ram,
            Resource::Vram => self.vram,
            Resource::Cpu => self.cpu,
            Resource::Disk => self.disk,
        }
    }

    /// These limits with what was set, by name.
    pub(crate) fn with(mut self, stored: &BTreeMap<String, f64>) -> Self {
        for (name, slot) in Self::NAMES.iter().zip(self.slots()) {
            if let Some(value) = stored.get(*name) {
                *slot = *value;
            }
        }
        self
    }

    fn slots(&mut self) -> [&mut f64; 4] {
        [&mut self.ram, &mut self.vram, &mut self.cpu, &mut self.disk]
    }

    /// What a request is to set, by name.
    ///
    /// # Errors
    /// `invalid_argument` with every ratio that is not above 0 and at most 1, or when none is given.
    pub(crate) fn to_store(request: &pb::SetLimitsRequest) -> Result<BTreeMap<String, f64>, Fault> {
        let fields =
            [request.ram_deny_ratio, request.vram_deny_ratio, request.cpu_caution_ratio, request.disk_caution_ratio];
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

    /// As they are told.
    pub(crate) fn told(&self) -> pb::SetLimitsResponse {
        pb::SetLimitsResponse {
            ram_deny_ratio: self.ram,
            vram_deny_ratio: self.vram,
            cpu_caution_ratio: self.cpu,
            disk_caution_ratio: self.disk,
            ..Default::default()
        }
    }
}

/// The advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Go on.
    Allow,
    /// Possible, with a risk.
    Caution,
    /// Do not.
    Deny,
}

/// What a projection rests on. Amounts are bytes, or shares of the processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Basis {
    /// In use by the last sample.
    pub(crate) measured: f64,
    /// Promised and not in use yet.
    pub(crate) outstanding: f64,
    /// Growth per second over the last five minutes.
    pub(crate) slope: f64,
    /// All there is: bytes of the machine or of the card less its reserve, 1 for the processor.
    pub(crate) capacity: f64,
    /// Age of the sample.
    pub(crate) age: Duration,
}

/// The answer, with the arithmetic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// Measured + promised and not in use + asked, and the trend where that counts.
    pub(crate) projected: f64,
    /// What it was compared with.
    pub(crate) limit: f64,
    /// In words.
    pub(crate) advice: String,
}

impl Outcome {
    /// What is left below the limit.
    pub(crate) fn headroom(&self) -> f64 {
        self.limit - self.projected
    }

    /// As it is told, with the age of the sample it rests on.
    pub(crate) fn told(&self, age: Duration) -> pb::SimulateLoadResponse {
        let verdict = match self.verdict {
            Verdict::Allow => pb::Verdict::VERDICT_ALLOW,
            Verdict::Caution => pb::Verdict::VERDICT_CAUTION,
            Verdict::Deny => pb::Verdict::VERDICT_DENY,
        };
        pb::SimulateLoadResponse {
            verdict: verdict.into(),
            projected: self.projected,
            limit: self.limit,
            headroom: self.headroom(),
            sample_age_ms: millis(age),
            advice: self.advice.clone(),
            ..Default::default()
        }
    }
}

/// What adding `asked` leads to. `trend` is what comes on top by the time it matters; `over` is the verdict above the
/// limit.
pub(crate) fn weigh(
    resource: Resource,
    basis: &Basis,
    asked: f64,
    trend: Option<f64>,
    limits: &Limits,
    over: Verdict,
) -> Outcome {
    let projected = basis.measured + basis.outstanding + asked + trend.unwrap_or(0.0);
    let limit = limits.of(resource) * basis.capacity;
    let stale = basis.age > STALE;
    let verdict = match (projected <= limit, stale) {
        (false, _) => over,
        (true, true) => Verdict::Caution,
        (true, false) => Verdict::Allow,
    };
    let say = |amount| in_words(resource, amount);
    let trend = trend.map(|trend| format!(" + {} trend", say(trend))).unwrap_or_default();
    let sum = format!(
        "{resource}: {} in use + {} promised + {} asked{trend} = {}, the limit is {} ({:.0} % of {})",
        say(basis.measured),
        say(basis.outstanding),
        say(asked),
        say(projected),
        say(limit),
        limits.of(resource) * 100.0,
        say(basis.capacity),
    );
    let advice = if stale { format!("stale: the sample is {} s old; {sum}", basis.age.as_secs()) } else { sum };
    Outcome { verdict, projected, limit, advice }
}

fn in_words(resource: Resource, amount: f64) -> String {
    match resource {
        Resource::Cpu => format!("{:.1} %", amount * 100.0),
        Resource::Ram | Resource::Vram | Resource::Disk => format!("{:.0} MiB", amount / 1_048_576.0),
    }
}

/// Whole milliseconds, as messages carry them.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_types::Code;

    #[test]
    fn limits_are_checked_all_at_once() {
        let set = |ram, vram, disk| pb::SetLimitsRequest {
            ram_deny_ratio: ram,
            vram_deny_ratio: vram,
            disk_caution_ratio: disk,
            ..Default::default()
        };
        let fault = Limits::to_store(&set(Some(0.0), Some(f64::NAN), Some(1.0))).unwrap_err();
        let fields: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["ram_deny_ratio", "vram_deny_ratio"]);
        assert_eq!(Limits::to_store(&set(None, None, None)).unwrap_err().code, Code::InvalidArgument);
        let stored = Limits::to_store(&set(Some(0.5), None, Some(1.0))).unwrap();
        let limits = Limits { ram: 0.9, vram: 0.95, cpu: 0.9, disk: 0.9 }.with(&stored);
        assert_eq!((limits.ram, limits.vram, limits.cpu, limits.disk), (0.5, 0.95, 0.9, 1.0));
    }
}

//! Which errors are a flood: thinned to a count, or worth one alert.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tandem_store::errors::{ErrorReport, Severity};
use tandem_types::{AgentId, Code, Timestamp};

/// What a flood leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Its errors count as one.
    Thin,
    /// A person is told, once.
    Alert,
}

/// When the errors of one agent are a flood.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    of: fn(&ErrorReport) -> bool,
    limit: u64,
    window: Duration,
    then: Then,
}

/// Reasons that say that memory, rather than a queue or a quota, is full.
const MEMORY: [&str; 2] = ["share_full", "out_of_memory"];

/// The rules; an error may fall under several.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "unavailable",
        of: |e| e.code == Code::Unavailable,
        limit: 10,
        window: Duration::from_secs(60),
        then: Then::Thin,
    },
    Rule {
        name: "deadline_exceeded",
        of: |e| e.code == Code::DeadlineExceeded,
        limit: 5,
        window: Duration::from_secs(30),
        then: Then::Thin,
    },
    Rule {
        name: "out of memory",
        of: |e| e.code == Code::ResourceExhausted && MEMORY.contains(&e.reason.as_str()),
        limit: 3,
        window: Duration::from_secs(300),
        then: Then::Alert,
    },
    Rule {
        name: "critical",
        of: |e| e.severity == Severity::Critical,
        limit: 5,
        window: Duration::from_secs(60),
        then: Then::Alert,
    },
];

/// A flood that a person is to know of, or to hear more of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flood {
    pub(crate) agent: AgentId,
    pub(crate) rule: &'static str,
    /// Errors that were not counted in an earlier one of these.
    pub(crate) count: u64,
}

/// What a batch of errors comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Errors that count as one with an earlier one.
    pub(crate) thinned: u32,
    pub(crate) floods: Vec<Flood>,
}

#[derive(Debug, Default)]
struct Window {
    /// Errors by the second in which they were reported, so that a flood takes no room.
    seconds: VecDeque<(i64, u64)>,
    flooding: bool,
}

impl Window {
    fn sum(&mut self, now: Timestamp, window: Duration) -> u64 {
        let oldest = (now - window).micros().div_euclid(1_000_000);
        while self.seconds.front().is_some_and(|(second, _)| *second <= oldest) {
            self.seconds.pop_front();
        }
        self.seconds.iter().map(|(_, n)| n).sum()
    }

    fn add(&mut self, now: Timestamp, n: u64) {
        let second = now.micros().div_euclid(1_000_000);
        match self.seconds.back_mut().filter(|(last, _)| *last == second) {
            Some((_, count)) => *count += n,
            None => self.seconds.push_back((second, n)),
        }
    }
}

/// Counts errors per agent and rule over sliding windows.
#[derive(Debug, Default)]
pub(crate) struct Floods {
    windows: BTreeMap<(AgentId, usize), Window>,
}

impl Floods {
    /// Counts a batch that was reported now.
    pub(crate) fn note(&mut self, batch: &[ErrorReport], now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        for error in batch {
            for (number, rule) in RULES.iter().enumerate().filter(|(_, rule)| (rule.of)(error)) {
                let window = self.windows.entry((error.agent.clone(), number)).or_default();
                window.add(now, error.count);
                let sum = window.sum(now, rule.window);
                if sum < rule.limit {
                    continue;
                }
                let news = if std::mem::replace(&mut window.flooding, true) { error.count } else { sum };
                match rule.then {
                    Then::Thin => outcome.thinned = outcome.thinned.saturating_add(thinned(news, sum, rule.limit)),
                    Then::Alert => add(&mut outcome.floods, &error.agent, rule.name, news),
                }
            }
        }
        outcome
    }

    /// The floods that are over, so that a later one is told of anew. One is over when half of what began it is left.
    pub(crate) fn calm(&mut self, now: Timestamp) -> Vec<(AgentId, &'static str)> {
        let mut over = Vec::new();
        self.windows.retain(|(agent, number), window| {
            let rule = &RULES[*number];
            let sum = window.sum(now, rule.window);
            if window.flooding && sum <= rule.limit / 2 {
                window.flooding = false;
                if rule.then == Then::Alert {
                    over.push((agent.clone(), rule.name));
                }
            }
            sum > 0 || window.flooding
        });
        over
    }
}

/// Of `news` errors, those that pass the limit; the one that reaches it still counts by itself.
fn thinned(news: u64, sum: u64, limit: u64) -> u32 {
    u32::try_from(news.min(sum - limit)).unwrap_or(u32::MAX)
}

fn add(floods: &mut Vec<Flood>, agent: &AgentId, rule: &'static str, count: u64) {
    match floods.iter_mut().find(|flood| flood.agent == *agent && flood.rule == rule) {
        Some(flood) => flood.count += count,
        None => floods.push(Flood { agent: agent.clone(), rule, count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_790_000_000 + seconds)
    }

    fn error(code: Code, severity: Severity, count: u64) -> ErrorReport {
        ErrorReport {
            agent: "solo/a/A".parse().unwrap(),
            code,
            reason: MEMORY[0].into(),
            severity,
            trace: String::new(),
            count,
            at: at(0),
            evidence: Vec::new(),
        }
    }

    #[test]
    fn each_rule_begins_at_its_limit_within_its_window() {
        use Severity::{Critical, Error};
        for (code, severity, limit, window, alerts) in [
            (Code::Unavailable, Error, 10, 60, false),
            (Code::DeadlineExceeded, Error, 5, 30, false),
            (Code::ResourceExhausted, Error, 3, 300, true),
            (Code::Internal, Critical, 5, 60, true),
        ] {
            let one = [error(code, severity, 1)];
            let mut floods = Floods::default();
            for _ in 0..limit - 1 {
                assert_eq!(floods.note(&one, at(0)), Outcome::default(), "{code}");
            }
            assert_eq!(floods.note(&one, at(window)), Outcome::default(), "{code}: the window has moved on");
            let mut floods = Floods::default();
            for _ in 0..limit - 1 {
                floods.note(&one, at(0));
            }
            let reached = floods.note(&one, at(window - 1));
            let count: u64 = reached.floods.iter().map(|f| f.count).sum();
            assert_eq!((count, reached.thinned), (if alerts { limit } else { 0 }, 0), "{code}");
            let next = floods.note(&one, at(window - 1));
            assert_eq!((next.floods.len() == 1, next.thinned), (alerts, u32::from(!alerts)), "{code}");
        }
    }

    #[test]
    fn ten_thousand_equal_errors_are_one_flood_with_a_right_count() {
        let mut floods = Floods::default();
        let (mut begun, mut counted) = (0, 0);
        for n in 0..10_000 {
            let outcome = floods.note(&[error(Code::Internal, Severity::Critical, 1)], at(n / 1_000));
            for flood in outcome.floods {
                begun += u32::from(counted == 0);
                counted += flood.count;
            }
        }
        assert_eq!((begun, counted), (1, 10_000));
        assert_eq!(floods.calm(at(60)), []);
        assert_eq!(floods.calm(at(70)), [("solo/a/A".parse().unwrap(), "critical")]);
        assert!(floods.windows.is_empty());
    }

    proptest! {
        /// While a flood lasts every error is told exactly once, however it is cut into batches.
        #[test]
        fn no_error_of_a_flood_is_lost_or_told_twice(
            batches in proptest::collection::vec((proptest::collection::vec(1u64..4, 1..5), 0i64..3), 1..40),
        ) {
            let mut floods = Floods::default();
            let (mut now, mut total, mut told) = (0, 0, 0);
            for (counts, pause) in batches {
                // All within one window of 60 s.
                now = (now + pause).min(59);
                let batch: Vec<ErrorReport> =
                    counts.iter().map(|n| error(Code::Internal, Severity::Critical, *n)).collect();
                total += counts.iter().sum::<u64>();
                told += floods.note(&batch, at(now)).floods.iter().map(|f| f.count).sum::<u64>();
                prop_assert_eq!(told, if total >= 5 { total } else { 0 });
            }
        }
    }
}

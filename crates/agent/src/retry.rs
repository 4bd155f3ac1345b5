//! When a failed call is sent again, and when a provider is left alone.
//!
//! Full jitter follows "Exponential Backoff And Jitter" (M. Brooker, AWS Architecture Blog, 2015): the wait is uniform
//! between zero and the doubled base. The budget bounds extra load as in the Google SRE book, chapter 22.

use std::time::{Duration, Instant};

use tandem_types::{Code, Fault, reason};

const BASE: Duration = Duration::from_millis(50);
const CAP: Duration = Duration::from_secs(2);

/// Wait before attempt `attempt` (1 is the first repeat); `uniform` is drawn from 0 to 1.
pub fn backoff(attempt: u32, uniform: f64) -> Duration {
    let ceiling = BASE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(CAP);
    ceiling.mul_f64(uniform.clamp(0.0, 1.0))
}

/// Whether the same call may be sent again after this fault. `safe` says that it is a read or a keyed write.
pub fn may_retry(fault: &Fault, safe: bool) -> bool {
    match fault.code {
        // These say that trying again soon cannot help, although the code alone would allow it.
        Code::Unavailable => {
            fault.retry_after.is_none() && fault.reason != reason::NO_MODEL && fault.reason != reason::BREAKER_OPEN
        }
        Code::DeadlineExceeded => safe,
        _ => false,
    }
}

/// At most a fifth more calls than first attempts, with a small allowance for quiet times.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: f64,
}

impl RetryBudget {
    const PER_CALL: f64 = 0.2;
    const MOST: f64 = 10.0;

    /// Starts with the full allowance.
    pub fn new() -> Self {
        Self { tokens: Self::MOST }
    }

    /// A first attempt was made.
    pub fn deposit(&mut self) {
        self.tokens = (self.tokens + Self::PER_CALL).min(Self::MOST);
    }

    /// Takes leave for one repeat.
    pub fn withdraw(&mut self) -> bool {
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a call may pass a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Go on.
    Pass,
    /// Go on; this one call decides whether the breaker closes.
    Trial,
    /// Refused for this long.
    Refuse(Duration),
}

/// Refuses calls to a provider that failed three times in a row: 30 s, then one trial, doubling up to 300 s.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    opened: Option<(Instant, Duration)>,
    trial: bool,
}

impl Breaker {
    const FAILURES: u32 = 3;
    const OPEN: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_secs(300);

    /// Asks before a call.
    pub fn ask(&mut self, now: Instant) -> Gate {
        let Some((since, open)) = self.opened else { return Gate::Pass };
        let waited = now.saturating_duration_since(since);
        if waited < open {
            return Gate::Refuse(open - waited);
        }
        if self.trial {
            // Somebody else is trying; a second trial would defeat its purpose.
            return Gate::Refuse(Duration::from_secs(1));
        }
        self.trial = true;
        Gate::Trial
    }

    /// The call went well.
    pub fn success(&mut self) {
        *self = Self::default();
    }

    /// The provider failed. Refusals that are the caller's doing do not count and are not told here.
    pub fn failure(&mut self, now: Instant) {
        self.failures += 1;
        if self.trial {
            let open = self.opened.map_or(Self::OPEN, |(_, open)| (open * 2).min(Self::LONGEST));
            self.opened = Some((now, open));
            self.trial = false;
        } else if self.failures >= Self::FAILURES && self.opened.is_none() {
            self.opened = Some((now, Self::OPEN));
        }
    }

    /// The call ended without saying anything about the provider, for example because its caller left.
    pub fn abandoned(&mut self) {
        self.trial = false;
    }

    /// The provider was heard of as alive, so waiting has no point.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_jittered_in_full() {
        for (attempt, uniform, ms) in [(1, 1.0, 50), (2, 1.0, 100), (3, 0.5, 100), (20, 1.0, 2000), (1, 0.0, 0)] {
            assert_eq!(backoff(attempt, uniform), Duration::from_millis(ms), "{attempt} {uniform}");
        }
    }

    #[test]
    fn what_cannot_help_is_not_repeated() {
        let away = Fault::unavailable(reason::PEER_AWAY, "");
        let late = Fault::new(Code::DeadlineExceeded, reason::TIME_UP, "");
        for (fault, safe, may) in [
            (away.clone(), false, true),
            (away.retry_after(Duration::from_secs(9)), true, false),
            (Fault::no_model("llm.fast"), true, false),
            (late.clone(), true, true),
            (late, false, false),
            (Fault::internal(""), true, false),
            (Fault::not_found(""), true, false),
        ] {
            assert_eq!(may_retry(&fault, safe), may, "{fault:?}");
        }
    }

    #[test]
    fn repeats_are_at_most_a_fifth() {
        let mut budget = RetryBudget::new();
        let mut repeats = 0;
        for _ in 0..1000 {
            budget.deposit();
            repeats += u32::from(budget.withdraw());
        }
        assert!((200..=211).contains(&repeats), "{repeats}");
    }

    #[test]
    fn three_failures_open_and_one_trial_decides() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert_eq!(breaker.ask(at(0)), Gate::Pass);
            breaker.failure(at(0));
        }
        assert_eq!(breaker.ask(at(10)), Gate::Refuse(Duration::from_secs(20)));
        assert_eq!(breaker.ask(at(30)), Gate::Trial);
        assert!(matches!(breaker.ask(at(30)), Gate::Refuse(_)), "one trial at a time");
        breaker.failure(at(30));
        assert_eq!(breaker.ask(at(31)), Gate::Refuse(Duration::from_secs(59)));
        assert_eq!(breaker.ask(at(90)), Gate::Trial);
        breaker.success();
        assert_eq!(breaker.ask(at(90)), Gate::Pass);
    }

    #[test]
    fn an_open_time_never_passes_five_minutes() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let mut now = start;
        for _ in 0..3 {
            breaker.failure(now);
        }
        for _ in 0..20 {
            if let Gate::Refuse(wait) = breaker.ask(now) {
                assert!(wait <= Duration::from_secs(300));
                now += wait;
            }
            if breaker.ask(now) == Gate::Trial {
                breaker.failure(now);
            }
        }
    }
}

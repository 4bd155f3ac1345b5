//! Which traces the group is serving a call of.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tandem_types::TurnId;

/// Traces with the number of their calls that run.
#[derive(Debug, Default)]
pub(crate) struct Traces(Mutex<HashMap<TurnId, u32>>);

impl Traces {
    pub(crate) fn began(&self, trace: TurnId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(trace).or_default() += 1;
    }

    pub(crate) fn ended(&self, trace: TurnId) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&trace) {
            *count -= 1;
            if *count == 0 {
                running.remove(&trace);
            }
        }
    }

    /// Whether a call of this trace runs.
    pub(crate) fn has(&self, trace: TurnId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_runs_until_the_last_of_its_calls_has_ended() {
        let (traces, [one, other]) = (Traces::default(), [TurnId([1; 16]), TurnId([2; 16])]);
        traces.began(one);
        traces.began(one);
        traces.ended(one);
        assert!(traces.has(one) && !traces.has(other));
        traces.ended(one);
        traces.ended(other);
        assert!(!traces.has(one) && traces.0.lock().unwrap().is_empty());
    }
}

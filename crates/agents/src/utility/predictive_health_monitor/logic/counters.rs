//! By how much counters grew since they were read last.

use std::collections::HashMap;

/// What each counter said last.
#[derive(Debug, Default)]
pub(crate) struct Counters(HashMap<String, f64>);

impl Counters {
    /// Growth since the last time; none the first time. One that fell began anew with its process.
    pub(crate) fn growth(&mut self, counter: String, value: f64) -> Option<f64> {
        let before = self.0.insert(counter, value)?;
        Some(if value >= before { value - before } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_grows_from_where_it_was_or_from_nothing() {
        let mut counters = Counters::default();
        let grown: Vec<Option<f64>> =
            [5.0, 5.0, 8.0, 2.0].into_iter().map(|value| counters.growth("a".into(), value)).collect();
        assert_eq!(grown, [None, Some(0.0), Some(3.0), Some(2.0)]);
        assert_eq!(counters.growth("b".into(), 1.0), None);
    }
}

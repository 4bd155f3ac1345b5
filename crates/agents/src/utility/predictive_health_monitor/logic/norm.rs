//! What is usual of a figure: a mean and a spread that follow it slowly (EWMA), and how far off a value is.

use serde::{Deserialize, Serialize};

/// Weight of the newest value.
const ALPHA: f64 = 0.1;
/// Spreads beyond which a value moves the norm no further, so that one outlier does not hide the next.
const OUTLIER: f64 = 3.0;

/// Mean and variance of a figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Norm {
    mean: f64,
    variance: f64,
    seen: u32,
}

impl Norm {
    /// What a value may differ by without being worth a word: never less than `floor`, for figures that hardly move.
    pub(crate) fn spread(&self, floor: f64) -> f64 {
        self.variance.sqrt().max(floor)
    }

    /// How many spreads `value` is above the mean; 0 as long as nothing was taken.
    pub(crate) fn z(&self, value: f64, floor: f64) -> f64 {
        if self.seen == 0 { 0.0 } else { (value - self.mean) / self.spread(floor) }
    }

    /// Takes a value.
    pub(crate) fn take(&mut self, value: f64, floor: f64) {
        self.seen = self.seen.saturating_add(1);
        if self.seen == 1 {
            self.mean = value;
            return;
        }
        let most = OUTLIER * self.spread(floor);
        let off = (value - self.mean).clamp(-most, most);
        self.mean += ALPHA * off;
        self.variance = (1.0 - ALPHA) * (self.variance + ALPHA * off * off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_never_moves_has_its_floor_as_spread() {
        let mut norm = Norm::default();
        assert_eq!(norm.z(7.0, 0.5), 0.0);
        (0..50).for_each(|_| norm.take(4.0, 0.5));
        for (value, z) in [(4.0, 0.0), (5.0, 2.0), (3.5, -1.0)] {
            assert_eq!(norm.z(value, 0.5), z, "{value}");
        }
    }

    #[test]
    fn mean_and_spread_follow() {
        let mut norm = Norm::default();
        (0..400).for_each(|n| norm.take(if n % 2 == 0 { 9.0 } else { 11.0 }, 0.01));
        let (above, below) = (norm.z(12.0, 0.01), norm.z(8.0, 0.01));
        assert!((1.5..2.5).contains(&above) && (-2.5..-1.5).contains(&below), "{above} {below}");
    }

    #[test]
    fn an_outlier_moves_the_norm_by_three_spreads_only() {
        let mut norm = Norm::default();
        (0..50).for_each(|_| norm.take(0.0, 1.0));
        norm.take(1e9, 1.0);
        assert!((norm.mean - 0.3).abs() < 1e-9, "{norm:?}");
        assert!(norm.z(1e9, 1.0) > 1e8, "the next one stands out as much");
    }
}

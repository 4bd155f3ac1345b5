//! A quantile of all that was ever seen, in five numbers.
//!
//! R. Jain and I. Chlamtac, "The P² algorithm for dynamic calculation of quantiles and histograms without storing
//! observations", Communications of the ACM 28 (10), 1985.

use serde::{Deserialize, Serialize};

/// The quantile that is followed.
const P: f64 = 0.99;
/// Values before which the estimate is little more than the highest of them.
const ENOUGH: u32 = 100;
/// By how much the wanted place of each marker moves with a value.
const STEPS: [f64; 5] = [0.0, P / 2.0, P, (1.0 + P) / 2.0, 1.0];

/// The running 99 % quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantile {
    heights: [f64; 5],
    places: [f64; 5],
    wanted: [f64; 5],
    seen: u32,
}

impl Default for Quantile {
    fn default() -> Self {
        let wanted = [1.0, 1.0 + 2.0 * P, 1.0 + 4.0 * P, 3.0 + 2.0 * P, 5.0];
        Self { heights: [0.0; 5], places: [1.0, 2.0, 3.0, 4.0, 5.0], wanted, seen: 0 }
    }
}

impl Quantile {
    /// The estimate; none before there is enough to estimate from.
    pub(crate) fn value(&self) -> Option<f64> {
        (self.seen >= ENOUGH).then_some(self.heights[2])
    }

    /// Takes a value.
    pub(crate) fn take(&mut self, value: f64) {
        let seen = self.seen as usize;
        self.seen = self.seen.saturating_add(1);
        if seen < 5 {
            self.heights[seen] = value;
            if seen == 4 {
                self.heights.sort_by(f64::total_cmp);
            }
            return;
        }
        // The cell the value falls into; the outer markers are the extremes.
        let cell = match self.heights.iter().position(|height| value < *height) {
            Some(0) => {
                self.heights[0] = value;
                0
            }
            Some(above) => above - 1,
            None => {
                self.heights[4] = value;
                3
            }
        };
        self.places[cell + 1..].iter_mut().for_each(|place| *place += 1.0);
        self.wanted.iter_mut().zip(STEPS).for_each(|(wanted, step)| *wanted += step);
        (1..4).for_each(|marker| self.adjust(marker));
    }

    /// Moves a marker by one place when it is more than one off.
    fn adjust(&mut self, i: usize) {
        let off = self.wanted[i] - self.places[i];
        let (left, right) = (self.places[i - 1] - self.places[i], self.places[i + 1] - self.places[i]);
        let step = if off >= 1.0 && right > 1.0 {
            1.0
        } else if off <= -1.0 && left < -1.0 {
            -1.0
        } else {
            return;
        };
        let curved = self.parabolic(i, step);
        let fits = self.heights[i - 1] < curved && curved < self.heights[i + 1];
        self.heights[i] = if fits { curved } else { self.linear(i, step) };
        self.places[i] += step;
    }

    fn parabolic(&self, i: usize, step: f64) -> f64 {
        let (q, n) = (&self.heights, &self.places);
        q[i] + step / (n[i + 1] - n[i - 1])
            * ((n[i] - n[i - 1] + step) * (q[i + 1] - q[i]) / (n[i + 1] - n[i])
                + (n[i + 1] - n[i] - step) * (q[i] - q[i - 1]) / (n[i] - n[i - 1]))
    }

    fn linear(&self, i: usize, step: f64) -> f64 {
        let next = if step > 0.0 { i + 1 } else { i - 1 };
        self.heights[i] + step * (self.heights[next] - self.heights[i]) / (self.places[next] - self.places[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    #[test]
    fn it_says_nothing_before_there_is_enough() {
        let mut quantile = Quantile::default();
        (0..99).for_each(|n| quantile.take(f64::from(n)));
        assert_eq!(quantile.value(), None);
        quantile.take(5.0);
        assert!(quantile.value().is_some());
    }

    #[test]
    fn what_never_changes_is_its_own_quantile() {
        let mut quantile = Quantile::default();
        (0..500).for_each(|_| quantile.take(3.0));
        assert_eq!(quantile.value(), Some(3.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// The share of values above the estimate is near one in a hundred, whatever they are spread like.
        #[test]
        fn one_in_a_hundred_is_above(seed: u64, power in 1i32..4) {
            let mut random = StdRng::seed_from_u64(seed);
            let values: Vec<f64> = (0..10_000).map(|_| random.random::<f64>().powi(power)).collect();
            let mut quantile = Quantile::default();
            values.iter().for_each(|value| quantile.take(*value));
            let estimate = quantile.value().unwrap();
            let above = values.iter().filter(|value| **value > estimate).count();
            prop_assert!((50..200).contains(&above), "{above} of 10,000 above {estimate}");
        }
    }
}

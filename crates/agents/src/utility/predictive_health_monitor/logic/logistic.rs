//! How likely a failure is, given what stands out: a logistic map, fitted on failures that were recorded.

use std::time::Duration;

/// Time within which a failure is asked for.
pub(crate) const HORIZONS: [Duration; 2] = [Duration::from_secs(5 * 60), Duration::from_secs(15 * 60)];
/// Failures below which nothing is fitted.
pub(crate) const ENOUGH: usize = 20;
/// How far probabilities may be off what came, on examples they were not fitted on (expected calibration error).
const WELL: f64 = 0.05;
/// Keeps coefficients finite where the examples leave them open.
const RIDGE: f64 = 0.05;
/// One example in this many is kept for checking.
const HELD_OUT: usize = 5;

/// Coefficients for 1, anomaly and urgency.
type Coefficients = [f64; 3];

/// What stands in before there are failures enough: an agent of which one figure stands out fully for six minutes is
/// just critical, and one whose memory grows visibly is warned of when that is full within about 25 minutes.
const UNFITTED: [Coefficients; 2] = [[-13.0, 14.0, 15.0], [-12.5, 14.0, 20.0]];

/// What was seen, and how long after it a failure came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) anomaly: f64,
    pub(crate) urgency: f64,
    pub(crate) weight: f64,
    pub(crate) failed_after: Option<Duration>,
}

/// The map, one for each horizon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Map {
    of: [Coefficients; 2],
    /// Whether it was fitted on failures and agrees with examples it was not fitted on.
    pub(crate) calibrated: bool,
}

impl Default for Map {
    fn default() -> Self {
        Self { of: UNFITTED, calibrated: false }
    }
}

impl Map {
    /// Probabilities of a failure within each of [`HORIZONS`]. What fails within the shorter fails within the longer.
    pub(crate) fn probabilities(&self, anomaly: f64, urgency: f64) -> [f64; 2] {
        let [short, long] = self.of.map(|c| probability(&c, anomaly, urgency));
        [short, long.max(short)]
    }

    /// The map that fits the examples, of which `failures` failures are told; the unfitted one where that is too few or
    /// what was fitted does not hold.
    pub(crate) fn fit(points: &[Point], failures: usize) -> Self {
        if failures < ENOUGH {
            return Self::default();
        }
        let held = |n: &usize| n.is_multiple_of(HELD_OUT);
        let (check, learn): (Vec<_>, Vec<_>) = points.iter().copied().enumerate().partition(|(n, _)| held(n));
        let [learn, check] = [learn, check].map(|of| of.into_iter().map(|(_, point)| point).collect::<Vec<Point>>());
        let mut of = UNFITTED;
        for (coefficients, horizon) in of.iter_mut().zip(HORIZONS) {
            let Some(fitted) = newton(&learn, horizon) else { return Self::default() };
            if calibration_error(&fitted, &check, horizon).is_none_or(|error| error > WELL) {
                return Self::default();
            }
            *coefficients = fitted;
        }
        Self { of, calibrated: true }
    }
}

fn probability(c: &Coefficients, anomaly: f64, urgency: f64) -> f64 {
    1.0 / (1.0 + (-(c[0] + c[1] * anomaly + c[2] * urgency)).exp())
}

fn came(point: &Point, horizon: Duration) -> f64 {
    if point.failed_after.is_some_and(|after| after <= horizon) { 1.0 } else { 0.0 }
}

/// Newton's method on the penalised likelihood (iteratively reweighted least squares).
fn newton(points: &[Point], horizon: Duration) -> Option<Coefficients> {
    let mut c: Coefficients = [0.0; 3];
    for _ in 0..50 {
        let mut gradient = [0.0; 3];
        let mut hessian = [[0.0; 3]; 3];
        for point in points {
            let x = [1.0, point.anomaly, point.urgency];
            let p = probability(&c, point.anomaly, point.urgency);
            let (off, curve) = (point.weight * (came(point, horizon) - p), point.weight * p * (1.0 - p));
            for i in 0..3 {
                gradient[i] += off * x[i];
                for j in 0..3 {
                    hessian[i][j] += curve * x[i] * x[j];
                }
            }
        }
        for i in 0..3 {
            gradient[i] -= RIDGE * c[i];
            hessian[i][i] += RIDGE;
        }
        let step = solve(hessian, gradient)?;
        // Far from the end a full step may overshoot.
        let longest = step.iter().fold(0.0f64, |most, s| most.max(s.abs()));
        let scale = if longest > 2.0 { 2.0 / longest } else { 1.0 };
        c.iter_mut().zip(step).for_each(|(c, s)| *c += scale * s);
        if longest < 1e-8 {
            break;
        }
    }
    c.iter().all(|value| value.is_finite()).then_some(c)
}

/// Gaussian elimination with pivots; none where the equations leave something open.
fn solve(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot = (column..3).max_by(|x, y| a[*x][column].abs().total_cmp(&a[*y][column].abs()))?;
        a.swap(column, pivot);
        b.swap(column, pivot);
        if a[column][column].abs() < 1e-12 {
            return None;
        }
        for row in 0..3 {
            if row != column {
                let factor = a[row][column] / a[column][column];
                let above = a[column];
                a[row].iter_mut().zip(above).for_each(|(value, above)| *value -= factor * above);
                b[row] -= factor * b[column];
            }
        }
    }
    Some([b[0] / a[0][0], b[1] / a[1][1], b[2] / a[2][2]])
}

/// By how much probabilities are off the share of failures, mean over ten bins by weight.
fn calibration_error(c: &Coefficients, points: &[Point], horizon: Duration) -> Option<f64> {
    let mut bins = [(0.0, 0.0, 0.0); 10];
    for point in points {
        let p = probability(c, point.anomaly, point.urgency);
        let bin = &mut bins[((p * 10.0) as usize).min(9)];
        *bin = (bin.0 + point.weight, bin.1 + point.weight * p, bin.2 + point.weight * came(point, horizon));
    }
    let all: f64 = bins.iter().map(|(weight, ..)| weight).sum();
    (all > 0.0).then(|| bins.iter().map(|(_, said, came)| (said - came).abs()).sum::<f64>() / all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    /// Examples whose failures follow a map that is known.
    fn world(seed: u64, count: usize, truth: &Coefficients) -> Vec<Point> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut point = || {
            let (anomaly, urgency) = (random.random::<f64>() * 1.3, random.random::<f64>() * 0.5);
            let fails = random.random::<f64>() < probability(truth, anomaly, urgency);
            let failed_after = fails.then_some(Duration::from_secs(120));
            Point { anomaly, urgency, weight: 1.0, failed_after }
        };
        (0..count).map(|_| point()).collect()
    }

    #[test]
    fn nothing_is_called_calibrated_that_was_not_fitted() {
        let map = Map::default();
        assert!(!map.calibrated);
        let points = world(1, 500, &[-4.0, 5.0, 3.0]);
        assert_eq!(Map::fit(&points, ENOUGH - 1), map, "too few failures");
        assert_eq!(Map::fit(&[], ENOUGH), map, "nothing to check it by");
        for (anomaly, urgency, most) in [(0.5, 0.0, 0.05), (0.8, 0.0, 0.3)] {
            assert!(map.probabilities(anomaly, urgency)[1] < most, "{anomaly}");
        }
        for (anomaly, urgency) in [(0.95, 0.0), (0.3, 0.5), (0.74, 0.15)] {
            assert!(map.probabilities(anomaly, urgency)[1] > 0.6, "{anomaly} {urgency}");
        }
    }

    #[test]
    fn a_fit_finds_the_map_that_made_the_failures() {
        let truth = [-4.0, 5.0, 3.0];
        for seed in 0..5 {
            let map = Map::fit(&world(seed, 4_000, &truth), 200);
            assert!(map.calibrated, "seed {seed}");
            for (anomaly, urgency) in [(0.0, 0.0), (0.6, 0.1), (1.0, 0.3), (1.3, 0.5)] {
                let (said, is) = (map.probabilities(anomaly, urgency)[1], probability(&truth, anomaly, urgency));
                assert!((said - is).abs() < 0.08, "seed {seed}: {said} for {is}");
            }
        }
    }

    #[test]
    fn weights_count_as_so_many_examples() {
        let points = world(3, 3_000, &[-4.0, 5.0, 3.0]);
        let heavy: Vec<Point> = points.iter().map(|point| Point { weight: 3.0, ..*point }).collect();
        let thrice: Vec<Point> = points.iter().flat_map(|point| [*point; 3]).collect();
        let (a, b) = (newton(&heavy, HORIZONS[0]).unwrap(), newton(&thrice, HORIZONS[0]).unwrap());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    }

    #[test]
    fn what_turns_out_wrong_is_not_used() {
        // Every fifth example, which is held out, says the opposite of the others.
        let mut points = world(4, 2_000, &[-8.0, 12.0, 0.0]);
        for point in points.iter_mut().step_by(HELD_OUT) {
            point.failed_after = if point.failed_after.is_some() { None } else { Some(Duration::from_secs(60)) };
        }
        assert_eq!(Map::fit(&points, 500), Map::default());
    }

    #[test]
    fn the_longer_time_is_never_less_likely() {
        let map = Map { of: [[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]], calibrated: true };
        let [short, long] = map.probabilities(0.0, 0.0);
        assert!(short <= long);
    }
}

//! Points into wider steps.

use std::time::Duration;

use tandem_types::Timestamp;

use super::Point;

/// The beginning of the step in which `at` lies, in microseconds; steps begin at 1970-01-01.
pub(super) fn floor(at: i64, step: Duration) -> i64 {
    let step = micros(step);
    at.div_euclid(step) * step
}

/// A duration in microseconds, at least one.
pub(super) fn micros(step: Duration) -> i64 {
    i64::try_from(step.as_micros()).unwrap_or(i64::MAX).max(1)
}

/// Joins the points of each step; each counts as much as it has samples. `points` are in order and stay so.
pub(super) fn resample(points: Vec<Point>, step: Duration) -> Vec<Point> {
    if step.is_zero() {
        return points;
    }
    points.into_iter().fold(Vec::new(), |mut wide: Vec<Point>, point| {
        let at = Timestamp(floor(point.at.micros(), step));
        match wide.last_mut().filter(|last| last.at == at) {
            Some(last) => *last = join(last, &point),
            None => wide.push(Point { at, ..point }),
        }
        wide
    })
}

fn join(a: &Point, b: &Point) -> Point {
    let count = a.count + b.count;
    // Weighted this way round, the mean stays between the two whatever their size.
    let mean = a.mean + (b.mean - a.mean) * (b.count as f64 / count as f64);
    Point { at: a.at, mean, low: a.low.min(b.low), high: a.high.max(b.high), count }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(at: i64, value: f64) -> Point {
        Point { at: Timestamp(at), mean: value, low: value, high: value, count: 1 }
    }

    proptest! {
        #[test]
        fn joining_loses_no_sample_and_keeps_the_mean(
            samples in proptest::collection::btree_map(-5_000i64..5_000, -1e3f64..1e3, 1..200),
            step in 1u64..2_000,
        ) {
            let points: Vec<Point> = samples.iter().map(|(at, value)| point(*at, *value)).collect();
            let wide = resample(points.clone(), Duration::from_micros(step));
            prop_assert_eq!(wide.iter().map(|p| p.count).sum::<u64>(), points.len() as u64);
            for pair in wide.windows(2) {
                prop_assert!(pair[0].at < pair[1].at);
            }
            for bucket in &wide {
                let range = bucket.at.micros()..bucket.at.micros() + step as i64;
                let inside: Vec<f64> = samples.range(range).map(|(_, value)| *value).collect();
                let mean = inside.iter().sum::<f64>() / inside.len() as f64;
                prop_assert!((bucket.mean - mean).abs() < 1e-6);
                prop_assert_eq!(bucket.low, inside.iter().copied().fold(f64::INFINITY, f64::min));
                prop_assert_eq!(bucket.high, inside.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            }
        }
    }

    #[test]
    fn no_step_changes_nothing() {
        let points = vec![point(1, 1.0), point(2, 2.0)];
        assert_eq!(resample(points.clone(), Duration::ZERO), points);
    }
}

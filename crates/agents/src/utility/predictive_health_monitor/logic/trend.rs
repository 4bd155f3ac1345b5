//! Where a figure is going: the median of the slopes between all pairs of its values.
//!
//! P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", Journal of the American Statistical
//! Association 63, 1968, after H. Theil, 1950. Up to 29 % of the values may be anything.

use std::time::Duration;

use tandem_types::Timestamp;

/// Values that are looked at, the newest of them, and every how many-eth: minutes see a quick leak, an hour a slow one.
const WINDOWS: [(usize, usize); 3] = [(10, 1), (20, 1), (60, 3)];
/// Fewest values in a window.
const FEWEST: usize = 8;
/// Standard errors that a slope must be above nothing.
const CERTAIN: f64 = 4.0;

/// Growth per second of values in the order of their times.
pub(crate) fn slope(values: &[(Timestamp, f64)]) -> f64 {
    let mut slopes = Vec::with_capacity(values.len() * values.len() / 2);
    for (n, (from, low)) in values.iter().enumerate() {
        for (to, high) in &values[n + 1..] {
            let seconds = to.since(*from).as_secs_f64();
            if seconds > 0.0 {
                slopes.push((high - low) / seconds);
            }
        }
    }
    median(&mut slopes).unwrap_or(0.0)
}

fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// Time until a figure that grows reaches `limit`, by the most urgent of the windows in which it certainly grows.
pub(crate) fn time_to(limit: f64, values: &[(Timestamp, f64)]) -> Option<Duration> {
    let (_, now) = values.last()?;
    let seconds = WINDOWS.iter().filter_map(|(newest, every)| {
        let window = &values[values.len().saturating_sub(*newest)..];
        let thinned: Vec<_> = window.iter().rev().step_by(*every).rev().copied().collect();
        let growth = certain(&thinned)?;
        Some((limit - now).max(0.0) / growth)
    });
    let soonest = seconds.min_by(f64::total_cmp)?;
    Duration::try_from_secs_f64(soonest).ok()
}

/// Growth per second, where it is more than what noise makes of a figure that does not grow.
fn certain(values: &[(Timestamp, f64)]) -> Option<f64> {
    if values.len() < FEWEST {
        return None;
    }
    let growth = slope(values);
    let (first, _) = values.first()?;
    let span = values.last()?.0.since(*first).as_secs_f64();
    let mut level: Vec<f64> = values.iter().map(|(at, v)| v - growth * at.since(*first).as_secs_f64()).collect();
    let middle = median(&mut level)?;
    let mut off: Vec<f64> = level.iter().map(|v| (v - middle).abs()).collect();
    // Of a normal distribution: 1.4826 median deviations are one standard deviation.
    let noise = 1.4826 * median(&mut off)?;
    let error = noise * (12.0 / values.len() as f64).sqrt() / span;
    (growth > 0.0 && growth > CERTAIN * error).then_some(growth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(minutes: usize) -> Timestamp {
        Timestamp::from_secs(1_790_000_000 + 60 * minutes as i64)
    }

    fn series(values: &[f64]) -> Vec<(Timestamp, f64)> {
        values.iter().enumerate().map(|(n, value)| (at(n), *value)).collect()
    }

    #[test]
    fn two_wild_values_of_eight_change_nothing() {
        let mut values: Vec<f64> = (0..8).map(|n| 60.0 * f64::from(n)).collect();
        (values[2], values[6]) = (1e9, -1e9);
        assert_eq!(slope(&series(&values)), 1.0);
        assert_eq!((slope(&[]), slope(&series(&[4.0]))), (0.0, 0.0));
    }

    #[test]
    fn the_limit_is_as_far_as_the_growth_says() {
        let leak: Vec<f64> = (0..30).map(|n| 100.0 + 6.0 * f64::from(n)).collect();
        let to = |limit: f64, values: &[f64]| time_to(limit, &series(values)).map(|t| t.as_secs());
        assert_eq!(to(274.0 + 60.0, &leak), Some(600));
        assert_eq!(to(100.0, &leak), Some(0), "it is there already");
        assert_eq!(to(1_000.0, &[5.0; 30]), None);
        assert_eq!(to(1_000.0, &leak[..7]), None, "too few to say");
        let falling: Vec<f64> = leak.iter().rev().copied().collect();
        assert_eq!(to(1_000.0, &falling), None);
        let noise: Vec<f64> = (0..60u32).map(|n| 100.0 + f64::from(n * 7 % 13)).collect();
        assert_eq!(to(1_000.0, &noise), None, "noise is no growth");
    }

    #[test]
    fn a_leak_that_has_just_begun_is_seen_by_the_short_window() {
        let values: Vec<f64> = (0..40).map(|n| if n < 31 { 100.0 } else { 100.0 + 60.0 * f64::from(n - 31) }).collect();
        let left = time_to(1_000.0, &series(&values)).unwrap().as_secs();
        assert!((300..700).contains(&left), "{left} s for 420 units at 1 a second");
    }

    proptest! {
        #[test]
        fn a_line_has_its_own_slope(growth in -1e6f64..1e6, start in 0f64..1e9, count in 2usize..60) {
            let line: Vec<f64> = (0..count).map(|n| start + growth * 60.0 * n as f64).collect();
            prop_assert!((slope(&series(&line)) - growth).abs() <= 1e-6 * growth.abs().max(1.0));
        }
    }
}

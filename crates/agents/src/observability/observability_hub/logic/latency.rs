//! How long calls of each agent took between two readings of its group's page: the 95 % quantile of its histogram.
//!
//! Buckets are not kept over time; this one number of them is. Within a bucket calls are taken as evenly spread, as
//! Prometheus does (<https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile>).

use std::collections::BTreeMap;

use super::exposition::parts;

/// The series as it is kept and asked for.
pub(crate) const P95: &str = "tandem_rpc_p95_seconds";
/// The histogram it is made of.
const BUCKET: &str = "tandem_rpc_duration_seconds_bucket";
const QUANTILE: f64 = 0.95;

/// Upper bound and calls up to it.
type Buckets = Vec<(f64, f64)>;

/// By agent, in the order of the bounds.
fn buckets(page: &str) -> BTreeMap<String, Buckets> {
    let mut found: BTreeMap<String, Buckets> = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with(BUCKET)) {
        let Some((BUCKET, labels, value)) = parts(line) else { continue };
        let bound = labels.get("le").and_then(|le| if le == "+Inf" { Some(f64::INFINITY) } else { le.parse().ok() });
        let count = value.split_ascii_whitespace().next().and_then(|value| value.parse::<f64>().ok());
        let (Some(agent), Some(bound), Some(count)) = (labels.get("agent"), bound, count) else { continue };
        let of_agent = found.entry(agent.clone()).or_default();
        // An agent's RPCs count together.
        match of_agent.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => of_agent.push((bound, count)),
        }
    }
    found.values_mut().for_each(|of_agent| of_agent.sort_by(|a, b| a.0.total_cmp(&b.0)));
    found
}

/// The quantile for each agent that answered a call between the two pages. A page with fewer calls than the one before is
/// of another process, and counts whole.
pub(crate) fn p95(before: Option<&str>, now: &str) -> BTreeMap<String, f64> {
    let before = before.map(buckets).unwrap_or_default();
    let grown = |(agent, now): (String, Buckets)| {
        let all = |of: &Buckets| of.last().map_or(0.0, |(_, calls)| *calls);
        let former = before.get(&agent).filter(|former| all(former) <= all(&now));
        let was = |bound: f64| {
            former.and_then(|former| former.iter().find(|(b, _)| *b == bound)).map_or(0.0, |(_, calls)| *calls)
        };
        let grown: Buckets = now.iter().map(|(bound, calls)| (*bound, calls - was(*bound))).collect();
        Some((agent, quantile(&grown)?))
    };
    buckets(now).into_iter().filter_map(grown).collect()
}

fn quantile(buckets: &Buckets) -> Option<f64> {
    let all = buckets.last().map(|(_, calls)| *calls).filter(|calls| *calls > 0.0)?;
    let rank = QUANTILE * all;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, calls) in buckets {
        if *calls >= rank {
            // Above the last bound nothing is known but that.
            let inside = (rank - below) / (calls - below);
            return Some(if bound.is_finite() { low + (bound - low) * inside } else { low });
        }
        (low, below) = (*bound, *calls);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(of: &[(&str, &str, [u32; 3])]) -> String {
        let line = |(agent, rpc, counts): &(&str, &str, [u32; 3])| {
            let bucket =
                |(le, n): (&str, &u32)| format!("{BUCKET}{{agent=\"{agent}\",rpc=\"{rpc}\",le=\"{le}\"}} {n}\n");
            ["0.1", "1", "+Inf"].into_iter().zip(counts).map(bucket).collect::<String>()
        };
        format!("# TYPE tandem_rpc_duration_seconds histogram\n{}other 1\n", of.iter().map(line).collect::<String>())
    }

    #[test]
    fn the_calls_between_two_pages_count() {
        let first = page(&[("a", "x", [100, 100, 100]), ("a", "y", [0, 0, 0]), ("b", "x", [5, 5, 5])]);
        let of = |before: Option<&str>, now: &str| p95(before, now).into_iter().collect::<Vec<_>>();
        let near = |found: Vec<(String, f64)>, expected: &[(&str, f64)]| {
            let same = |((a, x), (b, y)): (&(String, f64), &(&str, f64))| a == b && (x - y).abs() < 1e-9;
            assert!(found.len() == expected.len() && found.iter().zip(expected).all(same), "{found:?} {expected:?}");
        };
        near(of(None, &first), &[("a", 0.095), ("b", 0.095)]);
        // Of 20 more calls 10 took up to a second; b answered none.
        let second = page(&[("a", "x", [105, 110, 110]), ("a", "y", [5, 10, 10]), ("b", "x", [5, 5, 5])]);
        near(of(Some(&first), &second), &[("a", 0.91)]);
        let slow = page(&[("a", "x", [105, 110, 210]), ("b", "x", [1, 1, 1])]);
        near(of(Some(&second), &slow), &[("a", 1.0), ("b", 0.095)]);
        assert_eq!(of(Some(&first), "nonsense"), []);
    }
}

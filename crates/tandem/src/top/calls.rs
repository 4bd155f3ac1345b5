//! How many calls the agents of a group serve, and how fast: the difference between two pages of their metrics.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tandem_contract::rpc::{self, Flow};
use tandem_types::GroupId;

/// How far back a rate looks.
const MINUTE: Duration = Duration::from_secs(60);

/// Calls of an agent since its process began.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Calls {
    served: f64,
    /// Of its calls with one answer: how many took at most so many seconds, by the bound as it is written.
    within: BTreeMap<Bound, f64>,
}

/// A bound of a histogram's buckets, in nanoseconds so that it has an order; the last one for all there are.
type Bound = u64;

const ALL: Bound = u64::MAX;

/// What a page of metrics says of the agents of a group. Streams count as calls and not as times: they last as long as somebody reads.
pub(super) fn read(page: &str, group: &GroupId) -> BTreeMap<String, Calls> {
    let mut found: BTreeMap<String, Calls> = BTreeMap::new();
    let own = format!("{group}/");
    for line in page.lines() {
        let Some(Line { name, labels, value }) = parts(line) else { continue };
        let label = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let Some(agent) = label("agent").and_then(|agent| agent.strip_prefix(&own)) else { continue };
        let calls = found.entry(agent.to_owned()).or_default();
        match name {
            "tandem_rpc_requests_total" => calls.served += value,
            "tandem_rpc_duration_seconds_bucket" if label("rpc").is_some_and(has_one_answer) => {
                if let Some(bound) = label("le").and_then(bound) {
                    *calls.within.entry(bound).or_default() += value;
                }
            }
            _ => {}
        }
    }
    found
}

fn has_one_answer(rpc: &str) -> bool {
    rpc::find(&format!("/tandem.{rpc}")).is_some_and(|facts| facts.flow == Flow::Unary)
}

fn bound(text: &str) -> Option<Bound> {
    match text {
        "+Inf" => Some(ALL),
        _ => u64::try_from(Duration::try_from_secs_f64(text.parse().ok()?).ok()?.as_nanos()).ok(),
    }
}

/// A line of a page.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: f64,
}

/// A line `name{label="value",...} number`, as this program writes them: no value of ours holds a quote.
fn parts(line: &str) -> Option<Line<'_>> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once('}')?;
    let labels =
        labels.split("\",").filter_map(|label| label.strip_suffix('"').unwrap_or(label).split_once("=\"")).collect();
    Some(Line { name, labels, value: value.trim().parse().ok()? })
}

/// How many calls, how fast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Rate {
    /// Calls in a second, the mean since the earliest look of the last minute; none before the second look.
    pub(super) calls_per_s: Option<f64>,
    /// Of a hundred calls with one answer 95 took at most so many seconds: a bound of the histogram's. None without such a call;
    /// infinite above the last bound.
    pub(super) p95_within_s: Option<f64>,
}

/// A look at a page of metrics: when, whose, and what it said.
type Look = (Duration, u32, BTreeMap<String, Calls>);

/// The looks of the last minute at one process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Window {
    looks: VecDeque<Look>,
}

impl Window {
    /// Takes a look of process `pid` at `at`; what another process counted says nothing of this one.
    pub(super) fn push(&mut self, at: Duration, pid: u32, calls: BTreeMap<String, Calls>) {
        if self.looks.back().is_some_and(|(_, former, _)| *former != pid) {
            self.looks.clear();
        }
        self.looks.push_back((at, pid, calls));
        while self.looks.front().is_some_and(|(first, ..)| at.saturating_sub(*first) > MINUTE) {
            self.looks.pop_front();
        }
    }

    /// The calls of one agent, or of all.
    pub(super) fn rate(&self, agent: Option<&str>) -> Rate {
        let (Some((began, _, before)), Some((at, _, now))) = (self.looks.front(), self.looks.back()) else {
            return Rate::default();
        };
        let seconds = at.saturating_sub(*began).as_secs_f64();
        if seconds <= 0.0 {
            return Rate::default();
        }
        let (mut served, mut within) = (0.0, BTreeMap::<Bound, f64>::new());
        for (name, calls) in now.iter().filter(|(name, _)| agent.is_none_or(|agent| agent == *name)) {
            // An agent that had served nothing yet was not on the page.
            let former = before.get(name);
            served += calls.served - former.map_or(0.0, |former| former.served);
            for (bound, count) in &calls.within {
                let former = former.and_then(|former| former.within.get(bound)).copied().unwrap_or_default();
                *within.entry(*bound).or_default() += count - former;
            }
        }
        Rate { calls_per_s: Some((served / seconds).max(0.0)), p95_within_s: p95(&within) }
    }
}

fn p95(within: &BTreeMap<Bound, f64>) -> Option<f64> {
    let all = within.get(&ALL).copied().filter(|all| *all > 0.0)?;
    let (bound, _) = within.iter().find(|(_, count)| **count >= all * 0.95)?;
    Some(if *bound == ALL { f64::INFINITY } else { Duration::from_nanos(*bound).as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(of: &str, renewals: u32, slow: u32, watches: u32) -> String {
        let all = renewals + slow;
        format!(
            "# HELP tandem_rpc_requests_total Calls.\n\
             tandem_rpc_requests_total{{agent=\"{of}\",rpc=\"registry.v1.Registry/Renew\",code=\"ok\"}} {renewals}\n\
             tandem_rpc_requests_total{{agent=\"{of}\",rpc=\"registry.v1.Registry/Renew\",code=\"not_found\"}} {slow}\n\
             tandem_rpc_requests_total{{agent=\"{of}\",rpc=\"registry.v1.Registry/Watch\",code=\"ok\"}} {watches}\n\
             tandem_rpc_duration_seconds_bucket{{agent=\"{of}\",rpc=\"registry.v1.Registry/Renew\",le=\"0.001\"}} {renewals}\n\
             tandem_rpc_duration_seconds_bucket{{agent=\"{of}\",rpc=\"registry.v1.Registry/Renew\",le=\"60\"}} {renewals}\n\
             tandem_rpc_duration_seconds_bucket{{agent=\"{of}\",rpc=\"registry.v1.Registry/Renew\",le=\"+Inf\"}} {all}\n\
             tandem_rpc_duration_seconds_bucket{{agent=\"{of}\",rpc=\"registry.v1.Registry/Watch\",le=\"+Inf\"}} {watches}\n\
             tandem_agent_state{{agent=\"{of}\",state=\"ready\"}} 1\nup 1\n"
        )
    }

    fn window(looks: &[(u64, u32, (u32, u32, u32))]) -> Window {
        let group = "solo/infra_core".parse().unwrap();
        let mut window = Window::default();
        for (at, pid, (renewals, slow, watches)) in looks {
            let text = page("solo/infra_core/ServiceRegistry", *renewals, *slow, *watches)
                + &page("solo/other/Other", 1_000, 0, 0);
            window.push(Duration::from_secs(*at), *pid, read(&text, &group));
        }
        window
    }

    #[test]
    fn a_rate_is_the_difference_of_two_looks_at_one_process() {
        let nothing = Rate::default();
        for (looks, expected) in [
            (vec![], nothing),
            (vec![(0, 1, (10, 0, 0))], nothing),
            (vec![(0, 1, (10, 0, 0)), (2, 1, (10, 0, 0))], Rate { calls_per_s: Some(0.0), p95_within_s: None }),
            (vec![(0, 1, (10, 0, 0)), (2, 1, (30, 0, 4))], Rate { calls_per_s: Some(12.0), p95_within_s: Some(0.001) }),
            (vec![(0, 1, (10, 0, 0)), (2, 2, (12, 0, 0))], nothing),
            (
                vec![(0, 1, (0, 0, 0)), (10, 1, (18, 2, 0))],
                Rate { calls_per_s: Some(2.0), p95_within_s: Some(f64::INFINITY) },
            ),
            (vec![(0, 1, (0, 0, 0)), (10, 1, (19, 1, 0))], Rate { calls_per_s: Some(2.0), p95_within_s: Some(0.001) }),
            (
                vec![(0, 1, (0, 0, 0)), (50, 1, (900, 0, 0)), (100, 1, (950, 0, 0))],
                Rate { calls_per_s: Some(1.0), p95_within_s: Some(0.001) },
            ),
        ] {
            assert_eq!(window(&looks).rate(None), expected, "{looks:?}");
            assert_eq!(window(&looks).rate(Some("ServiceRegistry")), expected, "{looks:?}");
        }
        let of_another = window(&[(0, 1, (0, 0, 0)), (1, 1, (9, 0, 0))]).rate(Some("Other"));
        assert_eq!(of_another, Rate { calls_per_s: Some(0.0), p95_within_s: None });
    }

    #[test]
    fn an_agent_that_had_served_nothing_counts_from_nothing() {
        let group = "solo/infra_core".parse().unwrap();
        let mut window = Window::default();
        window.push(Duration::ZERO, 1, BTreeMap::new());
        window.push(Duration::from_secs(1), 1, read(&page("solo/infra_core/ServiceRegistry", 3, 0, 0), &group));
        assert_eq!(window.rate(None).calls_per_s, Some(3.0));
    }

    #[test]
    fn lines_of_other_kinds_are_read_over() {
        for line in ["", "up 1", "# TYPE x counter", "x{a=\"b\"}", "x{a=\"b\"} one"] {
            assert_eq!(parts(line), None, "{line}");
        }
        let line = Line { name: "x", labels: vec![("a", "b c"), ("d", "")], value: 1.5 };
        assert_eq!(parts("x{a=\"b c\",d=\"\"} 1.5"), Some(line));
    }
}

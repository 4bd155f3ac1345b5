//! How long a start will take, by how long the last ones took: the critical path method (Kelley and Walker, "Critical-Path
//! Planning and Scheduling", 1959) over the order of starts, with each group's own time as measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tandem_types::{GroupName, Timestamp};

use crate::spec::GroupSpec;

/// Starts that say enough to foretell the next one.
pub const STARTS_ENOUGH: usize = 3;
/// The most recent starts that count: older ones are of another machine load, or program.
const STARTS_HEEDED: usize = 5;
/// What a cut has to save, in hundredths of the whole start, to be worth a word.
const WORTH_PERCENT: u64 = 5;

/// When a group's process was started and when it was ready, in milliseconds since its node began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Its process was started.
    pub started_ms: u64,
    /// It said READY.
    pub ready_ms: u64,
}

/// A start after which every group was ready, none of them having been started twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTimes {
    /// When it was over.
    pub at: Timestamp,
    /// Its groups.
    pub groups: BTreeMap<GroupName, Times>,
}

/// What a start is expected to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// How many starts it is made of.
    pub starts: usize,
    /// Milliseconds from the node's begin until every group is ready.
    pub total_ms: u64,
    /// The groups that make it so long, first to start first, each with what it adds in milliseconds.
    pub chain: Vec<(GroupName, u64)>,
    /// The one edge of that chain whose removal saves most; none where none saves enough.
    pub cut: Option<Cut>,
}

/// An edge of the order of starts, and a start without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The group that waits.
    pub group: GroupName,
    /// What it waits for.
    pub waits_for: GroupName,
    /// How long the start would take if it did not.
    pub total_ms: u64,
}

/// A group as a start sees it, by places in the list.
struct Job {
    needs: Vec<usize>,
    waits_for: Vec<usize>,
    /// From the last of its needs being ready to the start of its process.
    gap: u64,
    /// From its start, or from the last it waits for being ready, to being ready itself.
    own: u64,
}

/// Foretells the start of `groups`; none where not every built group was in enough of the last starts. Groups that are not
/// built take no time.
pub fn forecast(groups: &[GroupSpec], starts: &[StartTimes]) -> Option<Forecast> {
    let last = &starts[starts.len().saturating_sub(STARTS_HEEDED)..];
    let place = |name: &GroupName| groups.iter().position(|group| group.id.group == *name);
    let jobs = groups.iter().map(|group| {
        let needs: Vec<usize> = group.needs.iter().filter_map(place).collect();
        let waits_for: Vec<usize> = group.waits_for.iter().filter_map(place).collect();
        if !group.built {
            return Some(Job { needs, waits_for, gap: 0, own: 0 });
        }
        let ready = |start: &StartTimes, names: &[GroupName]| {
            names.iter().filter_map(|name| Some(start.groups.get(name)?.ready_ms)).max().unwrap_or(0)
        };
        let seen = last.iter().filter_map(|start| {
            let times = start.groups.get(&group.id.group)?;
            let gap = times.started_ms.saturating_sub(ready(start, &group.needs));
            let own = times.ready_ms.saturating_sub(times.started_ms.max(ready(start, &group.waits_for)));
            Some((gap, own))
        });
        let (gaps, owns): (Vec<u64>, Vec<u64>) = seen.unzip();
        (gaps.len() >= STARTS_ENOUGH).then(|| Job { needs, waits_for, gap: median(gaps), own: median(owns) })
    });
    let jobs: Vec<Job> = jobs.collect::<Option<_>>()?;
    if jobs.is_empty() {
        return None;
    }
    let (total_ms, chain) = critical(&jobs, None);
    let name = |job: usize| groups[job].id.group.clone();
    let saved = |cut: &(usize, usize)| total_ms - critical(&jobs, Some(*cut)).0;
    let best = chain.windows(2).map(|edge| (edge[1].0, edge[0].0)).max_by_key(saved);
    let worth = best.filter(|cut| saved(cut) * 100 >= total_ms * WORTH_PERCENT && saved(cut) > 0);
    Some(Forecast {
        starts: last.len(),
        total_ms,
        chain: chain.iter().map(|(job, adds)| (name(*job), *adds)).collect(),
        cut: worth.map(|cut| Cut { group: name(cut.0), waits_for: name(cut.1), total_ms: total_ms - saved(&cut) }),
    })
}

/// When the last job is ready, and the chain that makes it so late, each link with what it adds. `without`: an edge that is
/// not there, the waiting job first.
fn critical(jobs: &[Job], without: Option<(usize, usize)>) -> (u64, Vec<(usize, u64)>) {
    // What each is ready at, and which of those before it decided that.
    let mut done: Vec<Option<(u64, Option<usize>)>> = vec![None; jobs.len()];
    let mut left = jobs.len();
    while left > 0 {
        let before = left;
        for (at, job) in jobs.iter().enumerate().filter(|(at, _)| done[*at].is_none()).collect::<Vec<_>>() {
            let there = |earlier: &&usize| without != Some((at, **earlier));
            let ready = |list: &[usize]| {
                let times = list.iter().filter(there).map(|earlier| Some((done[*earlier]?.0, Some(*earlier))));
                times.collect::<Option<Vec<_>>>().map(|times| times.into_iter().max().unwrap_or((0, None)))
            };
            let (Some(needs), Some(waits)) = (ready(&job.needs), ready(&job.waits_for)) else { continue };
            let (from, decided) = (needs.0 + job.gap, needs.1).max(waits);
            done[at] = Some((from + job.own, decided));
            left -= 1;
        }
        // A plan has no circles; of one that had, what lies on them takes no part.
        if left == before {
            break;
        }
    }
    let ready = |job: usize| done[job].map_or(0, |(at, _)| at);
    let last = (0..jobs.len()).max_by_key(|job| (ready(*job), std::cmp::Reverse(*job)));
    let mut chain: Vec<(usize, u64)> = std::iter::successors(last, |job| done[*job].and_then(|(_, decided)| decided))
        .map(|job| (job, ready(job) - done[job].and_then(|(_, decided)| decided).map_or(0, ready)))
        .collect();
    chain.reverse();
    (last.map_or(0, ready), chain)
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Limits;

    fn group(name: &str, needs: &[&str], waits_for: &[&str]) -> GroupSpec {
        let names = |list: &[&str]| list.iter().map(|name| name.parse().unwrap()).collect();
        GroupSpec {
            id: format!("solo/{name}").parse().unwrap(),
            needs: names(needs),
            waits_for: names(waits_for),
            after: vec![],
            built: true,
            contract: "127.0.0.1:1".parse().unwrap(),
            scrape: "127.0.0.1:2".parse().unwrap(),
            limits: Limits { ram_mib: None, cpu: None, cpu_weight: 100, enforcement: "not enforced".into() },
            env: BTreeMap::new(),
        }
    }

    fn start(times: &[(&str, u64, u64)]) -> StartTimes {
        let of =
            |&(name, started_ms, ready_ms): &(&str, u64, u64)| (name.parse().unwrap(), Times { started_ms, ready_ms });
        StartTimes { at: Timestamp(0), groups: times.iter().map(of).collect() }
    }

    /// `a` and `b` begin, `c` needs both, `d` starts at once and is ready after `c`.
    fn diamond() -> Vec<GroupSpec> {
        vec![group("a", &[], &[]), group("b", &[], &[]), group("c", &["a", "b"], &[]), group("d", &[], &["c"])]
    }

    #[test]
    fn a_start_is_foretold_from_the_middle_of_the_last_ones() {
        // The second start was a slow one, the first is too old to count once there are six.
        let usual = start(&[("a", 0, 100), ("b", 0, 400), ("c", 410, 710), ("d", 0, 760)]);
        let slow = start(&[("a", 0, 100), ("b", 0, 2_400), ("c", 2_410, 4_710), ("d", 0, 4_760)]);
        let starts = [slow.clone(), usual.clone(), slow, usual.clone(), usual.clone(), usual];
        let told = forecast(&diamond(), &starts).unwrap();
        assert_eq!((told.starts, told.total_ms), (5, 760));
        let chain: Vec<(&str, u64)> = told.chain.iter().map(|(name, adds)| (name.as_str(), *adds)).collect();
        assert_eq!(chain, [("b", 400), ("c", 310), ("d", 50)]);
        // Without its need of `b` the group `c` would be there after `a`.
        let cut = told.cut.unwrap();
        assert_eq!((cut.group.as_str(), cut.waits_for.as_str(), cut.total_ms), ("c", "b", 460));
    }

    #[test]
    fn a_cut_that_saves_next_to_nothing_is_not_named() {
        let even = start(&[("a", 0, 395), ("b", 0, 400), ("c", 410, 710), ("d", 0, 711)]);
        let told = forecast(&diamond()[..3], &[even.clone(), even.clone(), even]).unwrap();
        assert_eq!((told.total_ms, told.cut), (710, None));
    }

    #[test]
    fn what_was_seen_too_seldom_is_not_foretold() {
        let usual = start(&[("a", 0, 100), ("b", 0, 400), ("c", 410, 710), ("d", 0, 760)]);
        let twice = vec![usual.clone(); STARTS_ENOUGH - 1];
        assert_eq!(forecast(&diamond(), &twice), None);
        assert_eq!(forecast(&diamond(), &[]), None);
        assert_eq!(forecast(&[], &vec![usual.clone(); 3]), None);
        let mut more = diamond();
        more.push(group("new", &["d"], &[]));
        assert_eq!(forecast(&more, &vec![usual.clone(); 9]), None);
        let unbuilt = more.len() - 1;
        more[unbuilt].built = false;
        assert_eq!(forecast(&more, &vec![usual; 9]).unwrap().total_ms, 760);
    }
}

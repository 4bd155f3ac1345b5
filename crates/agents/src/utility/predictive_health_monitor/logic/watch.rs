//! Watches one agent: what of its figures stands out, and how soon its memory ends.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tandem_types::Timestamp;

use super::norm::Norm;
use super::quantile::Quantile;
use super::signals::{Signal, Signals};
use super::trend;

/// Time between two looks.
pub(crate) const TICK: Duration = Duration::from_secs(60);
/// Samples that a figure is judged by, and the fewest of them that must be there.
const WINDOW: u32 = 20;
const FEWEST: usize = 10;
/// Looks over which a figure must stand out: with five of six a normal day of many agents has none that does.
const LATEST: usize = 6;
/// Looks over which the slope of a figure is taken.
const SLOPE: usize = 5;
/// Samples of memory that are kept.
const MEMORY: usize = 60;
/// Memory that lasts longer than this is no reason to worry.
const FAR: Duration = Duration::from_secs(30 * 60);
/// Mean score from which a figure is named as a cause.
const CAUSE: f64 = 0.6;
/// Longest time within which a failure counts as foreseen by what was seen.
pub(crate) const HORIZON: Duration = Duration::from_secs(15 * 60);

/// One figure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Track {
    norm: Norm,
    quantile: Quantile,
    values: VecDeque<(Timestamp, f64)>,
    scores: VecDeque<f64>,
}

impl Track {
    /// Takes a value and says how much it stood out: z ÷ 2, at most 1, plus a tenth of its adverse slope in spreads per
    /// look, at most 1, plus 0.2 above its 99 % quantile. What an agent does while it fails is not `usual`.
    fn take(&mut self, at: Timestamp, value: f64, floor: f64, usual: bool) {
        let oldest = at - TICK * WINDOW;
        self.values.retain(|(seen, _)| *seen > oldest);
        self.values.push_back((at, value));
        let latest: Vec<_> = self.values.iter().rev().take(SLOPE).rev().copied().collect();
        let slope = trend::slope(&latest) * TICK.as_secs_f64() / self.norm.spread(floor);
        let above = self.quantile.value().is_some_and(|quantile| value > quantile);
        let z = (self.norm.z(value, floor) / 2.0).clamp(0.0, 1.0);
        let score = z + 0.1 * slope.clamp(0.0, 1.0) + if above { 0.2 } else { 0.0 };
        if usual {
            self.norm.take(value, floor);
            self.quantile.take(value);
        }
        self.scores.push_back(score);
        if self.scores.len() > LATEST {
            self.scores.pop_front();
        }
    }

    /// Mean of the latest scores, where there are samples enough.
    fn score(&self, now: Timestamp) -> Option<f64> {
        let oldest = now - TICK * WINDOW;
        let known = self.values.iter().filter(|(at, _)| *at > oldest).count();
        (known >= FEWEST).then(|| self.scores.iter().sum::<f64>() / LATEST as f64)
    }
}

/// What was seen of an agent at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) at: Timestamp,
    /// How much the figure stands out that stands out most.
    pub(crate) anomaly: f64,
    /// 0 while memory lasts, 1 when it is full.
    pub(crate) urgency: f64,
    /// Until memory is full.
    pub(crate) memory_full: Option<Duration>,
    /// What stands out, the strongest first.
    pub(crate) causes: Vec<String>,
}

/// A reading of which it is known whether a failure followed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lesson {
    pub(crate) reading: Reading,
    pub(crate) failed_after: Option<Duration>,
}

/// What is known of one agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Watch {
    tracks: BTreeMap<Signal, Track>,
    memory: VecDeque<(Timestamp, f64)>,
    /// Readings of which it is not known yet what followed.
    open: VecDeque<Reading>,
    failed: Option<Timestamp>,
}

impl Watch {
    /// Looks at the figures of now; the agent is `failing` already or not. `limit` is how much memory its group may use.
    /// None while there are too few samples.
    pub(crate) fn look(
        &mut self,
        now: Timestamp,
        signals: &Signals,
        limit: Option<f64>,
        failing: bool,
    ) -> Option<Reading> {
        if signals.get(&Signal::Restarts).is_some_and(|times| *times > 0.0) {
            // Another process: what the former one had says nothing of it.
            self.memory.clear();
        }
        for (signal, value) in signals.iter().filter(|(_, value)| value.is_finite()) {
            self.tracks.entry(*signal).or_default().take(now, signal.measure(*value), signal.floor(limit), !failing);
        }
        if let Some(bytes) = signals.get(&Signal::Memory) {
            self.memory.push_back((now, *bytes));
            if self.memory.len() > MEMORY {
                self.memory.pop_front();
            }
        }
        // What was not seen now is not judged now.
        let mut scores: Vec<(f64, Signal)> =
            signals.keys().filter_map(|signal| Some((self.tracks.get(signal)?.score(now)?, *signal))).collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (anomaly, _) = *scores.first()?;
        let memory_full = limit.and_then(|limit| trend::time_to(limit, self.memory.make_contiguous()));
        let near = memory_full.filter(|left| *left < FAR && signals.contains_key(&Signal::Memory));
        let urgency = near.map_or(0.0, |left| 1.0 - left.as_secs_f64() / FAR.as_secs_f64());
        let mut causes: Vec<String> =
            near.map(|left| format!("memory of its group is full in {} s", left.as_secs())).into_iter().collect();
        let strong = scores.into_iter().filter(|(score, _)| *score >= CAUSE);
        causes.extend(strong.filter_map(|(_, signal)| Some(signal.say(*signals.get(&signal)?))));
        let reading = Reading { at: now, anomaly, urgency, memory_full, causes };
        self.open.push_back(reading.clone());
        Some(reading)
    }

    /// Notes a failure and returns what was seen before it. One that was noted already, within a minute, is no other.
    pub(crate) fn failed(&mut self, at: Timestamp) -> Option<Vec<Lesson>> {
        if self.failed.is_some_and(|last| at <= last + TICK) {
            return None;
        }
        self.failed = Some(at);
        let before = |reading: &Reading| reading.at <= at && at.since(reading.at) <= HORIZON;
        let lesson = |reading: Reading| Lesson { failed_after: Some(at.since(reading.at)), reading };
        let (seen, rest): (Vec<_>, Vec<_>) = self.open.drain(..).partition(before);
        self.open = rest.into();
        Some(seen.into_iter().map(lesson).collect())
    }

    /// What was seen so long ago that no failure followed.
    pub(crate) fn passed(&mut self, now: Timestamp) -> Vec<Lesson> {
        let mut passed = Vec::new();
        while self.open.front().is_some_and(|reading| now.since(reading.at) > HORIZON) {
            passed.extend(self.open.pop_front().map(|reading| Lesson { reading, failed_after: None }));
        }
        passed
    }
}

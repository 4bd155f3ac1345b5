//! What was measured of a machine: the last sample, the last minutes, and what is kept.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_fleet::reserve_mib;
use tandem_store::reservations::Resource;
use tandem_store::series::{Query, Sample, Series, SeriesKey, SeriesStore, SqliteSeries};
use tandem_types::{Code, Fault, GroupId, NodeName, Timestamp, reason};

use super::weighing::{Basis, millis};
use crate::cards::CardSeen;

/// How far back the trend looks.
pub(crate) const TREND: Duration = Duration::from_secs(300);
/// What the mean of the processor is over.
const MINUTE: Duration = Duration::from_secs(60);

/// Figures of one moment; one that is not told is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    /// Busy share of all processors since the last look, 0 to 1.
    pub(crate) cpu_ratio: Option<f64>,
    /// Memory in all, bytes.
    pub(crate) ram_total: Option<u64>,
    /// Memory in use: all less what is available.
    pub(crate) ram_used: Option<u64>,
    /// Share of time in which some task waited for memory, 10 s mean.
    pub(crate) memory_pressure: Option<f64>,
    /// Disk of the data folder, bytes.
    pub(crate) disk_total: Option<u64>,
    /// Of these, in use.
    pub(crate) disk_used: Option<u64>,
    /// Its graphics cards.
    pub(crate) cards: Vec<CardFigures>,
}

/// A graphics card, and what each group of its machine uses of it.
pub(crate) type CardFigures = CardSeen<GroupId>;

/// Series of a machine, as they are kept and asked for.
const SERIES: [&str; 6] =
    ["cpu_ratio", "ram_total_bytes", "ram_used_bytes", "memory_pressure_ratio", "disk_total_bytes", "disk_used_bytes"];
/// Series of each of its cards.
const CARD_SERIES: [&str; 4] = ["vram_total_bytes", "vram_used_bytes", "sm_clock_mhz", "temperature_celsius"];
/// The label that names the card of a series.
const CARD: &str = "card";

impl Figures {
    /// By series and card; absent ones are left out.
    fn by_series(&self) -> impl Iterator<Item = (Which, f64)> {
        let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
        let values = [
            self.cpu_ratio,
            bytes(self.ram_total),
            bytes(self.ram_used),
            self.memory_pressure,
            bytes(self.disk_total),
            bytes(self.disk_used),
        ];
        let machine = SERIES.into_iter().zip(values).map(|(name, value)| ((name, None), value));
        let of_card = |card: &CardFigures| {
            let (clock, celsius) = (card.clock.map(f64::from), card.celsius.map(f64::from));
            let (values, index) = ([Some(card.total as f64), Some(card.used as f64), clock, celsius], card.index);
            CARD_SERIES.into_iter().zip(values).map(move |(name, value)| ((name, Some(index)), value))
        };
        machine.chain(self.cards.iter().flat_map(of_card)).filter_map(|(which, value)| Some((which, value?)))
    }

    /// What groups use of the cards.
    pub(crate) fn of_cards(&self) -> impl Iterator<Item = ((Option<u32>, GroupId), u64)> {
        let of_card = |card: &CardFigures| {
            let index = card.index;
            card.uses.clone().into_iter().map(move |(group, bytes)| ((Some(index), group), bytes))
        };
        self.cards.iter().flat_map(of_card)
    }

    /// As samples to keep.
    pub(crate) fn samples(&self, node: &NodeName, at: Timestamp) -> Vec<Sample> {
        let sample = |((name, card), value): (Which, f64)| {
            let key = SeriesKey { owner: node.to_string(), name: name.to_owned(), labels: labels(card) };
            Sample { key, at, value }
        };
        self.by_series().map(sample).collect()
    }
}

/// A series, and the card that it is of.
type Which = (&'static str, Option<u32>);

fn labels(card: Option<u32>) -> BTreeMap<String, String> {
    card.map(|card| (CARD.to_owned(), card.to_string())).into_iter().collect()
}

/// The last five minutes of one figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent(VecDeque<(Timestamp, f64)>);

impl Recent {
    /// Takes a sample; those older than the trend looks back are let go.
    pub(crate) fn push(&mut self, at: Timestamp, value: f64) {
        if !value.is_finite() || self.0.back().is_some_and(|(last, _)| *last >= at) {
            return;
        }
        self.0.push_back((at, value));
        while self.0.front().is_some_and(|(first, _)| at.since(*first) > TREND) {
            self.0.pop_front();
        }
    }

    /// Mean of the samples of the minute before the newest; none without a sample.
    pub(crate) fn minute(&self) -> Option<f64> {
        let (newest, _) = self.0.back()?;
        let values: Vec<f64> =
            self.0.iter().filter(|(at, _)| newest.since(*at) < MINUTE).map(|(_, value)| *value).collect();
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Growth per second: the slope of the line with the least squares. 0 for fewer than two samples.
    pub(crate) fn slope(&self) -> f64 {
        let Some((first, _)) = self.0.front() else { return 0.0 };
        let count = self.0.len() as f64;
        let seconds = |at: &Timestamp| at.since(*first).as_secs_f64();
        let mean_x = self.0.iter().map(|(at, _)| seconds(at)).sum::<f64>() / count;
        let mean_y = self.0.iter().map(|(_, value)| value).sum::<f64>() / count;
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (at, value) in &self.0 {
            let x = seconds(at) - mean_x;
            covariance += x * (value - mean_y);
            variance += x * x;
        }
        if variance > 0.0 { covariance / variance } else { 0.0 }
    }
}

/// What is known of the load of one machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// The last sample; none before the first.
    pub(crate) sample: Option<(Timestamp, Figures)>,
    /// Processors; 0 when not said.
    pub(crate) cpus: u32,
    recent: BTreeMap<Which, Recent>,
}

impl Measured {
    /// Takes a sample; one that is not newer than the last is ignored.
    pub(crate) fn take(&mut self, at: Timestamp, figures: Figures) -> bool {
        if self.sample.as_ref().is_some_and(|(last, _)| *last >= at) {
            return false;
        }
        for (which, value) in figures.by_series() {
            self.remember(which, at, value);
        }
        self.sample = Some((at, figures));
        true
    }

    fn remember(&mut self, which: Which, at: Timestamp, value: f64) {
        self.recent.entry(which).or_default().push(at, value);
    }

    /// Takes what is kept of the last five minutes, so that the trend and the minute have something to look back on.
    pub(crate) async fn look_back(store: &SqliteSeries, node: &NodeName, now: Timestamp) -> Result<Self, Fault> {
        let mut measured = Self::default();
        for series in SERIES.into_iter().chain(CARD_SERIES) {
            for (card, at, value) in past(store, series, node, now - TREND, now, Duration::ZERO).await? {
                measured.remember((series, card), at, value);
            }
        }
        Ok(measured)
    }

    /// Busy share of the processors, mean of the last minute.
    pub(crate) fn cpu_minute(&self) -> Option<f64> {
        self.recent.get(&("cpu_ratio", None)).and_then(Recent::minute)
    }

    /// What a projection for this machine, `node`, rests on when `outstanding` is promised and not in use.
    ///
    /// # Errors
    /// `not_found` for the video memory of a card that is not known; `unavailable`, `no_sample`, when the figure was never
    /// measured.
    pub(crate) fn basis(
        &self,
        node: &NodeName,
        resource: Resource,
        card: Option<u32>,
        outstanding: f64,
        now: Timestamp,
    ) -> Result<Basis, Fault> {
        let no_sample = || {
            let message = format!("{resource} of {node} was not measured yet; ask again in 10 s");
            Fault::new(Code::Unavailable, reason::NO_SAMPLE, message).retry_after(Duration::from_secs(10))
        };
        let sample = self.sample.as_ref();
        if resource == Resource::Vram {
            let index = card.unwrap_or_default();
            let known = sample.and_then(|(at, figures)| Some((at, figures.cards.iter().find(|c| c.index == index)?)));
            let (at, card) =
                known.ok_or_else(|| Fault::not_found(format!("no graphics card {index} is known on {node}")))?;
            let capacity = card.total.saturating_sub(reserve_mib(card.total >> 20) << 20) as f64;
            let slope = self.recent.get(&("vram_used_bytes", Some(index))).map_or(0.0, Recent::slope);
            return Ok(Basis { measured: card.used as f64, outstanding, slope, capacity, age: now.since(*at) });
        }
        let (at, figures) = sample.ok_or_else(no_sample)?;
        let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
        let (measured, capacity, series) = match resource {
            Resource::Ram => (bytes(figures.ram_used), bytes(figures.ram_total), "ram_used_bytes"),
            Resource::Disk => (bytes(figures.disk_used), bytes(figures.disk_total), "disk_used_bytes"),
            Resource::Cpu | Resource::Vram => (self.cpu_minute(), Some(1.0), "cpu_ratio"),
        };
        let (measured, capacity) = measured.zip(capacity).ok_or_else(no_sample)?;
        let slope = self.recent.get(&(series, None)).map_or(0.0, Recent::slope);
        Ok(Basis { measured, outstanding, slope, capacity, age: now.since(*at) })
    }

    /// As it is told, without what else may be known of the machine.
    pub(crate) fn told(&self, node: &NodeName, now: Timestamp) -> pb::NodeState {
        let (at, figures) = self.sample.clone().unwrap_or_default();
        pb::NodeState {
            node: node.to_string(),
            sampled_us: at.micros(),
            cpu_ratio: figures.cpu_ratio,
            cpu_ratio_1m: self.cpu_minute(),
            cpus: self.cpus,
            ram_total_bytes: figures.ram_total,
            ram_used_bytes: figures.ram_used,
            memory_pressure_ratio: figures.memory_pressure,
            disk_total_bytes: figures.disk_total,
            disk_used_bytes: figures.disk_used,
            age_ms: self.sample.as_ref().map_or(0, |(at, _)| millis(now.since(*at))),
            cards: figures.cards.into_iter().map(told_card).collect(),
            ..Default::default()
        }
    }
}

fn told_card(card: CardFigures) -> pb::CardState {
    let uses = |(group, bytes): (GroupId, u64)| pb::CardUse { group: group.to_string(), bytes, ..Default::default() };
    pb::CardState {
        index: card.index,
        name: card.name,
        vram_total_bytes: card.total,
        vram_used_bytes: card.used,
        temperature_celsius: card.celsius,
        sm_clock_mhz: card.clock,
        uses: card.uses.into_iter().map(uses).collect(),
        ..Default::default()
    }
}

/// Sets the gauges of a machine.
pub(crate) fn show(node: &NodeName, figures: &Figures) {
    let name = || node.to_string();
    if let Some(ratio) = figures.cpu_ratio {
        metrics::gauge!("tandem_node_cpu_ratio", "node" => name()).set(ratio);
    }
    for (kind, bytes) in [("total", figures.ram_total), ("used", figures.ram_used)] {
        if let Some(bytes) = bytes {
            metrics::gauge!("tandem_node_memory_bytes", "node" => name(), "kind" => kind).set(bytes as f64);
        }
    }
    for card in &figures.cards {
        for (kind, bytes) in [("total", card.total), ("used", card.used)] {
            let labels = [("node", name()), ("card", card.index.to_string()), ("kind", kind.to_owned())];
            metrics::gauge!("tandem_gpu_memory_bytes", &labels).set(bytes as f64);
        }
    }
}

/// Past values of a series of a machine and each of its cards, oldest first; none when there are none.
async fn past(
    store: &SqliteSeries,
    series: &str,
    node: &NodeName,
    from: Timestamp,
    to: Timestamp,
    step: Duration,
) -> Result<Vec<(Option<u32>, Timestamp, f64)>, Fault> {
    let owner = Some(node.to_string());
    let query = Query { name: series.to_owned(), owner, labels: BTreeMap::new(), from, to, step };
    match store.query(query).await {
        Ok(found) => {
            let points = |series: Series| {
                let card = series.key.labels.get(CARD).and_then(|card| card.parse().ok());
                series.points.into_iter().map(move |point| (card, point.at, point.mean))
            };
            Ok(found.into_iter().flat_map(points).collect())
        }
        Err(fault) if fault.code == Code::NotFound => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

/// Answers a question for the past of `node`.
///
/// # Errors
/// `not_found` for a series that no machine has; `invalid_argument` for a time that ends before it begins.
pub(crate) async fn history(
    store: &SqliteSeries,
    node: &NodeName,
    request: &pb::GetHistoryRequest,
    now: Timestamp,
) -> Result<pb::GetHistoryResponse, Fault> {
    let (series, of_cards) = (request.series.as_str(), CARD_SERIES.contains(&request.series.as_str()));
    if !of_cards && !SERIES.contains(&series) {
        let known = SERIES.into_iter().chain(CARD_SERIES).collect::<Vec<_>>().join(", ");
        return Err(Fault::not_found(format!("no series `{series}`; known are {known}")));
    }
    if request.card.is_some() && !of_cards {
        return Err(Fault::invalid_field("card", "this series is of the whole machine; leave it out"));
    }
    let card = of_cards.then(|| request.card.unwrap_or(0));
    let to = if request.to_us == 0 { now + Duration::from_micros(1) } else { Timestamp(request.to_us) };
    if request.from_us > to.micros() {
        return Err(Fault::invalid_field("from_us", "is later than `to_us`"));
    }
    let step = Duration::from_millis(request.step_ms.into());
    let points = past(store, series, node, Timestamp(request.from_us), to, step).await?;
    let points = points.into_iter().filter(|(of, ..)| *of == card);
    let points = points.map(|(_, at, value)| pb::Point { at_us: at.micros(), value, ..Default::default() }).collect();
    Ok(pb::GetHistoryResponse { points, ..Default::default() })
}

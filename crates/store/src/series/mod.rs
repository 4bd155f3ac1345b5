//! Measurements over time: raw for a while, then as means, and what happened beside them.

mod copy;
mod resample;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tandem_types::{Fault, Timestamp};

use crate::paging::{Page, Paged};

pub use copy::SeriesCopy;
pub(crate) use sqlite::SCHEMA;
pub use sqlite::SqliteSeries;

/// What is kept for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Samples as they came.
    pub raw: RawKept,
    /// Means, finest first; each step is a multiple of the one before.
    pub means: &'static [MeansKept],
    /// Most series of one owner.
    pub series_per_owner: u32,
    /// How long events are kept.
    pub events: Duration,
}

/// Which raw samples are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawKept {
    /// This many of each series, the newest.
    Newest(u32),
    /// Those of this long.
    For(Duration),
}

/// Means over a step, and for how long they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeansKept {
    /// What one mean is over.
    pub step: Duration,
    /// How long it is kept.
    pub kept: Duration,
}

const DAY: u64 = 24;

impl Policy {
    /// The twin's: 60 raw samples, 1-minute means for 24 hours, 15-minute means for 30 days, events for 90 days.
    pub const TWIN: Self = Self {
        raw: RawKept::Newest(60),
        means: &[
            MeansKept { step: Duration::from_mins(1), kept: Duration::from_hours(DAY) },
            MeansKept { step: Duration::from_mins(15), kept: Duration::from_hours(30 * DAY) },
        ],
        series_per_owner: 2_000,
        events: Duration::from_hours(90 * DAY),
    };

    /// What a hub keeps of another node's: raw samples for 24 hours, means as that node does.
    pub const COPY: Self = Self { raw: RawKept::For(Duration::from_hours(DAY)), ..Self::TELEMETRY };

    /// A resource manager's: raw samples for 24 hours, and nothing that is older.
    pub const RESOURCES: Self = Self {
        raw: RawKept::For(Duration::from_hours(DAY)),
        means: &[],
        series_per_owner: 2_000,
        events: Duration::from_hours(DAY),
    };

    /// An observability hub's: raw samples for 48 hours, 5-minute means for 30 days, 2,000 series of one group.
    pub const TELEMETRY: Self = Self {
        raw: RawKept::For(Duration::from_hours(48)),
        means: &[MeansKept { step: Duration::from_mins(5), kept: Duration::from_hours(30 * DAY) }],
        series_per_owner: 2_000,
        events: Duration::from_hours(90 * DAY),
    };
}

/// What a series is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// Who brings it: a group or a node. The limit on series counts per owner.
    pub owner: String,
    /// Its name, for example `tandem_queue_depth`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Of what.
    pub key: SeriesKey,
    /// When; a second sample of the same microsecond takes the place of the first.
    pub at: Timestamp,
    /// How much; only finite numbers are kept.
    pub value: f64,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    /// Samples kept.
    pub kept: u64,
    /// Samples without a finite value.
    pub not_finite: u64,
    /// Samples of new series for which their owner has no room left, counted by owner and name.
    pub over_limit: BTreeMap<String, BTreeMap<String, u64>>,
}

/// Which series, when, and how fine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Name of the series.
    pub name: String,
    /// Only of this owner.
    pub owner: Option<String>,
    /// Labels that must be there with these values; others may be there too.
    pub labels: BTreeMap<String, String>,
    /// From this time on.
    pub from: Timestamp,
    /// Before this time.
    pub to: Timestamp,
    /// Width of one point; zero for the finest that reaches back to `from`.
    pub step: Duration,
}

/// One point of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When; the beginning of its step.
    pub at: Timestamp,
    /// The mean.
    pub mean: f64,
    /// The lowest sample.
    pub low: f64,
    /// The highest sample.
    pub high: f64,
    /// Samples it is made of.
    pub count: u64,
}

/// The past of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Of what.
    pub key: SeriesKey,
    /// Its points, oldest first. A step without a sample has no point.
    pub points: Vec<Point>,
}

/// Raw samples of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// Of what.
    pub key: SeriesKey,
    /// When and how much, oldest first.
    pub samples: Vec<(Timestamp, f64)>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// What kind, for example `node.away`.
    pub kind: String,
    /// To what, for example `pc2`.
    pub subject: String,
    /// More of it, as JSON.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// Which happenings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HappeningFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only to this subject.
    pub subject: Option<String>,
    /// Only from this time on.
    pub from: Timestamp,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Raw samples.
    pub samples: u64,
    /// Means.
    pub means: u64,
    /// Series of which nothing was left.
    pub series: u64,
    /// Happenings.
    pub happenings: u64,
}

/// Keeps measurements.
///
/// Every call answers reason `disk` when the store cannot be read or written.
#[async_trait]
pub trait SeriesStore: Send + Sync {
    /// Keeps samples and rolls what is complete up into means. A series over its owner's limit is left out and counted;
    /// the rest of the batch is kept.
    async fn append(&self, samples: Vec<Sample>, now: Timestamp) -> Result<Appended, Fault>;

    /// The past of every series that matches.
    ///
    /// # Errors
    /// `not_found` when none does; `resource_exhausted` when the answer had over 100,000 points.
    async fn query(&self, query: Query) -> Result<Vec<Series>, Fault>;

    /// The raw samples after `after` and no later than `until`, as far as `span` from the first of them on; with the time of
    /// the last one, none when there are no more. Batches are told whole, so asking again after that time misses none.
    async fn raw_after(
        &self,
        after: Timestamp,
        until: Timestamp,
        span: Duration,
    ) -> Result<Option<(Timestamp, Vec<Raw>)>, Fault>;

    /// How many series each owner has.
    async fn counts(&self) -> Result<BTreeMap<String, u64>, Fault>;

    /// Keeps what happened.
    async fn note(&self, happenings: Vec<Happening>) -> Result<(), Fault>;

    /// What happened, the newest first, page by page.
    async fn happenings(&self, filter: HappeningFilter, page: Page) -> Result<Paged<Happening>, Fault>;

    /// Removes what is past its time.
    async fn prune(&self, now: Timestamp) -> Result<Pruned, Fault>;

    /// Gives up raw samples before `before`, for a disk that is full; how many.
    async fn drop_raw(&self, before: Timestamp) -> Result<u64, Fault>;
}

//! Metrics of the own node's groups, kept over time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use futures::future::join_all;
use metrics::{counter, gauge};
use serde_json::json;
use tandem_store::errors::Severity;
use tandem_store::series::{Sample, SeriesKey, SeriesStore as _};
use tandem_types::{Code, Fault, Timestamp};

use super::logic::exposition;
use super::logic::probe::Phase;
use super::watching::Watched;
use super::{Hub, ms};

/// Raw samples of this long are kept when the disk is full, and ever less while it stays full.
const SPARED: [Duration; 4] =
    [Duration::from_hours(24), Duration::from_hours(6), Duration::from_hours(1), Duration::ZERO];

impl Hub {
    /// Reads the metrics of every group that answers.
    pub(super) async fn scrape(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.now();
        let answering = self.watched.values().filter(|group| matches!(group.phase(), Phase::Good | Phase::Suspect));
        let pages = join_all(answering.map(|group| self.samples(group, now))).await;
        let samples: Vec<Sample> = pages.into_iter().flatten().collect();
        match self.store.series.append(samples, now).await {
            Ok(appended) => {
                self.trouble("disk", None);
                self.over_limit(appended.over_limit).await;
            }
            Err(fault) if fault.code == Code::ResourceExhausted => self.make_room(now, &fault).await,
            Err(fault) => {
                self.trouble("disk", Some(format!("samples are not kept: {}", fault.message)));
                return Err(fault);
            }
        }
        for (group, count) in self.store.series.counts().await? {
            #[allow(clippy::cast_precision_loss, reason = "at most a few thousand series")]
            gauge!("tandem_series", "group" => group).set(count as f64);
        }
        Ok(())
    }

    async fn samples(&self, group: &Watched, at: Timestamp) -> Vec<Sample> {
        let read = match self.http.get(&group.at, "/metrics", ms(self.settings.probe_timeout_ms)).await {
            Ok((StatusCode::OK, page)) => exposition::read(&String::from_utf8_lossy(&page)).map_err(|e| e.to_string()),
            Ok((status, _)) => Err(format!("`/metrics` answers {status}")),
            Err(cause) => Err(cause),
        };
        let lines = match read {
            Ok(lines) => lines,
            Err(cause) => {
                counter!("tandem_scrape_failures_total", "group" => group.id.to_string()).increment(1);
                tracing::debug!(group = %group.id, cause, "metrics could not be read");
                return vec![];
            }
        };
        let owner = group.id.to_string();
        let sample = |line: exposition::Line| Sample {
            key: SeriesKey { owner: owner.clone(), name: line.name, labels: line.labels },
            at,
            value: line.value,
        };
        lines.into_iter().map(sample).collect()
    }

    /// Names the series that a group has too many of. Which group is not said by the store, but by the names.
    async fn over_limit(&self, dropped: BTreeMap<String, u64>) {
        if dropped.is_empty() {
            return self.clear("series_limit", self.me.as_str()).await;
        }
        counter!("tandem_series_dropped_total").increment(dropped.values().sum());
        let names = dropped.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("a group has over 2,000 series; samples of {names} are left out");
        let count = dropped.values().sum();
        self.raise("series_limit", self.me.as_str(), Severity::Warning, message, json!(dropped), count).await;
    }

    /// The disk is full: raw samples give way, states, errors and alerts stay.
    async fn make_room(&self, now: Timestamp, full: &Fault) {
        let mut dropped = 0;
        for spared in SPARED {
            match self.store.series.drop_raw(now - spared).await {
                Ok(0) => {}
                Ok(samples) => {
                    dropped = samples;
                    break;
                }
                Err(fault) => tracing::error!(%fault, "raw samples could not give way to what matters more"),
            }
        }
        let words = format!("the disk is full: {dropped} raw samples were given up ({})", full.message);
        self.trouble("disk", Some(words.clone()));
        self.raise("disk_full", self.me.as_str(), Severity::Error, words, json!({ "samples": dropped }), 1).await;
    }
}

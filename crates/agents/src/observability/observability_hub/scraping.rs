//! Metrics of the own node's groups, kept over time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use futures::future::join_all;
use metrics::{counter, gauge};
use serde_json::json;
use tandem_store::errors::Severity;
use tandem_store::series::{Policy, Sample, SeriesKey, SeriesStore as _};
use tandem_types::{Code, Fault, GroupId, Timestamp};

use super::alerts::{DISK_FULL, SERIES_LIMIT};
use super::logic::probe::Phase;
use super::logic::rolled_up::{MetricsPage, rolled_up};
use super::logic::{exposition, latency};
use super::watching::Watched;
use super::{Hub, lock, ms};

/// The metrics of a group's own process, where its page shows more than those.
const OWN_METRICS: &str = "/metrics?own";

/// Longest page that is told to another hub: a message has 4 MiB.
const LONGEST_PAGE: usize = 3 << 20;

/// Raw samples of this long are kept when the disk is full, and ever less while it stays full.
const SPARED: [Duration; 4] =
    [Duration::from_hours(24), Duration::from_hours(6), Duration::from_hours(1), Duration::ZERO];

impl Hub {
    /// Reads the metrics of every group that answers.
    pub(super) async fn scrape(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.now();
        let answers = |group: &&Arc<Watched>| matches!(group.phase(), Phase::Good | Phase::Suspect);
        let hub = &self;
        let groups = self.watched.values().filter(answers).filter(|group| hub.counts_for_itself(group));
        let pages = groups.map(|group| async move { Some((group.id.clone(), hub.page(group).await?)) });
        let pages = join_all(pages).await;
        let pages: BTreeMap<GroupId, Read> = pages.into_iter().flatten().collect();
        let samples = {
            let before = lock(&self.pages);
            let of = |(group, page): (&GroupId, &Read)| {
                samples(group, page, before.get(group).map(|shown| shown.text.as_str()), now)
            };
            pages.iter().flat_map(|(group, page)| of((group, page))).collect()
        };
        let own = self.ctx.id().group_id();
        let shown = pages.into_iter().map(|(group, page)| {
            let apart = MetricsPage::of(&group, &page.text, group == own);
            (group, Shown { text: page.text, apart })
        });
        *lock(&self.pages) = shown.collect();
        match self.store.series.append(samples, now).await {
            Ok(appended) => {
                if self.trouble("disk", None) {
                    self.better(DISK_FULL, self.me.as_str());
                }
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

    /// Whether a group's page says something that the page of this hub's own group does not.
    fn counts_for_itself(&self, group: &Watched) -> bool {
        group.id == self.ctx.id().group_id() || !group.is_in_this_process()
    }

    /// The metrics of one group; none when they cannot be had.
    async fn page(&self, group: &Watched) -> Option<Read> {
        let read = match self.http.get(&group.at, OWN_METRICS, ms(self.settings.probe_timeout_ms)).await {
            Ok((StatusCode::OK, page)) => {
                let text = String::from_utf8_lossy(&page).into_owned();
                exposition::read(&text).map_err(|e| e.to_string()).map(|lines| Read { text, lines })
            }
            Ok((status, _)) => Err(format!("`/metrics` answers {status}")),
            Err(cause) => Err(cause),
        };
        let failed = |cause: &String| {
            counter!("tandem_scrape_failures_total", "group" => group.id.to_string()).increment(1);
            tracing::debug!(group = %group.id, cause, "metrics could not be read");
        };
        read.inspect_err(failed).ok()
    }

    /// The metrics of the whole fleet, for whoever scrapes the hub: `own` is what its own group shows now, the others are
    /// as they were scraped last, those of other nodes as their hubs told them. One that does not answer is left out
    /// rather than repeated. Nobody is asked while the page is made.
    pub(super) fn fleet_metrics(&self, own: &str) -> String {
        let group = self.ctx.id().group_id();
        let own = MetricsPage::of(&group, own, true);
        let (pages, peers) = (lock(&self.pages), lock(&self.peer_pages));
        let others = pages.iter().filter(|(id, _)| **id != group).map(|(_, shown)| &shown.apart);
        rolled_up(std::iter::once(&own).chain(others).chain(peers.values()))
    }

    /// The metrics of the own node as they were scraped last, for the hubs of other nodes.
    pub(super) fn page_for_peers(&self) -> String {
        let group = self.ctx.id().group_id();
        let pages = lock(&self.pages);
        let others = pages.iter().filter(|(id, _)| **id != group);
        let page = rolled_up(pages.get_key_value(&group).into_iter().chain(others).map(|(_, shown)| &shown.apart));
        if page.len() <= LONGEST_PAGE { page } else { String::new() }
    }

    /// Names the series that a group has too many of, once until there is room again.
    async fn over_limit(&self, dropped: BTreeMap<String, BTreeMap<String, u64>>) {
        let before = std::mem::replace(&mut *lock(&self.over_limit), dropped.keys().cloned().collect());
        for group in before.iter().filter(|group| !dropped.contains_key(*group)) {
            self.better(SERIES_LIMIT, group);
        }
        for (group, names) in dropped {
            let count = names.values().sum();
            counter!("tandem_series_dropped_total", "group" => group.clone()).increment(count);
            let listed = names.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let most = Policy::TELEMETRY.series_per_owner;
            let message = format!("{group} has over {most} series; samples of {listed} are left out");
            self.raise(SERIES_LIMIT, &group, Severity::Warning, message, json!(names), count).await;
        }
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
        self.raise(DISK_FULL, self.me.as_str(), Severity::Error, words, json!({ "samples": dropped }), 1).await;
    }
}

/// What a group has shown.
struct Read {
    text: String,
    lines: Vec<exposition::Line>,
}

/// What of it is kept until the next time: as it was, and ready to be shown beside others.
pub(super) struct Shown {
    text: String,
    apart: MetricsPage,
}

/// What is kept of a page, of which `before` is the one that was read before it.
fn samples(group: &GroupId, page: &Read, before: Option<&str>, at: Timestamp) -> Vec<Sample> {
    let owner = group.to_string();
    let sample = |name: &str, labels: BTreeMap<String, String>, value: f64| Sample {
        key: SeriesKey { owner: owner.clone(), name: name.to_owned(), labels },
        at,
        value,
    };
    let shown = page.lines.iter().map(|line| sample(&line.name, line.labels.clone(), line.value));
    let p95 = latency::p95(before, &page.text).into_iter();
    let p95 = p95.map(|(agent, seconds)| sample(latency::P95, [("agent".to_owned(), agent)].into(), seconds));
    shown.chain(p95).collect()
}

//! What other nodes measured: taken over from their hubs, so that it can be asked for while they are away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use metrics::counter;
use tandem_contract::Call;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::telemetry;
use tandem_store::series::{Query, Raw, SeriesKey, SeriesStore as _};
use tandem_types::{Code, Fault, GroupId, NodeName, Timestamp};

use super::sync::{PATIENCE, PeerHub, UNSENT};
use super::{Hub, lock, ms, wire};

/// Samples of so long go into one answer, or of the shorter time in which they fit: a message has 4 MiB.
const SPANS: [Duration; 4] = [Duration::from_mins(10), Duration::from_mins(3), Duration::from_mins(1), Duration::ZERO];
const LONGEST_ANSWER: usize = 3 << 20;
/// Answers that are asked for in one go; what is left comes in the next.
const AT_ONCE: usize = 32;

impl Hub {
    /// Takes over what the other hubs have measured since the last time.
    pub(super) async fn take_past(self: Arc<Self>) -> Result<(), Fault> {
        join_all(self.peers.iter().map(|peer| self.take_from(peer))).await.into_iter().collect()
    }

    /// Away is no failure of this hub; what comes back is a failure to keep what was said.
    async fn take_from(&self, peer: &PeerHub) -> Result<(), Fault> {
        let now = self.now();
        if lock(&peer.state).taken.is_some_and(|at| now.since(at) < ms(self.settings.scrape_ms)) {
            return Ok(());
        }
        for _ in 0..AT_ONCE {
            let after_us = peer.past.taken().await?.map_or(0, Timestamp::micros);
            let call = self.ctx.call().to(peer.hub.clone()).within(PATIENCE, Instant::now());
            let request = pb::SyncSeriesRequest { after_us, ..Default::default() };
            let answer = match peer.at.unary(telemetry::SYNC_SERIES, request, &call).await {
                Ok(answer) => answer,
                Err(fault) => {
                    // An older hub has nothing to give, and will have it when it is a newer one.
                    if fault.code != Code::Unimplemented {
                        counter!("tandem_sync_failures_total").increment(1);
                    }
                    tracing::debug!(node = %peer.node, %fault, "the hub of another node gave no samples");
                    return Ok(());
                }
            };
            if answer.series.is_empty() {
                lock(&peer.state).taken = Some(now);
                return Ok(());
            }
            let through = Timestamp(answer.through_us);
            let raw = answer.series.into_iter().filter_map(|series| read(&peer.node, series)).collect();
            peer.past.take(raw, through).await?;
        }
        Ok(())
    }

    /// The past of another node's series: from its own hub, or what was taken over while that is away.
    pub(super) async fn past_of(
        &self,
        node: &NodeName,
        request: pb::QuerySeriesRequest,
        query: Query,
        call: &Call,
    ) -> Result<pb::QuerySeriesResponse, Fault> {
        let peer = self.peer(node)?;
        let call = call.next(self.ctx.id()).to(peer.hub.clone()).within(PATIENCE, Instant::now());
        match peer.at.unary(telemetry::QUERY_SERIES, request, &call).await {
            Err(fault) if matches!(fault.code, Code::Unavailable | Code::DeadlineExceeded) => {
                let series = peer.past.series.query(query).await?.into_iter().map(wire::series).collect();
                Ok(pb::QuerySeriesResponse { series, ..Default::default() })
            }
            answer => answer,
        }
    }

    pub(super) async fn prune_past(&self, now: Timestamp) -> Result<(), Fault> {
        for peer in &self.peers {
            peer.past.series.prune(now).await?;
        }
        Ok(())
    }

    pub(super) async fn sync_series(
        self: Arc<Self>,
        _: Call,
        request: pb::SyncSeriesRequest,
    ) -> Result<pb::SyncSeriesResponse, Fault> {
        let now = self.now();
        // Who has samples from a time to come took them while this clock was wrong, and gets all of the right ones.
        let after =
            Some(Timestamp(request.after_us)).filter(|after| *after <= now).unwrap_or_default().max(now - UNSENT);
        for span in SPANS {
            let Some((through, raw)) = self.store.series.raw_after(after, now, span).await? else { break };
            if span.is_zero() || raw.iter().map(length).sum::<usize>() <= LONGEST_ANSWER {
                let series = raw.into_iter().map(past).collect();
                return Ok(pb::SyncSeriesResponse { series, through_us: through.micros(), ..Default::default() });
            }
        }
        Ok(pb::SyncSeriesResponse::default())
    }
}

/// About how many bytes it takes in a message.
fn length(raw: &Raw) -> usize {
    let labels: usize = raw.key.labels.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    raw.key.owner.len() + raw.key.name.len() + labels + 8 + 21 * raw.samples.len()
}

fn past(raw: Raw) -> pb::PastSeries {
    let sample = |(at, value): (Timestamp, f64)| pb::Sample { at_us: at.micros(), value, ..Default::default() };
    pb::PastSeries {
        group: raw.key.owner,
        name: raw.key.name,
        labels: raw.key.labels.into_iter().collect(),
        samples: raw.samples.into_iter().map(sample).collect(),
        ..Default::default()
    }
}

/// A series of `node`: of others that node has nothing to say.
fn read(node: &NodeName, said: pb::PastSeries) -> Option<Raw> {
    let group: GroupId = said.group.parse().ok()?;
    (group.node == *node).then(|| Raw {
        key: SeriesKey { owner: said.group, name: said.name, labels: said.labels.into_iter().collect() },
        samples: said.samples.into_iter().map(|sample| (Timestamp(sample.at_us), sample.value)).collect(),
    })
}

//! The stream of changes.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use metrics::gauge;
use tandem_contract::pb::tandem::registry::v1 as pb;
use tandem_contract::{Call, Reply};
use tandem_types::{Code, Fault, reason};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::logic::Entry;
use super::{Registry, wire};
use crate::draining::draining;

/// Counts who watches.
struct Watching;

impl Watching {
    fn begin() -> Self {
        gauge!("tandem_registry_watchers").increment(1);
        Self
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        gauge!("tandem_registry_watchers").decrement(1);
    }
}

struct Follower {
    /// What is sent before the changes that follow.
    first: VecDeque<pb::WatchResponse>,
    /// Changes up to here are in `first`, or known to the watcher.
    known: u64,
    live: broadcast::Receiver<Arc<pb::WatchResponse>>,
    over: bool,
    _watching: Watching,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<pb::WatchResponse, Fault>, Self)> {
        if self.over {
            return None;
        }
        if let Some(change) = self.first.pop_front() {
            return Some((Ok(change), self));
        }
        loop {
            match self.live.recv().await {
                Ok(change) if change.revision <= self.known => {}
                Ok(change) => return Some((Ok(Arc::unwrap_or_clone(change)), self)),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(missed)) => {
                    self.over = true;
                    let message = format!(
                        "this watcher did not read {missed} changes in time; watch again after revision 0 to get the table"
                    );
                    return Some((Err(Fault::new(Code::ResourceExhausted, reason::BEHIND, message)), self));
                }
            }
        }
    }
}

impl Registry {
    /// Sends what the watcher lacks, then every change as it happens.
    pub(super) async fn watch(
        self: Arc<Self>,
        _: Call,
        request: pb::WatchRequest,
    ) -> Result<Reply<pb::WatchResponse>, Fault> {
        // Before the snapshot: a change between the two is then in both, and sent once because of its revision.
        let live = self.changes.subscribe();
        let (known, first) = match request.after_revision {
            0 => self.whole_table(),
            after => self.since(after).await?,
        };
        let follower = Follower { first, known, live, over: false, _watching: Watching::begin() };
        Ok(Box::pin(stream::unfold(follower, Follower::next).take_until(draining(&self.ctx))))
    }

    fn whole_table(&self) -> (u64, VecDeque<pb::WatchResponse>) {
        let table = self.table();
        let held = table.lines().filter(|(_, entry)| entry.ended.is_none());
        let added = |(group, entry)| wire::change(pb::ChangeKind::CHANGE_KIND_ADDED, group, entry);
        (table.revision(), held.map(added).collect())
    }

    async fn since(&self, revision: u64) -> Result<(u64, VecDeque<pb::WatchResponse>), Fault> {
        let missed = self.store.since(revision).await?;
        let mut changes = VecDeque::with_capacity(missed.records.len());
        for record in missed.records {
            let (group, mut entry) = Entry::read(record)?;
            entry.unconfirmed = self.table().line(&group).is_some_and(|line| line.id == entry.id && line.unconfirmed);
            let kind = match entry.ended {
                Some(_) => pb::ChangeKind::CHANGE_KIND_REMOVED,
                None => pb::ChangeKind::CHANGE_KIND_CHANGED,
            };
            changes.push_back(wire::change(kind, &group, &entry));
        }
        Ok((missed.revision, changes))
    }
}

//! The table of leases: who may hold one, when it ends, who answers for an RPC. The time is an argument everywhere.
//!
//! Nothing changes here before the store has it: the table proposes a [`Change`], the store applies it, and
//! [`Table::put`] takes the line the store made. Plain renewals are the exception. They only move the moment at which
//! silence ends the lease, which a restart resets anyway.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tandem_store::leases::{Change, Lease, Record, TOMBSTONE_KEPT};
use tandem_types::{AgentId, Code, Fault, GroupId, Health, NodeName, Timestamp, reason};

/// How long leases last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// A lease ends after this long without renewal.
    pub(super) ttl: Duration,
    /// After the registry's own absence it waits this long before it takes silence for an end.
    pub(super) grace: Duration,
}

/// What one agent serves and how it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) agent: AgentId,
    pub(super) rpcs: Vec<String>,
    pub(super) health: Health,
    pub(super) load: f32,
}

/// What a group says of itself when it asks for a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) instance: String,
    pub(super) endpoint: String,
    pub(super) version: String,
    pub(super) contract_hash: String,
    pub(super) plan_hash: String,
    pub(super) agents: Vec<Report>,
    pub(super) warnings: Vec<String>,
}

/// A group that asks for a lease.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) group: GroupId,
    pub(super) generation: u64,
    pub(super) body: Body,
}

/// What the plan says about a group, and the hashes of this build.
pub(super) struct Planned<'a> {
    pub(super) endpoint: &'a str,
    pub(super) agents: Vec<AgentId>,
    pub(super) contract_hash: &'a str,
    pub(super) plan_hash: &'a str,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) fencing: u64,
    pub(super) id: String,
    pub(super) generation: u64,
    pub(super) expires: Timestamp,
    /// Not heard of since the registry's own absence.
    pub(super) unconfirmed: bool,
    pub(super) ended: Option<(Timestamp, String)>,
    pub(super) body: Body,
}

impl Entry {
    /// The line as the store has it.
    pub(super) fn read(record: Record) -> Result<(GroupId, Self), Fault> {
        let Record { revision, fencing, lease, ended } = record;
        let body = serde_json::from_str(&lease.body).map_err(|e| {
            Fault::internal(format!("the stored lease of {} cannot be read ({:?})", lease.group, e.classify()))
        })?;
        let Lease { id, group, generation, expires, .. } = lease;
        Ok((group, Self { revision, fencing, id, generation, expires, unconfirmed: false, ended, body }))
    }

    fn holds(&self, now: Timestamp) -> bool {
        self.ended.is_none() && self.expires > now
    }
}

fn lease(group: &GroupId, id: &str, generation: u64, expires: Timestamp, body: &Body) -> Result<Lease, Fault> {
    let body = serde_json::to_string(body)
        .map_err(|e| Fault::internal(format!("the lease of {group} cannot be written ({:?})", e.classify())))?;
    Ok(Lease { id: id.to_owned(), group: group.clone(), generation, expires, body })
}

/// Checks a registration against the plan; what is accepted all the same comes back as warnings.
pub(super) fn against_plan(asked: &Registration, planned: &Planned<'_>) -> Result<Vec<String>, Fault> {
    let Registration { group, body, .. } = asked;
    if let Some(stranger) = body.agents.iter().find(|report| !planned.agents.contains(&report.agent)) {
        return Err(Fault::not_found(format!("the fleet file has no agent {} in {group}", stranger.agent)));
    }
    if body.endpoint.trim_end_matches('/') != planned.endpoint.trim_end_matches('/') {
        return Err(Fault::new(
            Code::FailedPrecondition,
            reason::BAD_ADDRESS,
            format!(
                "{group} registers at {} and the fleet file has it at {}; start it with the fleet file of the registry",
                body.endpoint, planned.endpoint
            ),
        ));
    }
    let differs = |what, theirs: &str, ours: &str| {
        (theirs != ours).then(|| format!("{group} runs with {what} {theirs}, the registry with {ours}"))
    };
    let warnings = [
        differs("contract", &body.contract_hash, planned.contract_hash),
        differs("plan", &body.plan_hash, planned.plan_hash),
    ];
    Ok(warnings.into_iter().flatten().collect())
}

/// What a renewal comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Renewal {
    /// Only the lease's end has moved.
    Quiet,
    /// Something that watchers want to know.
    Change(Change),
}

/// What is asked of [`Table::resolve`].
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) rpc: String,
    pub(super) node: Option<NodeName>,
    pub(super) only_ready: bool,
    pub(super) caller_node: Option<NodeName>,
}

/// Leases and tombstones, the newest line of each group.
#[derive(Debug, Clone)]
pub(super) struct Table {
    rules: Rules,
    entries: BTreeMap<GroupId, Entry>,
    revision: u64,
    /// When silence was last looked at.
    looked: Timestamp,
}

impl Table {
    /// The table as the store has it after a restart: everybody is given time to be heard of again.
    pub(super) fn restore(stored: tandem_store::leases::Table, rules: Rules, now: Timestamp) -> Result<Self, Fault> {
        let mut table = Self { rules, entries: BTreeMap::new(), revision: stored.revision, looked: now };
        for record in stored.records {
            let (group, entry) = Entry::read(record)?;
            table.entries.insert(group, entry);
        }
        table.wait_for_all(now);
        Ok(table)
    }

    fn wait_for_all(&mut self, now: Timestamp) {
        for entry in self.entries.values_mut().filter(|entry| entry.ended.is_none()) {
            entry.unconfirmed = true;
            entry.expires = now + self.rules.grace;
        }
    }

    /// Number of the last change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Every line, in order of group.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&GroupId, &Entry)> {
        self.entries.iter()
    }

    /// The line of a group.
    pub(super) fn line(&self, group: &GroupId) -> Option<&Entry> {
        self.entries.get(group)
    }

    /// The change that gives a group its lease, under `fresh` as id unless it has one already.
    ///
    /// # Errors
    /// `conflict` when another instance holds it and did not start earlier.
    pub(super) fn admit(&self, asked: &Registration, fresh: &str, now: Timestamp) -> Result<Change, Fault> {
        let Registration { group, generation, body } = asked;
        let expires = now + self.rules.ttl;
        match self.entries.get(group).filter(|entry| entry.holds(now)) {
            Some(held) if held.body.instance == body.instance && held.generation == *generation => {
                Ok(Change::Update(lease(group, &held.id, *generation, expires, body)?))
            }
            Some(held) if held.generation >= *generation => Err(Fault::new(
                Code::Conflict,
                reason::SECOND_OWNER,
                format!(
                    "{group} is held by instance {} (start {}), so instance {} (start {generation}) gets no lease; \
                     end one of the two",
                    held.body.instance, held.generation, body.instance
                ),
            )
            .retry_after(held.expires.since(now))),
            _ => Ok(Change::Own(lease(group, fresh, *generation, expires, body)?)),
        }
    }

    fn held(&self, id: &str, now: Timestamp) -> Result<(&GroupId, &Entry), Fault> {
        let found = self.entries.iter().find(|(_, entry)| entry.id == id && entry.holds(now));
        found.ok_or_else(|| Fault::not_found(format!("there is no lease {id}, or it has ended; register again")))
    }

    /// The group that holds a lease.
    ///
    /// # Errors
    /// `not_found` when the lease is unknown or over.
    pub(super) fn holder(&self, id: &str, now: Timestamp) -> Result<&GroupId, Fault> {
        self.held(id, now).map(|(group, _)| group)
    }

    /// Keeps a lease alive. Agents that are not reported stay as they were; a report without RPCs leaves them as they
    /// were.
    ///
    /// # Errors
    /// `not_found` when the lease is unknown or over, upon which the group registers again.
    pub(super) fn renew(&mut self, id: &str, reports: Vec<Report>, now: Timestamp) -> Result<Renewal, Fault> {
        let (group, held) = self.held(id, now)?;
        let group = group.clone();
        let mut body = held.body.clone();
        for mut report in reports {
            match body.agents.iter_mut().find(|known| known.agent == report.agent) {
                Some(known) => {
                    if report.rpcs.is_empty() {
                        report.rpcs = std::mem::take(&mut known.rpcs);
                    }
                    *known = report;
                }
                None => body.agents.push(report),
            }
        }
        let expires = now + self.rules.ttl;
        if held.unconfirmed || visibly_differ(&held.body.agents, &body.agents) {
            return Ok(Renewal::Change(Change::Update(lease(&group, id, held.generation, expires, &body)?)));
        }
        if let Some(entry) = self.entries.get_mut(&group) {
            entry.expires = expires;
            entry.body = body;
        }
        Ok(Renewal::Quiet)
    }

    /// The change that ends a lease on purpose.
    ///
    /// # Errors
    /// `not_found` when the lease is unknown or over.
    pub(super) fn release(&self, id: &str, why: &str, now: Timestamp) -> Result<Change, Fault> {
        let (group, _) = self.held(id, now)?;
        let why = if why.is_empty() { "deregistered" } else { why };
        Ok(Change::End { group: group.clone(), id: id.to_owned(), reason: why.to_owned() })
    }

    /// The changes that end every lease whose time is over. When nobody looked for longer than a lease lasts, because
    /// the machine slept or the process stood still, the silence was the registry's own and everybody is given time.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<Change> {
        let away = now.since(self.looked) > self.rules.ttl;
        self.looked = now;
        if away {
            self.wait_for_all(now);
        }
        self.entries
            .iter()
            .filter(|(_, entry)| entry.ended.is_none() && entry.expires <= now)
            .map(|(group, entry)| Change::End {
                group: group.clone(),
                id: entry.id.clone(),
                reason: EXPIRED.to_owned(),
            })
            .collect()
    }

    /// The next moment at which a lease ends for want of renewal.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.entries.values().filter(|entry| entry.ended.is_none()).map(|entry| entry.expires).min()
    }

    /// Takes a line that the store has made; says whether the group had a lease before.
    pub(super) fn put(&mut self, record: Record) -> Result<bool, Fault> {
        let (group, entry) = Entry::read(record)?;
        self.revision = self.revision.max(entry.revision);
        let former = self.entries.insert(group, entry);
        Ok(former.is_some_and(|former| former.ended.is_none()))
    }

    /// Forgets tombstones that the store no longer keeps.
    pub(super) fn prune(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| !matches!(&entry.ended, Some((at, _)) if *at + TOMBSTONE_KEPT <= now));
    }

    /// Who serves an RPC, best first: those that serve, on the caller's node, heard of since the registry's start, the
    /// least loaded.
    pub(super) fn resolve(&self, query: &Query) -> Vec<(&str, &Report)> {
        let mut found: Vec<(&Entry, &Report)> = self
            .entries
            .iter()
            .filter(|(group, entry)| {
                entry.ended.is_none() && query.node.as_ref().is_none_or(|node| *node == group.node)
            })
            .flat_map(|(_, entry)| entry.body.agents.iter().map(move |report| (entry, report)))
            .filter(|(_, report)| report.rpcs.contains(&query.rpc))
            .filter(|(_, report)| !query.only_ready || report.health.state.serves())
            .collect();
        found.sort_by(|(a_entry, a), (b_entry, b)| {
            let rank = |entry: &Entry, report: &Report| {
                let far = query.caller_node.as_ref().is_some_and(|node| *node != report.agent.node);
                (!report.health.state.serves(), far, entry.unconfirmed)
            };
            rank(a_entry, a).cmp(&rank(b_entry, b)).then(a.load.total_cmp(&b.load)).then_with(|| a.agent.cmp(&b.agent))
        });
        found.into_iter().map(|(entry, report)| (entry.body.endpoint.as_str(), report)).collect()
    }
}

/// Why a lease ended that nobody renewed.
pub(super) const EXPIRED: &str = "expired";

/// Load alone is asked for, not watched.
fn visibly_differ(before: &[Report], after: &[Report]) -> bool {
    before.len() != after.len()
        || before.iter().zip(after).any(|(a, b)| (&a.agent, &a.rpcs, &a.health) != (&b.agent, &b.rpcs, &b.health))
}

#[cfg(test)]
mod tests;

//! Says which agents are alive, where, and what they serve.
//!
//! The fleet file says where groups are; leases add which of them are there. A group holds one lease for all its agents
//! and renews it every few seconds. A lease that is not renewed ends at its time, not at the next look: a timer sleeps
//! until exactly then. Every change has a revision and goes to all who watch.

mod logic;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use metrics::{counter, gauge};
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, bind};
use tandem_contract::pb::tandem::registry::v1 as pb;
use tandem_contract::{Call, Service, contract_hash, rpc::registry};
use tandem_store::leases::{Change, LeaseStore, SqliteLeases};
use tandem_store::paging::{DEFAULT_SIZE, MAX_SIZE};
use tandem_types::{Fault, GroupId, NodeName, Timestamp, reason};
use tokio::sync::{Notify, broadcast, oneshot};

use crate::fields::Fields;
use crate::opening::open;
use logic::{Entry, Planned, Renewal, Rules, Table};

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "ServiceRegistry",
    about: "Says which agents are alive, where, and what they serve.",
    provides: &[
        registry::REGISTER.facts(),
        registry::RENEW.facts(),
        registry::DEREGISTER.facts(),
        registry::RESOLVE.facts(),
        registry::LIST.facts(),
        registry::WATCH.facts(),
    ],
    needs: &[],
    uses: &[],
    roles: &[],
    publishes: &[],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// A lease ends after this long without renewal.
    ttl_ms: u32,
    /// After the registry's own restart, leases are waited for this long.
    unconfirmed_ms: u32,
    /// Changes a watcher may fall behind before it is told to begin anew.
    watch_buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ttl_ms: 15_000, unconfirmed_ms: 20_000, watch_buffer: 256 }
    }
}

/// Longest sleep between two looks at the leases, and the pause after a failed one.
const LOOK: Duration = Duration::from_secs(5);
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often tombstones past their time are removed.
const TIDY: Duration = Duration::from_mins(1);

struct Registry {
    ctx: Ctx,
    ttl_ms: u32,
    store: Arc<dyn LeaseStore>,
    table: RwLock<Table>,
    /// Held from reading the table over the store's write to taking its result, so that changes come in one order.
    gate: tokio::sync::Mutex<()>,
    /// Shared pieces: the channel has room for all it may hold from the beginning.
    changes: broadcast::Sender<Arc<pb::WatchResponse>>,
    /// The next lease may end at another time than the timer thinks.
    moved: Notify,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let Settings { ttl_ms, unconfirmed_ms, watch_buffer } = ctx.settings()?;
    let path = ctx.data_file("registry.db");
    let store = open(move || SqliteLeases::open(path)).await?;
    let rules =
        Rules { ttl: Duration::from_millis(ttl_ms.into()), grace: Duration::from_millis(unconfirmed_ms.into()) };
    let table = Table::restore(store.table().await?, rules, ctx.clock().now())?;
    let agent = Arc::new(Registry {
        ttl_ms,
        store: Arc::new(store),
        table: RwLock::new(table),
        gate: tokio::sync::Mutex::default(),
        changes: broadcast::channel(watch_buffer.max(1)).0,
        moved: Notify::new(),
        ctx: ctx.clone(),
    });
    // Both are there before anything counts, so that a rate over them has a beginning.
    counter!("tandem_registry_expired_total").increment(0);
    gauge!("tandem_registry_watchers").increment(0);
    agent.show();
    ctx.spawn(agent.clone().end_in_time());
    let service = Service::new()
        .unary(registry::REGISTER, bind(&agent, Registry::register))
        .unary(registry::RENEW, bind(&agent, Registry::renew))
        .unary(registry::DEREGISTER, bind(&agent, Registry::deregister))
        .unary(registry::RESOLVE, bind(&agent, Registry::resolve))
        .unary(registry::LIST, bind(&agent, Registry::list))
        .server_stream(registry::WATCH, bind(&agent, Registry::watch));
    let (expiring, tidying) = (agent.clone(), agent);
    Ok(Started::serve(service).reconcile("expire", LOOK, move || expiring.clone().expire()).reconcile(
        "tidy",
        TIDY,
        move || tidying.clone().tidy(),
    ))
}

impl Registry {
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        // Each operation leaves the table whole, so a panic elsewhere does not spoil it.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn register(self: Arc<Self>, _: Call, request: pb::RegisterRequest) -> Result<pb::RegisterResponse, Fault> {
        let mut asked = wire::registration(request)?;
        let group = asked.group.clone();
        let planned = self
            .ctx
            .fleet()
            .group(&group)
            .ok_or_else(|| Fault::not_found(format!("the fleet file has no group {group}")))?;
        asked.body.warnings = logic::against_plan(
            &asked,
            &Planned {
                endpoint: &planned.endpoint,
                agents: planned.agents.iter().map(|agent| group.agent(agent.name.clone())).collect(),
                contract_hash: contract_hash(),
                plan_hash: &self.ctx.fleet().plan_hash,
            },
        )?;
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        let made = self.change(move |table, now| Ok(vec![table.admit(&asked, &fresh, now)?])).await?;
        let entry = made.into_iter().next().ok_or_else(|| Fault::internal(format!("{group} got no lease")))?;
        for warning in &entry.body.warnings {
            tracing::warn!(%group, "{warning}");
        }
        Ok(pb::RegisterResponse {
            lease_id: entry.id,
            ttl_ms: self.ttl_ms,
            fencing: entry.fencing,
            warnings: entry.body.warnings,
            ..Default::default()
        })
    }

    async fn renew(self: Arc<Self>, _: Call, request: pb::RenewRequest) -> Result<pb::RenewResponse, Fault> {
        let (id, now) = (request.lease_id, self.ctx.clock().now());
        let group = self.table().holder(&id, now)?.clone();
        let mut fields = Fields::default();
        let reports = wire::reports(&group, request.agents, &mut fields);
        let reports = fields.all(Some(reports))?;
        let renewal = self.table_mut().renew(&id, reports.clone(), now)?;
        if renewal != Renewal::Quiet {
            let renew = move |table: &mut Table, now| match table.renew(&id, reports, now)? {
                Renewal::Quiet => Ok(vec![]),
                Renewal::Change(change) => Ok(vec![change]),
            };
            self.change(renew).await?;
        }
        Ok(pb::RenewResponse { ttl_ms: self.ttl_ms, ..Default::default() })
    }

    async fn deregister(
        self: Arc<Self>,
        _: Call,
        request: pb::DeregisterRequest,
    ) -> Result<pb::DeregisterResponse, Fault> {
        self.change(move |table, now| Ok(vec![table.release(&request.lease_id, &request.reason, now)?])).await?;
        Ok(pb::DeregisterResponse::default())
    }

    async fn resolve(self: Arc<Self>, _: Call, request: pb::ResolveRequest) -> Result<pb::ResolveResponse, Fault> {
        let query = wire::query(request)?;
        let known = |node: &NodeName| self.ctx.fleet().nodes.iter().any(|n| n.name == *node);
        if let Some(node) = query.node.as_ref().filter(|node| !known(node)) {
            return Err(Fault::not_found(format!("the fleet file has no node {node}")));
        }
        let table = self.table();
        let providers = table.resolve(&query).into_iter().map(|(at, report)| wire::provider(at, report)).collect();
        Ok(pb::ResolveResponse { providers, ..Default::default() })
    }

    async fn list(self: Arc<Self>, _: Call, request: pb::ListRequest) -> Result<pb::ListResponse, Fault> {
        let mut fields = Fields::default();
        let node = fields.optional::<NodeName>("node", &request.node);
        let after = fields.optional::<GroupId>("page_token", &request.page_token);
        let size = fields.at_most("page_size", request.page_size, DEFAULT_SIZE, MAX_SIZE);
        let ((node, after), size) = fields.all(node.zip(after).zip(size))?;
        let size = size as usize;
        let table = self.table();
        let wanted = table
            .lines()
            .filter(|(group, _)| node.as_ref().is_none_or(|node| *node == group.node))
            .filter(|(group, _)| after.as_ref().is_none_or(|after| *group > after));
        let mut leases: Vec<pb::Lease> =
            wanted.take(size + 1).map(|(group, entry)| wire::lease(group, entry)).collect();
        let more = leases.len() > size;
        leases.truncate(size);
        let next_page_token = leases.last().filter(|_| more).map(|last| last.group.clone()).unwrap_or_default();
        Ok(pb::ListResponse { leases, next_page_token, revision: table.revision(), ..Default::default() })
    }

    /// Changes the table: what `decide` proposes is stored, then taken into the table, then told. Goes on when the
    /// caller leaves, because a change that is stored and not taken would split the two.
    async fn change<F>(self: &Arc<Self>, decide: F) -> Result<Vec<Entry>, Fault>
    where
        F: FnOnce(&mut Table, Timestamp) -> Result<Vec<Change>, Fault> + Send + 'static,
    {
        let (done, made) = oneshot::channel();
        let agent = self.clone();
        self.ctx.spawn(async move {
            // Nobody listens when the caller has left.
            let _ = done.send(agent.decide_and_store(decide).await);
        });
        made.await.unwrap_or_else(|_| Err(Fault::unavailable(reason::DRAINING, "the registry is stopping")))
    }

    async fn decide_and_store<F>(&self, decide: F) -> Result<Vec<Entry>, Fault>
    where
        F: FnOnce(&mut Table, Timestamp) -> Result<Vec<Change>, Fault>,
    {
        let _gate = self.gate.lock().await;
        let now = self.ctx.clock().now();
        let changes = decide(&mut self.table_mut(), now)?;
        if changes.is_empty() {
            return Ok(vec![]);
        }
        let records = self.store.apply(changes, now).await?;
        let mut made = Vec::with_capacity(records.len());
        {
            let mut table = self.table_mut();
            for record in records {
                let group = record.lease.group.clone();
                let held_before = table.put(record)?;
                if let Some(entry) = table.line(&group) {
                    let kind = match (&entry.ended, held_before) {
                        (Some(_), _) => pb::ChangeKind::CHANGE_KIND_REMOVED,
                        (None, true) => pb::ChangeKind::CHANGE_KIND_CHANGED,
                        (None, false) => pb::ChangeKind::CHANGE_KIND_ADDED,
                    };
                    // An error only says that nobody watches.
                    let _ = self.changes.send(Arc::new(wire::change(kind, &group, entry)));
                    made.push(entry.clone());
                }
            }
        }
        self.show();
        self.moved.notify_one();
        Ok(made)
    }

    async fn expire(self: Arc<Self>) -> Result<(), Fault> {
        let ended = self.change(|table, now| Ok(table.expire(now))).await?;
        for entry in ended {
            counter!("tandem_registry_expired_total").increment(1);
            tracing::warn!(instance = entry.body.instance, endpoint = entry.body.endpoint, "a group's lease expired");
        }
        Ok(())
    }

    /// Ends leases at the moment their time is over.
    async fn end_in_time(self: Arc<Self>) {
        let mut failing = false;
        loop {
            let next = self.table().next_expiry().map(|at| at.since(self.ctx.clock().now()));
            let moved = tokio::time::timeout(next.map_or(LOOK, |next| next.min(LOOK)), self.moved.notified()).await;
            if moved.is_ok() {
                continue;
            }
            match self.clone().expire().await {
                Ok(()) if std::mem::take(&mut failing) => self.ctx.health().ready(),
                Ok(()) => {}
                Err(fault) => {
                    failing = true;
                    self.ctx.health().degraded(format!("cannot record that leases ended: {}", fault.message));
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn tidy(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.ctx.clock().now();
        self.store.prune(now).await?;
        self.table_mut().prune(now);
        self.show();
        Ok(())
    }

    fn show(&self) {
        let table = self.table();
        gauge!("tandem_registry_revision").set(table.revision() as f64);
        for node in &self.ctx.fleet().nodes {
            let of_node = || table.lines().filter(|(group, _)| group.node == node.name).map(|(_, entry)| entry);
            let count = |state: &'static str, which: fn(&&Entry) -> bool| {
                let n = of_node().filter(which).count();
                gauge!("tandem_registry_leases", "node" => node.name.to_string(), "state" => state).set(n as f64);
            };
            count("held", |entry| entry.ended.is_none() && !entry.unconfirmed);
            count("unconfirmed", |entry| entry.ended.is_none() && entry.unconfirmed);
            count("ended", |entry| entry.ended.is_some());
        }
    }
}

//! The operator's hand: overview, controlled start and stop, diagnosis, and requests about a person's data.
//!
//! It decides nothing about the fleet by itself. A person, or an agent with the right, asks; it does one thing at a time
//! to a group, keeps who asked and why, and says how it went.

mod actions;
mod data;
mod doctor;
mod export;
mod facts;
mod logic;
mod overview;
mod plan;
#[cfg(test)]
mod tests;
mod wake;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, FleetGroup, Started, Topic, TopicKind, bind};
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::{host, system};
use tandem_contract::{Call, Service};
use tandem_store::actions::{ActionStore, SqliteActions};
use tandem_types::{Fault, GroupId, NodeName, Timestamp};

use crate::checks::Room;
use crate::opening::open;

/// A person's data is gone from every store.
const DATA_FORGOTTEN: Topic = Topic { name: "data.forgotten", kind: TopicKind::Journal };

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "UnifiedSystemAgent",
    about: "The operator's hand: overview, controlled start and stop, diagnosis, and requests about a person's data.",
    provides: &[
        system::GET_OVERVIEW.facts(),
        system::LIST_SERVICES.facts(),
        system::START_AGENT.facts(),
        system::STOP_AGENT.facts(),
        system::RESTART_AGENT.facts(),
        system::RECYCLE_GROUP.facts(),
        system::WAKE_NODE.facts(),
        system::PLAN.facts(),
        system::DOCTOR.facts(),
        system::SET_MAINTENANCE.facts(),
        system::REQUEST_FORGET.facts(),
        system::REQUEST_EXPORT.facts(),
        system::GET_DATA_REQUEST.facts(),
        system::LIST_ACTIONS.facts(),
    ],
    needs: &["ServiceRegistry", "SystemDigitalTwin"],
    uses: &[
        "AuthenticationAgent",
        "ObservabilityHub",
        "PredictiveHealthMonitor",
        "UnifiedUtilsAgent",
        "ModelManagerSuite",
    ],
    roles: &[],
    publishes: &[DATA_FORGOTTEN],
    required: false,
    start: |ctx| Box::pin(start(ctx)),
};

/// How to wake a machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wake {
    /// Hardware address of its network card.
    mac: String,
    /// Where the packet goes; the broadcast address of its network.
    #[serde(default = "everywhere")]
    broadcast: String,
}

fn everywhere() -> String {
    "255.255.255.255:9".into()
}

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// How long an agent may take to finish when nobody says.
    drain_ms: u32,
    /// How long an action on a group that is away waits.
    pending_ms: u32,
    /// Time between two tries of a data request at groups that are away.
    data_retry_ms: u32,
    /// Free bytes of the data folder's disk below which the doctor warns, and below which it is a failure.
    disk_warn_bytes: u64,
    disk_fail_bytes: u64,
    /// How to wake machines, by name.
    wake: BTreeMap<NodeName, Wake>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drain_ms: 20_000,
            pending_ms: 3_600_000,
            data_retry_ms: 3_600_000,
            disk_warn_bytes: Room::default().warn_below,
            disk_fail_bytes: Room::default().fail_below,
            wake: BTreeMap::new(),
        }
    }
}

/// How often pending actions are tried again, and how often past rows are removed.
const PENDING: Duration = Duration::from_secs(10);
const RETENTION: Duration = Duration::from_hours(1);
/// How long a group may take to say how it is.
const ASKING: Duration = Duration::from_secs(2);
/// What is kept of a caller's time to still answer in.
const TO_ANSWER: Duration = Duration::from_millis(200);

struct SystemHand {
    ctx: Ctx,
    settings: Settings,
    store: Arc<dyn ActionStore>,
    /// Actions and data requests that this life of the agent works on.
    running: actions::Running,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    wake::check(&settings.wake)?;
    let path = ctx.data_file("system.db");
    let store = Arc::new(open(move || SqliteActions::open(path)).await?);
    let hand = Arc::new(SystemHand { store, settings, running: actions::Running::default(), ctx });
    hand.take_up().await?;
    hand.show_open_requests().await?;
    let service = Service::new()
        .unary(system::GET_OVERVIEW, bind(&hand, SystemHand::get_overview))
        .unary(system::LIST_SERVICES, bind(&hand, SystemHand::list_services))
        .unary(system::START_AGENT, bind(&hand, SystemHand::start_agent))
        .unary(system::STOP_AGENT, bind(&hand, SystemHand::stop_agent))
        .unary(system::RESTART_AGENT, bind(&hand, SystemHand::restart_agent))
        .unary(system::RECYCLE_GROUP, bind(&hand, SystemHand::recycle_group))
        .unary(system::WAKE_NODE, bind(&hand, SystemHand::wake_node))
        .unary(system::PLAN, bind(&hand, SystemHand::plan))
        .unary(system::DOCTOR, bind(&hand, SystemHand::doctor))
        .unary(system::SET_MAINTENANCE, bind(&hand, SystemHand::set_maintenance))
        .unary(system::REQUEST_FORGET, bind(&hand, SystemHand::request_forget))
        .unary(system::REQUEST_EXPORT, bind(&hand, SystemHand::request_export))
        .unary(system::GET_DATA_REQUEST, bind(&hand, SystemHand::get_data_request))
        .unary(system::LIST_ACTIONS, bind(&hand, SystemHand::list_actions));
    let retry = Duration::from_millis(hand.settings.data_retry_ms.into());
    let (pending, data, tidy) = (hand.clone(), hand.clone(), hand.clone());
    Ok(Started::serve(service)
        .reconcile("pending", PENDING, move || pending.clone().retry_pending())
        .reconcile("data", retry, move || data.clone().retry_data())
        .reconcile("retention", RETENTION, move || tidy.clone().tidy())
        .store(hand))
}

impl SystemHand {
    fn now(&self) -> Timestamp {
        self.ctx.clock().now()
    }

    /// Groups that this program has code for; the others are never started.
    fn built_groups(&self) -> impl Iterator<Item = &FleetGroup> {
        self.ctx.fleet().groups.iter().filter(|group| group.agents.iter().any(|agent| agent.built))
    }

    fn planned(&self, group: &GroupId) -> Result<&FleetGroup, Fault> {
        self.ctx
            .fleet()
            .group(group)
            .ok_or_else(|| Fault::not_found(format!("the fleet file has no group {group}; `tandem plan` lists them")))
    }

    /// Asks a group how it is.
    async fn health_of(&self, group: &GroupId, padding: usize) -> Result<pb::GetHealthResponse, Fault> {
        let request = pb::GetHealthRequest { padding: vec![0x55; padding], ..Default::default() };
        let call = self.ctx.call().within(ASKING, Instant::now());
        self.ctx.peers().group(group)?.unary(host::GET_HEALTH, request, &call).await
    }

    /// How long an answer to `call` may still take; `default` when the caller sets no time.
    fn time_left(call: &Call, default: Duration) -> Duration {
        let left = call.deadline.map_or(default, |end| end.saturating_duration_since(Instant::now()));
        left.saturating_sub(TO_ANSWER)
    }
}

//! What an agent may see.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::de::DeserializeOwned;
use tandem_contract::{Call, Observer};
use tandem_types::{AgentId, Code, Fault, Timestamp, reason};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Clock, FleetView, HealthHandle, InFlight, Peers, Publisher, Sockets};

/// The parts a host puts together.
#[derive(Clone)]
pub struct CtxParts {
    /// Who the agent is.
    pub id: AgentId,
    /// The directory of other agents.
    pub peers: Peers,
    /// Its own word on how it is doing.
    pub health: HealthHandle,
    /// Where it publishes.
    pub publisher: Publisher,
    /// The clock.
    pub clock: Clock,
    /// Folder of its group's stores.
    pub data: PathBuf,
    /// Its settings in the fleet file.
    pub settings: serde_json::Value,
    /// Cancelled when the agent is to end.
    pub cancel: CancellationToken,
    /// Owns its tasks.
    pub tasks: TaskTracker,
    /// The running process, new with each start.
    pub instance: String,
    /// Moved by [`Ctx::beat`].
    pub heartbeat: Heartbeat,
    /// Hears of what the agent serves besides its RPCs; none when nobody collects spans.
    pub spans: Option<Arc<dyn Observer>>,
    /// Listening sockets of its process.
    pub sockets: Sockets,
    /// What it does for others.
    pub in_flight: InFlight,
}

/// When an agent last said that it is not stuck.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicI64>);

impl Heartbeat {
    /// Moves it to `now`.
    pub fn beat(&self, now: Timestamp) {
        self.0.store(now.micros(), Ordering::Relaxed);
    }

    /// The last beat.
    pub fn last(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// What an agent may see: peers, health, stores, settings, time, and nothing of the host. Cheap to clone.
#[derive(Clone)]
pub struct Ctx {
    parts: CtxParts,
}

impl Ctx {
    /// Puts a context together; hosts and tests do this.
    pub fn new(parts: CtxParts) -> Self {
        Self { parts }
    }

    /// Who the agent is.
    pub fn id(&self) -> &AgentId {
        &self.parts.id
    }

    /// The directory of other agents.
    pub fn peers(&self) -> &Peers {
        &self.parts.peers
    }

    /// The plan.
    pub fn fleet(&self) -> &Arc<FleetView> {
        self.parts.peers.fleet()
    }

    /// Its own word on how it is doing. An agent that says nothing is `ready` once `start` has returned.
    pub fn health(&self) -> &HealthHandle {
        &self.parts.health
    }

    /// Where it publishes events.
    pub fn publisher(&self) -> &Publisher {
        &self.parts.publisher
    }

    /// Listening sockets of its process, for who listens besides its group's port.
    pub fn sockets(&self) -> &Sockets {
        &self.parts.sockets
    }

    /// What it does for others. The host counts its calls; an agent that serves anything else counts that.
    pub fn in_flight(&self) -> &InFlight {
        &self.parts.in_flight
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.parts.clock
    }

    /// The running process.
    pub fn instance(&self) -> &str {
        &self.parts.instance
    }

    /// Path of a store of this agent, for example `sessions.db`.
    pub fn data_file(&self, name: &str) -> PathBuf {
        self.parts.data.join(name)
    }

    /// Folder of the group's stores.
    pub fn data_dir(&self) -> &Path {
        &self.parts.data
    }

    /// Where spans of requests go that reach the agent through a door of its own. RPCs have theirs without its doing.
    pub fn spans(&self) -> Option<&Arc<dyn Observer>> {
        self.parts.spans.as_ref()
    }

    /// A call of the agent's own accord.
    pub fn call(&self) -> Call {
        Call::by(&self.parts.id)
    }

    /// The agent's settings: defaults overlaid by its table in the fleet file. Unknown settings are refused when
    /// `T` says `#[serde(deny_unknown_fields)]`, which every agent's does.
    pub fn settings<T: DeserializeOwned + Default>(&self) -> Result<T, Fault> {
        if self.parts.settings.is_null() {
            return Ok(T::default());
        }
        T::deserialize(&self.parts.settings).map_err(|e| {
            Fault::new(
                Code::InvalidArgument,
                reason::BAD_FIELD,
                format!("settings of {} in the fleet file: {e}", self.parts.id.agent),
            )
        })
    }

    /// Cancelled when the agent is to end; long work looks at it.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.parts.cancel
    }

    /// Says that work which takes longer than 30 s is not stuck; a reconciler that is silent for longer counts as failed.
    pub fn beat(&self) {
        self.parts.heartbeat.beat(self.parts.clock.now());
    }

    /// Runs a task that ends with the agent.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.parts.cancel.clone();
        self.parts.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = task => {}
            }
        });
    }
}

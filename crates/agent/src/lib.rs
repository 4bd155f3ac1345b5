//! What an agent is and what it may see.
//!
//! An agent is an [`AgentDef`]: a constant that says its name, what it provides, needs and uses, and a `start` function
//! that gets a [`Ctx`] and returns [`Started`]. The host does the rest: routing, deadlines, supervision, health, drain.
//! Agents never import the host.

mod clock;
mod ctx;
mod def;
mod events;
mod fleet;
mod health;
mod in_flight;
mod node;
mod peers;
mod retry;
mod returning;
mod sockets;
mod started;

pub use clock::Clock;
pub use ctx::{Ctx, CtxParts, Heartbeat};
pub use def::{AgentDef, StartFuture, Topic, TopicKind};
pub use events::{Event, EventBus, Publisher};
pub use fleet::{FleetAgent, FleetGroup, FleetNode, FleetView, FleetWeb};
pub use health::{HealthHandle, HealthWatch};
pub use in_flight::{InFlight, Served};
pub use node::{NodeGroup, NodeSource, NodeView, PeerNode, PeerPath, Reach};
pub use peers::{Peers, Provider};
pub use retry::{Breaker, Gate, RetryBudget, backoff, may_retry};
pub use sockets::{SocketKeeper, Sockets};
pub use started::{Detail, EventHandler, MetricsPage, Reconciler, Shows, Started, Subscription, bind};
pub use tandem_store::personal::PersonalData;

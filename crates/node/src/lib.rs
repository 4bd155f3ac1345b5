//! Runs one machine.
//!
//! [`Processes::left`] sorts what a dead node left running into what goes on and what [`end_orphans`] ends,
//! [`Node::start`] starts every other group the moment its needs are ready, [`Processes`] runs each as a process;
//! [`NodeHandle`] and the socket behind [`Control`] tell how it goes and take orders. What to do next is decided by plain
//! functions; everything else here is plumbing around them.

mod adopt;
mod client;
mod control;
mod ends;
mod group;
mod http;
mod layout;
mod lines;
mod link;
mod lock;
mod logic;
mod machine;
mod probes;
mod run;
#[cfg(test)]
mod sim;
mod spec;
mod stale;
mod starts;
mod status;

pub use adopt::Left;
pub use client::Control;
pub use ends::ends;
pub use group::{End, Processes, Run, Runner};
pub use http::{Answer, get};
pub use layout::Layout;
pub use link::{Link, LinkConfig, Path as LinkPath, PathStatus, PeerGroup, PeerState, PeerStatus, join};
pub use lock::{DataLock, Holder};
pub use logic::forecast::{Cut, Forecast, STARTS_ENOUGH, StartTimes, Times, forecast};
pub use machine::{GroupUse, MachineUse};
pub use probes::{Hung, Signs};
pub use run::{Node, NodeConfig, NodeHandle};
pub use spec::{GroupSpec, Launch, Limits};
pub use stale::{Orphan, end_orphans, orphans};
pub use starts::starts;
pub use status::{EndKind, Event, ExitStatus, GroupState, GroupStatus, Happening, LinkStatus, NodeStatus};

//! One child process: started with a readiness socket, held to its limits, watched, stopped by process group, its end
//! explained.
//!
//! The node runs groups with it and a group's host runs engines with it, so that both say the same things about a
//! process that ended: how, when, after how much memory, and its last log lines.

mod arrived;
mod caps;
mod child;
mod foreign;
mod handles;
mod log;
mod notify;
mod stat;
mod usage;

pub use arrived::all_arrived;
pub use caps::{Caps, ControlGroup, ControlGroups, Enforcement};
pub use child::{Adopt, Child, Exit, Spawn};
pub use handles::{Handle, inherit, inherited};
pub use log::{LogFile, LogReader, tail};
pub use notify::{Heart, Message, NotifySocket, hand_over, notify};
pub use stat::{Stat, threads};
pub use usage::{Usage, usage};

//! What the node tells about itself.

use std::fmt;

use serde::{Deserialize, Serialize};
use tandem_types::{GroupId, NodeName, State, Timestamp};

use crate::link::{PeerGroup, PeerStatus};
use crate::logic::forecast::Forecast;
use crate::machine::MachineUse;
use crate::spec::Limits;

/// How a group is doing, as its node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// There is no code for any of its agents; it is never started.
    NotBuilt,
    /// Waits for its needs.
    Waiting,
    /// Its process runs and has not said that it is ready.
    Starting,
    /// Serves everything it offers.
    Ready,
    /// Serves, but poorer than it could.
    Degraded,
    /// Keeps a probe or a heartbeat waiting, and is asked more often for that.
    Suspect,
    /// Its process is stopped, by a signal or a debugger.
    Paused,
    /// Runs and cannot serve its main purpose.
    Unavailable,
    /// A required agent has failed.
    Failed,
    /// Its process ended by itself and will be started again.
    BackingOff,
    /// Its process ended by itself too often; a person decides.
    CrashLoop,
    /// Finishes what it has.
    Stopping,
    /// Ended on purpose.
    Stopped,
}

impl GroupState {
    /// The state in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotBuilt => "not built",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Paused => "paused",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::BackingOff => "backing off",
            Self::CrashLoop => "crash loop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether its process runs.
    pub fn runs(self) -> bool {
        !matches!(self, Self::NotBuilt | Self::Waiting | Self::BackingOff | Self::CrashLoop | Self::Stopped)
    }
}

impl GroupState {
    const ALL: [Self; 13] = [
        Self::NotBuilt,
        Self::Waiting,
        Self::Starting,
        Self::Ready,
        Self::Degraded,
        Self::Suspect,
        Self::Paused,
        Self::Unavailable,
        Self::Failed,
        Self::BackingOff,
        Self::CrashLoop,
        Self::Stopping,
        Self::Stopped,
    ];

    /// The state that these words say; none for words that this program does not know.
    pub(crate) fn read(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == words)
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a group's own `/health` says becomes what the node says of a group that runs.
impl From<State> for GroupState {
    fn from(state: State) -> Self {
        match state {
            State::Starting => Self::Starting,
            State::Ready => Self::Ready,
            State::Degraded => Self::Degraded,
            State::Unavailable | State::Unknown => Self::Unavailable,
            State::Failed => Self::Failed,
            State::Draining => Self::Stopping,
            State::Stopped => Self::Stopped,
        }
    }
}

/// What kind of end a process had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// It ended by itself, or could not be started.
    #[default]
    Crash,
    /// It hung, and its node ended it.
    Hang,
    /// The kernel ended it, or something of it, for memory.
    OutOfMemory,
    /// Somebody wanted it to end.
    Ordered,
}

impl EndKind {
    /// The kind in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::OutOfMemory => "out of memory",
            Self::Ordered => "ordered",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// What kind of end it was.
    pub kind: EndKind,
    /// In words, such as `killed by SIGKILL`.
    pub how: String,
    /// When.
    pub at: Timestamp,
    /// Its process; none when there was none.
    pub pid: Option<u32>,
    /// Most memory it had, or its control group, as far as that was looked at.
    pub peak_bytes: Option<u64>,
    /// What its threads did when it hung, and its last log lines, oldest first.
    pub evidence: Vec<String>,
}

/// A group as its node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its identity.
    pub group: GroupId,
    /// How it is doing.
    pub state: GroupState,
    /// Why, in words; empty for `ready`.
    pub reason: String,
    /// What the node noticed of it by itself, such as `answers in 1.8 s`; part of the reason, empty as a rule.
    pub notice: String,
    /// Since when.
    pub since: Timestamp,
    /// Its process, while one runs.
    pub pid: Option<u32>,
    /// Resident memory of that process.
    pub rss_bytes: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// Milliseconds from its last start until it was ready.
    pub ready_ms: Option<u64>,
    /// Port for contracts and health.
    pub port: u16,
    /// Port for scrapers.
    pub scrape_port: u16,
    /// What it may use, and whether anything holds it to that.
    pub limits: Limits,
    /// How its process last ended by itself.
    pub last_exit: Option<ExitStatus>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// The fleet file as it was named.
    pub fleet: String,
    /// Hash of the plan it runs.
    pub plan_hash: String,
    /// Its process.
    pub pid: u32,
    /// Resident memory of that process.
    pub rss_bytes: Option<u64>,
    /// Since when.
    pub since: Timestamp,
    /// Whether everything has been started or is known not to start.
    pub settled: bool,
    /// Whether it is ending.
    pub ending: bool,
    /// What its start was expected to be, by the starts before it.
    pub forecast: Option<Forecast>,
    /// Milliseconds from its begin until every group was ready; none while one is not, or where one was started twice.
    pub healthy_ms: Option<u64>,
    /// Its groups in start order.
    pub groups: Vec<GroupStatus>,
    /// What the machine and its groups use, as last measured.
    #[serde(default)]
    pub usage: Option<MachineUse>,
    /// The other nodes of the fleet, as this one sees them.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
}

/// What a node and the others of its fleet tell each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its own groups in start order, as it tells of them.
    pub groups: Vec<PeerGroup>,
    /// The other nodes of the fleet, as this one sees them.
    pub peers: Vec<PeerStatus>,
}

/// Something that happened on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the node began.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// A group has changed.
    Group(Box<GroupStatus>),
    /// A group was not ready in time; whoever needs it goes on.
    Late {
        /// Which.
        group: GroupId,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// The start is over.
    Settled {
        /// Groups that are not ready although there is code for them.
        missing: Vec<GroupId>,
    },
    /// Everything has ended.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back_from_its_words() {
        // Each is said by a match without a rest, so that a new one is not forgotten here.
        let next = |state: Option<GroupState>| match state {
            None => Some(GroupState::NotBuilt),
            Some(GroupState::NotBuilt) => Some(GroupState::Waiting),
            Some(GroupState::Waiting) => Some(GroupState::Starting),
            Some(GroupState::Starting) => Some(GroupState::Ready),
            Some(GroupState::Ready) => Some(GroupState::Degraded),
            Some(GroupState::Degraded) => Some(GroupState::Suspect),
            Some(GroupState::Suspect) => Some(GroupState::Paused),
            Some(GroupState::Paused) => Some(GroupState::Unavailable),
            Some(GroupState::Unavailable) => Some(GroupState::Failed),
            Some(GroupState::Failed) => Some(GroupState::BackingOff),
            Some(GroupState::BackingOff) => Some(GroupState::CrashLoop),
            Some(GroupState::CrashLoop) => Some(GroupState::Stopping),
            Some(GroupState::Stopping) => Some(GroupState::Stopped),
            Some(GroupState::Stopped) => None,
        };
        let mut state = next(None);
        while let Some(known) = state {
            assert_eq!(GroupState::read(known.as_str()), Some(known));
            state = next(state);
        }
        assert_eq!(GroupState::read("asleep"), None);
    }
}

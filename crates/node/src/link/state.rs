//! How a peer is, in words.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tandem_link::{Moment, Reach};
use tandem_types::NodeName;

use super::desk::{LINK_VERSION, Path, Seen, SeenPath};
use super::difference::difference;
use super::report::PeerGroup;
use crate::machine::MachineUse;

/// Clocks that differ by more than this are worth a word.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);
/// Differences of fleet files that are shown.
const DIFFERENCES: usize = 8;

/// How another node is, as far as this one can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// This machine belongs to no fleet.
    NotJoined,
    /// It was not heard since this node began.
    Unheard,
    /// It is heard over the overlay.
    Alive,
    /// It is heard on the local network only.
    OverlayDead,
    /// It is heard, and runs what does not go together with this node.
    Differs,
    /// It is silent: away or cut off, which cannot be told from here.
    Unknown,
}

impl PeerState {
    /// The state in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJoined => "not joined",
            Self::Unheard => "not heard of",
            Self::Alive => "alive",
            Self::OverlayDead => "overlay dead",
            Self::Differs => "differs",
            Self::Unknown => "unknown",
        }
    }
}

/// A way to another node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Which.
    pub path: Path,
    /// Milliseconds since the node was last heard there; absent when never.
    pub heard_ms_ago: Option<u64>,
    /// How much its silence there is suspected, φ: 1 is one in ten, 8 one in 10^8. Absent while it was never heard there.
    pub suspicion: Option<f64>,
    /// Microseconds that its last answer there took; absent while it does not answer.
    pub round_trip_us: Option<u64>,
}

/// Another node as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeName,
    /// How it is.
    pub state: PeerState,
    /// Why, in words.
    pub reason: String,
    /// Why it was not reached last, in words; a part of the reason. Absent while it answers.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Milliseconds since it was last heard; absent when never.
    pub heard_ms_ago: Option<u64>,
    /// Version of its program.
    pub program_version: Option<String>,
    /// What each way to it is like: the overlay, then the local network where its address there is known.
    #[serde(default)]
    pub paths: Vec<PathStatus>,
    /// Its groups, as it last told.
    pub groups: Vec<PeerGroup>,
    /// What it and its groups use, as it last told.
    #[serde(default)]
    pub usage: Option<MachineUse>,
}

/// A peer from what was seen of it.
pub(super) fn of(
    seen: &Seen,
    is_member: bool,
    (our_plan, our_file): (&str, &str),
    (groups, usage): (Vec<PeerGroup>, Option<MachineUse>),
    now: Moment,
) -> PeerStatus {
    let silence = seen.heard.map(|heard| now.saturating_sub(heard));
    let hello = seen.hello.as_ref();
    let other_version = hello.filter(|hello| hello.link_version != LINK_VERSION);
    let other_plan = hello.filter(|hello| hello.plan_hash != our_plan);
    let trouble = || seen.trouble.clone().unwrap_or_default();
    let (state, reason) = match seen.reach {
        Reach::Unheard if !is_member => (
            PeerState::NotJoined,
            "this machine belongs to no fleet: `tandem init` founds one, `tandem join` joins one".into(),
        ),
        Reach::Unheard => (PeerState::Unheard, trouble()),
        Reach::Unknown => {
            let ago = silence.map(|silence| format!("last seen {} s ago", silence.as_secs())).unwrap_or_default();
            let words = [ago, trouble()].into_iter().filter(|word| !word.is_empty());
            (PeerState::Unknown, words.collect::<Vec<_>>().join("; "))
        }
        Reach::Alive | Reach::OverlayDead if let Some(hello) = other_version => (
            PeerState::Differs,
            format!(
                "it speaks version {} of the link ({}), this node version {LINK_VERSION}: install the same Tandem on both",
                hello.link_version, hello.program_version
            ),
        ),
        Reach::Alive | Reach::OverlayDead if other_plan.is_some() => {
            (PeerState::Differs, files_differ(our_file, seen.fleet_file.as_deref(), &seen.node))
        }
        Reach::OverlayDead => (PeerState::OverlayDead, format!("it answers on the local network only: {}", trouble())),
        Reach::Alive => (PeerState::Alive, clocks(seen.ahead_us, &seen.node)),
    };
    PeerStatus {
        node: seen.node.clone(),
        state,
        reason,
        trouble: seen.trouble.clone(),
        heard_ms_ago: silence.map(millis),
        program_version: hello.map(|hello| hello.program_version.clone()),
        paths: seen.paths.iter().map(|path| path_of(path, now)).collect(),
        groups,
        usage,
    }
}

fn path_of(seen: &SeenPath, now: Moment) -> PathStatus {
    PathStatus {
        path: seen.path,
        heard_ms_ago: seen.heard.map(|heard| millis(now.saturating_sub(heard))),
        suspicion: seen.suspicion,
        round_trip_us: seen.round_trip.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn clocks(ahead_us: i64, node: &NodeName) -> String {
    let apart = Duration::from_micros(ahead_us.unsigned_abs());
    match (apart > CLOCKS_DIFFER, ahead_us > 0) {
        (false, _) => String::new(),
        (true, true) => format!("the clock of {node} is {} s ahead of this machine's", apart.as_secs()),
        (true, false) => format!("the clock of {node} is {} s behind this machine's", apart.as_secs()),
    }
}

/// How the fleet file of another node differs from ours.
pub(super) fn files_differ(ours: &str, theirs: Option<&str>, node: &NodeName) -> String {
    let Some(theirs) = theirs else { return format!("it runs another fleet file than {node}") };
    let all = difference(ours, theirs);
    let shown = all.iter().take(DIFFERENCES).map(|one| one.words(node)).collect::<Vec<_>>().join("; ");
    let more = all.len().saturating_sub(DIFFERENCES);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("the fleet files differ: {shown}{rest}")
}

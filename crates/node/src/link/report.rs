//! What a node tells of its groups, as facts of its table.

use serde::{Deserialize, Serialize};
use tandem_contract::Message as _;
use tandem_contract::pb::tandem::link::v1 as pb;
use tandem_types::{GroupId, GroupName, NodeName, Timestamp};

use crate::status::{GroupState, GroupStatus, NodeStatus};

/// What the keys of groups begin with.
const GROUP: &str = "group/";

/// A group as its node tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGroup {
    /// Its identity.
    pub group: GroupId,
    /// How it was doing.
    pub state: GroupState,
    /// Why, in words; empty for `ready`.
    pub reason: String,
    /// Since when, by that node's clock.
    pub since: Timestamp,
    /// Its process, while one runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Milliseconds from its last start until it was ready.
    pub ready_ms: Option<u64>,
    /// Port for contracts and health.
    pub port: u16,
}

/// The facts of a node: its keys with what is at them.
pub(super) fn facts(status: &NodeStatus) -> Vec<(String, Vec<u8>)> {
    status.groups.iter().map(|group| (key(&group.group.group), report(group).encode_to_vec())).collect()
}

pub(super) fn key(group: &GroupName) -> String {
    format!("{GROUP}{group}")
}

/// A group of this node as it tells of it.
pub(crate) fn own(group: &GroupStatus) -> PeerGroup {
    PeerGroup {
        group: group.group.clone(),
        state: group.state,
        reason: group.reason.clone(),
        since: group.since,
        pid: group.pid,
        restarts: group.restarts,
        ready_ms: group.ready_ms,
        port: group.port,
    }
}

fn report(group: &GroupStatus) -> pb::GroupReport {
    pb::GroupReport {
        group: group.group.group.to_string(),
        state: group.state.as_str().to_owned(),
        reason: group.reason.clone(),
        since_us: group.since.micros(),
        pid: group.pid,
        restarts: group.restarts,
        ready_ms: group.ready_ms,
        port: group.port.into(),
        ..Default::default()
    }
}

/// A group of `node` from a fact of its; none for another kind of fact, or a state that this program does not know.
pub(super) fn group(node: &NodeName, key: &str, value: &[u8]) -> Option<PeerGroup> {
    key.strip_prefix(GROUP)?;
    let report = pb::GroupReport::decode_from_slice(value).ok()?;
    Some(PeerGroup {
        group: GroupId::new(node.clone(), report.group.parse().ok()?),
        state: GroupState::read(&report.state)?,
        reason: report.reason,
        since: Timestamp(report.since_us),
        pid: report.pid,
        restarts: report.restarts,
        ready_ms: report.ready_ms,
        port: report.port.try_into().ok()?,
    })
}

//! The other nodes of the fleet as lines: what this one knows of them, and how old that is.

use tandem_node::{GroupState, PeerGroup, PeerState, PeerStatus};
use tandem_types::Timestamp;

use crate::style;

/// Every other node below each other, for a terminal of `width` columns; `now` dates what they told of their groups.
pub(crate) fn others(peers: &[PeerStatus], now: Timestamp, width: usize) -> String {
    peers.iter().map(|peer| other(peer, now, width)).collect()
}

fn other(peer: &PeerStatus, now: Timestamp, width: usize) -> String {
    let word = peer.state.as_str();
    let state = match peer.state {
        PeerState::Alive => style::good(word),
        PeerState::OverlayDead | PeerState::Differs => style::bad(word),
        PeerState::Unknown | PeerState::Unheard | PeerState::NotJoined => style::warn(word),
    };
    let heard = peer.heard_ms_ago.filter(|_| peer.state != PeerState::Unknown);
    let heard = heard.map(|ms| format!(", heard {} ago", style::span(ms))).unwrap_or_default();
    let mut out = format!("\n{}  {state}{}\n", style::bold(peer.node.as_str()), style::dim(&heard));
    for line in style::wrapped(&peer.reason, width.saturating_sub(2)) {
        out += &format!("  {line}\n");
    }
    let names = peer.groups.iter().map(|group| group.group.group.as_str().len()).max().unwrap_or(0);
    let states = peer.groups.iter().map(|group| group.state.as_str().len()).max().unwrap_or(0);
    // What a peer that is silent told may be otherwise by now.
    let stale = !matches!(peer.state, PeerState::Alive | PeerState::OverlayDead);
    for (i, group) in peer.groups.iter().enumerate() {
        let last = i + 1 == peer.groups.len();
        out += &line(group, (names, states), (last, stale), now, width);
    }
    out
}

fn line(
    group: &PeerGroup,
    (names, states): (usize, usize),
    (last, stale): (bool, bool),
    now: Timestamp,
    width: usize,
) -> String {
    let (branch, stem) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    let word = match group.state {
        // Nothing stands beside it.
        GroupState::NotBuilt => group.state.as_str().to_owned(),
        state => format!("{:<states$}", state.as_str()),
    };
    let word = if stale { style::dim(&word) } else { style::state(group.state, &word) };
    let age = (group.state != GroupState::NotBuilt)
        .then(|| style::span(u64::try_from(now.since(group.since).as_millis()).unwrap_or(u64::MAX)));
    let restarts = (group.restarts > 0).then(|| format!("{} restarts", group.restarts));
    let port = group.state.runs().then(|| format!(":{}", group.port));
    let facts: Vec<String> = [age, restarts, port].into_iter().flatten().collect();
    let facts = facts.join("  ");
    let name = group.group.group.as_str();
    let facts = if facts.is_empty() { facts } else { format!("  {}", style::dim(&facts)) };
    let mut out = format!("{}{name:<names$}  {word}{facts}\n", style::dim(branch));
    let told = !matches!(group.state, GroupState::Ready | GroupState::NotBuilt) && !group.reason.is_empty();
    for line in told.then(|| style::wrapped(&group.reason, width.saturating_sub(7))).into_iter().flatten() {
        out += &format!("{}    {line}\n", style::dim(stem));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(state: PeerState, reason: &str, heard_ms_ago: Option<u64>, groups: Vec<PeerGroup>) -> String {
        let (node, reason) = ("pc2".parse().unwrap(), reason.to_owned());
        let peer = PeerStatus {
            node,
            state,
            reason,
            trouble: None,
            heard_ms_ago,
            program_version: None,
            paths: vec![],
            groups,
            usage: None,
        };
        anstream::adapter::strip_str(&others(&[peer], Timestamp::from_secs(100), 60)).to_string()
    }

    fn group(name: &str, state: GroupState, reason: &str, restarts: u32) -> PeerGroup {
        PeerGroup {
            group: format!("pc2/{name}").parse().unwrap(),
            state,
            reason: reason.into(),
            since: Timestamp::from_secs(95),
            pid: Some(1),
            restarts,
            ready_ms: None,
            port: 8200,
        }
    }

    #[test]
    fn another_node_is_shown_with_what_it_told_and_how_old_that_is() {
        let groups = || {
            vec![
                group("infra_core", GroupState::Ready, "", 0),
                group("memory_stack", GroupState::BackingOff, "killed by SIGKILL", 2),
                group("later", GroupState::NotBuilt, "there is no code", 0),
            ]
        };
        let alive = "
pc2  alive, heard 400 ms ago
├─ infra_core    ready        5.0 s  :8200
├─ memory_stack  backing off  5.0 s  2 restarts
│      killed by SIGKILL
└─ later         not built
";
        assert_eq!(peer(PeerState::Alive, "", Some(400), groups()), alive);
        let unknown = "\npc2  unknown\n  last seen 12 s ago\n";
        assert_eq!(peer(PeerState::Unknown, "last seen 12 s ago", Some(12_400), vec![]), unknown);
    }
}

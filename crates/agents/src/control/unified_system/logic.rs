//! What the operator's hand thinks: in which order agents are restarted, what a host's answer makes of an action, what a
//! measurement makes of a check. No IO; the time is an argument.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tandem_store::actions::{Action, ActionState};
use tandem_types::{AgentId, AgentName, Code, Fault, GroupId, Health, NodeName, State, Timestamp, reason};

use crate::checks::{CLOCKS_EQUAL, Check, SET_CLOCK};

/// The order in which the agents of a group are restarted: whoever needs another one goes before it, so that nobody
/// loses a need while running. `last` goes last whatever it needs. Names outside the group do not matter; members of a
/// circle keep their order.
pub(super) fn recycle_order(agents: &[(AgentName, Vec<AgentName>)], last: Option<&AgentName>) -> Vec<AgentName> {
    let mut left: Vec<&(AgentName, Vec<AgentName>)> = agents.iter().filter(|(name, _)| Some(name) != last).collect();
    let mut order = Vec::with_capacity(agents.len());
    while !left.is_empty() {
        let needed = |name: &AgentName| left.iter().any(|(other, needs)| other != name && needs.contains(name));
        let next = left.iter().position(|(name, _)| !needed(name)).unwrap_or(0);
        order.push(left.remove(next).0.clone());
    }
    order.extend(agents.iter().map(|(name, _)| name).filter(|name| Some(*name) == last).cloned());
    order
}

/// What is done to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Start,
    Stop,
    Restart,
}

/// How an action stands.
pub(super) type Outcome = (ActionState, String);

/// What a host's answer makes of an order.
pub(super) fn judge(order: Order, agent: &AgentId, answer: Result<Health, Fault>) -> Outcome {
    let health = match answer {
        Ok(health) => health,
        Err(fault) => return judge_fault(&agent.group_id(), &fault),
    };
    let words = match health.cause.as_str() {
        "" => format!("{agent} is {}", health.state),
        cause => format!("{agent} is {}: {cause}", health.state),
    };
    let well = match order {
        Order::Stop => health.state == State::Stopped,
        // For want of a model an agent is unavailable; it runs all the same.
        Order::Start | Order::Restart => matches!(health.state, State::Ready | State::Degraded | State::Unavailable),
    };
    (if well { ActionState::Done } else { ActionState::Failed }, words)
}

/// What a failed call to a host makes of an action: a group that is away is waited for.
pub(super) fn judge_fault(group: &GroupId, fault: &Fault) -> Outcome {
    match is_away(fault) {
        true => (ActionState::Pending, format!("{group} is away ({}); this is done when it is back", fault.message)),
        false => (ActionState::Failed, format!("{group} answered {fault}")),
    }
}

/// Whether nobody answered, as against somebody who refused.
pub(super) fn is_away(fault: &Fault) -> bool {
    fault.code == Code::Unavailable && [reason::PEER_AWAY, reason::BREAKER_OPEN].contains(&fault.reason.as_str())
}

/// What becomes of an action that was running when this agent ended. `me` is this agent: that it is there again is the
/// proof that its own restart was done.
pub(super) fn after_restart(action: &Action, me: &AgentId) -> Option<Outcome> {
    if action.state != ActionState::Running {
        return None;
    }
    let itself = action.what.kind == "restart" && action.what.target == me.to_string();
    let group = action.what.kind == "recycle" && action.what.group == me.group_id() && action.detail == LAST_STEP;
    Some(match itself || group {
        true => (ActionState::Done, format!("{me} is there again")),
        false => {
            let words =
                "UnifiedSystemAgent ended while this ran; look at the state of its target and repeat it if needed";
            (ActionState::Failed, words.to_owned())
        }
    })
}

/// Detail of an action whose only missing step is the restart of this agent.
pub(super) const LAST_STEP: &str = "what is left is the restart of UnifiedSystemAgent itself";

/// Whether a pending action has waited long enough.
pub(super) fn given_up(action: &Action, patience: Duration, now: Timestamp) -> bool {
    action.state == ActionState::Pending && now.since(action.at) >= patience
}

/// What a scope of maintenance names.
pub(super) fn scope_is_known(scope: &str, groups: &BTreeMap<GroupId, Vec<AgentName>>) -> bool {
    if scope.is_empty() {
        return true;
    }
    match scope.matches('/').count() {
        0 => scope.parse::<NodeName>().is_ok_and(|node| groups.keys().any(|id| id.node == node)),
        1 => scope.parse::<GroupId>().is_ok_and(|id| groups.contains_key(&id)),
        _ => scope
            .parse::<AgentId>()
            .is_ok_and(|id| groups.get(&id.group_id()).is_some_and(|agents| agents.contains(&id.agent))),
    }
}

/// A hardware address such as `0a:1b:2c:3d:4e:5f`; `-` separates as well as `:`.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// The packet that wakes a machine: six bytes of ones, then its address sixteen times (AMD, "Magic Packet Technology",
/// publication 20213, 1995).
pub(super) fn magic_packet(mac: [u8; 6]) -> [u8; 102] {
    let mut packet = [0xff; 102];
    for copy in packet[6..].chunks_exact_mut(6) {
        copy.copy_from_slice(&mac);
    }
    packet
}

/// Another machine's clock, which said `theirs` at some time between `sent` and `received` of ours.
pub(super) fn clocks(node: &NodeName, theirs: Timestamp, sent: Timestamp, received: Timestamp) -> Check {
    let name = format!("clock: {node}");
    let middle = sent.micros() + (received.micros() - sent.micros()) / 2;
    let apart = theirs.micros() - middle;
    // Where in the round trip the clock was read is unknown.
    let unsure = received.since(sent) / 2;
    let ms = |micros: i64| micros / 1_000;
    let detail = format!("{node} is {:+} ms from here, give or take {} ms", ms(apart), unsure.as_millis());
    match Duration::from_micros(apart.unsigned_abs()) > CLOCKS_EQUAL + unsure {
        true => Check::fail(name, detail, format!("on both machines, {SET_CLOCK}")),
        false => Check::pass(name, detail),
    }
}

/// Message sizes that are tried: below, at and above what an Ethernet frame, a tunnel and a jumbo frame carry.
pub(super) const SIZES: [usize; 8] = [1_200, 1_400, 1_500, 4_096, 8_900, 9_000, 16_384, 65_536];

/// Which sizes passed on the way to a node. `back` says that the answer brought the bytes back.
pub(super) fn sizes(node: &NodeName, tried: &[(usize, Result<bool, String>)]) -> Check {
    let name = format!("message sizes: {node}");
    let lost: Vec<(usize, &String)> =
        tried.iter().filter_map(|(size, outcome)| outcome.as_ref().err().map(|why| (*size, why))).collect();
    let back = tried.iter().all(|(_, outcome)| *outcome == Ok(true));
    match lost.first() {
        None => {
            let ways = if back { "both ways" } else { "on the way there; the host does not send them back" };
            Check::pass(name, format!("messages of {} to {} bytes pass {ways}", SIZES[0], SIZES[SIZES.len() - 1]))
        }
        Some((_, why)) if lost.len() == tried.len() => Check::fail(
            name,
            format!("no message passes: {why}"),
            format!("see why the groups of {node} do not answer"),
        ),
        Some((smallest, why)) => {
            let detail = format!("messages of {smallest} bytes do not pass while smaller ones do: {why}");
            let remedy =
                "lower the MTU of the overlay network, or let ICMP `fragmentation needed` through the firewall";
            Check::fail(name, detail, remedy)
        }
    }
}

/// Whether calls between groups need keys, which this build has none of. `open` are the groups that listen beyond this
/// machine.
pub(super) fn keys(open: &[&GroupId]) -> Check {
    let name = "keys: groups";
    if open.is_empty() {
        return Check::pass(name, "calls between groups stay on this machine, so they need none");
    }
    let open = open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let detail =
        format!("{open} listen beyond this machine, and calls between groups are neither encrypted nor signed");
    Check::warn(name, detail, "let only a network you trust reach them, by a firewall or a VPN between the machines")
}

/// Whether an endpoint such as `http://127.0.0.1:8200` is reached from its own machine only.
pub(super) fn stays_here(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    host.parse::<SocketAddr>().is_ok_and(|at| at.ip().to_canonical().is_loopback())
        || host.split(':').next() == Some("localhost")
}

/// A model role as its manager tells it.
pub(super) fn role(role: &str, model: &str, health: &Health) -> Check {
    let name = format!("model: {role}");
    match health.state {
        State::Ready | State::Degraded => Check::pass(name, format!("{model} is {}", health.state)),
        State::Starting => Check::warn(name, format!("{model} is on its way in"), "wait for it"),
        state if model.is_empty() => {
            let remedy = format!("see `tandem models list`, and pull one that suits {role}");
            let cause = if health.cause.is_empty() { format!("it is {state}") } else { health.cause.clone() };
            Check::fail(name, cause, remedy)
        }
        state => {
            let remedy = format!("pull it again with `tandem models pull {model}`, or bind another model to {role}");
            Check::fail(name, format!("{model} is {state}: {}", health.cause), remedy)
        }
    }
}

/// A group that was asked how it is, and how long it took.
pub(super) fn reached(group: &GroupId, answer: Result<(Health, Duration), &Fault>) -> Check {
    let name = format!("group: {group}");
    match answer {
        Ok((health, took)) => {
            let detail = format!("{} in {:.1} ms: {}", health.state, took.as_secs_f64() * 1e3, health.cause);
            let detail = detail.trim_end_matches(": ").to_owned();
            match health.state {
                State::Ready => Check::pass(name, detail),
                State::Failed => Check::fail(name, detail, format!("see `tandem logs {group}`")),
                _ => Check::warn(name, detail, format!("see `tandem status` and `tandem logs {group}`")),
            }
        }
        Err(fault) => Check::fail(name, format!("no answer: {}", fault.message), format!("see `tandem logs {group}`")),
    }
}

/// Groups that run with another plan or contract than this agent.
pub(super) fn same_build(ours: (&str, &str), theirs: &[(GroupId, String, String)]) -> Check {
    let name = "plan and contract";
    let differing: Vec<String> = theirs
        .iter()
        .filter(|(_, plan, contract)| (plan.as_str(), contract.as_str()) != ours)
        .map(|(group, ..)| group.to_string())
        .collect();
    match differing.is_empty() {
        true => Check::pass(name, "all groups run with the same plan and contract"),
        false => {
            let detail = format!("{} run with another plan or contract than the rest", differing.join(", "));
            Check::warn(
                name,
                detail,
                "stop the fleet with `tandem down` and start it again with one program and one file",
            )
        }
    }
}

#[cfg(test)]
mod tests;

//! What the page can offer, by who is there. Pure.

use tandem_contract::rpc::{coordinator, models, sessions, telemetry};
use tandem_types::State;

/// What people are told they miss when nobody serves the RPC at this path.
pub(super) const OFFERS: &[(&str, &str)] = &[
    (coordinator::SUBMIT.path(), "no chat"),
    (sessions::LIST_SESSIONS.path(), "no earlier conversations"),
    (telemetry::WATCH_HEALTH.path(), "no view of the fleet"),
    (models::LIST_ROLES.path(), "no list of models"),
];

/// Who serves an RPC, and how that agent was doing when last heard of.
pub(super) type Server = Option<(String, Option<State>)>;

/// What is missing and why, in words; empty when everything is there. An agent that was never heard of is not held to be
/// away, and neither is, in the `beginning`, one that is still starting.
pub(super) fn missing(servers: impl IntoIterator<Item = (&'static str, Server)>, beginning: bool) -> String {
    let causes = servers.into_iter().filter_map(|(offer, server)| match server {
        None => Some(format!("{offer}: nobody serves it in this fleet")),
        Some((_, Some(State::Starting))) if beginning => None,
        Some((agent, Some(state))) if !state.serves() => Some(format!("{offer}: {agent} is {state}")),
        Some(_) => None,
    });
    causes.collect::<Vec<_>>().join("; ")
}

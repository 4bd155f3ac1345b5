//! What a group says of itself at `/health`.

use serde::Deserialize;
use tandem_types::{AgentId, GroupId, Health, State, Timestamp};

use super::picture::Agent;

/// A group as it answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// The process that answered; 0 when it did not say.
    pub(crate) pid: u32,
    pub(crate) health: Health,
    pub(crate) agents: Vec<Agent>,
}

/// The part of the page that is used; further keys are for people.
#[derive(Deserialize)]
struct Page {
    group: GroupId,
    state: State,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    since_us: i64,
    #[serde(default)]
    pid: u32,
    agents: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    agent: AgentId,
    state: State,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    since_us: i64,
    required: bool,
    built: bool,
    #[serde(default)]
    restarts: u32,
}

/// Reads the page of `group`.
///
/// # Errors
/// Says what is wrong when the page is not a group's health, or another group's.
pub(crate) fn read(group: &GroupId, page: &[u8]) -> Result<Report, String> {
    let page: Page = serde_json::from_slice(page).map_err(|e| format!("`/health` is not understood: {e}"))?;
    if page.group != *group {
        return Err(format!("{} answers at the address of {group}", page.group));
    }
    let health = |state, cause, since_us| Health::new(state, cause, Timestamp(since_us));
    let agents = page.agents.into_iter().map(|row| Agent {
        name: row.agent.agent,
        health: health(row.state, row.cause, row.since_us),
        required: row.required,
        built: row.built,
        restarts: row.restarts,
    });
    let agents = agents.collect();
    Ok(Report { pid: page.pid, health: health(page.state, page.cause, page.since_us), agents })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_a_foreign_one_refused() {
        let page = br#"{"group":"solo/memory_stack","state":"degraded","cause":"B is not built","since_us":7,"pid":1,
            "agents":[{"agent":"solo/memory_stack/A","state":"ready","since_us":5,"required":true,"built":true,"restarts":2},
                      {"agent":"solo/memory_stack/B","state":"unavailable","cause":"not built","required":false,"built":false}]}"#;
        let group: GroupId = "solo/memory_stack".parse().unwrap();
        let report = read(&group, page).unwrap();
        assert_eq!(report.pid, 1);
        assert_eq!(report.health, Health::new(State::Degraded, "B is not built", Timestamp(7)));
        let read_agents: Vec<(&str, bool, u32)> =
            report.agents.iter().map(|a| (a.name.as_str(), a.built, a.restarts)).collect();
        assert_eq!(read_agents, [("A", true, 2), ("B", false, 0)]);
        let other: GroupId = "solo/infra_core".parse().unwrap();
        assert!(read(&other, page).unwrap_err().contains("solo/memory_stack answers"));
        assert!(read(&group, b"<html>").is_err());
    }
}

//! The gentlest remedy that fits, within a budget.
//!
//! Tier 1 restarts the agent. Tier 2 would clear the caches that it can make anew before that; no agent of this program
//! says that it has such, so it is passed over. Tier 3 restarts with the agent what it needs, in order; tier 4 recycles
//! its group.

use std::time::Duration;

use tandem_types::{AgentId, Timestamp};

/// How far a remedy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// The agent.
    Agent = 1,
    /// What it needs, then the agent.
    WithNeeds = 3,
    /// All agents of its group.
    Group = 4,
}

impl Tier {
    /// As it is kept.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    fn after(number: u32) -> Self {
        match number {
            0 => Self::Agent,
            1 | 2 => Self::WithNeeds,
            _ => Self::Group,
        }
    }
}

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Pause between two restarts of one agent.
    pub(crate) cooldown: Duration,
    /// Restarts of one agent within `agent_window`.
    pub(crate) per_agent: usize,
    pub(crate) agent_window: Duration,
    /// Restarts of all agents within `all_window`.
    pub(crate) all: usize,
    pub(crate) all_window: Duration,
    /// How long a remedy that was refused is not repeated.
    pub(crate) refused: Duration,
    /// How long after a remedy a failure counts as that it did not help.
    pub(crate) escalate: Duration,
}

impl Budget {
    /// How far back past remedies matter.
    pub(crate) fn horizon(&self) -> Duration {
        [self.cooldown, self.agent_window, self.all_window, self.refused, self.escalate]
            .into_iter()
            .max()
            .unwrap_or_default()
    }
}

/// A remedy that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) agent: AgentId,
    pub(crate) at: Timestamp,
    pub(crate) tier: u32,
    /// The agents it restarted, or meant to.
    pub(crate) restarts: Vec<AgentId>,
    /// Who was asked said no.
    pub(crate) refused: bool,
}

/// An agent that is failing, and who goes down with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patient {
    pub(crate) agent: AgentId,
    /// What it needs, in the order in which they start.
    pub(crate) needs: Vec<AgentId>,
    /// The agents of its group, itself included.
    pub(crate) group: Vec<AgentId>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remedy {
    pub(crate) tier: Tier,
    /// Whom it restarts, in order.
    pub(crate) restarts: Vec<AgentId>,
}

/// What to do for a patient now.
///
/// # Errors
/// Why nothing is done now, in words.
pub(crate) fn choose(patient: &Patient, past: &[Past], budget: &Budget, now: Timestamp) -> Result<Remedy, String> {
    let within = |at: Timestamp, window: Duration| now.since(at) < window;
    let own = |one: &&Past| one.agent == patient.agent;
    if past.iter().filter(own).any(|one| one.refused && within(one.at, budget.refused)) {
        return Err("the last remedy was refused; it is not repeated yet".to_owned());
    }
    let tried = past.iter().filter(own).filter(|one| !one.refused && within(one.at, budget.escalate));
    let tier = Tier::after(tried.map(|one| one.tier).max().unwrap_or(0));
    let restarts = match tier {
        Tier::Agent => vec![patient.agent.clone()],
        Tier::WithNeeds => patient.needs.iter().cloned().chain([patient.agent.clone()]).collect(),
        Tier::Group => patient.group.clone(),
    };
    let done = |agent: Option<&AgentId>, window: Duration| {
        let counts = |one: &&Past| within(one.at, window);
        let of = |one: &Past| one.restarts.iter().filter(|of| agent.is_none_or(|agent| agent == *of)).count();
        past.iter().filter(counts).map(of).sum::<usize>()
    };
    for agent in &restarts {
        if done(Some(agent), budget.cooldown) > 0 {
            return Err(format!("{agent} was restarted within the last {} s", budget.cooldown.as_secs()));
        }
        if done(Some(agent), budget.agent_window) >= budget.per_agent {
            return Err(format!("the restarts of {agent} are used up"));
        }
    }
    if done(None, budget.all_window) + restarts.len() > budget.all {
        return Err("the restarts of all agents together are used up".to_owned());
    }
    Ok(Remedy { tier, restarts })
}

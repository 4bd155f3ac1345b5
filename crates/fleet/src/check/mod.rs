//! From a fleet as written to a plan, with every problem on the way.
//!
//! The plan is filled in passes. A pass resolves one thing (names, order, ports, budgets, cards, roles), reports what is
//! wrong with it and leaves a sensible value in its place, so that later passes find their own problems too.

mod budgets;
mod cards;
mod names;
mod needs;
mod outside;
mod ports;

use sha2::{Digest, Sha256};
use tandem_types::{AgentId, GroupId};

use crate::facts::Facts;
use crate::finding::{Finding, Path, Report, Severity, summary};
use crate::model::Fleet;
use crate::plan::{GroupPlan, Plan};
use crate::read::Document;

/// Why a fleet file has no plan: its findings, of which at least one is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is refused: {}", summary(findings))]
pub struct Refused {
    /// The file's name.
    pub file: String,
    /// Everything that was found, warnings and notes included.
    pub findings: Vec<Finding>,
}

/// Every finding about a fleet, in the order of the file.
pub fn check(document: &Document, facts: &Facts) -> Vec<Finding> {
    resolve(document, facts).findings
}

/// The plan of a fleet, or every reason why there is none.
pub fn plan(document: &Document, facts: &Facts) -> Result<Plan, Refused> {
    let plan = resolve(document, facts);
    if plan.findings.iter().any(|f| f.severity == Severity::Error) {
        return Err(Refused { file: document.report.file.clone(), findings: plan.findings });
    }
    Ok(plan)
}

/// What every pass works on.
struct Pass<'a> {
    fleet: &'a Fleet,
    facts: &'a Facts,
    plan: Plan,
    report: Report,
}

impl Pass<'_> {
    fn group_mut(&mut self, id: &GroupId) -> Option<&mut GroupPlan> {
        self.plan.nodes.get_mut(&id.node)?.groups.iter_mut().find(|g| g.id == *id)
    }

    /// Where an agent stands in the file.
    fn agent_path(&self, id: &AgentId) -> Path {
        let group = group_path(&id.group_id());
        let agents = self.fleet.group.get(&id.group_id().to_string()).map(|g| &g.agents);
        match agents.and_then(|agents| agents.iter().position(|a| a.name() == id.agent.as_str())) {
            Some(place) => group.key("agents").index(place),
            None => group,
        }
    }

    /// Where a name stands in a list of an agent, or the agent where the file does not have it.
    fn agent_list_path(&self, id: &AgentId, key: &str, name: &str) -> Path {
        let agent = self.agent_path(id);
        let group = self.fleet.group.get(&id.group_id().to_string());
        let entry = group.and_then(|g| g.agents.iter().find(|a| a.name() == id.agent.as_str()));
        let list = entry.and_then(|e| if key == "needs" { e.spec().needs } else { e.spec().uses });
        match list.and_then(|list| list.iter().position(|n| n == name)) {
            Some(place) => agent.key(key).index(place),
            None => agent,
        }
    }
}

fn resolve(document: &Document, facts: &Facts) -> Plan {
    let mut pass = Pass {
        fleet: &document.fleet,
        facts,
        plan: Plan {
            name: document.fleet.fleet.name.clone(),
            plan_hash: plan_hash(&document.fleet),
            start_wait_s: document.fleet.fleet.start_wait_s,
            peer_wait_s: document.fleet.fleet.peer_wait_s,
            drain_s: document.fleet.fleet.drain_s,
            nodes: Default::default(),
            roles: Default::default(),
            callers: Default::default(),
            web: None,
            findings: Vec::new(),
        },
        report: document.report.clone(),
    };
    pass.names();
    pass.group_needs();
    pass.agent_needs();
    pass.uses();
    pass.uses_across_nodes();
    pass.critical_paths();
    pass.ports();
    pass.ram();
    pass.cpus();
    pass.cards();
    pass.roles();
    pass.callers();
    pass.web();
    let mut findings = pass.report.findings;
    findings.sort_by_key(|f| (f.span.map_or(0, |s| s.start), f.severity, f.key.clone()));
    Plan { findings, ..pass.plan }
}

/// SHA-256, in hex, of what the file means: the model with every shorthand and default written out, as JSON with sorted
/// names.
fn plan_hash(fleet: &Fleet) -> String {
    let canonical = serde_json::to_vec(&fleet.canonical()).expect("plain data whose maps have text keys is JSON");
    Sha256::digest(&canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a group stands in the file.
fn group_path(id: &GroupId) -> Path {
    Path::of(&["group", &id.to_string()])
}

/// Names as a person lists them: `a`, `a and b`, `a, b and c`.
fn listed<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let mut names: Vec<String> = names.into_iter().map(|n| format!("`{}`", n.to_string())).collect();
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// A circle as it is printed: `a -> b -> a`.
fn circle<T: ToString>(members: impl IntoIterator<Item = T>) -> String {
    let members: Vec<String> = members.into_iter().map(|m| m.to_string()).collect();
    members.iter().chain(members.first()).cloned().collect::<Vec<_>>().join(" -> ")
}

/// An amount with thousands apart: `28,416`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

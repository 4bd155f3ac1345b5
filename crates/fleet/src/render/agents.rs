//! Who needs and uses whom.

use super::count;
use crate::plan::{AgentPlan, Plan};
use crate::wrap::wrapped;

/// Columns before the names of those an agent needs or uses.
const NAMES: usize = 12;

/// Every agent with what it needs and uses, group by group, for a terminal of `width` columns; `*` marks the required
/// ones.
pub fn agents(plan: &Plan, width: usize) -> String {
    let all: Vec<_> = plan.groups().flat_map(|group| &group.agents).collect();
    let edges = |of: fn(&AgentPlan) -> usize| all.iter().map(|agent| of(agent)).sum::<usize>();
    let (needs, uses) = (edges(|a| a.needs.len()), edges(|a| a.uses.len()));
    let mut out = format!("{}, {}, {}\n", count(all.len(), "agent"), count(needs, "need"), count(uses, "use"));
    for group in plan.groups() {
        out += &format!("\n{}\n", group.id);
        for agent in &group.agents {
            let (required, built) =
                (if agent.required { "*" } else { "" }, if agent.built { "" } else { "  not built" });
            out += &format!("  {}{required}{built}\n", agent.name);
            out += &names("needs", &agent.needs, width);
            out += &names("uses", &agent.uses, width);
        }
    }
    out
}

fn names(what: &str, names: &[impl ToString], width: usize) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { wrapped(&format!("      {what:<5} "), &names, ", ", width, NAMES) }
}

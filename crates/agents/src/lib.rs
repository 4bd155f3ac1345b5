//! Every agent, one folder each, by domain; and the one list.

use tandem_agent::AgentDef;

/// Every agent this build has code for, in the order of the specification.
pub const ALL: &[&AgentDef] = &[];

/// The agent of this name.
pub fn find(name: &str) -> Option<&'static AgentDef> {
    ALL.iter().copied().find(|def| def.name == name)
}

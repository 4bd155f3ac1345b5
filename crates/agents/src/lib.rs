//! Every agent, one folder each, by domain; and the one list.

mod cards;
pub mod checks;
pub mod control;
mod draining;
mod fields;
pub mod language;
mod load;
pub mod machine;
pub mod memory;
pub mod observability;
mod opening;
pub mod program;
#[cfg(test)]
mod testing;
mod tickets;
pub mod utility;

use tandem_agent::AgentDef;

/// Every agent this build has code for, in the order of the specification.
pub const ALL: &[&AgentDef] = &[
    &control::service_registry::DEF,
    &control::system_digital_twin::DEF,
    &control::unified_system::DEF,
    &control::request_coordinator::DEF,
    &control::model_manager_suite::DEF,
    &observability::observability_hub::DEF,
    &memory::session_memory::DEF,
    &language::chitchat::DEF,
    &language::responder::DEF,
    &utility::predictive_health_monitor::DEF,
    &control::resource_manager::DEF,
    &utility::unified_web::DEF,
];

/// The agent of this name.
pub fn find(name: &str) -> Option<&'static AgentDef> {
    ALL.iter().copied().find(|def| def.name == name)
}

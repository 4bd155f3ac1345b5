//! Agents that keep the fleet together: who is there, what machines can bear, which model runs where.

pub mod model_manager_suite;
pub mod request_coordinator;
pub mod resource_manager;
pub mod service_registry;
pub mod system_digital_twin;
pub mod unified_system;

/// Reason: a machine would pass a limit that was set for it.
pub(crate) const OVER_LIMIT: &str = "over_limit";
/// Reason: another agent is the authority for that machine.
const OTHERS_NODE: &str = "others_node";
/// Why an agent without code is as it is; the same words as its host uses.
const NOT_BUILT: &str = "not built: this program has no code for it";

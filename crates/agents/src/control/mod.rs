//! Agents that keep the fleet together: who is there, what machines can bear, which model runs where.

pub mod service_registry;
pub mod system_digital_twin;
pub mod unified_system;

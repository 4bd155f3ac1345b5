//! Agents that serve the others and people at the edges: the screen in the browser, and who foresees trouble.

pub mod predictive_health_monitor;
pub mod unified_web;

//! Agents that serve the others and people at the edges: the screen in the browser.

pub mod unified_web;

//! A plan for people (text, diagram) and for programs (JSON).

mod agents;
mod mermaid;
mod text;

pub use agents::agents;
pub use mermaid::mermaid;
pub use text::{Chosen, ReadyMs, text};

use crate::plan::Plan;

/// The plan as JSON.
pub fn json(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("plain data whose maps have text keys is JSON")
}

/// How many, in words: `1 agent`, `2 agents`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

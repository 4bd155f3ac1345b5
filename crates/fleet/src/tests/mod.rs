//! The crate as its callers see it.

mod faults;
mod fleets;
mod meaning;
mod properties;

use tandem_types::{AgentName, GroupId, NodeName};

use crate::{AgentFacts, Document, Facts, Plan, Refused, plan};

/// A small fleet without findings, once its machine is known.
pub(crate) const SMALL: &str = r#"[fleet]
name = "small"

[node.a]
ram_mib = 8192
cpus = 8

[[node.a.gpu]]
name = "NVIDIA GeForce RTX 4090"
vram_mib = 24564
sm = 128

[group."a/one"]
agents = ["First", { name = "Second", needs = ["First"], uses = ["Third"] }]
ram_mib = 1024
cpu = 2
port = 8200

[group."a/two"]
agents = [{ name = "Third", required = true, needs = ["First"] }]
needs = ["one"]
ram_mib = 2048
gpu = { share = 40 }

[roles]
"llm.fast" = { model = "tiny", home = ["a/two"], max_mib = 4000 }

[callers]
"session.v1.Sessions" = ["First", "a/two", "host"]

[web]
listen = "127.0.0.1:8280"
"#;

pub(crate) fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

pub(crate) fn group(id: &str) -> GroupId {
    id.parse().unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn code(name: &str) -> AgentFacts {
    AgentFacts { name: agent(name), needs: vec![], uses: vec![], required: false, provides: vec![], roles: vec![] }
}

/// Facts of a program that has code for these agents and nothing to say about them.
pub(crate) fn built(names: &[&str]) -> Facts {
    Facts { agents: names.iter().map(|n| (agent(n), code(n))).collect(), ..Facts::default() }
}

pub(crate) fn planned(text: &str, facts: &Facts) -> Result<Plan, Refused> {
    plan(&Document::read("fleet.toml", text), facts)
}

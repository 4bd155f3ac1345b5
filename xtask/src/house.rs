//! Checks that keep the house in order: layers, folders, generated files.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::{generated, root};

/// The table of ARCHITECTURE.md, section 2: crate to the crates it may import.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("## 2. The workspace").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].split('`').nth(1).unwrap().to_owned();
        let imports = cells[2].split(',').map(|c| c.trim().to_owned()).filter(|c| c != "–").collect();
        (name, imports)
    })
    .collect()
}

/// What each crate of the workspace really imports, dev-dependencies aside.
fn actual() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let short = |name: &str| name.strip_prefix("tandem-").unwrap_or(name).to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    packages
        .iter()
        .filter(|p| p["name"] != "xtask")
        .map(|package| {
            let edges = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|d| d["kind"] != "dev")
                .map(|d| d["name"].as_str().unwrap())
                .filter(|name| ours.contains(name))
                .map(short)
                .collect();
            (short(package["name"].as_str().unwrap()), edges)
        })
        .collect()
}

#[test]
fn no_crate_imports_what_the_table_does_not_allow() {
    let (allowed, actual) = (allowed(), actual());
    assert!(actual.len() > 10, "the workspace was not read");
    let mut problems = Vec::new();
    for (name, edges) in &actual {
        let Some(may) = allowed.get(name) else {
            problems.push(format!("`{name}` has no row in the table of ARCHITECTURE.md, section 2"));
            continue;
        };
        if may.contains("all") {
            continue;
        }
        for edge in edges.difference(may) {
            problems.push(format!("`{name}` imports `{edge}`, which its row does not allow"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_agent_folder_is_in_the_list_and_the_reverse() {
    let source = root().join("crates/agents/src");
    let mut folders = BTreeSet::new();
    for domain in std::fs::read_dir(&source).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        for agent in std::fs::read_dir(&domain).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
            let module = std::fs::read_to_string(agent.join("mod.rs")).unwrap_or_default();
            if !module.contains("AgentDef") {
                continue;
            }
            assert!(module.starts_with("//!"), "{} does not open with what it does", agent.display());
            folders.insert(agent.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    let listed: BTreeSet<String> = tandem_agents::ALL.iter().map(|def| folder_of(def.name)).collect();
    assert_eq!(folders, listed, "left: folders, right: the list `ALL`");
}

/// `SessionMemoryAgent` lives in `session_memory`.
fn folder_of(name: &str) -> String {
    let stem = name.strip_suffix("Agent").or(name.strip_suffix("Service")).unwrap_or(name);
    let mut folder = String::new();
    for (i, c) in stem.char_indices() {
        let next_is_lower = stem[i + c.len_utf8()..].starts_with(|n: char| n.is_ascii_lowercase());
        let previous_is_lower = i > 0 && stem[..i].ends_with(|p: char| p.is_ascii_lowercase() || p.is_ascii_digit());
        if c.is_ascii_uppercase() && i > 0 && (previous_is_lower || next_is_lower) {
            folder.push('_');
        }
        folder.push(c.to_ascii_lowercase());
    }
    folder
}

#[test]
fn folders_are_named_after_their_agents() {
    for (name, folder) in [
        ("SessionMemoryAgent", "session_memory"),
        ("NLUAgent", "nlu"),
        ("ServiceRegistry", "service_registry"),
        ("STTService", "stt"),
        ("VRAMOptimizerAgent", "vram_optimizer"),
        ("UnifiedWebAgent", "unified_web"),
    ] {
        assert_eq!(folder_of(name), folder);
    }
}

#[test]
fn every_name_in_the_default_fleet_is_built() {
    let document = tandem_fleet::Document::read("solo.toml", tandem_fleet::SOLO);
    let plan = tandem_fleet::plan(&document, &tandem_fleet::Facts::default()).unwrap();
    for (id, _) in plan.agents() {
        let name = id.agent.as_str();
        assert!(tandem_agents::find(name).is_some(), "solo.toml names {name}, which is not in ALL");
    }
}

#[test]
fn needs_form_no_circle() {
    fn walk<'a>(name: &'a str, path: &mut Vec<&'a str>) {
        assert!(!path.contains(&name), "needs form a circle: {} -> {name}", path.join(" -> "));
        path.push(name);
        if let Some(def) = tandem_agents::find(name) {
            def.needs.iter().for_each(|need| walk(need, path));
        }
        path.pop();
    }
    tandem_agents::ALL.iter().for_each(|def| walk(def.name, &mut Vec::new()));
}

#[test]
fn generated_files_are_fresh() {
    for (path, text) in generated() {
        let there = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        let same = match path.ends_with(".json") {
            true => serde_json::from_str::<serde_json::Value>(&there).ok() == serde_json::from_str(&text).ok(),
            false => there == text,
        };
        assert!(same, "{path} is stale; run `cargo xtask generate`");
    }
}

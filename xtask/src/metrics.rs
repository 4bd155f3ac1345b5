//! Names of metrics: by the conventions of Prometheus, and none without words.
//!
//! The rules are those of `promtool check metrics`
//! (<https://github.com/prometheus/client_golang/tree/main/prometheus/testutil/promlint>), applied to the names in the
//! code: the page of one process never shows all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::root;

/// Where the words are.
const TABLE: &str = "crates/tandem/src/measures.rs";

/// Name to kind and words.
fn table() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(root().join(TABLE)).unwrap();
    let rows = text.split("const MEASURES").nth(1).unwrap().split("];").next().unwrap();
    let row = |row: &str| {
        let (kind, rest) = row.trim().strip_prefix('(')?.split_once(',')?;
        let words: Vec<&str> = rest.split('"').collect();
        let [_, name, _, help, _] = words[..] else { panic!("{row} is not `(Kind, \"name\", \"words\"),`") };
        Some((name.to_owned(), (kind.to_lowercase(), help.to_owned())))
    };
    rows.lines().filter_map(row).collect()
}

/// Kind and name of every metric that the code under `folder` counts.
fn counted(folder: &Path, found: &mut BTreeSet<(String, String)>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            counted(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with(TABLE) {
            let text = std::fs::read_to_string(&path).unwrap();
            for kind in ["counter", "gauge", "histogram"] {
                for use_of in text.split(&format!("{kind}!(")).skip(1) {
                    let name = use_of.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                    let name = name.unwrap_or_else(|| panic!("{}: a {kind} without a literal name", path.display()));
                    found.insert((kind.to_owned(), name.to_owned()));
                }
            }
        }
    }
}

/// What `promtool check metrics` would say of a metric.
fn problem(kind: &str, name: &str, help: &str) -> Option<&'static str> {
    let ends = |end: &str| name.ends_with(end);
    let abbreviated = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"];
    let not_base = ["milliseconds", "microseconds", "minutes", "hours", "days", "kilobytes", "megabytes", "percent"];
    let words: Vec<&str> = name.split('_').collect();
    if help.is_empty() {
        Some("no help text")
    } else if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        Some("metric names should be in snake_case")
    } else if kind == "counter" && !ends("_total") {
        Some("counter metrics should have \"_total\" suffix")
    } else if kind != "counter" && ends("_total") {
        Some("non-counter metrics should not have \"_total\" suffix")
    } else if ["_bucket", "_count", "_sum"].iter().any(|end| ends(end)) {
        Some("the suffix belongs to the parts of histograms")
    } else if words.iter().any(|word| abbreviated.contains(word)) {
        Some("metric names should not contain abbreviated units")
    } else if words.iter().any(|word| not_base.contains(word)) {
        Some("use a base unit: seconds, bytes, ratio")
    } else if words.iter().any(|word| ["counter", "gauge", "histogram", "summary"].contains(word)) {
        Some("metric name should not include type")
    } else {
        None
    }
}

#[test]
fn every_metric_is_explained_and_named_by_the_conventions() {
    let table = table();
    let mut found = BTreeSet::new();
    for folder in std::fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()) {
        counted(&folder.join("src"), &mut found);
    }
    assert!(table.len() > 20 && found.len() > 20, "the sources were not read");
    let mut problems = Vec::new();
    for (kind, name) in &found {
        match table.get(name) {
            None => problems.push(format!("`{name}` has no row in {TABLE}")),
            Some((said, _)) if said != kind => problems.push(format!("`{name}` is a {kind}; {TABLE} says {said}")),
            Some(_) => {}
        }
    }
    for (name, (kind, help)) in &table {
        problems.extend(problem(kind, name, help).map(|problem| format!("`{name}`: {problem}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_conventions_are_kept_by_what_keeps_them() {
    for (kind, name, good) in [
        ("counter", "tandem_turns_total", true),
        ("counter", "tandem_turns", false),
        ("gauge", "tandem_open_total", false),
        ("gauge", "tandem_queue_count", false),
        ("histogram", "tandem_wait_ms", false),
        ("histogram", "tandem_wait_seconds", true),
        ("gauge", "tandem_memory_megabytes", false),
        ("gauge", "tandemMemory", false),
        ("gauge", "tandem_gauge", false),
    ] {
        assert_eq!(problem(kind, name, "Words.").is_none(), good, "{name}");
    }
    assert!(problem("gauge", "tandem_open", "").is_some());
}

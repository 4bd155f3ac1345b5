//! How two fleet files differ in what they mean.

use std::collections::BTreeMap;

use serde_json::Value;
use tandem_fleet::Document;
use tandem_types::NodeName;

/// One setting that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// The setting, such as `group.a/one.ram_mib`.
    setting: String,
    here: Option<String>,
    there: Option<String>,
}

impl Difference {
    /// For people; `there` is the other node.
    pub(super) fn words(&self, there: &NodeName) -> String {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        format!("`{}` is {} here and {} on {there}", self.setting, value(&self.here), value(&self.there))
    }
}

/// Everything that two fleet files say differently; shorthands, comments and order do not count.
pub(super) fn difference(here: &str, there: &str) -> Vec<Difference> {
    let (here, there) = (settings(here), settings(there));
    let names: std::collections::BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let pair = |name: &String| Difference {
        setting: name.clone(),
        here: here.get(name).cloned(),
        there: there.get(name).cloned(),
    };
    names.into_iter().map(pair).filter(|one| one.here != one.there).collect()
}

/// Each setting of a file with its value.
fn settings(text: &str) -> BTreeMap<String, String> {
    let document = Document::read("fleet.toml", text);
    let mut found = BTreeMap::new();
    collect(String::new(), &document.meaning(), &mut found);
    found
}

fn collect(name: String, value: &Value, found: &mut BTreeMap<String, String>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| collect(below(key), value, found)),
        Value::Array(items) if items.iter().any(|item| item.get("name").is_some()) => {
            for item in items {
                let key = item.get("name").and_then(Value::as_str).unwrap_or_default();
                collect(below(key), item, found);
            }
        }
        plain => drop(found.insert(name, plain.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_something_else_is_a_difference() {
        let here = tandem_fleet::SOLO;
        assert_eq!(difference(here, &format!("# a comment\n{here}")), []);
        let there =
            here.replacen("ram_mib = 256", "ram_mib = 512", 1).replace("\"Responder\"", "\"Responder\", \"More\"");
        let found: Vec<String> =
            difference(here, &there).iter().map(|one| one.words(&"pc2".parse().unwrap())).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.contains(&"`group.solo/infra_core.ram_mib` is 256 here and 512 on pc2".to_owned()), "{found:?}");
        assert!(
            found.iter().any(|one| one.contains("language_stack.agents.More") && one.contains("not set here")),
            "{found:?}"
        );
    }
}

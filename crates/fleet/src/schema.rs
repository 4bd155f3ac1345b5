//! The JSON Schema of the fleet file, generated from its model.

use std::borrow::Cow;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::model::Fleet;

/// The JSON Schema (draft 7, without references) that editors check and complete a fleet file with.
pub fn json_schema() -> Value {
    SCHEMA.clone()
}

/// The same, made once.
pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft07().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Fleet>().to_value();
    tidy(&mut schema);
    // Whether maps keep their order depends on what else is built.
    schema.sort_all_objects();
    schema
});

/// Takes out what says nothing in TOML: null, which it does not have, and defaults of keys that must be there.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.retain(|key, value| !(key == "default" && value.is_null()));
            let required: Vec<Value> = map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            for key in required.iter().filter_map(Value::as_str) {
                if let Some(Value::Object(property)) = map.get_mut("properties").and_then(|p| p.get_mut(key)) {
                    property.remove("default");
                }
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(options)) = map.get_mut("anyOf") {
                options.retain(|o| o["type"] != "null");
                if let [Value::Object(only)] = &mut options[..] {
                    let only = std::mem::take(only);
                    map.remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

macro_rules! key {
    ($($(#[$doc:meta])* $type:ident, $pattern:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $type;

        impl $type {
            pub(crate) const PATTERN: &'static str = $pattern;
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": Self::PATTERN })
            }
        }
    )*};
}

key! {
    /// The form of a node's name.
    NodeKey, r"^[a-z][a-z0-9_-]{0,62}$";
    /// The form of a group's identity.
    GroupKey, r"^[a-z][a-z0-9_-]{0,62}/[a-z][a-z0-9_]{0,62}$";
    /// The form of an agent's name.
    AgentKey, r"^[A-Z][A-Za-z0-9]{0,62}$";
    /// The form of a model role.
    RoleKey, r"^[a-z][a-z0-9_.]{0,62}$";
    /// The form of a contract: capability, version, service.
    ContractKey, r"^[a-z][a-z0-9_]*\.v[0-9]+\.[A-Z][A-Za-z0-9]*$";
}

//! Names of nodes, groups, agents and model roles, and the identities made of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text breaks the rule of its kind of name.
    #[error("`{text}` is not a {kind} name: {rule}")]
    Malformed {
        /// What kind of name was asked for: node, group, agent or role.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// The rule in words.
        rule: &'static str,
    },
    /// An identity has the wrong number of parts.
    #[error("`{text}` is not an identity: write {expected}")]
    Parts {
        /// The text as given.
        text: String,
        /// The form that was expected.
        expected: &'static str,
    },
}

fn lower_snake(text: &str, extra: &[char]) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || extra.contains(&c))
}

fn pascal(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks the text against the rule of this kind of name.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if $ok(&text) { Ok(Self(text)) } else { Err(NameError::Malformed { kind: $kind, text, rule: $rule }) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A machine of the fleet, for example `mainpc`.
    NodeName, "node", "lower-case letters, digits, `-` and `_`, a letter first, at most 63",
    |t: &str| lower_snake(t, &['-'])
);
name!(
    /// A unit of deployment on a node, for example `memory_stack`.
    GroupName, "group", "lower-case letters, digits and `_`, a letter first, at most 63",
    |t: &str| lower_snake(t, &[])
);
name!(
    /// A named unit inside a group, for example `ChitchatAgent`.
    AgentName, "agent", "letters and digits, a capital first, at most 63",
    pascal
);
name!(
    /// What a model is for, for example `llm.fast`.
    Role, "role", "lower-case letters, digits, `_` and `.`, a letter first, at most 63",
    |t: &str| lower_snake(t, &['.'])
);

/// A group on a node; written `mainpc/memory_stack`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupId {
    /// The machine.
    pub node: NodeName,
    /// The group on it.
    pub group: GroupName,
}

impl GroupId {
    /// Puts the two names together.
    pub fn new(node: NodeName, group: GroupName) -> Self {
        Self { node, group }
    }

    /// The identity of an agent of this group.
    pub fn agent(&self, agent: AgentName) -> AgentId {
        AgentId { node: self.node.clone(), group: self.group.clone(), agent }
    }
}

/// An agent's identity; written `pc2/memory_stack/CacheManager`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId {
    /// The machine.
    pub node: NodeName,
    /// The group on it.
    pub group: GroupName,
    /// The agent in it.
    pub agent: AgentName,
}

impl AgentId {
    /// The group this agent lives in.
    pub fn group_id(&self) -> GroupId {
        GroupId { node: self.node.clone(), group: self.group.clone() }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.group)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.group, self.agent)
    }
}

impl FromStr for GroupId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let [node, group] = parts[..] else {
            return Err(NameError::Parts { text: text.to_owned(), expected: "node/group" });
        };
        Ok(Self { node: node.parse()?, group: group.parse()? })
    }
}

impl FromStr for AgentId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let [node, group, agent] = parts[..] else {
            return Err(NameError::Parts { text: text.to_owned(), expected: "node/group/agent" });
        };
        Ok(Self { node: node.parse()?, group: group.parse()?, agent: agent.parse()? })
    }
}

macro_rules! text_conversions {
    ($($type:ident),*) => {$(
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
    )*};
}
text_conversions!(GroupId, AgentId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rules() {
        for (text, node, group, agent, role) in [
            ("mainpc", true, true, false, true),
            ("my-pc", true, false, false, false),
            ("llm.fast", false, false, false, true),
            ("NLUAgent", false, false, true, false),
            ("", false, false, false, false),
            ("9lives", false, false, false, false),
            ("a b", false, false, false, false),
        ] {
            assert_eq!(NodeName::new(text).is_ok(), node, "node {text:?}");
            assert_eq!(GroupName::new(text).is_ok(), group, "group {text:?}");
            assert_eq!(AgentName::new(text).is_ok(), agent, "agent {text:?}");
            assert_eq!(Role::new(text).is_ok(), role, "role {text:?}");
        }
    }

    #[test]
    fn identities_round_trip_and_name_the_expected_form() {
        let id: AgentId = "pc2/memory_stack/CacheManager".parse().unwrap();
        assert_eq!(id.to_string(), "pc2/memory_stack/CacheManager");
        assert_eq!(id.group_id().to_string(), "pc2/memory_stack");
        let error = "pc2/memory_stack".parse::<AgentId>().unwrap_err();
        assert_eq!(error.to_string(), "`pc2/memory_stack` is not an identity: write node/group/agent");
    }
}

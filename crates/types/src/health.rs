//! How an agent or a group is doing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The eight states of an agent or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not ready for the first time yet.
    Starting,
    /// Serves everything it offers.
    Ready,
    /// Serves, but poorer than it could: something it uses is missing.
    Degraded,
    /// Runs and cannot serve its main purpose, for example for want of a model.
    Unavailable,
    /// Ended by errors and given up on.
    Failed,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Ended on purpose.
    Stopped,
    /// Only of another node: nothing has been heard for too long to say.
    Unknown,
}

impl State {
    /// All states, in the order above.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Ready,
        Self::Degraded,
        Self::Unavailable,
        Self::Failed,
        Self::Draining,
        Self::Stopped,
        Self::Unknown,
    ];

    /// The state's word, as it appears in `/health`, metrics and replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }

    /// Whether work may be sent.
    pub fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("`{text}` is not a health state"))
    }
}

/// A state with its cause in words and the time since when it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The state.
    pub state: State,
    /// Why, in words a person understands; empty for `ready`.
    pub cause: String,
    /// When the state was entered.
    pub since: Timestamp,
}

impl Health {
    /// A state entered at `since`.
    pub fn new(state: State, cause: impl Into<String>, since: Timestamp) -> Self {
        Self { state, cause: cause.into(), since }
    }
}

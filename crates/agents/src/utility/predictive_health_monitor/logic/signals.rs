//! What is looked at of an agent, each minute.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A figure of an agent, or of its group where it shares that with others. Of each, more is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Signal {
    /// 95 % of its calls were answered within this, seconds.
    Latency,
    /// Share of its calls that failed by its doing.
    Errors,
    /// How late the heartbeats of its group came, seconds.
    #[serde(alias = "probes")]
    Heartbeats,
    /// Calls that wait or run.
    Queue,
    /// Memory of its group's process, bytes.
    Memory,
    /// Times it was started again.
    Restarts,
}

impl Signal {
    /// The figure as it is judged. Times are many small ones and few long ones, so that their logarithm is what is spread
    /// evenly; what is short anyway does not count.
    pub(crate) fn measure(self, value: f64) -> f64 {
        match self {
            Self::Latency => (value.max(0.0) + 0.02).ln(),
            Self::Heartbeats => (value.max(0.0) + 0.05).ln(),
            Self::Errors | Self::Queue | Self::Memory | Self::Restarts => value,
        }
    }

    /// The least spread of what is judged: a difference that is not worth a word. `limit` is what memory is compared with.
    pub(crate) fn floor(self, limit: Option<f64>) -> f64 {
        match self {
            Self::Latency | Self::Heartbeats => 0.2,
            Self::Errors => 0.02,
            Self::Queue => 1.0,
            Self::Memory => limit.map_or(64e6, |limit| 0.05 * limit),
            Self::Restarts => 0.5,
        }
    }

    /// In words, with its value.
    pub(crate) fn say(self, value: f64) -> String {
        match self {
            Self::Latency => format!("95 % of its calls take up to {:.0} ms", value * 1e3),
            Self::Errors => format!("{:.0} % of its calls fail", value * 100.0),
            Self::Heartbeats => format!("the heartbeats of its group come {:.0} ms late", value * 1e3),
            Self::Queue => format!("{value:.0} calls wait or run"),
            Self::Memory => format!("its group's process uses {:.0} MiB", value / 1_048_576.0),
            Self::Restarts => format!("it was started again {value:.0} times within a minute"),
        }
    }
}

/// The figures of one agent at one time; one that could not be had is absent.
pub(crate) type Signals = BTreeMap<Signal, f64>;

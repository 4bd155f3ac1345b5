//! What is shown of a picture, and in which order: plain functions, no terminal.

use std::cmp::Ordering;

use tandem_node::{GroupState, PeerState};
use tandem_types::{GroupId, NodeName};

use super::calls::Rate;
use super::picture::{GroupLine, NodeLine, PartLine, Picture, Standing};
use super::view::View;
use crate::style;

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Node(NodeName),
    Group(GroupId),
    /// An agent or engine, by its name.
    Part(GroupId, String),
}

/// How a word is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warn,
    Bad,
    Dim,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) key: Key,
    /// 0 for a node, 1 for a group, 2 for what it is made of.
    pub(super) depth: usize,
    pub(super) name: String,
    /// Whether what it is made of is shown; none where that is nothing.
    pub(super) open: Option<bool>,
    pub(super) state: &'static str,
    pub(super) tone: Tone,
    /// In the order of [`HEADS`]; `-` for a figure that nobody measured.
    pub(super) cells: [String; HEADS.len()],
    /// Why it is so.
    pub(super) notes: Vec<String>,
    /// What is known of it may be otherwise by now.
    pub(super) is_stale: bool,
}

/// What stands above the figures of a row, in the order in which narrow terminals keep them.
pub(super) const HEADS: [&str; 7] = ["for", "memory", "cpu", "rst", "probe", "req/s", "p95"];

/// What stands for a figure that nobody measured.
const ABSENT: &str = "-";

/// The order of groups within a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Start,
    Name,
    State,
    Memory,
    Cpu,
    Restarts,
    Probe,
    Calls,
}

impl Sort {
    const ALL: [Self; 8] =
        [Self::Start, Self::Name, Self::State, Self::Memory, Self::Cpu, Self::Restarts, Self::Probe, Self::Calls];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start order",
            Self::Name => "name",
            Self::State => "state",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Restarts => "restarts",
            Self::Probe => "probe",
            Self::Calls => "req/s",
        }
    }

    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    fn compare(self, a: &GroupLine, b: &GroupLine) -> Ordering {
        match self {
            // Sorting keeps what is equal in place.
            Self::Start => Ordering::Equal,
            Self::Name => a.group.cmp(&b.group),
            Self::State => urgency(b.state).cmp(&urgency(a.state)),
            Self::Memory => b.resident_bytes.cmp(&a.resident_bytes),
            Self::Cpu => most(a.cpu_ratio, b.cpu_ratio),
            Self::Restarts => b.restarts.cmp(&a.restarts),
            Self::Probe => b.probe_us.cmp(&a.probe_us),
            Self::Calls => most(a.rate.calls_per_s, b.rate.calls_per_s),
        }
    }
}

/// The larger first, an absent one last.
fn most(a: Option<f64>, b: Option<f64>) -> Ordering {
    let number = |value: Option<f64>| value.unwrap_or(f64::NEG_INFINITY);
    number(b).total_cmp(&number(a))
}

/// How much a state wants a person to look at it.
fn urgency(state: GroupState) -> u8 {
    match state {
        GroupState::CrashLoop | GroupState::Failed => 5,
        GroupState::BackingOff | GroupState::Unavailable => 4,
        GroupState::Suspect | GroupState::Paused => 3,
        GroupState::Degraded => 2,
        GroupState::Starting | GroupState::Waiting | GroupState::Stopping => 1,
        GroupState::Ready | GroupState::Stopped | GroupState::NotBuilt => 0,
    }
}

fn tone(state: GroupState) -> Tone {
    match state {
        GroupState::Ready => Tone::Good,
        GroupState::Failed | GroupState::CrashLoop => Tone::Bad,
        GroupState::NotBuilt | GroupState::Stopped | GroupState::Waiting => Tone::Dim,
        _ => Tone::Warn,
    }
}

fn tone_of_node(standing: Standing) -> Tone {
    match standing {
        Standing::Up | Standing::Peer(PeerState::Alive) => Tone::Good,
        Standing::Peer(PeerState::OverlayDead | PeerState::Differs) => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// The rows of a picture as a person wants to see them.
pub(super) fn rows(picture: &Picture, view: &View) -> Vec<Row> {
    picture.nodes.iter().flat_map(|node| rows_of(node, view)).collect()
}

fn rows_of(node: &NodeLine, view: &View) -> Vec<Row> {
    let wanted = view.filter.to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    let is_wanted = |group: &&GroupLine| {
        has(group.group.group.as_str()) || has(group.state.as_str()) || group.parts.iter().any(|part| has(&part.name))
    };
    let mut groups: Vec<&GroupLine> = node.groups.iter().filter(is_wanted).collect();
    groups.sort_by(|a, b| view.sort.compare(a, b));
    let is_stale = node.standing.is_stale();
    let mut rows = vec![node_row(node)];
    for group in groups {
        let open = view.open.contains(&group.group);
        rows.push(group_row(group, open, is_stale));
        rows.extend(group.parts.iter().filter(|_| open).map(|part| part_row(&group.group, part, is_stale)));
    }
    rows
}

fn node_row(node: &NodeLine) -> Row {
    let heard = node.heard_ms_ago.filter(|_| !matches!(node.standing, Standing::Peer(PeerState::Unknown)));
    let heard = heard.map(|ms| format!("heard {} ago", style::span(ms)));
    let reason = Some(node.reason.clone()).filter(|reason| !reason.is_empty());
    let memory = match (node.memory_used_bytes, node.memory_total_bytes) {
        (Some(used), Some(total)) => Some(format!("{}/{}", gib(used), size(total))),
        _ => None,
    };
    let restarts = (!node.groups.is_empty()).then(|| node.groups.iter().map(|group| group.restarts).sum::<u32>());
    Row {
        key: Key::Node(node.node.clone()),
        depth: 0,
        name: node.node.to_string(),
        open: None,
        state: node.standing.as_str(),
        tone: tone_of_node(node.standing),
        cells: cells([
            node.up_ms.map(style::span),
            memory,
            node.cpu_ratio.map(percent),
            restarts.map(|restarts| restarts.to_string()),
            node.round_trip_us.map(micros),
            None,
            None,
        ]),
        notes: [reason, heard].into_iter().flatten().collect(),
        is_stale: node.standing.is_stale(),
    }
}

fn group_row(group: &GroupLine, open: bool, is_stale: bool) -> Row {
    let explains = !matches!(group.state, GroupState::Ready | GroupState::NotBuilt) && !group.reason.is_empty();
    let is_built = group.state != GroupState::NotBuilt;
    Row {
        key: Key::Group(group.group.clone()),
        depth: 1,
        name: group.group.group.to_string(),
        open: (!group.parts.is_empty()).then_some(open),
        state: group.state.as_str(),
        tone: tone(group.state),
        cells: cells([
            group.for_ms.map(style::span),
            group.resident_bytes.map(size),
            group.cpu_ratio.map(percent),
            is_built.then(|| group.restarts.to_string()),
            group.probe_us.map(micros),
            calls(group.rate),
            p95(group.rate),
        ]),
        notes: explains.then(|| group.reason.clone()).into_iter().collect(),
        is_stale,
    }
}

fn part_row(group: &GroupId, part: &PartLine, is_stale: bool) -> Row {
    let is_built = part.state != GroupState::NotBuilt;
    Row {
        key: Key::Part(group.clone(), part.name.clone()),
        depth: 2,
        name: part.name.clone(),
        open: None,
        state: part.state.as_str(),
        tone: tone(part.state),
        cells: cells([
            part.for_ms.map(style::span),
            part.resident_bytes.map(size),
            None,
            is_built.then(|| part.restarts.to_string()),
            None,
            calls(part.rate),
            p95(part.rate),
        ]),
        notes: Some(part.reason.clone()).filter(|reason| !reason.is_empty()).into_iter().collect(),
        is_stale,
    }
}

fn cells(figures: [Option<String>; HEADS.len()]) -> [String; HEADS.len()] {
    figures.map(|figure| figure.unwrap_or_else(|| ABSENT.to_owned()))
}

fn calls(rate: Rate) -> Option<String> {
    rate.calls_per_s.map(|calls| format!("{calls:.1}"))
}

fn p95(rate: Rate) -> Option<String> {
    let bound = rate.p95_within_s?;
    // The last bound of the histograms.
    Some(if bound.is_infinite() { ">1 min".into() } else { format!("≤{}", seconds(bound)) })
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{} ms", s * 1e3),
        s => format!("{s} s"),
    }
}

fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// An amount of memory in the unit that is short.
fn size(bytes: u64) -> String {
    if bytes < 1000 << 20 { style::mib(bytes) } else { format!("{} GiB", gib(bytes)) }
}

fn gib(bytes: u64) -> String {
    let tenths = (bytes * 10 + (1 << 29)) >> 30;
    format!("{}.{}", tenths / 10, tenths % 10)
}

//! Shows groups coming up and going down: a line for each that changes in place, or plain lines where nothing can.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tandem_node::{Event, GroupState, GroupStatus, Happening, NodeStatus};
use tandem_types::GroupId;

use crate::style::{self, tell};

/// The view of one node.
pub(crate) struct Live {
    lines: Option<(MultiProgress, BTreeMap<GroupId, ProgressBar>)>,
    shown: BTreeMap<GroupId, (GroupState, String)>,
    settled: bool,
    width: usize,
}

impl Live {
    /// Begins with the present picture.
    pub(crate) fn new(status: &NodeStatus) -> Self {
        let width = status.groups.iter().map(|g| g.group.group.as_str().len()).max().unwrap_or(0);
        let lines = std::io::stdout().is_terminal().then(|| {
            let multi = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout());
            let bars = status.groups.iter().map(|g| (g.group.clone(), multi.add(bar()))).collect();
            (multi, bars)
        });
        let mut live = Self { lines, shown: BTreeMap::new(), settled: status.settled, width };
        status.groups.iter().for_each(|group| live.group(group, None));
        live
    }

    /// Shows what happened.
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.what {
            Happening::Group(group) => self.group(group, Some(event.at_ms)),
            Happening::Late { group, waited_s } => {
                self.say(&style::warn(&format!("{group} was not ready within {waited_s} s: going on without it")));
            }
            Happening::Settled { .. } | Happening::Ended => {}
        }
    }

    /// Shows what the events have not told yet, at so many milliseconds since the node began.
    pub(crate) fn catch_up(&mut self, status: &NodeStatus, at_ms: u64) {
        status.groups.iter().for_each(|group| self.group(group, Some(at_ms)));
    }

    /// A line of its own, above what changes in place.
    pub(crate) fn say(&self, text: &str) {
        match &self.lines {
            // Only a terminal that has gone cannot be written to.
            Some((multi, _)) => drop(multi.println(text)),
            None => tell!("{text}"),
        }
    }

    /// Leaves the lines as they are and the terminal to others.
    pub(crate) fn finish(self) {
        if let Some((_, bars)) = self.lines {
            bars.into_values().for_each(|bar| bar.abandon());
        }
    }

    fn group(&mut self, group: &GroupStatus, at_ms: Option<u64>) {
        let key = (group.state, group.reason.clone());
        if self.shown.get(&group.group) == Some(&key) {
            return;
        }
        let first = self.shown.insert(group.group.clone(), key).is_none();
        let name = format!("{:<w$}", group.group.group.as_str(), w = self.width);
        let state = style::state(group.state, &format!("{:<11}", group.state.as_str()));
        let took = match (group.state, group.ready_ms) {
            (GroupState::Ready | GroupState::Degraded | GroupState::Unavailable, Some(ms)) => style::span(ms),
            _ => String::new(),
        };
        match &self.lines {
            Some((_, bars)) => {
                let Some(bar) = bars.get(&group.group) else { return };
                let moving =
                    matches!(group.state, GroupState::Starting | GroupState::BackingOff | GroupState::Stopping);
                bar.set_prefix(style::drawn(mark(group.state)));
                bar.set_message(style::drawn(format!("{name}  {state}  {took:>8}  {}", group.reason)));
                // Last, so that no mark is drawn beside the word of the state before.
                bar.set_style(line(if moving { MOVING } else { STILL }));
                if moving {
                    bar.enable_steady_tick(std::time::Duration::from_millis(120));
                } else {
                    bar.disable_steady_tick();
                }
                bar.tick();
            }
            // What everything begins with is no news, and neither is what has been so for long.
            None if first && (self.settled || matches!(group.state, GroupState::Waiting | GroupState::Starting)) => {}
            None => {
                let at = at_ms.map_or_else(String::new, style::span);
                let rest = format!("{took:>8}  {}", group.reason);
                match rest.trim() {
                    "" => tell!("{at:>8}  {name}  {}", style::state(group.state, group.state.as_str())),
                    _ => tell!("{at:>8}  {name}  {state}  {}", rest.trim_end()),
                }
            }
        }
    }
}

/// A group on its way, and one that has arrived.
const MOVING: &str = "{spinner} {wide_msg}";
const STILL: &str = "{prefix} {wide_msg}";

fn bar() -> ProgressBar {
    ProgressBar::new_spinner().with_style(line(STILL))
}

fn line(template: &str) -> ProgressStyle {
    // The templates are constants that a test makes.
    ProgressStyle::with_template(template).expect("the template is sound").tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

fn mark(state: GroupState) -> String {
    match state {
        GroupState::Ready => style::good("✔"),
        GroupState::Failed | GroupState::CrashLoop => style::bad("✘"),
        GroupState::Degraded | GroupState::Unavailable | GroupState::Suspect | GroupState::Paused => style::warn("!"),
        _ => " ".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_sound() {
        drop([MOVING, STILL].map(line));
    }
}

//! What a person has chosen to see, and what keys do to that: plain functions, no terminal.

use std::collections::BTreeSet;

use tandem_types::{GroupId, GroupName, NodeName};

use super::logic::{Key, Row, Sort};

/// What a person has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) selected: Option<Key>,
    pub(super) open: BTreeSet<GroupId>,
    pub(super) sort: Sort,
    /// Only groups that have this in their name, their state or the name of what they are made of.
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// What an order led to.
    pub(super) said: Option<String>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            selected: None,
            open: BTreeSet::new(),
            sort: Sort::Start,
            filter: String::new(),
            mode: Mode::Table,
            said: None,
        }
    }
}

/// What keys are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Table,
    Help,
    /// The filter is being typed; what it was before comes back with Esc.
    Filter(String),
    /// Whether to restart this group.
    Restart(GroupId),
    /// The last log lines of this group.
    Log(GroupName),
}

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Press {
    Up,
    Down,
    /// By a page of so many rows.
    PageUp(usize),
    PageDown(usize),
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Char(char),
}

/// What a key asks for beyond what is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Nothing,
    Quit,
    Restart(GroupName),
}

impl View {
    /// Takes a key. `rows` are those that are shown, `here` is the node that was asked.
    pub(super) fn press(&mut self, press: Press, rows: &[Row], here: Option<&NodeName>) -> Deed {
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Table => self.said = None,
            Mode::Help if press == Press::Char('q') => return Deed::Quit,
            Mode::Log(_) if matches!(press, Press::Char('q' | 'l') | Press::Escape) => return Deed::Nothing,
            Mode::Log(group) => {
                self.mode = Mode::Log(group);
                return Deed::Nothing;
            }
            Mode::Help => return Deed::Nothing,
            Mode::Filter(former) => {
                self.filter_by(press, former);
                return Deed::Nothing;
            }
            Mode::Restart(group) if press == Press::Char('y') => return Deed::Restart(group.group),
            Mode::Restart(group) => {
                self.said = Some(format!("{group} was not restarted"));
                return Deed::Nothing;
            }
        }
        match press {
            Press::Char('q') => return Deed::Quit,
            Press::Escape => self.filter.clear(),
            Press::Char('?') => self.mode = Mode::Help,
            Press::Char('s') => self.sort = self.sort.next(),
            Press::Char('/') => self.mode = Mode::Filter(self.filter.clone()),
            Press::Up | Press::Char('k') => self.walk(rows, |at| at.saturating_sub(1)),
            Press::Down | Press::Char('j') => self.walk(rows, |at| at + 1),
            Press::PageUp(page) => self.walk(rows, |at| at.saturating_sub(page)),
            Press::PageDown(page) => self.walk(rows, |at| at.saturating_add(page)),
            Press::Home | Press::Char('g') => self.walk(rows, |_| 0),
            Press::End | Press::Char('G') => self.walk(rows, |_| usize::MAX),
            Press::Enter => self.turn(rows),
            Press::Char('r') => {
                if let Some(group) = self.own_group(rows, here, "tandem restart") {
                    self.mode = Mode::Restart(group);
                }
            }
            Press::Char('l') => {
                if let Some(group) = self.own_group(rows, here, "tandem logs") {
                    self.mode = Mode::Log(group.group);
                }
            }
            Press::Backspace | Press::Char(_) => {}
        }
        Deed::Nothing
    }

    fn filter_by(&mut self, press: Press, former: String) {
        match press {
            Press::Enter => return,
            Press::Escape => {
                self.filter = former;
                return;
            }
            Press::Char(c) => self.filter.push(c),
            Press::Backspace => drop(self.filter.pop()),
            _ => {}
        }
        self.mode = Mode::Filter(former);
    }

    /// Where the selected row is among those that are shown: the first where it is not there any more.
    pub(super) fn at(&self, rows: &[Row]) -> usize {
        let is_selected = |row: &Row| Some(&row.key) == self.selected.as_ref();
        rows.iter().position(is_selected).or_else(|| rows.iter().position(|row| row.depth == 1)).unwrap_or_default()
    }

    fn walk(&mut self, rows: &[Row], to: impl Fn(usize) -> usize) {
        let at = to(self.at(rows)).min(rows.len().saturating_sub(1));
        self.selected = rows.get(at).map(|row| row.key.clone());
    }

    /// Opens the selected group, or closes it.
    fn turn(&mut self, rows: &[Row]) {
        let Some(group) = self.group(rows) else { return };
        if !self.open.remove(&group) {
            self.open.insert(group.clone());
        }
        // A part that is no longer shown cannot stay selected.
        self.selected = Some(Key::Group(group));
    }

    /// The group that is selected, or that has what is selected.
    fn group(&self, rows: &[Row]) -> Option<GroupId> {
        match &rows.get(self.at(rows))?.key {
            Key::Node(_) => None,
            Key::Group(group) | Key::Part(group, _) => Some(group.clone()),
        }
    }

    fn own_group(&mut self, rows: &[Row], here: Option<&NodeName>, command: &str) -> Option<GroupId> {
        let group = self.group(rows);
        self.said = match &group {
            None => Some("select a group first".into()),
            Some(group) if Some(&group.node) != here => {
                Some(format!("{} is another machine: `{command} {}` does it there", group.node, group.group))
            }
            Some(_) => None,
        };
        group.filter(|_| self.said.is_none())
    }
}

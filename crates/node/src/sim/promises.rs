//! What the supervisor promises, checked with a memory of its own.

use super::world::World;
use crate::logic::watch::{Hang, Lack};
use crate::logic::{Input, Moment, Output, Phase};

/// In so long a time restarts are counted, those of a group and those of a node.
const WINDOW: Moment = Moment::from_secs(600);
const OF_A_GROUP: usize = 5;
const OF_A_NODE: usize = 20;
/// A process that is stopped for so long may be ended.
const PAUSE: Moment = Moment::from_secs(30);

/// What has happened, as far as promises depend on it.
pub(super) struct Promises {
    /// Was ready in this life of the node.
    ready: Vec<bool>,
    late: Vec<bool>,
    /// Ends by itself that a node saw, since a person last forgave them.
    ends: Vec<Vec<Moment>>,
    /// All of them that a node saw.
    kept: Vec<(usize, Moment)>,
    /// A start, or a stop and a start, that a person wants.
    wanted: Vec<bool>,
    restarts: Vec<Moment>,
    down: bool,
    ended: bool,
}

impl Promises {
    pub(super) fn new(count: usize) -> Self {
        Self {
            ready: vec![false; count],
            late: vec![false; count],
            ends: vec![vec![]; count],
            kept: vec![],
            wanted: vec![false; count],
            restarts: vec![],
            down: false,
            ended: false,
        }
    }

    /// A new node begins.
    pub(super) fn begin(&mut self) {
        let count = self.ready.len();
        let (ends, kept) = (std::mem::take(&mut self.ends), std::mem::take(&mut self.kept));
        *self = Self { ends, kept, ..Self::new(count) };
    }

    /// Ends that still count, oldest first.
    pub(super) fn seen_before(&self, now: Moment) -> Vec<(usize, Moment)> {
        self.kept.iter().copied().filter(|(_, at)| now < *at + WINDOW).collect()
    }

    pub(super) fn taken_over(&mut self, group: usize, ready: bool) {
        self.ready[group] = ready;
    }

    pub(super) fn was_ready(&mut self, group: usize) {
        self.ready[group] = true;
    }

    pub(super) fn ended(&mut self, group: usize, at: Moment) {
        self.ends[group].push(at);
        self.kept.push((group, at));
    }

    pub(super) fn ordered(&mut self, group: usize, starts: bool) {
        self.ends[group].clear();
        self.wanted[group] |= starts && !self.down;
    }

    pub(super) fn told(&mut self, input: Input) {
        self.down |= input == Input::Down;
    }
}

impl World {
    fn promise(&self, kept: bool, what: &str) {
        assert!(kept, "seed {}: at {:?}: {what}: {}", self.seed, self.now, self.picture());
    }

    /// Everything that is to be known of a world in which a promise was broken.
    pub(super) fn picture(&self) -> String {
        let phases = self.node.as_ref().map(|node| {
            let phases = (0..self.members.len()).map(|i| format!("{i} {:?}", node.machine.phase(i)));
            phases.collect::<Vec<_>>().join(", ")
        });
        let alive: Vec<_> = self.processes.iter().enumerate().filter(|(_, process)| process.alive).collect();
        format!("{} groups; {}; {alive:?}", self.members.len(), phases.unwrap_or("no node".into()))
    }

    pub(super) fn is_down(&self) -> bool {
        self.promises.down
    }

    pub(super) fn has_ended(&self) -> bool {
        self.promises.ended
    }

    /// Whether the node may do this.
    pub(super) fn keep(&mut self, output: Output) {
        match output {
            Output::Start(group) => self.may_start(group),
            Output::Stop(group) => {
                let wanted = self.promises.wanted[group];
                self.promise(self.promises.down || wanted, "a group is stopped for nothing it did");
                let needs = |other: usize| {
                    let member = &self.members[other];
                    member.needs.contains(&group) || member.waits_for.contains(&group)
                };
                let needed = (0..self.members.len()).any(|other| needs(other) && self.records[other].is_some());
                self.promise(!self.promises.down || !needed, "a group is stopped under one that needs it");
            }
            Output::Late(group) => {
                self.promise(!self.promises.ready[group], "a group that was ready is late");
                self.promises.late[group] = true;
            }
            Output::AwaitPeers(group) => self.promise(self.members[group].has_peers, "there are no peers to wait for"),
            Output::Ended => {
                self.promise(self.promises.down && !self.promises.ended, "the end comes unasked for, or twice");
                let left = self.processes.iter().any(|process| process.alive);
                self.promise(!left, "something outlives the end");
                self.promises.ended = true;
            }
        }
    }

    fn may_start(&mut self, group: usize) {
        let machine = &self.node.as_ref().expect("it is the node that starts groups").machine;
        let again = machine.restarts(group) > 0;
        self.promise(!self.promises.down && self.members[group].built, "a group is started that must not be");
        self.promise(self.running(group).is_none(), "a group runs twice");
        for need in &self.members[group].needs {
            let excused = self.promises.late[*need] || machine.phase(*need) == Phase::CrashLoop || again;
            let settled = self.promises.ready[*need] || !self.members[*need].built || excused;
            self.promise(settled, "a group is started before its need");
        }
        if again && !self.promises.wanted[group] {
            let own = self.promises.ends[group].iter().filter(|at| self.now < **at + WINDOW).count();
            self.promise(own > 0, "a group is restarted that did not end");
            self.promise(own <= OF_A_GROUP, "a group is restarted too often");
            self.promises.restarts.push(self.now);
            let all = self.promises.restarts.iter().filter(|at| self.now < **at + WINDOW).count();
            self.promise(all <= OF_A_NODE, "a node restarts too often");
        }
        self.promises.wanted[group] = false;
    }

    /// Whether a process may be ended because it hangs.
    pub(super) fn blames(&self, p: usize, hang: Hang) {
        let process = &self.processes[p];
        let stopped = process.stopped.is_some_and(|(from, to)| to >= from + PAUSE);
        self.promise(process.hangs || (hang.lack == Lack::Motion && stopped), "a process is blamed for nothing");
    }
}

//! Processes, the node that supervises them, and the time that passes between them.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::promises::Promises;
use super::{Fault, seconds};
use crate::logic::budget::WINDOW;
use crate::logic::watch::{Act, Fact, Watch};
use crate::logic::{Ending, Input, Machine, Member, Moment, Output, Phase};

/// How long a group may take before those that need it go on.
const WAIT: Moment = Moment::from_secs(60);
const SECOND: Moment = Moment::from_secs(1);
/// Grace of a process that hangs, and of one that is to end and does not.
const HUNG_GRACE: Moment = Moment::from_millis(500);
const STOP_GRACE: Moment = Moment::from_secs(10);
/// Events at one moment: far more than there are things to happen.
const AT_ONCE_MOST: u32 = 100_000;
/// Probes in a row that a lossy network loses or delays at most.
const LOST_MOST: u32 = 5;

/// What happens at a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Fault(Fault),
    NodeUp,
    /// A process gets ready.
    GetsReady(usize),
    /// A process ends.
    Ends(usize),
    /// A process sends a heartbeat.
    Beats(usize),
    /// What the node learns, as long as it is the node of this life.
    Node(u64, News),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum News {
    Wake,
    Ready(usize),
    Exited(usize),
    PeersSettled(usize),
    Learns(usize, Fact),
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) group: usize,
    pub(super) alive: bool,
    pub(super) said_ready: bool,
    pub(super) hangs: bool,
    pub(super) stopped: Option<(Moment, Moment)>,
}

impl Process {
    pub(super) fn is_stopped(&self, now: Moment) -> bool {
        self.stopped.is_some_and(|(from, to)| now >= from && now < to)
    }

    /// When it acts that would act now.
    fn acts(&self, now: Moment) -> Moment {
        self.stopped.filter(|_| self.is_stopped(now)).map_or(now, |(_, to)| to)
    }
}

/// What kind of group it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    beats: bool,
    /// Its network loses and delays probes.
    lossy: bool,
    /// Some of its heartbeats get lost.
    skips: bool,
    ready_s: f64,
}

/// What is written down of a running process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) process: usize,
    ready: bool,
    restarts: u32,
    ending: bool,
}

/// The node under test.
pub(super) struct Node {
    began: Moment,
    pub(super) machine: Machine,
    watches: Vec<Option<Watch>>,
    /// Since when a process hangs that is being ended.
    trouble: Vec<Option<Moment>>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) now: Moment,
    pub(super) members: Vec<Member>,
    kinds: Vec<Kind>,
    /// How many more processes of a group end soon after their start.
    pub(super) crashes: Vec<u32>,
    lost: Vec<u32>,
    pub(super) processes: Vec<Process>,
    pub(super) records: Vec<Option<Record>>,
    pub(super) node: Option<Node>,
    life: u64,
    pub(super) stalled: Moment,
    pub(super) promises: Promises,
    queue: BTreeMap<(Moment, u64), Event>,
    planned: u64,
    /// Events since time moved on.
    at_once: u32,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // Most fleets are small.
        let most = if rng.random_bool(0.1) { 60 } else { 12 };
        let count = rng.random_range(2..=most);
        let members: Vec<Member> = (0..count).map(|i| member(&mut rng, i)).collect();
        let kind = |rng: &mut StdRng| Kind {
            beats: rng.random_bool(0.5),
            lossy: rng.random_bool(0.3),
            skips: rng.random_bool(0.3),
            ready_s: if rng.random_bool(0.05) { rng.random_range(50.0..100.0) } else { rng.random_range(0.01..3.0) },
        };
        let kinds = (0..count).map(|_| kind(&mut rng)).collect();
        Self {
            seed,
            now: Moment::ZERO,
            kinds,
            crashes: vec![0; count],
            lost: vec![0; count],
            processes: vec![],
            records: vec![None; count],
            node: None,
            life: 0,
            stalled: Moment::ZERO,
            promises: Promises::new(count),
            queue: BTreeMap::new(),
            planned: 0,
            at_once: 0,
            members,
            rng,
        }
    }

    pub(super) fn plan(&mut self, at: Moment, event: Event) {
        self.planned += 1;
        self.queue.insert((at, self.planned), event);
    }

    fn plan_news(&mut self, at: Moment, news: News) {
        self.plan(at, Event::Node(self.life, news));
    }

    pub(super) fn run_until(&mut self, end: Moment) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 < end) {
            let ((at, _), event) = entry.remove_entry();
            self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
            assert!(self.at_once < AT_ONCE_MOST, "seed {}: time stands still: {}", self.seed, self.picture());
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => self.suffer(fault),
            Event::NodeUp => self.start_node(),
            Event::GetsReady(p) => self.gets_ready(p),
            Event::Ends(p) => self.ends(p),
            Event::Beats(p) => self.beats(p),
            Event::Node(life, _) if life != self.life || self.node.is_none() => {}
            // What comes while the node does not run is there when it goes on.
            Event::Node(_, news) if self.now < self.stalled => self.plan_news(self.stalled, news),
            Event::Node(_, news) => self.hears(news),
        }
    }

    // What processes do.

    fn gets_ready(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let acts = process.acts(self.now);
        if !process.alive || process.hangs {
            return;
        }
        if acts > self.now {
            return self.plan(acts, Event::GetsReady(p));
        }
        process.said_ready = true;
        self.plan_news(self.now, News::Ready(p));
        self.plan(self.now, Event::Beats(p));
    }

    fn beats(&mut self, p: usize) {
        let (group, acts) = (self.processes[p].group, self.processes[p].acts(self.now));
        if !self.processes[p].alive || self.processes[p].hangs || !self.kinds[group].beats {
            return;
        }
        if acts > self.now {
            return self.plan(acts, Event::Beats(p));
        }
        if !(self.kinds[group].skips && !self.kinds[group].lossy && self.rng.random_bool(0.1)) {
            self.plan_news(self.now, News::Learns(p, Fact::Beat));
        }
        self.plan(self.now + SECOND, Event::Beats(p));
    }

    fn ends(&mut self, p: usize) {
        if std::mem::take(&mut self.processes[p].alive) {
            self.plan_news(self.now, News::Exited(p));
        }
    }

    pub(super) fn running(&self, group: usize) -> Option<usize> {
        self.processes.iter().rposition(|process| process.group == group && process.alive)
    }

    pub(super) fn crash(&mut self, group: usize) {
        if let Some(p) = self.running(group) {
            self.ends(p);
        }
    }

    pub(super) fn hang(&mut self, group: usize) {
        // One that never gets ready is late, and nobody watches it.
        if let Some(p) = self.running(group).filter(|p| self.processes[*p].said_ready) {
            self.processes[p].hangs = true;
        }
    }

    pub(super) fn pause(&mut self, group: usize, span: Moment) {
        if let Some(p) = self.running(group).filter(|p| !self.processes[*p].is_stopped(self.now)) {
            self.processes[p].stopped = Some((self.now, self.now + span));
        }
    }

    /// Whether no process that runs is in trouble.
    pub(super) fn is_well(&self) -> bool {
        self.processes.iter().all(|process| !process.alive || (!process.hangs && process.said_ready))
    }

    /// How long a probe that is sent now is on its way; none when it gets lost. What runs no more takes none.
    fn way(&mut self, p: usize) -> Option<Moment> {
        let (process, group) = (&self.processes[p], self.processes[p].group);
        if !process.alive {
            return None;
        }
        if self.kinds[group].lossy && self.rng.random_bool(0.3) {
            self.lost[group] += 1;
            if self.lost[group] <= LOST_MOST {
                // Its connection is asked for once more, or not in time.
                return self.rng.random_bool(0.5).then_some(SECOND);
            }
        }
        self.lost[group] = 0;
        Some(Moment::from_millis(1))
    }

    /// When and whether a probe that is sent now, and so long on its way, is answered.
    fn answers(&mut self, p: usize, way: Moment, limit: Moment) -> Option<Moment> {
        let process = &self.processes[p];
        if process.hangs {
            return None;
        }
        let at = process.acts(self.now + way) + seconds(&mut self.rng, 0.001..0.9);
        (at <= self.now + limit).then_some(at)
    }

    // What the node does.

    pub(super) fn kill_node(&mut self) {
        self.node = None;
        self.life += 1;
        self.stalled = Moment::ZERO;
    }

    pub(super) fn start_node(&mut self) {
        if self.node.is_some() {
            return;
        }
        let count = self.members.len();
        let machine = Machine::new(self.members.clone(), WAIT);
        let node = Node { began: self.now, machine, watches: vec![], trouble: vec![None; count] };
        self.node = Some(Node { watches: (0..count).map(|_| None).collect(), ..node });
        self.promises.begin();
        for (group, at) in self.promises.seen_before(self.now) {
            let at = WINDOW - (self.now - at);
            self.input(Input::EndedBefore(group, at));
        }
        for group in 0..count {
            let Some(record) = self.records[group].filter(|record| self.processes[record.process].alive) else {
                self.records[group] = None;
                continue;
            };
            if record.ending {
                self.processes[record.process].alive = false;
                self.records[group] = None;
                continue;
            }
            self.promises.taken_over(group, record.ready);
            self.input(Input::TookOver { group, ready: record.ready, restarts: record.restarts });
            if record.ready {
                self.watch(record.process);
            } else if self.processes[record.process].said_ready {
                // It said so while nobody listened, and is asked.
                self.plan_news(self.now + SECOND / 2, News::Ready(record.process));
            }
        }
        self.input(Input::Tick);
    }

    fn clock(&self) -> Moment {
        WINDOW + self.now - self.node.as_ref().map_or(self.now, |node| node.began)
    }

    pub(super) fn input(&mut self, input: Input) {
        let clock = self.clock();
        let Some(node) = &mut self.node else { return };
        let outputs = node.machine.step(clock, input);
        let wake = node.machine.wake();
        self.promises.told(input);
        for output in outputs {
            self.keep(output);
            self.perform(output);
        }
        if let Some(wake) = wake {
            self.plan_news(self.now + wake.saturating_sub(clock), News::Wake);
        }
    }

    pub(super) fn order(&mut self, group: usize, input: Input, running_too: bool) {
        let Some(node) = &self.node else { return };
        match node.machine.phase(group) {
            Phase::BackingOff(_) | Phase::CrashLoop | Phase::Stopped => self.promises.ordered(group, true),
            Phase::Starting | Phase::Ready => self.promises.ordered(group, running_too),
            _ => {}
        }
        self.input(input);
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Start(group) => {
                let node = self.node.as_mut().expect("it is the node that starts groups");
                let restarts = node.machine.restarts(group);
                node.trouble[group] = None;
                let p = self.processes.len();
                self.processes.push(Process { group, alive: true, said_ready: false, hangs: false, stopped: None });
                self.records[group] = Some(Record { process: p, ready: false, restarts, ending: false });
                let ready = self.now + Moment::from_secs_f64(self.kinds[group].ready_s);
                self.plan(ready, Event::GetsReady(p));
                if self.crashes[group] > 0 {
                    self.crashes[group] -= 1;
                    let end = self.now + seconds(&mut self.rng, 0.001..6.0);
                    self.plan(end, Event::Ends(p));
                }
            }
            Output::Stop(group) => {
                let Some(record) = &mut self.records[group] else { return };
                record.ending = true;
                let process = &self.processes[record.process];
                let idle = process.hangs || process.is_stopped(self.now);
                let (p, grace) = (record.process, if idle { STOP_GRACE } else { seconds(&mut self.rng, 0.0..3.0) });
                self.plan(self.now + grace, Event::Ends(p));
            }
            Output::AwaitPeers(group) => {
                let at = self.now + seconds(&mut self.rng, 0.0..60.0);
                self.plan_news(at, News::PeersSettled(group));
            }
            Output::Late(_) | Output::Ended => {}
        }
    }

    fn hears(&mut self, news: News) {
        match news {
            News::Wake => self.input(Input::Tick),
            News::PeersSettled(group) => self.input(Input::PeersSettled(group)),
            News::Ready(p) => {
                let group = self.processes[p].group;
                let record = self.records[group].as_mut().filter(|record| record.process == p && !record.ready);
                if let Some(record) = record {
                    record.ready = true;
                    self.promises.was_ready(group);
                    self.input(Input::Ready(group));
                    self.watch(p);
                }
            }
            News::Exited(p) => {
                let group = self.processes[p].group;
                if self.records[group].take_if(|record| record.process == p).is_some() {
                    let node = self.node.as_mut().expect("it is the node that hears");
                    node.watches[group] = None;
                    let since = node.trouble[group].take();
                    if node.machine.phase(group) != Phase::Stopping {
                        self.promises.ended(group, self.now);
                    }
                    let chance = self.rng.random();
                    self.input(Input::Exited(group, Ending { since, chance }));
                }
            }
            News::Learns(p, fact) => self.learns(p, fact),
        }
    }

    fn watch(&mut self, p: usize) {
        let (clock, group) = (self.clock(), self.processes[p].group);
        if let Some(node) = &mut self.node {
            node.watches[group] = Some(Watch::new(clock));
        }
        self.learns(p, Fact::Tick);
    }

    fn learns(&mut self, p: usize, fact: Fact) {
        let (clock, group) = (self.clock(), self.processes[p].group);
        if self.records[group].is_none_or(|record| record.process != p) {
            return;
        }
        let Some(mut watch) = self.node.as_mut().and_then(|node| node.watches[group].take()) else { return };
        let mut hung = None;
        // A tick that was planned before something else moved the next look comes too early.
        if fact != Fact::Tick || clock >= watch.wake() {
            let mut acts: VecDeque<Act> = watch.step(clock, fact).into();
            while let Some(act) = acts.pop_front() {
                match act {
                    Act::Probe { sent, limit } => {
                        let Some(way) = self.way(p) else { continue };
                        self.plan_news(self.now + way, News::Learns(p, Fact::Arrived(sent)));
                        if let Some(at) = self.answers(p, way, limit) {
                            self.plan_news(at, News::Learns(p, Fact::Answered(at - self.now)));
                        }
                    }
                    Act::Look => {
                        let stopped = self.processes[p].is_stopped(self.now);
                        acts.extend(watch.step(clock, Fact::Looked { stopped }));
                    }
                    Act::Hung(hang) => hung = Some(hang),
                }
            }
            self.plan_news(self.now + watch.wake().saturating_sub(clock), News::Learns(p, Fact::Tick));
        }
        let Some(node) = &mut self.node else { return };
        match hung {
            None => node.watches[group] = Some(watch),
            Some(hang) => {
                node.trouble[group] = Some(hang.since);
                self.blames(p, hang);
                self.plan(self.now + HUNG_GRACE, Event::Ends(p));
            }
        }
    }
}

/// A group whose needs point to earlier ones only, so that there is no circle.
fn member(rng: &mut StdRng, i: usize) -> Member {
    let mut picked: Vec<usize> =
        (0..rng.random_range(0..4)).filter(|_| i > 0).map(|_| rng.random_range(0..i.max(1))).collect();
    picked.sort_unstable();
    picked.dedup();
    let waits_for = if rng.random_bool(0.3) { picked.split_off(picked.len() / 2) } else { vec![] };
    Member { needs: picked, waits_for, has_peers: rng.random_bool(0.05), built: rng.random_bool(0.97) }
}

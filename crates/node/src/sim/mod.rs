//! The node's supervision in a world of its own: time is a number, processes are rows of a table, and everything that can
//! go wrong does. At each step the promises of the supervisor are checked.
//!
//! The order of starts, the budgets and the watches are those that run; only what joins them to real processes is played
//! here. A world follows from its seed, and one that breaks a promise names it.

mod promises;
mod world;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::logic::{Input, Moment, Phase};
use world::{Event, World};

/// While something is done to the groups, and how long they have afterwards at most: longer than any budget lasts.
const TROUBLE: Moment = Moment::from_secs(180);
const PEACE: Moment = Moment::from_secs(1_500);
/// Between two looks whether everything has settled.
const LOOK: Moment = Moment::from_secs(30);

/// What is done to a world.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A process ends.
    Crash(usize),
    /// A process ends, and so do the next ones of its group, so often.
    CrashLoop(usize, u32),
    /// A process does nothing any longer.
    Hang(usize),
    /// A process is stopped for this long.
    Pause(usize, Moment),
    /// The node dies, and the next one comes after this long.
    KillNode(Moment),
    /// The node does not run for this long.
    StallNode(Moment),
    /// A person wants a group started anew.
    Restart(usize),
    /// A person forgives a group.
    Clear(usize),
    /// A person wants everything to end.
    Down,
}

fn seconds(rng: &mut StdRng, range: std::ops::Range<f64>) -> Moment {
    Moment::from_secs_f64(rng.random_range(range))
}

fn fault(rng: &mut StdRng, groups: usize) -> Fault {
    let group = rng.random_range(0..groups);
    match rng.random_range(0..100) {
        0..25 => Fault::Crash(group),
        25..32 => Fault::CrashLoop(group, rng.random_range(1..9)),
        32..47 => Fault::Hang(group),
        47..67 => Fault::Pause(group, seconds(rng, 0.1..8.0)),
        67..73 => Fault::KillNode(seconds(rng, 0.0..30.0)),
        73..81 => Fault::StallNode(seconds(rng, 0.1..10.0)),
        81..90 => Fault::Restart(group),
        90..98 => Fault::Clear(group),
        _ => Fault::Down,
    }
}

/// Lives through the world of a seed.
fn live(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.rng.random_range(0..40) {
        let at = seconds(&mut world.rng, 0.0..TROUBLE.as_secs_f64());
        let fault = fault(&mut world.rng, world.members.len());
        world.plan(at, Event::Fault(fault));
    }
    world.start_node();
    world.run_until(TROUBLE);
    if world.node.is_none() || world.is_down() {
        world.kill_node();
        world.start_node();
    }
    let mut now = TROUBLE;
    while !world.rests() {
        now += LOOK;
        assert!(now < TROUBLE + PEACE, "seed {seed}: it does not come to rest: {}", world.picture());
        world.run_until(now);
    }
    world.input(Input::Down);
    world.run_until(now + LOOK * 10);
    assert!(world.has_ended(), "seed {seed}: `down` does not end: {}", world.picture());
}

impl World {
    /// Whether everything runs that should, and the rest is known not to.
    fn rests(&self) -> bool {
        let Some(node) = &self.node else { return false };
        let phases = (0..self.members.len()).map(|i| node.machine.phase(i));
        let mut over = phases.map(|phase| matches!(phase, Phase::Ready | Phase::CrashLoop | Phase::NotBuilt));
        node.machine.is_settled() && over.all(|over| over) && self.is_well()
    }

    pub(super) fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(i) => self.crash(i),
            Fault::CrashLoop(i, times) => {
                self.crashes[i] += times;
                self.crash(i);
            }
            Fault::Hang(i) => self.hang(i),
            Fault::Pause(i, span) => self.pause(i, span),
            Fault::KillNode(away) => {
                self.kill_node();
                let at = self.now + away;
                self.plan(at, Event::NodeUp);
            }
            Fault::StallNode(span) => self.stalled = self.stalled.max(self.now + span),
            Fault::Restart(i) => self.order(i, Input::Restart(i), true),
            Fault::Clear(i) => self.order(i, Input::Clear(i), false),
            Fault::Down => self.input(Input::Down),
        }
    }
}

/// How many worlds a test lives through, with `TANDEM_SIM_WORLDS` as many as one has time for.
pub(crate) fn worlds(usual: u64) -> u64 {
    std::env::var("TANDEM_SIM_WORLDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The seeds of a test; each has others, so that they can run beside each other.
fn seeds(test: u64) -> impl Iterator<Item = u64> {
    (0..worlds(300)).map(move |n| test << 32 | n)
}

#[test]
fn the_supervisor_keeps_its_promises_in_worlds_of_one_kind() {
    seeds(0).for_each(live);
}

#[test]
fn the_supervisor_keeps_its_promises_in_worlds_of_another_kind() {
    seeds(1).for_each(live);
}

#[test]
fn the_supervisor_keeps_its_promises_in_worlds_of_a_third_kind() {
    seeds(2).for_each(live);
}

#[test]
fn the_supervisor_keeps_its_promises_in_worlds_of_a_fourth_kind() {
    seeds(3).for_each(live);
}

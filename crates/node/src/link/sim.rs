//! Two nodes and the two paths between them in a world of their own: time is a number, and paths are cut, cut one way, flap,
//! delay and bring in another order what they carry, while nodes die and come back. At each step the promises of the link are
//! checked.
//!
//! What the nodes know and tell, how they judge each other and when they speak is what runs; only what carries their words is
//! played here. A world follows from its seed, and one that breaks a promise names it.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tandem_link::{Moment, Reach};
use tandem_types::{NodeName, Timestamp};

use super::desk::{Desk, Path, Telling};
use super::dial::{BURST, PATIENCE, carries, rest};
use crate::sim::worlds;

const PATHS: [Path; 2] = [Path::Overlay, Path::Lan];
/// Promises: a silent peer is known to be away, a change is seen, and both agree, each at the latest after so long.
const AWAY: Moment = Moment::from_secs(5);
const SEEN: Moment = Moment::from_millis(500);
const AGREED: Moment = Moment::from_millis(1_500);
/// A connection brings a word within so long each way, where it brings it.
const DELAY: std::ops::Range<f64> = 0.000_2..0.05;
/// So long a world is in trouble, and then in peace.
const TROUBLE: Moment = Moment::from_secs(120);
const PEACE: Moment = Moment::from_secs(10);

/// A node, or the direction that begins at it.
type Side = usize;

#[derive(Debug, Clone)]
enum Event {
    /// A dialler speaks, unless it has spoken since this was planned.
    Speaks(Dialler, u64),
    Asked(Dialler, u64, Telling),
    Answered(Dialler, u64, Telling),
    /// An answer did not come in time.
    Missed(Dialler, u64),
    Changes(Side),
    Fault(Fault),
    Looks,
}

/// The calling end of a path: `life` is that of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Dialler {
    side: Side,
    path: usize,
    life: u64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Both ways of some paths, or one, carry nothing for so long.
    Cut { paths: [bool; 2], ways: [bool; 2], span: Moment },
    /// A node dies, and the next one comes at once.
    Dies(Side),
}

/// What a dialler is at.
#[derive(Debug, Clone, Copy, Default)]
struct Call {
    /// Counts its words.
    number: u64,
    began: Moment,
    waits: bool,
    carries: bool,
}

struct World {
    seed: u64,
    rng: StdRng,
    now: Moment,
    lives: [u64; 2],
    /// Since when the younger node lives.
    born: Moment,
    desks: [Desk; 2],
    /// Until when a path carries nothing that begins at a side.
    cut: [[Moment; 2]; 2],
    calls: BTreeMap<Dialler, Call>,
    /// What each node states of itself, with when it became so.
    own: [BTreeMap<String, (Vec<u8>, Moment)>; 2],
    /// When each last heard the other.
    heard: [Moment; 2],
    queue: BTreeMap<(Moment, u64), Event>,
    planned: u64,
}

fn name(side: Side) -> NodeName {
    ["a", "b"][side].parse().unwrap()
}

fn desk(side: Side, life: u64) -> Desk {
    let other = [(name(1 - side), true)];
    Desk::new((name(side), "1.0".into()), ("plan".into(), "file".into()), life, other)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            now: Moment::ZERO,
            lives: [0; 2],
            born: Moment::ZERO,
            desks: [desk(0, 1), desk(1, 1)],
            cut: [[Moment::ZERO; 2]; 2],
            calls: BTreeMap::new(),
            own: [BTreeMap::new(), BTreeMap::new()],
            heard: [Moment::ZERO; 2],
            queue: BTreeMap::new(),
            planned: 0,
        };
        (0..2).for_each(|side| world.comes(side));
        for _ in 0..world.rng.random_range(0..400) {
            let (at, side) = (world.within(Moment::ZERO, TROUBLE + PEACE), world.rng.random_range(0..2));
            world.plan(at, Event::Changes(side));
        }
        for _ in 0..world.rng.random_range(0..30) {
            let at = world.within(Moment::ZERO, TROUBLE);
            let fault = world.fault(at);
            world.plan(at, Event::Fault(fault));
        }
        world.plan(Moment::ZERO, Event::Looks);
        world
    }

    fn fault(&mut self, at: Moment) -> Fault {
        if self.rng.random_bool(0.15) {
            return Fault::Dies(self.rng.random_range(0..2));
        }
        let which =
            |rng: &mut StdRng| [[true, true], [true, true], [true, false], [false, true]][rng.random_range(0..4)];
        // Most cuts are short, so that paths flap.
        let most = if self.rng.random_bool(0.3) { 60.0 } else { 3.0 };
        let span = Moment::from_secs_f64(self.rng.random_range(0.01..most)).min(TROUBLE.saturating_sub(at));
        Fault::Cut { paths: which(&mut self.rng), ways: which(&mut self.rng), span }
    }

    fn within(&mut self, from: Moment, to: Moment) -> Moment {
        Moment::from_secs_f64(self.rng.random_range(from.as_secs_f64()..to.as_secs_f64()))
    }

    fn plan(&mut self, at: Moment, event: Event) {
        self.planned += 1;
        self.queue.insert((at, self.planned), event);
    }

    fn wall(&self) -> Timestamp {
        Timestamp(i64::try_from(self.now.as_micros()).unwrap())
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at >= TROUBLE + PEACE {
                return;
            }
            self.now = at;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Speaks(dialler, number) => self.speaks(dialler, number),
            Event::Asked(dialler, number, telling) => self.asked(dialler, number, telling),
            Event::Answered(dialler, number, telling) => self.answered(dialler, number, telling),
            Event::Missed(dialler, number) => self.missed(dialler, number),
            Event::Changes(side) => self.changes(side),
            Event::Fault(fault) => self.suffer(fault),
            Event::Looks => {
                self.look();
                self.plan(self.now + Duration::from_millis(50), Event::Looks);
            }
        }
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Dies(side) => self.comes(side),
            Fault::Cut { paths, ways, span } => {
                for (path, side) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    if paths[path] && ways[side] {
                        self.cut[path][side] = self.cut[path][side].max(self.now + span);
                    }
                }
            }
        }
    }

    /// A node begins, with nothing but what is so on its side.
    fn comes(&mut self, side: Side) {
        self.lives[side] += 1;
        self.born = self.now;
        self.desks[side] = desk(side, self.lives[side]);
        self.heard[side] = self.now;
        for (key, (value, _)) in &self.own[side] {
            self.desks[side].publish(key, value.clone());
        }
        for path in 0..2 {
            let dialler = Dialler { side, path, life: self.lives[side] };
            self.calls.insert(dialler, Call { waits: true, ..Call::default() });
            self.plan(self.now, Event::Speaks(dialler, 0));
        }
    }

    fn changes(&mut self, side: Side) {
        let key = format!("group/{}", self.rng.random_range(0..60));
        let value = vec![self.rng.random()];
        if !self.desks[side].publish(&key, value.clone()) {
            return;
        }
        self.own[side].insert(key, (value, self.now));
        for path in 0..2 {
            let dialler = Dialler { side, path, life: self.lives[side] };
            let call = self.calls[&dialler];
            if call.waits && call.carries {
                self.plan(self.now + BURST, Event::Speaks(dialler, call.number));
            }
        }
    }

    fn is_dead(&self, dialler: Dialler) -> bool {
        dialler.life != self.lives[dialler.side]
    }

    /// Brings a word to the other side, where the path does.
    fn carry(&mut self, path: usize, from: Side, event: Event) {
        if self.now >= self.cut[path][from] {
            let delay = Moment::from_secs_f64(self.rng.random_range(DELAY));
            self.plan(self.now + delay, event);
        }
    }

    fn speaks(&mut self, dialler: Dialler, number: u64) {
        let (side, now) = (dialler.side, self.now);
        let Some(call) = self.calls.get_mut(&dialler).filter(|call| call.waits && call.number == number) else {
            return;
        };
        *call = Call { number: number + 1, began: now, waits: false, carries: false };
        if self.is_dead(dialler) {
            return;
        }
        let telling = self.desks[side].tell(&name(1 - side), self.wall(), (0, b"")).unwrap();
        self.plan(now + PATIENCE, Event::Missed(dialler, number + 1));
        self.carry(dialler.path, side, Event::Asked(dialler, number + 1, telling));
    }

    fn hears(&mut self, side: Side, path: usize, telling: Telling) -> bool {
        self.heard[side] = self.now;
        let at = (self.now, self.wall());
        self.desks[side].heard(telling, PATHS[path], at, 0).more
    }

    fn asked(&mut self, dialler: Dialler, number: u64, telling: Telling) {
        let other = 1 - dialler.side;
        self.hears(other, dialler.path, telling);
        let answer = self.desks[other].tell(&name(dialler.side), self.wall(), (0, b"")).unwrap();
        self.carry(dialler.path, other, Event::Answered(dialler, number, answer));
    }

    fn answered(&mut self, dialler: Dialler, number: u64, telling: Telling) {
        if self.is_dead(dialler) || self.calls[&dialler].number != number || self.calls[&dialler].waits {
            return;
        }
        let more = self.hears(dialler.side, dialler.path, telling);
        self.rests(dialler, more);
    }

    fn missed(&mut self, dialler: Dialler, number: u64) {
        if self.is_dead(dialler) || self.calls[&dialler].number != number || self.calls[&dialler].waits {
            return;
        }
        self.desks[dialler.side].failed(&name(1 - dialler.side), PATHS[dialler.path], "no answer".into());
        self.rests(dialler, false);
    }

    fn rests(&mut self, dialler: Dialler, more: bool) {
        let carries = carries(&self.desks[dialler.side], &name(1 - dialler.side), PATHS[dialler.path], self.now);
        let Some(call) = self.calls.get_mut(&dialler) else { return };
        (call.waits, call.carries) = (true, carries);
        let rest = if more { Moment::ZERO } else { rest(self.now - call.began) };
        let number = call.number;
        self.plan(self.now + rest, Event::Speaks(dialler, number));
    }

    /// Since when both nodes live and both paths carry everything.
    fn whole(&self) -> Option<Moment> {
        let last = self.cut.iter().flatten().fold(self.born, |last, end| last.max(*end));
        (last <= self.now).then_some(last)
    }

    fn promise(&self, kept: bool, what: &str) {
        let picture = || (0..2).map(|side| self.desks[side].seen(self.now)).collect::<Vec<_>>();
        assert!(kept, "seed {}: at {:?}: {what}: {:#?}", self.seed, self.now, picture());
    }

    fn look(&self) {
        for side in 0..2 {
            let reach = self.desks[side].seen(self.now).remove(0).reach;
            let silent = self.now - self.heard[side];
            self.promise(
                silent < AWAY || matches!(reach, Reach::Unknown | Reach::Unheard),
                "a silent peer counts as there",
            );
            let Some(whole) = self.whole().filter(|whole| self.now >= *whole + AGREED) else { continue };
            self.promise(reach == Reach::Alive, "a peer that can be heard counts as away");
            let other = 1 - side;
            let known: BTreeMap<&str, &[u8]> = self.desks[side].facts(&name(other)).collect();
            for (key, (value, since)) in &self.own[other] {
                let seen = known.get(key.as_str()) == Some(&value.as_slice());
                let due = (*since).max(whole + AGREED) + SEEN;
                self.promise(seen || self.now < due, "what changed on one node is not seen on the other");
            }
            self.promise(known.len() <= self.own[other].len(), "something is known of a node that it never said");
        }
    }
}

#[test]
fn the_link_keeps_its_promises_in_worlds_of_one_kind() {
    (0..worlds(150)).for_each(|n| World::new(n).run());
}

#[test]
fn the_link_keeps_its_promises_in_worlds_of_another_kind() {
    (0..worlds(150)).for_each(|n| World::new(1 << 32 | n).run());
}

//! Nodes that tell each other what they own, over a network that loses, doubles, delays and reorders, while nodes die and come back.
//!
//! Every step is chosen by a seed; a seed that fails names itself.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::{Copy, Delta, Digest, Own, Taken, Version};

/// Items in one message, small so that tables come in pieces.
const PIECE: usize = 3;
const KEYS: usize = 8;

struct Node {
    epoch: u64,
    own: Own,
    copies: BTreeMap<usize, Copy>,
}

/// What node `from` tells node `to`: what it lacks of its table, and how far its copy of `to`'s is.
#[derive(Clone)]
struct Message {
    from: usize,
    to: usize,
    delta: Delta,
    have: Version,
}

struct World {
    random: SmallRng,
    nodes: Vec<Node>,
    network: Vec<Message>,
    /// What each owner's table was at each of its versions.
    history: BTreeMap<(usize, Version), Digest>,
    /// The highest version that each copy ever had.
    highest: BTreeMap<(usize, usize), Version>,
    /// What each node last heard of how far the other's copy of its table is.
    acknowledged: BTreeMap<(usize, usize), Version>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let count = random.random_range(2..=3);
        let node = || Node { epoch: 1, own: Own::new(1), copies: BTreeMap::new() };
        let mut world = Self {
            random,
            nodes: std::iter::repeat_with(node).take(count).collect(),
            network: Vec::new(),
            history: BTreeMap::new(),
            highest: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        };
        (0..count).for_each(|i| world.remember(i));
        world
    }

    fn remember(&mut self, i: usize) {
        let own = &self.nodes[i].own;
        self.history.insert((i, own.version()), own.digest());
    }

    fn change(&mut self) {
        let i = self.random.random_range(0..self.nodes.len());
        let key = format!("k{}", self.random.random_range(0..KEYS));
        let value = vec![self.random.random_range(0..4)];
        let own = &mut self.nodes[i].own;
        let _ = if self.random.random_bool(0.3) { own.remove(&key) } else { own.set(&key, value) };
        self.remember(i);
    }

    /// It dies with all it knew; only its epoch is on disk.
    fn restart(&mut self) {
        let i = self.random.random_range(0..self.nodes.len());
        let epoch = self.nodes[i].epoch + 1;
        self.nodes[i] = Node { epoch, own: Own::new(epoch), copies: BTreeMap::new() };
        self.highest.retain(|(reader, _), _| *reader != i);
        self.acknowledged.retain(|(owner, _), _| *owner != i);
        self.remember(i);
    }

    fn speak(&mut self, from: usize, to: usize) {
        let acknowledged = self.acknowledged.get(&(from, to)).copied().unwrap_or_default();
        let have = self.nodes[from].copies.get(&to).map(Copy::have).unwrap_or_default();
        let delta = self.nodes[from].own.since(acknowledged, PIECE);
        self.network.push(Message { from, to, delta, have });
    }

    fn deliver(&mut self, message: Message) {
        let Message { from, to, delta, have } = message;
        // What a peer has acknowledged may also fall: it died, or found its copy to be wrong.
        self.acknowledged.insert((to, from), have);
        let copy = self.nodes[to].copies.entry(from).or_default();
        let (before, whole) = (copy.have(), delta.digest.is_some());
        let taken = copy.take(delta);
        let (have, digest) = (copy.have(), copy.digest());
        // Between the pieces of a large change a copy has some of what is new and some of what was.
        if whole && have != before {
            assert_eq!(self.history.get(&(from, have)), Some(&digest), "a copy is what its owner had at {have:?}");
        }
        assert!(taken == Taken::Gap || taken == Taken::Old || have >= before, "{taken:?}");
        let highest = self.highest.entry((to, from)).or_default();
        assert!(have >= *highest, "a copy went back from {highest:?} to {have:?}");
        *highest = have;
    }

    fn step(&mut self) {
        let pair = |random: &mut SmallRng, count: usize| {
            let from = random.random_range(0..count);
            (from, (from + random.random_range(1..count)) % count)
        };
        match self.random.random_range(0..100) {
            0..30 => self.change(),
            30..60 => {
                let (from, to) = pair(&mut self.random, self.nodes.len());
                self.speak(from, to);
            }
            60..62 => self.restart(),
            _ if self.network.is_empty() => {}
            62..72 => drop(self.network.swap_remove(self.random.random_range(0..self.network.len()))),
            72..77 => {
                let again = self.network[self.random.random_range(0..self.network.len())].clone();
                self.network.push(again);
            }
            _ => {
                self.network.shuffle(&mut self.random);
                if let Some(message) = self.network.pop() {
                    self.deliver(message);
                }
            }
        }
    }

    /// The network is whole again: each tells each, in turn, what it lacks.
    fn heal(&mut self) {
        self.network.clear();
        let pieces = KEYS / PIECE + 4;
        for _ in 0..pieces {
            for from in 0..self.nodes.len() {
                for to in (0..self.nodes.len()).filter(|to| *to != from) {
                    self.speak(from, to);
                }
            }
            for message in std::mem::take(&mut self.network) {
                self.deliver(message);
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            for (of, copy) in &node.copies {
                assert_eq!(copy.digest(), self.nodes[*of].own.digest(), "node {i} of node {of} after it healed");
                assert_eq!(copy.have(), self.nodes[*of].own.version());
            }
            assert_eq!(node.copies.len(), self.nodes.len() - 1);
        }
    }
}

#[test]
fn copies_are_what_their_owners_had_never_go_back_and_agree_once_the_network_is_whole() {
    for seed in 0..1_500 {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..4 {
                (0..100).for_each(|_| world.step());
                world.heal();
            }
        });
        assert!(run.is_ok(), "seed {seed}");
    }
}

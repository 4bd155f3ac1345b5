//! What a node knows of the others and what it tells them. No IO, no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tandem_link::{Copy, Delta, Detector, Moment, Own, Reach, Taken, Version, reach};
use tandem_types::{NodeName, Timestamp};

/// Version of the exchange between nodes. Those of different versions know of each other that they are there, and share nothing.
pub(crate) const LINK_VERSION: u32 = 1;
/// Changes in one message.
const CHANGES_MOST: usize = 256;

/// A way between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The overlay network.
    Overlay,
    /// The local network.
    Lan,
}

impl Path {
    /// The way in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Lan => "lan",
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) node: NodeName,
    pub(crate) link_version: u32,
    pub(crate) program_version: String,
    pub(crate) plan_hash: String,
    /// Its wall clock; only ever shown.
    pub(crate) sent: Timestamp,
}

/// What one node tells another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Telling {
    pub(crate) hello: Hello,
    /// None where the two cannot share facts.
    pub(crate) changes: Option<Delta>,
    /// How far the speaker's copy of the other's table is.
    pub(crate) have: Version,
    pub(crate) crl_number: u64,
    /// The list, when the other is known to have an older one.
    pub(crate) crl: Option<Vec<u8>>,
    /// The fleet file, when the other is known to run another plan.
    pub(crate) fleet_file: Option<String>,
}

/// What hearing something led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    /// Keys of the other's table that changed.
    pub(crate) changed: Vec<String>,
    /// There is more to tell or to hear: speak again at once.
    pub(crate) more: bool,
    /// A list of revoked certificates that is newer than ours.
    pub(crate) crl: Option<Vec<u8>>,
}

/// What is known of a peer.
#[derive(Debug)]
struct Peer {
    copy: Copy,
    /// How far the peer's copy of our table is, by its own word.
    has: Version,
    overlay: Detector,
    lan: Option<Detector>,
    /// Whether an attempt to reach it has ended, well or not.
    tried: bool,
    hello: Option<Hello>,
    /// How far its clock is ahead of ours, in microseconds.
    ahead_us: i64,
    crl_number: u64,
    fleet_file: Option<String>,
    /// Why it was not reached, by path.
    trouble: [Option<String>; 2],
    /// How long its last answer took, by path; none while it does not answer there.
    round_trip: [Option<Duration>; 2],
}

/// How a peer is, as far as this node can tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) node: NodeName,
    pub(crate) reach: Reach,
    /// When it was last heard, on any path.
    pub(crate) heard: Option<Moment>,
    pub(crate) hello: Option<Hello>,
    pub(crate) ahead_us: i64,
    /// Its fleet file, where it runs another plan.
    pub(crate) fleet_file: Option<String>,
    /// Why it is not reached, in words.
    pub(crate) trouble: Option<String>,
    /// What each way to it is like.
    pub(crate) paths: Vec<SeenPath>,
}

/// What a way to a peer is like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeenPath {
    pub(crate) path: Path,
    /// When it was last heard there.
    pub(crate) heard: Option<Moment>,
    /// The suspicion φ that it is away; none where it was never heard.
    pub(crate) suspicion: Option<f64>,
    /// How long its last answer took; none while it does not answer there.
    pub(crate) round_trip: Option<Duration>,
}

/// A node's side of the link.
#[derive(Debug)]
pub(crate) struct Desk {
    node: NodeName,
    program_version: String,
    plan_hash: String,
    fleet_file: String,
    own: Own,
    peers: BTreeMap<NodeName, Peer>,
}

impl Desk {
    /// Of a node in its life `epoch`, which is higher than that of any life before; peers with whether there is a second path.
    pub(crate) fn new(
        (node, program_version): (NodeName, String),
        (plan_hash, fleet_file): (String, String),
        epoch: u64,
        peers: impl IntoIterator<Item = (NodeName, bool)>,
    ) -> Self {
        let peer = |lan: bool| Peer {
            copy: Copy::default(),
            has: Version::default(),
            overlay: Detector::default(),
            lan: lan.then(Detector::default),
            tried: false,
            hello: None,
            ahead_us: 0,
            crl_number: 0,
            fleet_file: None,
            trouble: [None, None],
            round_trip: [None, None],
        };
        let peers = peers.into_iter().map(|(node, lan)| (node, peer(lan))).collect();
        Self { node, program_version, plan_hash, fleet_file, own: Own::new(epoch), peers }
    }

    /// States a fact of this node; whether that is news.
    pub(crate) fn publish(&mut self, key: &str, value: Vec<u8>) -> bool {
        self.own.set(key, value)
    }

    /// What to tell a peer now; `crl` is this node's list with its number.
    pub(crate) fn tell(&self, to: &NodeName, now: Timestamp, crl: (u64, &[u8])) -> Option<Telling> {
        let peer = self.peers.get(to)?;
        let hello = Hello {
            node: self.node.clone(),
            link_version: LINK_VERSION,
            program_version: self.program_version.clone(),
            plan_hash: self.plan_hash.clone(),
            sent: now,
        };
        let known = peer.hello.as_ref();
        let other_plan = known.is_some_and(|other| other.plan_hash != self.plan_hash);
        Some(Telling {
            // Whoever has not spoken yet may still turn out not to understand; it refuses by itself.
            changes: known.is_none_or(|other| self.shares_with(other)).then(|| self.own.since(peer.has, CHANGES_MOST)),
            have: peer.copy.have(),
            crl_number: crl.0,
            crl: (known.is_some() && peer.crl_number < crl.0).then(|| crl.1.to_vec()),
            fleet_file: other_plan.then(|| self.fleet_file.clone()),
            hello,
        })
    }

    fn shares_with(&self, other: &Hello) -> bool {
        other.link_version == LINK_VERSION && other.plan_hash == self.plan_hash
    }

    /// A peer told something over a path.
    pub(crate) fn heard(
        &mut self,
        telling: Telling,
        path: Path,
        (now, wall): (Moment, Timestamp),
        crl_number: u64,
    ) -> Heard {
        let shares = self.shares_with(&telling.hello);
        let Some(peer) = self.peers.get_mut(&telling.hello.node) else { return Heard::default() };
        peer.hear(path, now);
        peer.ahead_us = telling.hello.sent.micros() - wall.micros();
        peer.hello = Some(telling.hello);
        peer.crl_number = telling.crl_number;
        peer.fleet_file = telling.fleet_file;
        let mut heard = Heard { crl: telling.crl.filter(|_| telling.crl_number > crl_number), ..Heard::default() };
        if !shares {
            // Facts of another plan would be taken for facts of this one.
            peer.copy = Copy::default();
            return heard;
        }
        peer.has = telling.have;
        if let Some(delta) = telling.changes {
            let unfinished = delta.digest.is_none();
            match peer.copy.take(delta) {
                Taken::Changed(keys) => (heard.changed, heard.more) = (keys, unfinished),
                Taken::Gap => heard.more = true,
                Taken::Old => {}
            }
        }
        heard.more |= peer.has != self.own.version();
        heard
    }

    /// An attempt to reach a peer failed.
    pub(crate) fn failed(&mut self, node: &NodeName, path: Path, why: String) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.tried = true;
            peer.trouble[place(path)] = Some(why);
            peer.round_trip[place(path)] = None;
        }
    }

    /// A peer has answered over a path, so long after it was asked on a connection that stood.
    pub(crate) fn answered(&mut self, node: &NodeName, path: Path, took: Duration) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.round_trip[place(path)] = Some(took);
        }
    }

    /// Whether a peer is there, as far as can be told; none while no attempt to reach it has ended.
    pub(crate) fn is_alive(&self, node: &NodeName, now: Moment) -> Option<bool> {
        let peer = self.peers.get(node)?;
        let alive = matches!(peer.reach(now), Reach::Alive | Reach::OverlayDead);
        (alive || peer.tried).then_some(alive)
    }

    /// Whether the overlay to a peer is believed to work, so that another path need carry nothing.
    pub(crate) fn overlay_works(&self, node: &NodeName, now: Moment) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.reach(now) == Reach::Alive)
    }

    /// The facts of a peer; as they were when it was last heard.
    pub(crate) fn facts(&self, node: &NodeName) -> impl Iterator<Item = (&str, &[u8])> {
        self.peers.get(node).into_iter().flat_map(|peer| peer.copy.iter())
    }

    /// How every peer is.
    pub(crate) fn seen(&self, now: Moment) -> Vec<Seen> {
        let seen = |(node, peer): (&NodeName, &Peer)| Seen {
            node: node.clone(),
            reach: peer.reach(now),
            heard: peer.overlay.last().max(peer.lan.as_ref().and_then(Detector::last)),
            hello: peer.hello.clone(),
            ahead_us: peer.ahead_us,
            fleet_file: peer.fleet_file.clone(),
            trouble: peer.trouble.iter().flatten().next().cloned(),
            paths: peer.paths(now),
        };
        self.peers.iter().map(seen).collect()
    }
}

fn place(path: Path) -> usize {
    usize::from(path == Path::Lan)
}

impl Peer {
    fn hear(&mut self, path: Path, now: Moment) {
        self.tried = true;
        self.trouble[place(path)] = None;
        match (path, &mut self.lan) {
            (Path::Overlay, _) => self.overlay.heard(now),
            (Path::Lan, Some(lan)) => lan.heard(now),
            (Path::Lan, None) => {}
        }
    }

    fn reach(&self, now: Moment) -> Reach {
        reach(&self.overlay, self.lan.as_ref(), now)
    }

    fn paths(&self, now: Moment) -> Vec<SeenPath> {
        let ways = std::iter::once((Path::Overlay, &self.overlay)).chain(self.lan.iter().map(|lan| (Path::Lan, lan)));
        let seen = |(path, detector): (Path, &Detector)| SeenPath {
            path,
            heard: detector.last(),
            suspicion: detector.last().map(|_| detector.suspicion(now)),
            round_trip: self.round_trip[place(path)],
        };
        ways.map(seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn desk(node: &str, plan: &str, peer: &str) -> Desk {
        Desk::new((name(node), "1.0".into()), (plan.into(), format!("file of {node}")), 1, [(name(peer), true)])
    }

    fn at(ms: u64) -> (Moment, Timestamp) {
        (Duration::from_millis(ms), Timestamp(i64::try_from(ms * 1_000).unwrap()))
    }

    /// One exchange: `a` asks, `b` answers. Whether each has more to say.
    fn exchange(a: &mut Desk, b: &mut Desk, path: Path, ms: u64) -> (Heard, Heard) {
        let (to, from) = (b.node.clone(), a.node.clone());
        let told = a.tell(&to, at(ms).1, (0, b"")).unwrap();
        let by_b = b.heard(told, path, at(ms), 0);
        let answer = b.tell(&from, at(ms).1, (0, b"")).unwrap();
        (a.heard(answer, path, at(ms), 0), by_b)
    }

    fn facts(desk: &Desk, of: &str) -> Vec<String> {
        desk.facts(&name(of)).map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value))).collect()
    }

    #[test]
    fn one_exchange_brings_the_facts_of_both_and_the_next_nothing() {
        let (mut a, mut b) = (desk("a", "plan", "b"), desk("b", "plan", "a"));
        assert!(a.publish("node", b"1".to_vec()) && !a.publish("node", b"1".to_vec()));
        b.publish("group/x", b"ready".to_vec());
        exchange(&mut a, &mut b, Path::Overlay, 0);
        assert_eq!((facts(&a, "b"), facts(&b, "a")), (vec!["group/x=ready".to_owned()], vec!["node=1".to_owned()]));
        let (by_a, by_b) = exchange(&mut a, &mut b, Path::Overlay, 10);
        assert!(!by_a.more && !by_b.more && by_a.changed.is_empty() && by_b.changed.is_empty());
        b.publish("group/x", b"failed".to_vec());
        let (by_a, _) = exchange(&mut a, &mut b, Path::Overlay, 20);
        assert_eq!(by_a.changed, ["group/x"]);
    }

    #[test]
    fn nodes_of_other_plans_or_versions_share_nothing_and_say_why() {
        let (mut a, mut b) = (desk("a", "plan", "b"), desk("b", "other", "a"));
        a.publish("node", b"1".to_vec());
        for ms in [0, 10] {
            exchange(&mut a, &mut b, Path::Overlay, ms);
        }
        assert!(facts(&a, "b").is_empty() && facts(&b, "a").is_empty());
        let seen = a.seen(at(20).0).remove(0);
        assert_eq!((seen.reach, seen.fleet_file.as_deref()), (Reach::Alive, Some("file of b")));
        let mut told = a.tell(&name("b"), at(0).1, (0, b"")).unwrap();
        assert_eq!(told.changes, None);
        (told.hello.link_version, told.hello.plan_hash) = (2, "other".into());
        b.heard(told, Path::Overlay, at(30), 0);
        assert_eq!(b.tell(&name("a"), at(0).1, (0, b"")).unwrap().changes, None);
    }

    #[test]
    fn a_peer_is_away_only_when_both_paths_are_silent() {
        let (mut a, mut b) = (desk("a", "plan", "b"), desk("b", "plan", "a"));
        assert_eq!(a.is_alive(&name("b"), at(0).0), None, "nothing was tried yet");
        a.failed(&name("b"), Path::Overlay, "no route".into());
        assert_eq!(a.is_alive(&name("b"), at(0).0), Some(false));
        for i in 0..10 {
            exchange(&mut a, &mut b, Path::Overlay, i * 1_000);
            exchange(&mut a, &mut b, Path::Lan, i * 1_000 + 1);
        }
        exchange(&mut a, &mut b, Path::Lan, 15_000);
        a.failed(&name("b"), Path::Overlay, "no answer in time".into());
        let seen = a.seen(at(15_100).0).remove(0);
        assert_eq!((seen.reach, seen.trouble.as_deref()), (Reach::OverlayDead, Some("no answer in time")));
        let suspicion: Vec<_> = seen.paths.iter().map(|path| (path.path, path.suspicion.unwrap() > 8.0)).collect();
        assert_eq!(suspicion, [(Path::Overlay, true), (Path::Lan, false)]);
        assert_eq!(a.is_alive(&name("b"), at(15_100).0), Some(true));
        assert!(!a.overlay_works(&name("b"), at(15_100).0));
        let seen = a.seen(at(30_000).0).remove(0);
        assert_eq!((seen.reach, seen.heard), (Reach::Unknown, Some(at(15_000).0)));
        assert!(facts(&a, "b").is_empty());
    }

    #[test]
    fn how_long_an_answer_took_is_known_for_each_path_while_it_answers_there() {
        let mut a = desk("a", "plan", "b");
        let (b, took) = (name("b"), Duration::from_millis(3));
        let known = |a: &Desk| a.seen(at(0).0).remove(0).paths.iter().map(|p| p.round_trip).collect::<Vec<_>>();
        assert_eq!(known(&a), [None, None]);
        assert_eq!(a.seen(at(0).0)[0].paths[0].suspicion, None, "one that was never heard is not suspected");
        a.answered(&b, Path::Lan, took);
        assert_eq!(known(&a), [None, Some(took)]);
        a.failed(&b, Path::Lan, "no answer in time".into());
        assert_eq!(known(&a), [None, None]);
    }

    #[test]
    fn a_newer_list_of_revoked_certificates_goes_to_whoever_lacks_it() {
        let (mut a, mut b) = (desk("a", "plan", "b"), desk("b", "plan", "a"));
        let tell = |desk: &Desk, to: &str, crl| desk.tell(&name(to), at(0).1, crl).unwrap();
        b.heard(tell(&a, "b", (7, b"list 7")), Path::Overlay, at(0), 3);
        let heard = a.heard(tell(&b, "a", (3, b"list 3")), Path::Overlay, at(0), 7);
        assert_eq!(heard.crl, None);
        let heard = b.heard(tell(&a, "b", (7, b"list 7")), Path::Overlay, at(10), 3);
        assert_eq!(heard.crl.as_deref(), Some(&b"list 7"[..]));
    }
}

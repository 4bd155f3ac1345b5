//! Numbers, and the queue in simulated time.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use tandem_types::{Timestamp, TurnId, UserId};

use crate::control::request_coordinator::queue::{Claim, Limits, Modality, Queue, Standing, Urgency};

const LIMITS: Limits = Limits { queued: 100, running: 8, per_user: 2, background_share: 0.25 };

fn claim(user: u32, modality: Modality, standing: Standing, urgency: Urgency) -> Claim {
    Claim { user: UserId::new(format!("u{user}")).unwrap(), modality, standing, urgency }
}

fn plain(user: u32) -> Claim {
    claim(user, Modality::Text, Standing::Child, Urgency::Normal)
}

fn id(n: u32) -> TurnId {
    TurnId(u128::from(n).to_be_bytes())
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_secs(0) + Duration::from_millis(ms)
}

#[test]
fn numbers_follow_way_standing_urgency_and_waiting() {
    use Modality::{Audio, Background, Text, Vision};
    use Standing::{Adult, Child, Guest, Owner};
    use Urgency::{Critical, High, Low, Normal};
    let queue = Queue::new(LIMITS, true);
    let fixed = Queue::new(LIMITS, false);
    for (modality, standing, urgency, waited_s, number, without) in [
        (Audio, Child, Normal, 0, 1, 1),
        (Text, Child, Normal, 0, 2, 2),
        (Vision, Child, Normal, 0, 3, 3),
        (Background, Child, Normal, 0, 5, 5),
        (Text, Owner, Critical, 0, 1, 2),
        (Vision, Adult, High, 0, 1, 3),
        (Text, Guest, Low, 0, 4, 2),
        (Background, Guest, Low, 0, 7, 5),
        (Background, Guest, Low, 9, 7, 5),
        (Background, Guest, Low, 10, 6, 5),
        (Background, Guest, Low, 60, 1, 5),
        (Background, Guest, Low, 600, 1, 5),
    ] {
        let claim = claim(1, modality, standing, urgency);
        let now = at(waited_s * 1_000);
        assert_eq!(queue.number(&claim, at(0), now), number, "{claim:?} {waited_s}");
        assert_eq!(fixed.number(&claim, at(0), now), without, "{claim:?} {waited_s}");
    }
}

#[test]
fn background_waits_longer_when_the_queue_is_nearly_full() {
    let mut queue = Queue::new(LIMITS, true);
    let idle = claim(0, Modality::Background, Standing::Child, Urgency::Normal);
    for n in 0..80 {
        queue.restore(id(n), plain(n), at(0));
    }
    assert_eq!(queue.number(&idle, at(0), at(0)), 5);
    queue.restore(id(80), plain(80), at(0));
    assert_eq!(queue.number(&idle, at(0), at(0)), 6);
}

#[test]
fn a_full_queue_keeps_nothing_and_says_when_to_come_back() {
    let mut queue = Queue::new(LIMITS, true);
    for n in 0..108 {
        assert_eq!(queue.offer(id(n), plain(n), at(0)).unwrap().len(), usize::from(n < 8));
    }
    let full = queue.offer(id(108), plain(108), at(0)).unwrap_err();
    assert!(full.0 >= Duration::from_secs(1) && full.0 <= Duration::from_secs(60));
    assert_eq!((queue.waiting(), queue.running()), (100, 8));
    assert!(!queue.end(id(108), at(0)));
}

#[test]
fn one_person_does_not_hold_up_the_others() {
    let mut queue = Queue::new(LIMITS, true);
    for n in 0..5 {
        queue.offer(id(n), plain(1), at(0)).unwrap();
    }
    assert_eq!(queue.offer(id(9), plain(2), at(1)).unwrap(), [id(9)]);
    assert!(queue.end(id(0), at(2)));
    assert_eq!(queue.start(at(2)), [id(2)]);
}

#[test]
fn no_more_run_than_can_be_answered() {
    let mut queue = Queue::new(LIMITS, true);
    for n in 0..12 {
        queue.offer(id(n), plain(n), at(0)).unwrap();
    }
    assert!(!queue.fit(Some(2)));
    assert_eq!((queue.running(), queue.limits().running, queue.limits().background()), (8, 2, 1), "what runs goes on");
    for n in 0..6 {
        queue.end(id(n), at(1));
        assert_eq!(queue.start(at(1)), []);
    }
    queue.end(id(6), at(2));
    assert_eq!(queue.start(at(2)), [id(8)]);
    for (answerable, more, running) in [(Some(0), false, 1), (Some(4), true, 4), (Some(99), true, 8), (None, false, 8)]
    {
        assert_eq!((queue.fit(answerable), queue.limits().running), (more, running), "{answerable:?}");
    }
    assert_eq!(queue.start(at(3)), [id(9), id(10), id(11)]);
    assert_eq!(Queue::new(Limits { running: 0, ..LIMITS }, true).limits().running, 1);
}

/// Ten minutes of arrivals that keep some fifty requests waiting for eight slots; when does the low one start?
fn waits_under_load(low: Claim, others: impl Fn(u32) -> Claim) -> Duration {
    let mut queue = Queue::new(LIMITS, true);
    let mut running: BTreeMap<u64, Vec<TurnId>> = BTreeMap::new();
    let mut n = 0;
    let begin = |begun: Vec<TurnId>, now: u64, running: &mut BTreeMap<u64, Vec<TurnId>>| {
        for turn in begun {
            running.entry(now + 3_000 + u64::from(turn.0[15]) * 8).or_default().push(turn);
        }
    };
    let low_id = id(u32::MAX);
    for now in (0..600_000).step_by(100) {
        while queue.waiting() < 50 {
            n += 1;
            begin(queue.offer(id(n), others(n), at(now)).unwrap(), now, &mut running);
        }
        if now == 60_000 {
            begin(queue.offer(low_id, low.clone(), at(now)).unwrap(), now, &mut running);
        }
        let later = running.split_off(&(now + 1));
        for turn in std::mem::replace(&mut running, later).into_values().flatten() {
            assert!(queue.end(turn, at(now)));
            begin(queue.start(at(now)), now, &mut running);
        }
        if running.values().flatten().any(|turn| *turn == low_id) {
            return Duration::from_millis(now - 60_000);
        }
    }
    panic!("it never started");
}

#[test]
fn a_low_request_starts_within_ninety_seconds_under_constant_load() {
    let audio = |n: u32| claim(n, Modality::Audio, Standing::Owner, Urgency::Critical);
    let text = claim(0, Modality::Text, Standing::Guest, Urgency::Low);
    let idle = claim(0, Modality::Background, Standing::Guest, Urgency::Low);
    for low in [text, idle] {
        let waited = waits_under_load(low.clone(), audio);
        assert!(waited <= Duration::from_secs(90), "{low:?} waited {waited:?}");
    }
}

fn any_claim() -> impl Strategy<Value = Claim> {
    use proptest::sample::select;
    (
        0u32..12,
        select(&[Modality::Audio, Modality::Text, Modality::Vision, Modality::Background][..]),
        select(&[Standing::Owner, Standing::Adult, Standing::Child, Standing::Guest][..]),
        select(&[Urgency::Critical, Urgency::High, Urgency::Normal, Urgency::Low][..]),
    )
        .prop_map(|(user, modality, standing, urgency)| claim(user, modality, standing, urgency))
}

proptest! {
    /// Whatever comes and goes: no limit is passed, nothing is lost or run twice, and the full queue refuses.
    #[test]
    fn limits_hold_and_nothing_is_lost(
        steps in proptest::collection::vec(
            (any_claim(), 0u64..3_000, proptest::option::of(0usize..300), proptest::option::of(0usize..12)),
            1..300,
        ),
        dynamic: bool,
    ) {
        let limits = Limits { queued: 20, ..LIMITS };
        let mut queue = Queue::new(limits, dynamic);
        let mut claims: BTreeMap<TurnId, Claim> = BTreeMap::new();
        let (mut running, mut waiting): (HashSet<TurnId>, HashSet<TurnId>) = Default::default();
        let mut now = 0;
        for (n, (claim, pause, ends, answerable)) in (0u32..).zip(steps) {
            now += pause;
            let most = running.len().max(answerable.map_or(limits.running, |n| n.clamp(1, limits.running)));
            if queue.fit(answerable) {
                for turn in queue.start(at(now)) {
                    prop_assert!(waiting.remove(&turn), "begun twice or never taken");
                    running.insert(turn);
                }
            }
            match queue.offer(id(n), claim.clone(), at(now)) {
                Ok(started) => {
                    claims.insert(id(n), claim);
                    waiting.insert(id(n));
                    for turn in started {
                        prop_assert!(waiting.remove(&turn), "begun twice or never taken");
                        running.insert(turn);
                    }
                }
                Err(full) => {
                    prop_assert!(full.0 > Duration::ZERO);
                    prop_assert_eq!(waiting.len(), limits.queued);
                }
            }
            if let Some(pick) = ends {
                let all: Vec<TurnId> = claims.keys().copied().collect();
                if let Some(turn) = all.get(pick % all.len().max(1)) {
                    claims.remove(turn);
                    prop_assert!(queue.end(*turn, at(now)));
                    prop_assert!(running.remove(turn) || waiting.remove(turn));
                    for turn in queue.start(at(now)) {
                        prop_assert!(waiting.remove(&turn), "begun twice or never taken");
                        running.insert(turn);
                    }
                }
            }
            let count = |of: &dyn Fn(&Claim) -> bool| running.iter().filter(|turn| of(&claims[*turn])).count();
            prop_assert!(running.len() <= most && waiting.len() <= limits.queued);
            prop_assert!(count(&|c| c.modality == Modality::Background) <= limits.background());
            for claim in claims.values() {
                prop_assert!(count(&|c| c.user == claim.user) <= limits.per_user);
            }
            prop_assert_eq!((queue.running(), queue.waiting()), (running.len(), waiting.len()));
            let places: HashSet<TurnId> = queue.places(at(now)).into_iter().collect();
            prop_assert_eq!(&places, &waiting);
        }
    }

    /// Equals start in the order they came.
    #[test]
    fn equals_are_first_come_first_served(pauses in proptest::collection::vec(0u64..20_000, 1..80), dynamic: bool) {
        let mut queue = Queue::new(Limits { running: 1, ..LIMITS }, dynamic);
        let (mut order, mut now) = (Vec::new(), 0);
        for (n, pause) in (0u32..).zip(&pauses) {
            now += pause;
            order.extend(queue.offer(id(n), plain(n), at(now)).unwrap());
        }
        while let Some(last) = order.last().copied().filter(|_| order.len() < pauses.len()) {
            queue.end(last, at(now));
            order.extend(queue.start(at(now)));
        }
        prop_assert_eq!(order, (0..pauses.len() as u32).map(id).collect::<Vec<_>>());
    }
}

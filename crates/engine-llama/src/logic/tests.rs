use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SEC: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn the_queue_goes_by_priority_then_age() {
    for (waiting, first) in [
        (&[][..], None),
        (&[(5, SEC(0))], Some(0)),
        (&[(5, SEC(3)), (1, SEC(0))], Some(1)),
        (&[(2, SEC(1)), (2, SEC(3))], Some(1)),
        (&[(5, SEC(29)), (2, SEC(0))], Some(1)),
        (&[(5, SEC(30)), (2, SEC(0))], Some(0)),
        (&[(10, SEC(9000)), (1, SEC(1))], Some(0)),
    ] {
        assert_eq!(next_waiting(waiting), first, "{waiting:?}");
    }
}

#[test]
fn trying_again_makes_sense_when_a_slot_is_likely_free() {
    assert_eq!(retry_after(4, SEC(8)), SEC(2));
    assert_eq!(retry_after(0, Duration::ZERO), Duration::from_millis(250));
    assert_eq!(retry_after(1, SEC(900)), SEC(30));
}

fn slot<'a>(kept: &'a [u8], session: Option<&'a str>, used: u64) -> Candidate<'a, u8> {
    Candidate { busy: false, kept, session, used, fits: true }
}

fn busy<'a>(kept: &'a [u8]) -> Candidate<'a, u8> {
    Candidate { busy: true, ..slot(kept, None, 9) }
}

#[test]
fn requests_find_their_slot() {
    let (ann, ben) = (Some("ann"), Some("ben"));
    let rule = CopyRule::Gain(3);
    let to = |slot, copy_from, reuse| Some(Placement { slot, copy_from, reuse });
    for (why, slots, prompt, session, rule, expected) in [
        ("nothing is free", vec![busy(b"abc")], &b"abcd"[..], None, rule, None),
        ("an empty one", vec![slot(b"xyz", None, 1), slot(b"", None, 2)], b"abcd", None, rule, to(1, None, 0)),
        ("the one gone on from", vec![slot(b"", None, 0), slot(b"abc", ann, 2)], b"abcd", ann, rule, to(1, None, 3)),
        ("also without a name", vec![slot(b"", None, 0), slot(b"abc", None, 2)], b"abcd", None, rule, to(1, None, 3)),
        ("the longest unused", vec![slot(b"xyz", ann, 7), slot(b"uvw", ben, 3)], b"abcd", None, rule, to(1, None, 0)),
        (
            "its own conversation, even where another shares more",
            vec![slot(b"abxyzuvw", ann, 7), slot(b"abcde", ben, 3)],
            b"abcdef",
            ann,
            rule,
            to(0, Some(1), 5),
        ),
        (
            "another conversation keeps its state, the shared start is copied",
            vec![slot(b"sssAAAAAAA", ann, 1), slot(b"", None, 0)],
            b"sssBBB",
            ben,
            rule,
            to(1, Some(0), 3),
        ),
        (
            "a busy slot may be copied from",
            vec![busy(b"sssAAAA"), slot(b"xy", None, 0)],
            b"sssBBB",
            ben,
            rule,
            to(1, Some(0), 3),
        ),
        (
            "too little to be worth a copy",
            vec![busy(b"ssAAAA"), slot(b"", None, 0)],
            b"ssBBB",
            ben,
            rule,
            to(1, None, 0),
        ),
        (
            "no copying here",
            vec![busy(b"sssss"), slot(b"", None, 0)],
            b"sssssB",
            ben,
            CopyRule::OwnOnly,
            to(1, None, 0),
        ),
        ("no reuse at all", vec![slot(b"abc", ann, 0)], b"abcd", ann, CopyRule::NoReuse, to(0, None, 0)),
        (
            "what was read with another adapter is of no use",
            vec![Candidate { fits: false, ..slot(b"abc", ann, 0) }, slot(b"", None, 1)],
            b"abcd",
            ann,
            rule,
            to(1, None, 0),
        ),
        ("the last token is read again", vec![slot(b"abcd", ann, 0)], b"abcd", ann, rule, to(0, None, 3)),
        ("a prompt of one token", vec![slot(b"a", ann, 0)], b"a", ann, rule, to(0, None, 0)),
    ] {
        assert_eq!(place(&slots, prompt, session, rule), expected, "{why}");
    }
}

#[test]
fn a_step_is_shared_out() {
    let reader = |todo, since| Demand { todo, writing: false, priority: 2, since };
    let urgent = Demand { priority: 1, ..reader(90, 9) };
    let writer = Demand { todo: 1, writing: true, priority: 2, since: 0 };
    let ms = |n| Some(Duration::from_millis(n));
    for (why, demands, batch, per_token, expected) in [
        ("nobody", vec![], 512, None, vec![]),
        ("writers have a token each", vec![writer, writer], 512, None, vec![1, 1]),
        ("a prompt alone is read in one", vec![reader(190, 1)], 512, ms(5), vec![190]),
        ("or in equal pieces of a second", vec![reader(500, 1)], 512, ms(5), vec![167]),
        (
            "where a token costs much, in pieces that are still worth a step",
            vec![reader(500, 1)],
            512,
            ms(50),
            vec![125],
        ),
        ("a little over is no piece of its own", vec![reader(250, 1)], 512, ms(5), vec![250]),
        ("but the batch is the end", vec![reader(550, 1)], 512, Some(Duration::from_micros(1)), vec![512]),
        ("nothing is known of the pace", vec![reader(300, 1)], 512, None, vec![150]),
        ("who was first is, and a whole one joins", vec![reader(30, 2), reader(150, 1)], 512, ms(5), vec![30, 150]),
        ("no piece joins", vec![reader(90, 2), reader(150, 1)], 512, ms(5), vec![0, 150]),
        (
            "what fits does",
            vec![reader(90, 3), reader(40, 4), reader(40, 2), reader(100, 1)],
            512,
            ms(5),
            vec![0, 40, 40, 100],
        ),
        ("the urgent one is first", vec![reader(300, 2), urgent], 512, ms(5), vec![0, 90]),
        ("writers are not stalled", vec![writer, reader(300, 1)], 512, ms(3), vec![1, 50]),
        ("not even at an unknown pace", vec![writer, reader(320, 1)], 512, None, vec![1, 16]),
        ("on a slow machine hardly", vec![writer, reader(320, 1)], 512, ms(60), vec![1, 16]),
        ("short prompts go together", vec![reader(20, 1), writer, reader(25, 2)], 512, ms(3), vec![20, 1, 25]),
        ("a small batch is kept to", vec![writer, reader(300, 1)], 17, ms(0), vec![1, 16]),
    ] {
        assert_eq!(share(&demands, batch, per_token, false), expected, "{why}");
    }
    assert_eq!(share(&[reader(300, 1)], 128, ms(3), true), [50], "others wait to write");
}

#[test]
fn the_pace_follows_what_was_seen() {
    let mut pace = Pace::default();
    pace.learn(15, SEC(1));
    assert_eq!(pace.per_token(), None);
    pace.learn(100, SEC(1));
    assert_eq!(pace.per_token(), Some(Duration::from_millis(10)));
    pace.learn(100, SEC(2));
    assert_eq!(pace.per_token(), Some(Duration::from_millis(12)));
}

proptest! {
    #[test]
    fn placements_hold_what_they_promise(
        kept in prop::collection::vec((any::<bool>(), prop::collection::vec(0..3u8, 0..12), 0..3u8, 0..5u64), 1..6),
        prompt in prop::collection::vec(0..3u8, 1..12),
        session in prop::option::of(0..3u8),
        strange in prop::collection::vec(any::<bool>(), 6),
        gain in 0..6usize,
    ) {
        let name = |n: u8| ["ann", "ben", "cho"][usize::from(n)];
        let slots: Vec<_> = kept.iter()
            .zip(&strange)
            .map(|((busy, kept, s, used), strange)| {
                Candidate { busy: *busy, kept, session: Some(name(*s)), used: *used, fits: !strange }
            })
            .collect();
        for rule in [CopyRule::NoReuse, CopyRule::OwnOnly, CopyRule::Gain(gain)] {
            let Some(placed) = place(&slots, &prompt, session.map(name), rule) else {
                prop_assert!(slots.iter().all(|s| s.busy));
                continue;
            };
            prop_assert!(!slots[placed.slot].busy);
            prop_assert!(placed.reuse < prompt.len());
            let source = &slots[placed.copy_from.unwrap_or(placed.slot)];
            prop_assert!(source.kept.starts_with(&prompt[..placed.reuse]));
            prop_assert!(source.fits || placed.reuse == 0);
            match (rule, placed.copy_from) {
                (CopyRule::NoReuse, from) => prop_assert_eq!((from, placed.reuse), (None, 0)),
                (CopyRule::OwnOnly, from) => prop_assert_eq!(from, None),
                (CopyRule::Gain(_), from) => prop_assert_ne!(from, Some(placed.slot)),
            }
        }
    }

    #[test]
    fn every_step_moves_and_fits(
        demands in prop::collection::vec((1..400usize, any::<bool>(), 0..9u64), 1..9),
        batch in 9..200usize,
        cost in prop::option::of(0..100_000u64),
        hurried: bool,
    ) {
        let demands: Vec<_> = demands.into_iter()
            .map(|(todo, writing, since)| Demand { todo: if writing { 1 } else { todo }, writing, priority: 2, since })
            .collect();
        let shares = share(&demands, batch, cost.map(Duration::from_micros), hurried);
        prop_assert_eq!(shares.len(), demands.len());
        prop_assert!(shares.iter().sum::<usize>() <= batch);
        for (share, demand) in shares.iter().zip(&demands) {
            prop_assert!(*share <= demand.todo);
            prop_assert!(!demand.writing || *share == 1);
        }
        let (oldest, _) = shares.iter().zip(&demands).filter(|(_, d)| !d.writing)
            .map(|(s, d)| (*s, d.since)).min_by_key(|(_, since)| *since).unwrap_or((1, 0));
        prop_assert!(oldest > 0, "a reader never starves");
        let pieces = shares.iter().zip(&demands).filter(|(share, d)| (1..d.todo).contains(*share)).count();
        prop_assert!(pieces <= 1, "one prompt is read in pieces at a time");
    }
}

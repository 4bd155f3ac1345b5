use super::*;
use proptest::prelude::*;

fn ms(millis: u64) -> Moment {
    Duration::from_millis(millis)
}

fn probe(sent: u64, limit: Duration) -> Act {
    Act::Probe { sent: ms(sent), limit }
}

/// What a process does from when it is ready on, as tests see it.
#[derive(Clone, Copy, Default)]
struct Process {
    /// Sends a heartbeat each second, until then.
    beats_until: Option<Moment>,
    /// Answers probes after this time, until then.
    answers_until: Moment,
    took: Duration,
    /// A probe is so long on its way.
    way: Duration,
    /// Is stopped from here to there, during which it does nothing.
    stopped: Option<(Moment, Moment)>,
}

/// What a watch thought of a process, and from when on.
type Thoughts = Vec<(Moment, Verdict)>;

/// Runs a watch over a process until it hangs or `end` is there; what was seen, with the time.
fn run(process: Process, end: Moment) -> (Option<(Moment, Hang)>, Thoughts) {
    let mut watch = Watch::new(ms(0));
    let (mut now, mut fact) = (ms(0), Fact::Tick);
    let mut coming: Vec<(Moment, Fact)> = (0..)
        .map(|n| ms(n * 1000 + 500))
        .take_while(|at| *at < end)
        .filter_map(|at| {
            let free = process.stopped.is_none_or(|(from, to)| at < from || at >= to);
            (process.beats_until.is_some_and(|until| at < until) && free).then_some((at, Fact::Beat))
        })
        .collect();
    let mut verdicts = vec![];
    loop {
        let mut acts: VecDeque<Act> = watch.step(now, fact).into();
        while let Some(act) = acts.pop_front() {
            match act {
                Act::Hung(hang) => return (Some((now, hang)), verdicts),
                Act::Look => {
                    let stopped = process.stopped.is_some_and(|(from, to)| now >= from && now < to);
                    acts.extend(watch.step(now, Fact::Looked { stopped }));
                }
                Act::Probe { sent, limit } => {
                    coming.push((now + process.way, Fact::Arrived(sent)));
                    // Who is stopped answers when it goes on.
                    let go = process.stopped.filter(|(from, to)| now >= *from && now < *to).map_or(now, |(_, to)| to);
                    let at = go + process.took;
                    if at < process.answers_until && at <= now + limit {
                        coming.push((at, Fact::Answered(at - now)));
                    }
                }
            }
        }
        if verdicts.last().map(|(_, verdict)| *verdict) != Some(watch.verdict()) {
            verdicts.push((now, watch.verdict()));
        }
        coming.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        (now, fact) = match coming.last() {
            Some((at, _)) if *at <= watch.wake() => coming.pop().unwrap(),
            _ => (watch.wake().max(now), Fact::Tick),
        };
        if now >= end {
            return (None, verdicts);
        }
    }
}

const LONG: Moment = Duration::from_secs(600);

#[test]
fn a_process_that_answers_is_well_with_and_without_heartbeats() {
    for beats_until in [None, Some(LONG)] {
        let process = Process { beats_until, answers_until: LONG, took: ms(3), ..Process::default() };
        assert_eq!(run(process, LONG), (None, vec![(ms(0), Verdict::Well)]));
    }
}

#[test]
fn a_hang_is_noticed_by_heartbeats_within_four_seconds() {
    let hangs = ms(100_000);
    let process = Process { beats_until: Some(hangs), answers_until: hangs, took: ms(3), ..Process::default() };
    let (hung, verdicts) = run(process, LONG);
    // The last heartbeat was half a second before, two seconds make it suspect, and the third probe has one more.
    let since = ms(101_500);
    assert_eq!(hung, Some((ms(103_500), Hang { since, lack: Lack::Life })));
    assert_eq!(verdicts[1..], [(since, Verdict::Suspect { quiet: true })]);
}

#[test]
fn a_hang_is_noticed_by_probes_five_seconds_after_the_first_of_them() {
    for (hangs, probed) in [(ms(90_001), ms(120_000)), (ms(119_999), ms(120_000)), (ms(60_000), ms(60_000))] {
        let process = Process { answers_until: hangs, took: ms(0), ..Process::default() };
        let (hung, verdicts) = run(process, LONG);
        assert_eq!(hung, Some((probed + ms(5_000), Hang { since: probed + ms(2_000), lack: Lack::Answers })));
        assert_eq!(verdicts[1..], [(probed + ms(2_000), Verdict::Suspect { quiet: false })]);
    }
}

#[test]
fn probes_that_do_not_arrive_make_no_hang_before_their_whole_time_is_over() {
    let hangs = |answers_until, way| {
        let process = Process { answers_until, way, took: way + ms(1), ..Process::default() };
        run(process, LONG).0.map(|(at, hang)| (at, hang.lack))
    };
    for (way, at) in [(ms(500), ms(65_500)), (ms(1_700), ms(66_700)), (LONG, ms(13_000))] {
        assert_eq!(hangs(ms(60_000), way), Some((at, Lack::Answers)), "{way:?}");
    }
    for way in [ms(500), ms(1_700), ms(6_000)] {
        assert_eq!(hangs(LONG, way), None, "{way:?}");
    }
}

#[test]
fn with_heartbeats_only_three_whole_misses_are_a_hang() {
    let process = Process { beats_until: Some(LONG), answers_until: ms(45_000), took: ms(3), ..Process::default() };
    let (hung, verdicts) = run(process, LONG);
    // Probes of 60, 62 and 63 s had ten seconds each.
    assert_eq!(hung, Some((ms(73_000), Hang { since: ms(62_000), lack: Lack::AnswersInTime })));
    assert_eq!(verdicts[1..], [(ms(62_000), Verdict::Suspect { quiet: false })]);
}

#[test]
fn without_heartbeats_for_a_while_probes_that_are_answered_save_a_process() {
    let process = Process { beats_until: Some(ms(50_000)), answers_until: LONG, took: ms(900), ..Process::default() };
    let (hung, verdicts) = run(process, LONG);
    assert_eq!(hung, None);
    assert_eq!(verdicts[1..], [(ms(51_500), Verdict::Suspect { quiet: true })]);
}

#[test]
fn a_process_that_is_stopped_is_paused_and_only_for_long_hung() {
    for beats_until in [None, Some(LONG)] {
        for to in [ms(93_000), ms(98_000), ms(119_000)] {
            let process = Process {
                beats_until,
                answers_until: LONG,
                took: ms(3),
                stopped: Some((ms(89_900), to)),
                ..Process::default()
            };
            let (hung, verdicts) = run(process, LONG);
            assert_eq!(hung, None, "{to:?}");
            let seen: Vec<Verdict> = verdicts.iter().map(|(_, verdict)| *verdict).collect();
            assert!(seen.contains(&Verdict::Paused) && seen.last() == Some(&Verdict::Well), "{verdicts:?}");
        }
        let process = Process {
            beats_until,
            answers_until: LONG,
            took: ms(3),
            stopped: Some((ms(89_900), LONG)),
            ..Process::default()
        };
        let (hung, _) = run(process, LONG);
        let (at, hang) = hung.unwrap();
        assert_eq!(hang.lack, Lack::Motion);
        assert_eq!(at, hang.since + PAUSE);
    }
}

#[test]
fn a_node_that_did_not_run_blames_nobody() {
    let mut watch = Watch::new(ms(0));
    assert_eq!(watch.step(ms(0), Fact::Tick), [probe(0, LIMIT)]);
    assert_eq!(watch.step(ms(5), Fact::Beat), []);
    assert_eq!(watch.step(ms(6), Fact::Answered(ms(6))), []);
    assert_eq!(watch.wake(), ms(2_005));
    // It wakes eight seconds late: the waits begin anew with a fresh probe.
    assert_eq!(watch.step(ms(10_000), Fact::Tick), [probe(10_000, LIMIT)]);
    assert_eq!(watch.verdict(), Verdict::Well);
    assert_eq!(watch.wake(), ms(12_000));
    // A little late is late all the same.
    assert_eq!(watch.step(ms(12_900), Fact::Tick), [Act::Look, probe(12_900, QUIET_LIMIT)]);
    assert_eq!(watch.verdict(), Verdict::Suspect { quiet: true });
    assert_eq!(watch.step(ms(12_901), Fact::Looked { stopped: false }), []);
    assert_eq!(watch.step(ms(12_902), Fact::Beat), []);
    assert_eq!(watch.verdict(), Verdict::Suspect { quiet: false }, "a probe of 10 s waits since 10 s");
    assert_eq!(watch.step(ms(12_903), Fact::Answered(ms(1))), []);
    assert_eq!((watch.verdict(), watch.wake()), (Verdict::Well, ms(14_902)));
}

#[test]
fn a_process_whose_health_changes_is_asked_soon_unless_it_is_suspect() {
    let mut watch = Watch::new(ms(0));
    watch.step(ms(0), Fact::Tick);
    watch.step(ms(5), Fact::Answered(ms(5)));
    assert_eq!((watch.step(ms(700), Fact::Changed), watch.wake()), (vec![], ms(800)));
    assert_eq!((watch.step(ms(790), Fact::Changed), watch.wake()), (vec![], ms(800)), "one probe for both");
    assert_eq!(watch.step(ms(800), Fact::Tick), [probe(800, LIMIT)]);
    assert_eq!(watch.step(ms(801), Fact::Answered(ms(1))), []);
    assert_eq!(watch.wake(), ms(30_800));
    assert_eq!(watch.step(ms(900), Fact::Refused(ms(800))), [Act::Look, probe(900, LIMIT)]);
    assert_eq!(watch.step(ms(901), Fact::Changed), []);
    assert_eq!(watch.wake(), ms(1_900), "it is asked each second");
}

#[test]
fn a_process_that_refuses_probes_is_suspect_at_once_and_hangs_after_three() {
    let mut watch = Watch::new(ms(0));
    watch.step(ms(0), Fact::Tick);
    assert_eq!(watch.step(ms(1), Fact::Refused(ms(0))), [Act::Look, probe(1, LIMIT)]);
    assert_eq!(watch.step(ms(1), Fact::Looked { stopped: false }), []);
    assert_eq!(watch.step(ms(2), Fact::Refused(ms(1))), []);
    assert_eq!(watch.wake(), ms(1_001));
    assert_eq!(watch.step(ms(1_001), Fact::Tick), [Act::Look, probe(1_001, LIMIT)]);
    assert_eq!(watch.step(ms(1_002), Fact::Refused(ms(1_001))), []);
    assert_eq!(watch.step(ms(2_001), Fact::Tick), [Act::Look, probe(2_001, LIMIT)]);
    assert_eq!(watch.step(ms(3_001), Fact::Tick), [Act::Look, probe(3_001, LIMIT)]);
    let hung = Act::Hung(Hang { since: ms(1), lack: Lack::Answers });
    assert_eq!(watch.step(ms(3_001), Fact::Looked { stopped: false }), [hung]);
}

#[test]
fn the_middle_of_five_answers_says_that_a_process_is_slow() {
    let process = Process { answers_until: LONG, took: ms(1_800), ..Process::default() };
    let (hung, verdicts) = run(process, LONG);
    assert_eq!(hung, None);
    assert_eq!(verdicts[1..], [(ms(121_800), Verdict::Slow(ms(1_800)))]);
}

proptest! {
    /// With heartbeats, whatever becomes of single probes, a process that answers some is never restarted; nor is one
    /// without, as long as the network loses them and not the process.
    #[test]
    fn a_network_that_loses_packets_restarts_nothing(
        beats in any::<bool>(),
        lost in proptest::collection::vec(any::<bool>(), 1..40),
        delays in proptest::collection::vec(0u64..9_000, 1..40),
    ) {
        let mut watch = Watch::new(ms(0));
        let (mut now, mut probes) = (ms(0), 0);
        let mut coming: Vec<(Moment, Fact)> =
            (0..200).filter(|_| beats).map(|n| (ms(n * 1000), Fact::Beat)).collect();
        let mut fact = Fact::Tick;
        while now < ms(200_000) {
            let mut acts: VecDeque<Act> = watch.step(now, fact).into();
            while let Some(act) = acts.pop_front() {
                match act {
                    Act::Hung(hang) => prop_assert!(false, "{hang:?} at {now:?}"),
                    Act::Look => acts.extend(watch.step(now, Fact::Looked { stopped: false })),
                    Act::Probe { sent, limit } => {
                        let delay = ms(delays[probes % delays.len()]);
                        // Every second one comes through at least.
                        if (probes % 2 == 0 || !lost[probes % lost.len()]) && delay <= limit {
                            coming.push((now + delay, Fact::Arrived(sent)));
                            coming.push((now + delay + ms(50), Fact::Answered(delay)));
                        }
                        probes += 1;
                    }
                }
            }
            coming.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            (now, fact) = match coming.last() {
                Some((at, _)) if *at <= watch.wake() => coming.pop().unwrap(),
                _ => (watch.wake(), Fact::Tick),
            };
        }
    }
}

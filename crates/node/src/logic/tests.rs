use super::*;
use proptest::prelude::*;

const WAIT: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn member(needs: &[usize]) -> Member {
    Member { needs: needs.to_vec(), built: true, ..Member::default() }
}

/// The end of a group's process, after which the whole wait is waited.
fn exited(group: usize) -> Input {
    Input::Exited(group, Ending { since: None, chance: Chance::MAX })
}

fn millis(millis: u64) -> Moment {
    Duration::from_millis(millis)
}

/// `0 <- 1 <- 2`, and 3 beside them.
fn chain() -> Machine {
    Machine::new(vec![member(&[]), member(&[0]), member(&[1]), member(&[])], WAIT)
}

#[test]
fn a_group_starts_the_moment_its_needs_are_ready() {
    let mut machine = chain();
    assert_eq!(machine.step(at(0), Input::Tick), [Output::Start(0), Output::Start(3)]);
    assert_eq!(machine.missing(2), [1]);
    assert_eq!(machine.step(at(1), Input::Ready(0)), [Output::Start(1)]);
    assert_eq!(machine.step(at(2), Input::Ready(3)), []);
    assert_eq!(machine.step(at(3), Input::Ready(1)), [Output::Start(2)]);
    assert!(!machine.is_settled());
    assert_eq!(machine.step(at(4), Input::Ready(2)), []);
    assert!(machine.is_settled());
    assert_eq!(machine.wake(), None);
}

#[test]
fn what_is_not_ready_in_time_is_named_and_the_rest_goes_on() {
    let mut machine = chain();
    machine.step(at(0), Input::Tick);
    assert_eq!(machine.wake(), Some(at(60)));
    assert_eq!(machine.step(at(59), Input::Tick), []);
    assert_eq!(machine.step(at(60), Input::Tick), [Output::Late(0), Output::Late(3), Output::Start(1)]);
    assert_eq!(machine.without(1), [0]);
    assert!(machine.is_late(0));
    machine.step(at(61), Input::Ready(0));
    assert!(!machine.is_late(0) && machine.without(1).is_empty());
}

#[test]
fn lateness_counts_from_when_a_group_could_have_been_ready() {
    let held = Member { waits_for: vec![1], ..member(&[]) };
    let mut machine = Machine::new(vec![held, member(&[])], WAIT);
    assert_eq!(machine.step(at(0), Input::Tick), [Output::Start(0), Output::Start(1)]);
    machine.step(at(50), Input::Ready(1));
    assert_eq!(machine.wake(), Some(at(110)));
    assert_eq!(machine.step(at(110), Input::Tick), [Output::Late(0)]);
}

#[test]
fn what_is_not_built_is_never_started_and_blocks_nobody() {
    let mut machine = Machine::new(vec![Member::default(), member(&[0])], WAIT);
    assert_eq!(machine.step(at(0), Input::Tick), [Output::Start(1)]);
    assert_eq!(machine.without(1), [0]);
    for input in [Input::Restart(0), Input::Clear(0)] {
        assert_eq!(machine.step(at(1), input), []);
    }
    assert_eq!(machine.phase(0), Phase::NotBuilt);
}

#[test]
fn a_group_that_keeps_ending_is_given_up_and_can_be_cleared() {
    let mut machine = chain();
    machine.step(at(0), Input::Tick);
    let mut now = at(1);
    for wait in [200, 2_000, 4_000, 8_000, 16_000].map(millis) {
        assert_eq!(machine.step(now, exited(0)), []);
        assert_eq!(machine.phase(0), Phase::BackingOff(now + wait));
        now += wait;
        assert_eq!(machine.step(now, Input::Tick), [Output::Start(0)]);
    }
    // Waiting longer has no point, so that whoever needs it goes on at once.
    assert_eq!(machine.step(now, exited(0)), [Output::Start(1)]);
    assert_eq!(machine.phase(0), Phase::CrashLoop);
    assert_eq!(machine.restarts(0), 5);
    assert_eq!(machine.step(now, Input::Clear(0)), [Output::Start(0)]);
    machine.step(now, exited(0));
    assert_eq!(machine.phase(0), Phase::BackingOff(now + millis(200)));
}

#[test]
fn a_wait_counts_from_the_beginning_of_the_trouble() {
    let mut machine = chain();
    machine.step(at(0), Input::Tick);
    machine.step(at(1), exited(3));
    machine.step(at(2), Input::Tick);
    // It hung for three seconds, of which two are the wait.
    let ending = Ending { since: Some(at(10)), chance: Chance::MAX };
    assert_eq!(machine.step(at(13), Input::Exited(3, ending)), [Output::Start(3)]);
}

#[test]
fn a_node_restarts_no_more_than_its_budget_and_says_who_is_held() {
    let mut machine = Machine::new((0..9).map(|_| member(&[])).collect(), WAIT);
    machine.step(at(0), Input::Tick);
    let mut starts = 0;
    // Each of five groups would be started again four times, and the budget is twenty.
    for round in 1..=4 {
        for i in 0..5 {
            machine.step(at(round * 20), exited(i));
        }
        starts += machine.step(at(round * 20 + 19), Input::Tick).len();
    }
    assert_eq!((starts, machine.is_held(5)), (20, false));
    machine.step(at(100), exited(5));
    assert_eq!(machine.step(at(101), Input::Tick), []);
    assert!(machine.is_held(5));
    // The first of the twenty was ten minutes ago.
    assert_eq!(machine.phase(5), Phase::BackingOff(at(639)));
    assert_eq!(machine.wake(), Some(at(639)));
    // A person may do what the node may not.
    machine.step(at(102), exited(6));
    assert_eq!(machine.step(at(103), Input::Restart(6)), [Output::Start(6)]);
    assert_eq!(machine.step(at(639), Input::Tick), [Output::Start(5)]);
    assert!(!machine.is_held(5));
}

#[test]
fn what_a_former_node_saw_counts() {
    let mut machine = chain();
    for i in 0..4 {
        assert_eq!(machine.step(at(600), Input::EndedBefore(3, at(500 + i))), []);
    }
    machine.step(at(600), Input::Tick);
    assert_eq!(machine.flaps(3, at(600)), Some(4));
    machine.step(at(601), exited(3));
    assert_eq!(machine.phase(3), Phase::BackingOff(at(617)));
    machine.step(at(617), Input::Tick);
    machine.step(at(618), exited(3));
    assert_eq!(machine.phase(3), Phase::CrashLoop);
}

#[test]
fn a_restart_ends_and_starts_one_group_only() {
    let mut machine = chain();
    machine.step(at(0), Input::Tick);
    machine.step(at(1), Input::Ready(0));
    assert_eq!(machine.step(at(2), Input::Restart(0)), [Output::Stop(0)]);
    assert_eq!(machine.step(at(2), Input::Restart(0)), []);
    assert_eq!(machine.step(at(3), exited(0)), [Output::Start(0)]);
    assert_eq!(machine.phase(1), Phase::Starting);
}

#[test]
fn a_dependant_is_not_touched_when_its_need_ends_later() {
    let mut machine = chain();
    machine.step(at(0), Input::Tick);
    machine.step(at(1), Input::Ready(0));
    machine.step(at(2), Input::Ready(1));
    assert_eq!(machine.step(at(3), exited(0)), []);
    assert_eq!((machine.phase(1), machine.phase(2)), (Phase::Ready, Phase::Starting));
}

#[test]
fn down_is_the_start_backwards() {
    let mut machine = chain();
    machine.step(at(0), Input::Tick);
    for i in [0, 1, 3] {
        machine.step(at(1), Input::Ready(i));
    }
    assert_eq!(machine.step(at(2), Input::Down), [Output::Stop(2), Output::Stop(3)]);
    assert_eq!(machine.step(at(3), exited(2)), [Output::Stop(1)]);
    assert_eq!(machine.step(at(3), Input::Restart(2)), []);
    assert_eq!(machine.step(at(4), exited(1)), [Output::Stop(0)]);
    assert_eq!(machine.step(at(5), exited(3)), []);
    assert_eq!(machine.step(at(6), exited(0)), [Output::Ended]);
    assert_eq!(machine.step(at(7), Input::Tick), []);
}

#[test]
fn what_runs_already_is_not_started_and_opens_the_way_for_others() {
    let mut machine = Machine::new(vec![member(&[]), member(&[0]), member(&[1]), member(&[2])], WAIT);
    assert_eq!(machine.step(at(0), Input::TookOver { group: 0, ready: true, restarts: 2 }), []);
    // Its needs were ready when it was started.
    assert_eq!(machine.step(at(0), Input::TookOver { group: 2, ready: false, restarts: 0 }), []);
    assert_eq!(machine.step(at(0), Input::Tick), [Output::Start(1)]);
    assert_eq!((machine.phase(0), machine.restarts(0)), (Phase::Ready, 2));
    assert_eq!((machine.phase(2), machine.restarts(2)), (Phase::Starting, 0));
    assert_eq!(machine.step(at(1), Input::Ready(2)), [Output::Start(3)]);
    assert_eq!(machine.step(at(1), Input::Ready(1)), []);
    assert_eq!(machine.step(at(2), Input::Down), [Output::Stop(3)]);
}

#[test]
fn peers_are_asked_once_and_the_start_goes_on_after_them() {
    let mut machine = Machine::new(vec![Member { has_peers: true, ..member(&[]) }], WAIT);
    assert_eq!(machine.step(at(0), Input::Tick), [Output::AwaitPeers(0)]);
    assert_eq!(machine.step(at(1), Input::Tick), []);
    assert_eq!(machine.step(at(2), Input::PeersSettled(0)), [Output::Start(0)]);
    assert_eq!(machine.step(at(3), Input::PeersSettled(0)), []);
}

/// Groups whose needs point to earlier ones only, so that there is no circle.
fn fleets() -> impl Strategy<Value = Vec<Member>> {
    let one = (proptest::collection::vec(any::<prop::sample::Index>(), 0..3), any::<bool>(), 0u8..10, any::<bool>());
    proptest::collection::vec(one, 1..8).prop_map(|rows| {
        let member = |(i, (picks, has_peers, dice, soft)): (usize, (Vec<prop::sample::Index>, bool, u8, bool))| {
            let mut picked: Vec<usize> = picks.iter().filter(|_| i > 0).map(|p| p.index(i)).collect();
            picked.sort_unstable();
            picked.dedup();
            let waits_for = if soft { picked.split_off(picked.len() / 2) } else { vec![] };
            Member { needs: picked, waits_for, has_peers: has_peers && dice < 3, built: dice > 0 }
        };
        rows.into_iter().enumerate().map(member).collect()
    })
}

/// The world around the machine: which processes run, and which rules hold of every output.
struct World {
    machine: Machine,
    members: Vec<Member>,
    runs: Vec<bool>,
    was_ready: Vec<bool>,
    down: bool,
    ended: bool,
}

impl World {
    fn step(&mut self, now: Moment, input: Input) {
        if let Input::Ready(i) = input {
            self.was_ready[i] = true;
        }
        if let Input::Exited(i, _) = input {
            self.runs[i] = false;
        }
        self.down |= input == Input::Down;
        for output in self.machine.step(now, input) {
            match output {
                Output::Start(i) => {
                    assert!(!self.runs[i], "two processes of group {i}");
                    assert!(!self.down && self.members[i].built);
                    for need in &self.members[i].needs {
                        let excused = !self.members[*need].built
                            || self.machine.is_late(*need)
                            || self.machine.phase(*need) == Phase::CrashLoop
                            || self.machine.restarts(i) > 0;
                        assert!(self.was_ready[*need] || excused, "group {i} started before its need {need}");
                    }
                    self.runs[i] = true;
                }
                Output::Stop(i) => {
                    assert!(self.runs[i]);
                    let needs_it = |m: &Member| m.needs.contains(&i) || m.waits_for.contains(&i);
                    let needed = self.members.iter().zip(&self.runs).any(|(m, runs)| *runs && needs_it(m));
                    assert!(!self.down || !needed, "group {i} was stopped under one that needs it");
                }
                Output::Ended => {
                    assert!(self.down && !self.ended && !self.runs.contains(&true));
                    self.ended = true;
                }
                Output::AwaitPeers(i) => assert!(self.members[i].has_peers),
                Output::Late(i) => assert!(!self.was_ready[i]),
            }
        }
    }
}

proptest! {
    #[test]
    fn the_order_holds_whatever_happens(
        members in fleets(),
        moves in proptest::collection::vec((0u8..8, any::<prop::sample::Index>(), 0u64..40), 0..80),
    ) {
        let count = members.len();
        let mut world = World {
            machine: Machine::new(members.clone(), WAIT),
            members,
            runs: vec![false; count],
            was_ready: vec![false; count],
            down: false,
            ended: false,
        };
        let mut now = at(0);
        world.step(now, Input::Tick);
        for (what, index, seconds) in moves {
            now += at(seconds);
            let i = index.index(count);
            match what {
                0..=2 if world.machine.phase(i) == Phase::Starting => world.step(now, Input::Ready(i)),
                3 if world.runs[i] => world.step(now, exited(i)),
                4 => world.step(now, Input::Restart(i)),
                5 => world.step(now, Input::Clear(i)),
                6 if world.machine.phase(i) == Phase::WaitingForPeers => world.step(now, Input::PeersSettled(i)),
                _ => world.step(now, Input::Tick),
            }
        }
        world.step(now, Input::Down);
        for _ in 0..count {
            let stopping: Vec<usize> = (0..count).filter(|i| world.machine.phase(*i) == Phase::Stopping).collect();
            stopping.into_iter().for_each(|i| world.step(now, exited(i)));
        }
        prop_assert!(world.ended, "{:?}", world.machine);
    }

    #[test]
    fn a_group_in_trouble_holds_up_nobody_for_ever(members in fleets(), sick in any::<prop::sample::Index>()) {
        let count = members.len();
        let sick = sick.index(count);
        let mut machine = Machine::new(members, WAIT);
        let mut now = at(0);
        let mut todo: Vec<Output> = machine.step(now, Input::Tick);
        // Each group can be late once and end six times at most, so this is far more than enough.
        for _ in 0..count * 20 {
            while let Some(output) = todo.pop() {
                let input = match output {
                    Output::Start(i) if i == sick => exited(i),
                    Output::Start(i) => Input::Ready(i),
                    Output::AwaitPeers(i) => Input::PeersSettled(i),
                    _ => continue,
                };
                todo.extend(machine.step(now, input));
            }
            let Some(next) = machine.wake() else { break };
            now = now.max(next);
            todo = machine.step(now, Input::Tick);
        }
        prop_assert!(machine.is_settled());
        for i in 0..count {
            let expected = matches!(machine.phase(i), Phase::Ready | Phase::NotBuilt);
            prop_assert!(expected || (i == sick && machine.phase(i) == Phase::CrashLoop), "{i} {:?}", machine.phase(i));
        }
    }
}

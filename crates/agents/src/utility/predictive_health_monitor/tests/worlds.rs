//! Days of agents in virtual time: normal ones, leaking ones, and one that keeps crashing.

use std::f64::consts::TAU;
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tandem_types::{AgentId, Timestamp};

use super::super::Settings;
use super::super::logic::forecast::{Forecast, Level};
use super::super::logic::logistic::Map;
use super::super::logic::remedy::{Budget, Past, Patient, Tier, choose};
use super::super::logic::signals::{Signal, Signals};
use super::super::logic::watch::{Reading, Watch};

/// What the group of the agent may use.
const LIMIT: f64 = 512e6;
const DAY: i64 = 24 * 60;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + 60 * minute)
}

/// An agent with a daily rhythm and noise.
struct World {
    random: StdRng,
    /// What is left of earlier noise in its memory.
    drift: f64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), drift: 0.0 }
    }

    /// A number of the standard normal distribution, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let (u, v): (f64, f64) = (self.random.random(), self.random.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()
    }

    fn signals(&mut self, minute: i64) -> Signals {
        let busy = 0.5 + 0.5 * (TAU * minute as f64 / DAY as f64).sin();
        self.drift = 0.7 * self.drift + 0.01 * self.normal();
        let failed = (0..200).filter(|_| self.random.random::<f64>() < 0.005).count();
        let latency = (0.02 + 0.05 * busy) * (0.4 * self.normal()).exp();
        [
            (Signal::Latency, latency),
            (Signal::Errors, failed as f64 / 200.0),
            (Signal::Heartbeats, 0.004 * (0.5 * self.normal()).exp()),
            (Signal::Queue, (4.0 * busy + self.normal()).round().max(0.0)),
            (Signal::Memory, LIMIT * (0.4 + 0.1 * busy + self.drift)),
            (Signal::Restarts, 0.0),
        ]
        .into()
    }
}

/// An agent as it is watched.
#[derive(Default)]
struct Watched {
    watch: Watch,
    forecast: Option<Forecast>,
    warnings: usize,
    most_criticals: u32,
    /// What stood out most.
    worst: Option<Reading>,
}

impl Watched {
    fn look(&mut self, minute: i64, signals: &Signals) {
        let warned = |forecast: &Option<Forecast>| forecast.as_ref().is_some_and(|f| f.warned.is_some());
        let reading = self.watch.look(at(minute), signals, Some(LIMIT), false);
        let next = reading.map(|reading| Forecast::after(self.forecast.as_ref(), reading, &Map::default()));
        self.warnings += usize::from(warned(&next) && !warned(&self.forecast));
        self.most_criticals = self.most_criticals.max(next.as_ref().map_or(0, |f| f.criticals));
        let higher = |reading: &&Reading| self.worst.as_ref().is_none_or(|worst| reading.anomaly > worst.anomaly);
        if let Some(worst) = next.as_ref().map(|forecast| &forecast.reading).filter(higher) {
            self.worst = Some(worst.clone());
        }
        self.forecast = next;
    }
}

#[test]
fn a_normal_day_of_a_whole_fleet_has_one_warning_at_most_and_nothing_to_act_on() {
    for fleet in 0..2 {
        let mut warnings = 0;
        for agent in 0..10 {
            let (mut world, mut watched) = (World::new(100 * fleet + agent), Watched::default());
            for minute in 0..DAY {
                watched.look(minute, &world.signals(minute));
            }
            warnings += watched.warnings;
            assert!(watched.most_criticals < 2, "fleet {fleet}, agent {agent}: {:?}", watched.worst);
            assert!(watched.forecast.is_some());
        }
        assert!(warnings <= 1, "{warnings} warnings in fleet {fleet}");
    }
}

#[test]
fn a_leak_is_warned_of_five_minutes_before_its_end() {
    for (seed, minutes) in [(1, 20), (2, 30), (3, 60), (4, 120), (5, 360), (6, 20), (7, 45), (8, 240)] {
        let (mut world, mut watched) = (World::new(seed), Watched::default());
        let (begins, mut warned) = (90, None);
        for minute in 0.. {
            let mut signals = world.signals(minute);
            let leaked = LIMIT * 0.6 * (minute - begins).max(0) as f64 / minutes as f64;
            let memory = signals.get_mut(&Signal::Memory).unwrap();
            *memory += leaked;
            if *memory >= LIMIT {
                let warned: i64 = warned.unwrap_or_else(|| panic!("a leak over {minutes} min was never warned of"));
                assert!(minute - warned >= 5, "a leak over {minutes} min was warned of {} min before", minute - warned);
                break;
            }
            watched.look(minute, &signals);
            let forecast = watched.forecast.as_ref();
            if minute < begins {
                assert_eq!(watched.warnings, 0, "seed {seed}");
            }
            if warned.is_none() && forecast.is_some_and(|f| f.level > Level::Normal) {
                warned = Some(minute);
                let causes = &forecast.unwrap().reading.causes;
                let of_memory = ["memory of its group is full in ", "its group's process uses "];
                assert!(of_memory.iter().any(|words| causes[0].starts_with(words)), "{causes:?}");
            }
        }
    }
}

#[test]
fn gaps_end_a_forecast_and_few_samples_make_none() {
    let (mut world, mut watched) = (World::new(1), Watched::default());
    for minute in 0..9 {
        watched.look(minute, &world.signals(minute));
        assert_eq!(watched.forecast, None, "minute {minute}");
    }
    watched.look(9, &world.signals(9));
    assert!(watched.forecast.is_some(), "ten samples of twenty minutes");
    watched.look(10, &Signals::new());
    assert_eq!(watched.forecast, None, "nothing was seen");
    watched.look(35, &world.signals(35));
    assert_eq!(watched.forecast, None, "what was seen is too old");
}

#[test]
fn what_was_seen_before_a_failure_is_told_from_what_was_not_followed_by_one() {
    let (mut world, mut watch) = (World::new(1), Watch::default());
    for minute in 0..60 {
        watch.look(at(minute), &world.signals(minute), Some(LIMIT), false);
    }
    let passed = watch.passed(at(59));
    let minutes: Vec<i64> =
        passed.iter().map(|lesson| (lesson.reading.at.micros() - at(0).micros()) / 60_000_000).collect();
    assert_eq!(minutes, (9..44).collect::<Vec<_>>(), "the last quarter of an hour is open");
    let lessons = watch.failed(at(50)).unwrap();
    let after: Vec<u64> = lessons.iter().map(|lesson| lesson.failed_after.unwrap().as_secs() / 60).collect();
    assert_eq!(after, [6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(watch.failed(at(51)), None, "the same failure");
    assert!(watch.passed(at(59)).is_empty(), "what came after it is open");
}

fn budget() -> Budget {
    Settings::default().budget()
}

fn ids(names: &[&str]) -> Vec<AgentId> {
    names.iter().map(|name| format!("solo/x/{name}").parse().unwrap()).collect()
}

fn patient(agent: &str, needs: &[&str], group: &[&str]) -> Patient {
    Patient { agent: ids(&[agent]).remove(0), needs: ids(needs), group: ids(group) }
}

#[test]
fn each_failure_after_a_remedy_calls_for_the_next_tier() {
    let patient = patient("A", &["N"], &["A", "B", "N"]);
    let mut past = Vec::new();
    for (minute, tier, restarts) in [
        (0, Tier::Agent, vec!["A"]),
        (2, Tier::WithNeeds, vec!["N", "A"]),
        (4, Tier::Group, vec!["A", "B", "N"]),
        (6, Tier::Group, vec!["A", "B", "N"]),
        // Half an hour of quiet later it is another failure.
        (40, Tier::Agent, vec!["A"]),
    ] {
        let remedy = choose(&patient, &past, &budget(), at(minute)).unwrap();
        assert_eq!((remedy.tier, remedy.restarts.clone()), (tier, ids(&restarts)), "minute {minute}");
        let (agent, tier, at) = (patient.agent.clone(), tier.number(), at(minute));
        past.push(Past { agent, at, tier, restarts: remedy.restarts, refused: false });
    }
}

#[test]
fn what_was_refused_waits_and_what_was_just_restarted_is_left_alone() {
    let patient = patient("A", &[], &["A"]);
    let one = |refused| vec![Past { agent: patient.agent.clone(), at: at(0), tier: 1, restarts: ids(&["A"]), refused }];
    let after = |past: &[Past], seconds: u64| choose(&patient, past, &budget(), at(0) + Duration::from_secs(seconds));
    assert!(after(&one(true), 599).unwrap_err().contains("refused"));
    assert_eq!(after(&one(true), 600).unwrap().tier, Tier::Agent, "a refusal is no failure of the tier");
    assert!(after(&one(false), 59).unwrap_err().contains("within the last 60 s"));
    assert_eq!(after(&one(false), 60).unwrap().tier, Tier::WithNeeds);
}

proptest! {
    /// Agents that crash whatever is done, looked at as often as may be: the budget is never passed.
    #[test]
    fn crash_loops_never_pass_the_budget(
        looks in proptest::collection::vec((1u64..240, 0usize..3, proptest::bool::weighted(0.05)), 1..300),
    ) {
        let group = ["A", "B", "C"];
        let patients = [patient("A", &["C"], &group), patient("B", &["A", "C"], &group), patient("C", &[], &group)];
        let budget = budget();
        let (mut now, mut past) = (at(0), Vec::<Past>::new());
        for (pause, which, refused) in looks {
            now = now + Duration::from_secs(pause);
            let Ok(remedy) = choose(&patients[which], &past, &budget, now) else { continue };
            let (agent, tier) = (patients[which].agent.clone(), remedy.tier.number());
            past.push(Past { agent, at: now, tier, restarts: remedy.restarts, refused });
            let since = |window: Duration| {
                past.iter().filter(move |one| now.since(one.at) < window).flat_map(|one| one.restarts.iter())
            };
            prop_assert!(since(budget.all_window).count() <= 20);
            for agent in ids(&group) {
                prop_assert!(since(budget.agent_window).filter(|one| **one == agent).count() <= 5);
                prop_assert!(since(budget.cooldown).filter(|one| **one == agent).count() <= 1);
            }
        }
        let first = past.first().map(|one| one.restarts.len());
        prop_assert_eq!(first, past.first().map(|_| 1), "it begins with the gentlest");
    }
}

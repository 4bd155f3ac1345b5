//! When a group is probed, and what the answers make of it.

use std::time::Duration;

use tandem_types::Timestamp;

/// The rules of probing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Time between two probes of a group that answers.
    pub(crate) steady: Duration,
    /// How long a group that answers may take.
    pub(crate) timeout: Duration,
    /// Time between two probes of a group that is suspected.
    pub(crate) suspect: Duration,
    /// How long a group that is suspected may take.
    pub(crate) suspect_timeout: Duration,
    /// This many misses in a row make it failed.
    pub(crate) misses: u32,
    /// This many answers in a row make it good again.
    pub(crate) answers: u32,
    /// How long a group that has never been heard of may take to come.
    pub(crate) grace: Duration,
}

/// What the probes say of a group. Whether it is ready or poorer is in what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not heard of yet.
    Starting,
    /// Answers.
    Good,
    /// Missed a probe, or fell silent in the registry; nothing is decided.
    Suspect,
    /// Did not answer three times in a row.
    Failed,
    /// Said good-bye.
    Stopped,
}

/// What the registry says of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It registered: a process is there that was not there before.
    Came,
    /// One of its agents is doing better or worse.
    Changed,
    /// It stopped renewing.
    Silent,
    /// It ended on purpose.
    Left,
}

/// Decides when one group is probed next and what its answers make of it.
#[derive(Debug, Clone)]
pub(crate) struct Prober {
    rules: Rules,
    phase: Phase,
    since: Timestamp,
    misses: u32,
    answers: u32,
    now: bool,
}

impl Prober {
    /// A group that has not been heard of yet.
    pub(crate) fn new(rules: Rules, now: Timestamp) -> Self {
        Self { rules, phase: Phase::Starting, since: now, misses: 0, answers: 0, now: true }
    }

    /// What the probes say.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Time from the beginning of one probe to that of the next.
    pub(crate) fn pace(&self) -> Duration {
        match self.phase {
            _ if self.now => Duration::ZERO,
            Phase::Good | Phase::Stopped => self.rules.steady,
            Phase::Starting | Phase::Suspect | Phase::Failed => self.rules.suspect,
        }
    }

    /// How long the next probe may take.
    pub(crate) fn timeout(&self) -> Duration {
        match self.phase {
            Phase::Good | Phase::Stopped => self.rules.timeout,
            Phase::Starting | Phase::Suspect | Phase::Failed => self.rules.suspect_timeout,
        }
    }

    /// A probe that takes longer than this is as good as a miss until it is answered: waiting all of its time for a group
    /// that hangs would leave no time to ask again.
    pub(crate) fn late(&self) -> Duration {
        self.rules.suspect_timeout
    }

    fn enter(&mut self, phase: Phase, now: Timestamp) {
        if self.phase != phase {
            (self.phase, self.since) = (phase, now);
        }
    }

    /// It answered.
    pub(crate) fn answered(&mut self, now: Timestamp) {
        self.now = false;
        self.misses = 0;
        self.answers = self.answers.saturating_add(1);
        if self.phase == Phase::Starting || self.answers >= self.rules.answers {
            self.enter(Phase::Good, now);
        }
    }

    /// It did not answer.
    pub(crate) fn missed(&mut self, now: Timestamp) {
        self.now = false;
        self.answers = 0;
        self.misses = self.misses.saturating_add(1);
        match self.phase {
            Phase::Good => self.enter(Phase::Suspect, now),
            Phase::Suspect if self.misses >= self.rules.misses => self.enter(Phase::Failed, now),
            Phase::Starting if now.since(self.since) >= self.rules.grace => self.enter(Phase::Failed, now),
            Phase::Starting | Phase::Suspect | Phase::Failed | Phase::Stopped => {}
        }
    }

    /// The registry said something; the group is probed at once, because only its own answer says how it is.
    pub(crate) fn heard(&mut self, heard: Heard, now: Timestamp) {
        self.now = true;
        match heard {
            // A new process owes nothing for the old one: its first answer counts.
            Heard::Came if self.phase != Phase::Good => {
                self.misses = 0;
                self.phase = Phase::Starting;
                self.since = now;
            }
            // A heartbeat that is lost is the first miss.
            Heard::Silent if self.phase == Phase::Good => {
                (self.misses, self.answers) = (1, 0);
                self.enter(Phase::Suspect, now);
            }
            Heard::Left => {
                (self.misses, self.answers) = (0, 0);
                self.now = false;
                self.enter(Phase::Stopped, now);
            }
            Heard::Came | Heard::Changed | Heard::Silent => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Settings;
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules {
        steady: Duration::from_secs(30),
        timeout: Duration::from_secs(10),
        suspect: Duration::from_secs(1),
        suspect_timeout: Duration::from_secs(2),
        misses: 3,
        answers: 2,
        grace: Duration::from_secs(60),
    };

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Answer,
        Miss,
        Registry(Heard),
    }
    use Event::{Answer, Miss, Registry};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_790_000_000 + seconds)
    }

    fn feed(prober: &mut Prober, event: Event, now: Timestamp) {
        match event {
            Answer => prober.answered(now),
            Miss => prober.missed(now),
            Registry(heard) => prober.heard(heard, now),
        }
    }

    /// A script is `(seconds, what happens, phase after it, seconds to the next probe)`.
    type Script = &'static [(i64, Event, Phase, u64)];

    #[test]
    fn scripts_end_as_written() {
        use Heard::{Came, Changed, Left, Silent};
        let scripts: &[(&str, Script)] = &[
            ("comes and answers", &[(1, Miss, Phase::Starting, 1), (2, Answer, Phase::Good, 30)]),
            (
                "never comes",
                &[(30, Miss, Phase::Starting, 1), (59, Miss, Phase::Starting, 1), (60, Miss, Phase::Failed, 1)],
            ),
            (
                "hangs: three misses in a row",
                &[
                    (0, Answer, Phase::Good, 30),
                    (40, Miss, Phase::Suspect, 1),
                    (43, Miss, Phase::Suspect, 1),
                    (46, Miss, Phase::Failed, 1),
                    (49, Miss, Phase::Failed, 1),
                ],
            ),
            (
                "stumbles: an answer between misses begins the count anew, two answers end the suspicion",
                &[
                    (0, Answer, Phase::Good, 30),
                    (40, Miss, Phase::Suspect, 1),
                    (43, Miss, Phase::Suspect, 1),
                    (44, Answer, Phase::Suspect, 1),
                    (47, Miss, Phase::Suspect, 1),
                    (50, Miss, Phase::Suspect, 1),
                    (51, Answer, Phase::Suspect, 1),
                    (52, Answer, Phase::Good, 30),
                ],
            ),
            (
                "falls silent in the registry between two probes",
                &[
                    (0, Answer, Phase::Good, 30),
                    (15, Registry(Silent), Phase::Suspect, 0),
                    (15, Miss, Phase::Suspect, 1),
                    (16, Miss, Phase::Failed, 1),
                    (25, Registry(Came), Phase::Starting, 0),
                    (25, Answer, Phase::Good, 30),
                ],
            ),
            (
                "falls silent in the registry and answers all the same: two answers, as after any miss",
                &[
                    (0, Answer, Phase::Good, 30),
                    (30, Answer, Phase::Good, 30),
                    (45, Registry(Silent), Phase::Suspect, 0),
                    (45, Answer, Phase::Suspect, 1),
                    (46, Answer, Phase::Good, 30),
                ],
            ),
            (
                "comes back without registering: two answers",
                &[
                    (0, Answer, Phase::Good, 30),
                    (30, Miss, Phase::Suspect, 1),
                    (31, Miss, Phase::Suspect, 1),
                    (32, Miss, Phase::Failed, 1),
                    (33, Answer, Phase::Failed, 1),
                    (34, Answer, Phase::Good, 30),
                ],
            ),
            (
                "says good-bye, is no failure, and comes again",
                &[
                    (0, Answer, Phase::Good, 30),
                    (5, Registry(Left), Phase::Stopped, 30),
                    (35, Miss, Phase::Stopped, 30),
                    (65, Miss, Phase::Stopped, 30),
                    (70, Registry(Came), Phase::Starting, 0),
                    (70, Answer, Phase::Good, 30),
                ],
            ),
            (
                "changes its state: asked at once",
                &[(0, Answer, Phase::Good, 30), (7, Registry(Changed), Phase::Good, 0), (7, Answer, Phase::Good, 30)],
            ),
        ];
        for (name, script) in scripts {
            let mut prober = Prober::new(RULES, at(0));
            assert_eq!(prober.pace(), Duration::ZERO, "{name}");
            for (n, (seconds, event, phase, wait)) in script.iter().enumerate() {
                feed(&mut prober, *event, at(*seconds));
                assert_eq!((prober.phase(), prober.pace().as_secs()), (*phase, *wait), "{name}, step {n}: {event:?}");
            }
        }
    }

    #[test]
    fn patience_depends_on_suspicion() {
        let mut prober = Prober::new(RULES, at(0));
        prober.answered(at(0));
        assert_eq!(prober.timeout(), RULES.timeout);
        prober.missed(at(10));
        assert_eq!(prober.timeout(), RULES.suspect_timeout);
    }

    /// Seconds until a group that hangs is failed, when nothing of it answers from now on; `waits` is the time until the
    /// next probe. Each probe is given up as late, and the next begins at its pace.
    fn seconds_to_failed(mut prober: Prober, waits: f64) -> f64 {
        let (mut clock, mut begins) = (0.0, waits);
        while prober.phase() != Phase::Failed {
            clock = f64::max(clock, begins) + prober.late().as_secs_f64();
            let began = clock - prober.late().as_secs_f64();
            prober.missed(at(0));
            begins = began + prober.pace().as_secs_f64();
        }
        clock
    }

    #[test]
    fn a_group_that_hangs_is_failed_in_time() {
        let mut prober = Prober::new(Settings::default().rules(), at(0));
        prober.answered(at(0));
        prober.answered(at(30));
        // It begins to hang at any moment between two probes; 95 % of those moments.
        assert!(seconds_to_failed(prober.clone(), 0.95 * 30.0) <= 35.0);
        prober.heard(Heard::Silent, at(31));
        assert!(seconds_to_failed(prober, 0.0) <= 5.0);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Answer),
            4 => Just(Miss),
            1 => proptest::sample::select(vec![Heard::Came, Heard::Changed, Heard::Silent, Heard::Left]).prop_map(Registry),
        ]
    }

    proptest! {
        /// Whatever happened before: three misses in a row after an answer fail a group, two answers make it good.
        #[test]
        fn the_counts_hold_from_any_state(events in proptest::collection::vec(event(), 0..40)) {
            let mut prober = Prober::new(RULES, at(0));
            let mut now = at(0);
            for event in events {
                now = now + Duration::from_secs(1);
                feed(&mut prober, event, now);
            }
            prober.answered(now);
            prober.answered(now);
            prop_assert_eq!(prober.phase(), Phase::Good);
            prober.missed(now);
            prober.missed(now);
            prop_assert_eq!(prober.phase(), Phase::Suspect);
            prober.missed(now);
            prop_assert_eq!(prober.phase(), Phase::Failed);
            prober.answered(now);
            prop_assert_eq!(prober.phase(), Phase::Failed);
            prober.answered(now);
            prop_assert_eq!(prober.phase(), Phase::Good);
        }
    }
}

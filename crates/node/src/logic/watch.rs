//! Whether a group's process is well, from heartbeats, probes and what the kernel says of it. No IO, no clock.
//!
//! A process that sends heartbeats is judged by them: while they come it can only hang by leaving three probes unanswered
//! for their whole time, so that a network that loses packets restarts nothing. One that sends none is judged by probes
//! alone: soon by those that the kernel says have reached it, late by those that may be lost on the way. Whoever cannot be blamed is not: a process that somebody stopped is paused, and after a time in which the node
//! itself did not run every wait begins anew.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;

/// Time between two probes of a process that is well.
pub(crate) const PERIOD: Duration = Duration::from_secs(30);
/// How long a probe may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// So many probes without an answer make a hang.
const MISSES: usize = 3;
/// A process that keeps a probe or a heartbeat waiting for this long is suspect.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two probes of a suspect process.
const SUSPECT_PERIOD: Duration = Duration::from_secs(1);
/// The same, and how long a probe may take, of one whose heartbeats stay away.
const QUIET_PERIOD: Duration = Duration::from_millis(500);
const QUIET_LIMIT: Duration = Duration::from_secs(1);
/// A change of health is asked about after so long, once for all that change meanwhile.
const SETTLING: Duration = Duration::from_millis(100);
/// Time between two looks at a process that is stopped.
const LOOK: Duration = Duration::from_secs(1);
/// Probes without an answer that are remembered: more than any rule counts.
const OPEN_MOST: usize = 16;
/// For so long a process that is stopped counts as paused.
const PAUSE: Duration = Duration::from_secs(30);
/// A node that wakes this much too late did not run.
const LAG: Duration = Duration::from_secs(1);
/// So many answers say how fast a process is, and so slow is slow.
const ANSWERS: usize = 5;
const SLOW: Duration = Duration::from_secs(1);

/// What is learnt of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// Time has passed.
    Tick,
    /// It sent a heartbeat.
    Beat,
    /// It says that its health is not what it was.
    Changed,
    /// The probe that was sent then has come to where the process only needs to read it.
    Arrived(Moment),
    /// It answered a probe, after this long.
    Answered(Duration),
    /// It refused the probe that was sent then, or broke it off.
    Refused(Moment),
    /// Whether it is stopped, as the kernel says now.
    Looked {
        /// By a signal or a debugger.
        stopped: bool,
    },
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Ask for its health.
    Probe {
        /// Now, which is also the name of this probe.
        sent: Moment,
        /// For this long at most.
        limit: Duration,
    },
    /// Look whether it is stopped, now; answer with [`Fact::Looked`].
    Look,
    /// It hangs: end it.
    Hung(Hang),
}

/// How a process hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hang {
    /// Since when it was suspect.
    pub(crate) since: Moment,
    /// What it lacks.
    pub(crate) lack: Lack,
}

/// What a process lacks that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Neither heartbeats nor answers.
    Life,
    /// Answers, for as long as probes may take, although heartbeats come.
    AnswersInTime,
    /// Answers; it never sent heartbeats.
    Answers,
    /// It was stopped for too long.
    Motion,
}

impl Lack {
    /// In words that go on a sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Life => "it sent no heartbeat and left three probes of /health unanswered",
            Self::AnswersInTime => "it left three probes of /health unanswered for 10 s each",
            Self::Answers => "it left three probes of /health unanswered",
            Self::Motion => "it was stopped for 30 s",
        }
    }
}

/// How a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is known against it.
    Well,
    /// It answers, in this time as a rule.
    Slow(Duration),
    /// It keeps somebody waiting.
    Suspect {
        /// Whether that is by its heartbeats.
        quiet: bool,
    },
    /// Somebody stopped it.
    Paused,
}

/// A probe that has no answer yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    sent: Moment,
    arrived: Option<Moment>,
}

/// The watch over one process.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The last heartbeat, once there was one.
    beat: Option<Moment>,
    /// When the next probe is sent.
    next: Moment,
    /// Probes without an answer, since the last sign of life.
    open: VecDeque<Open>,
    refused: bool,
    /// Whether heartbeats stay away.
    quiet: bool,
    suspect: Option<Moment>,
    stopped: Option<Moment>,
    answers: VecDeque<Duration>,
    wake: Moment,
}

impl Watch {
    /// Begins with a process that is ready.
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            beat: None,
            next: now,
            open: VecDeque::new(),
            refused: false,
            quiet: false,
            suspect: None,
            stopped: None,
            answers: VecDeque::new(),
            wake: now,
        }
    }

    /// How the process is doing.
    pub(crate) fn verdict(&self) -> Verdict {
        if self.stopped.is_some() {
            return Verdict::Paused;
        }
        if self.suspect.is_some() {
            return Verdict::Suspect { quiet: self.quiet };
        }
        match self.usual_answer() {
            Some(usual) if usual > SLOW => Verdict::Slow(usual),
            _ => Verdict::Well,
        }
    }

    /// When to come back with [`Fact::Tick`] if nothing is learnt before.
    pub(crate) fn wake(&self) -> Moment {
        self.wake
    }

    /// Takes what was learnt at `now` and says what to do.
    pub(crate) fn step(&mut self, now: Moment, fact: Fact) -> Vec<Act> {
        if now > self.wake + LAG {
            self.begin_anew(now);
        }
        let mut acts = Vec::new();
        match fact {
            Fact::Tick => {}
            Fact::Beat => self.beat = Some(now),
            // Who is suspect is asked often anyway, and judged by how many probes wait.
            Fact::Changed if self.suspect.is_none() => self.next = self.next.min(now + SETTLING),
            Fact::Changed => {}
            Fact::Arrived(sent) => self.has_arrived(sent, now),
            Fact::Answered(took) => {
                self.open.clear();
                self.refused = false;
                self.answers.push_back(took);
                if self.answers.len() > ANSWERS {
                    self.answers.pop_front();
                }
            }
            Fact::Refused(sent) => {
                self.has_arrived(sent, sent);
                self.refused = true;
            }
            Fact::Looked { stopped: true } => {
                self.stopped.get_or_insert(now);
            }
            Fact::Looked { stopped: false } => {
                if self.stopped.take().is_some() {
                    self.begin_anew(now);
                }
            }
        }
        match self.stopped {
            Some(since) => self.wait_for_motion(now, fact, since, &mut acts),
            None => self.judge(now, fact, &mut acts),
        }
        acts
    }

    fn has_arrived(&mut self, sent: Moment, at: Moment) {
        if let Some(probe) = self.open.iter_mut().find(|probe| probe.sent == sent) {
            probe.arrived.get_or_insert(at);
        }
    }

    fn wait_for_motion(&mut self, now: Moment, fact: Fact, since: Moment, acts: &mut Vec<Act>) {
        if now >= since + PAUSE {
            acts.push(Act::Hung(Hang { since, lack: Lack::Motion }));
        } else if let Fact::Looked { .. } = fact {
            self.wake = (now + LOOK).min(since + PAUSE);
        } else if now >= self.wake || matches!(fact, Fact::Beat | Fact::Answered(_)) {
            acts.push(Act::Look);
        }
    }

    fn judge(&mut self, now: Moment, fact: Fact, acts: &mut Vec<Act>) {
        let quiet = self.beat.is_some_and(|beat| now >= beat + PATIENCE);
        let was_quiet = std::mem::replace(&mut self.quiet, quiet);
        let waits = self.refused || self.open.front().is_some_and(|probe| now >= probe.sent + PATIENCE);
        let before = self.suspect;
        self.suspect = (self.quiet || waits).then(|| before.unwrap_or(now));
        match (before, self.suspect) {
            (None, Some(_)) => {
                self.next = now;
                acts.push(Act::Look);
            }
            (Some(_), None) => self.next = now + PERIOD,
            (Some(since), Some(_)) => {
                if self.quiet && !was_quiet {
                    self.next = now;
                }
                if let Some(lack) = self.lack(now) {
                    // What the kernel says at this very moment decides.
                    match fact {
                        Fact::Looked { .. } => acts.push(Act::Hung(Hang { since, lack })),
                        _ => acts.push(Act::Look),
                    }
                }
            }
            (None, None) => {}
        }
        if now >= self.next {
            self.probe(now, acts);
        }
        let beat = self.beat.filter(|_| !self.quiet).map(|beat| beat + PATIENCE);
        let patience = self.open.front().filter(|_| self.suspect.is_none()).map(|probe| probe.sent + PATIENCE);
        let judged = self.open.iter().filter_map(|probe| probe.arrived).map(|arrived| arrived + PATIENCE);
        let judged = judged.filter(|at| self.suspect.is_some() && self.beat.is_none() && *at > now);
        self.wake = beat.into_iter().chain(patience).chain(judged).fold(self.next, Moment::min);
    }

    fn probe(&mut self, now: Moment, acts: &mut Vec<Act>) {
        let (period, limit) = match (self.suspect, self.quiet) {
            (None, _) => (PERIOD, LIMIT),
            (Some(_), false) => (SUSPECT_PERIOD, LIMIT),
            (Some(_), true) => (QUIET_PERIOD, QUIET_LIMIT),
        };
        // Whoever may be judged soon is looked at often, so that a short stop between two looks is seen too.
        if self.suspect.is_some() && !acts.contains(&Act::Look) {
            acts.push(Act::Look);
        }
        acts.push(Act::Probe { sent: now, limit });
        self.open.push_back(Open { sent: now, arrived: None });
        if self.open.len() > OPEN_MOST {
            self.open.pop_front();
        }
        self.next = now + period;
    }

    /// What the process lacks so much that it hangs.
    fn lack(&self, now: Moment) -> Option<Lack> {
        let enough = |missed: &dyn Fn(&Open) -> bool| self.open.iter().filter(|probe| missed(probe)).count() >= MISSES;
        let missed = |limit: Duration, from: Moment| enough(&|probe| probe.sent >= from && now >= probe.sent + limit);
        // While nothing else tells that it lives, who loses a probe counts: the process one that reached it, the network others.
        let kept_waiting =
            |probe: &Open| probe.arrived.is_some_and(|arrived| now >= arrived + PATIENCE) || now >= probe.sent + LIMIT;
        match (self.beat, self.quiet) {
            (None, _) => enough(&kept_waiting).then_some(Lack::Answers),
            (Some(beat), true) => missed(QUIET_LIMIT, beat + PATIENCE).then_some(Lack::Life),
            (Some(_), false) => missed(LIMIT, Moment::ZERO).then_some(Lack::AnswersInTime),
        }
    }

    /// The time in which it answers as a rule: the middle of the last five.
    fn usual_answer(&self) -> Option<Duration> {
        let mut answers: Vec<Duration> = self.answers.iter().copied().collect();
        answers.sort_unstable();
        answers.get(ANSWERS / 2).copied().filter(|_| answers.len() == ANSWERS)
    }

    /// Nothing that was waited for counts any longer: whoever was waited for, or who waited, did not run.
    fn begin_anew(&mut self, now: Moment) {
        self.beat = self.beat.map(|_| now);
        self.stopped = self.stopped.map(|_| now);
        self.open.clear();
        self.refused = false;
        self.quiet = false;
        self.suspect = None;
        self.next = now;
        self.wake = now;
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

//! What the node does next: which group starts, which stops, when one is started again, which one hangs. No IO, no
//! clock.
//!
//! The driver tells what happened ([`Input`]) and does what comes out ([`Output`]). Time is a [`Moment`] on the node's
//! own monotonic clock, so that a change of the wall clock shifts no wait.

pub(crate) mod budget;
pub(crate) mod forecast;
pub(crate) mod watch;

use std::time::Duration;

use budget::{Backoff, Chance, Pool};

/// Time on the node's own clock.
pub(crate) type Moment = Duration;

/// A group as the order of starts sees it; others are named by their place in the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    /// Must be ready, once, before its process starts.
    pub(crate) needs: Vec<usize>,
    /// Hold agents that its own agents need: it starts without them and is ready after them.
    pub(crate) waits_for: Vec<usize>,
    /// Whether groups of other nodes are waited for.
    pub(crate) has_peers: bool,
    /// Whether there is code for any of its agents.
    pub(crate) built: bool,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Never started: there is no code for it.
    NotBuilt,
    /// Waits for its needs.
    Waiting,
    /// Waits for groups of another node that is alive.
    WaitingForPeers,
    /// Its process runs and has not said READY.
    Starting,
    /// Its process said READY.
    Ready,
    /// Ended by itself; started again at this moment.
    BackingOff(Moment),
    /// Ended by itself too often; a person decides.
    CrashLoop,
    /// Told to end.
    Stopping,
    /// Ended on purpose.
    Stopped,
}

impl Phase {
    /// Whether a process runs.
    pub(crate) fn runs(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Stopping)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Since when it was in trouble, where it was before its end: the wait before its next start counts from there.
    pub(crate) since: Option<Moment>,
    /// What shortens that wait.
    pub(crate) chance: Chance,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Begin, or time has passed.
    Tick,
    /// A group's process runs already: a node that died left it. Nothing is started for that, so that all of them can be
    /// told one after the other; the first [`Input::Tick`] comes after them.
    TookOver {
        /// Which.
        group: usize,
        /// Whether it had said READY.
        ready: bool,
        /// How often it had been started again.
        restarts: u32,
    },
    /// Groups of other nodes need not be waited for any longer.
    PeersSettled(usize),
    /// A group said READY.
    Ready(usize),
    /// A former node saw a group's process end by itself.
    EndedBefore(usize, Moment),
    /// A group's process ended, or could not be started.
    Exited(usize, Ending),
    /// A person wants a group started anew.
    Restart(usize),
    /// A person has seen why a group failed: forget its failures and start it if it does not run.
    Clear(usize),
    /// End everything.
    Down,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Find out whether groups of other nodes are worth waiting for; answer with [`Input::PeersSettled`].
    AwaitPeers(usize),
    /// Start its process.
    Start(usize),
    /// Tell its process to end.
    Stop(usize),
    /// It was not ready in time; whoever needs it goes on.
    Late(usize),
    /// Everything has ended after [`Input::Down`].
    Ended,
}

#[derive(Debug)]
struct Group {
    member: Member,
    phase: Phase,
    /// Since when nothing but itself keeps it from being ready.
    could_since: Option<Moment>,
    was_ready: bool,
    late: bool,
    again: bool,
    starts: u32,
    backoff: Backoff,
    /// Whether all that keeps it from being started again is that the node has done so too often.
    held: bool,
}

impl Group {
    /// Whether those that need it may go on: it was ready once, or waiting for it has no point.
    fn is_settled(&self) -> bool {
        self.was_ready || self.late || matches!(self.phase, Phase::NotBuilt | Phase::CrashLoop)
    }
}

/// The order of one node's groups.
#[derive(Debug)]
pub(crate) struct Machine {
    groups: Vec<Group>,
    wait: Duration,
    pool: Pool,
    down: bool,
    ended: bool,
}

impl Machine {
    /// `wait` is how long a group may take to be ready before others go on without it.
    pub(crate) fn new(members: Vec<Member>, wait: Duration) -> Self {
        let group = |member: Member| Group {
            phase: if member.built { Phase::Waiting } else { Phase::NotBuilt },
            member,
            could_since: None,
            was_ready: false,
            late: false,
            again: false,
            starts: 0,
            backoff: Backoff::default(),
            held: false,
        };
        let groups = members.into_iter().map(group).collect();
        Self { groups, wait, pool: Pool::default(), down: false, ended: false }
    }

    /// Where a group stands.
    pub(crate) fn phase(&self, group: usize) -> Phase {
        self.groups[group].phase
    }

    /// How often a group was started again.
    pub(crate) fn restarts(&self, group: usize) -> u32 {
        self.groups[group].starts.saturating_sub(1)
    }

    /// How often a group ended by itself in the last ten minutes, where that is often enough to be said.
    pub(crate) fn flaps(&self, group: usize, now: Moment) -> Option<usize> {
        self.groups[group].backoff.flaps(now)
    }

    /// Whether a group that backs off waits for the node's budget of restarts.
    pub(crate) fn is_held(&self, group: usize) -> bool {
        self.groups[group].held
    }

    /// Needs that a group still waits for.
    pub(crate) fn missing(&self, group: usize) -> Vec<usize> {
        let needs = &self.groups[group].member.needs;
        needs.iter().copied().filter(|n| !self.groups[*n].is_settled()).collect()
    }

    /// Needs that a group went on without.
    pub(crate) fn without(&self, group: usize) -> Vec<usize> {
        let needs = &self.groups[group].member.needs;
        needs.iter().copied().filter(|n| self.groups[*n].is_settled() && !self.groups[*n].was_ready).collect()
    }

    /// Whether a group was not ready in time.
    pub(crate) fn is_late(&self, group: usize) -> bool {
        self.groups[group].late && !self.groups[group].was_ready
    }

    /// Whether the start is over: each group is ready, or is known not to be.
    pub(crate) fn is_settled(&self) -> bool {
        self.groups.iter().all(Group::is_settled)
    }

    /// Whether everything is ending.
    pub(crate) fn is_down(&self) -> bool {
        self.down
    }

    /// When to come back with [`Input::Tick`] if nothing happens before.
    pub(crate) fn wake(&self) -> Option<Moment> {
        if self.down {
            return None;
        }
        let times = self.groups.iter().flat_map(|g| {
            let retry = if let Phase::BackingOff(until) = g.phase { Some(until) } else { None };
            let late = g.could_since.filter(|_| !g.is_settled()).map(|since| since + self.wait);
            [retry, late]
        });
        times.flatten().min()
    }

    /// Takes what happened at `now` and says what to do.
    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick => {}
            Input::Down => self.down = true,
            Input::PeersSettled(i) => {
                if self.groups[i].phase == Phase::WaitingForPeers {
                    self.start(i, &mut out);
                }
            }
            Input::TookOver { group, ready, restarts } => {
                let group = &mut self.groups[group];
                if group.phase == Phase::Waiting {
                    group.phase = if ready { Phase::Ready } else { Phase::Starting };
                    group.was_ready = ready;
                    group.starts = restarts + 1;
                }
                return out;
            }
            Input::Ready(i) => {
                let group = &mut self.groups[i];
                if group.phase == Phase::Starting {
                    group.phase = Phase::Ready;
                    group.was_ready = true;
                }
            }
            Input::EndedBefore(i, at) => {
                self.groups[i].backoff.remember(at);
                self.pool.remember(at);
                return out;
            }
            Input::Exited(i, ending) => self.exited(i, now, ending, &mut out),
            Input::Restart(i) => self.again(i, true, &mut out),
            Input::Clear(i) => self.again(i, false, &mut out),
        }
        if self.down {
            self.go_down(&mut out)
        } else {
            self.go_up(now, &mut out)
        }
        out
    }

    fn start(&mut self, i: usize, out: &mut Vec<Output>) {
        let group = &mut self.groups[i];
        group.phase = Phase::Starting;
        group.starts += 1;
        group.held = false;
        out.push(Output::Start(i));
    }

    /// Starts a group again without an order, unless the node has done so too often.
    fn start_again(&mut self, i: usize, now: Moment, out: &mut Vec<Output>) {
        match self.pool.take(now) {
            Ok(()) => self.start(i, out),
            Err(until) => {
                self.groups[i].phase = Phase::BackingOff(until);
                self.groups[i].held = true;
            }
        }
    }

    fn exited(&mut self, i: usize, now: Moment, ending: Ending, out: &mut Vec<Output>) {
        let group = &mut self.groups[i];
        let ordered = group.phase == Phase::Stopping;
        if self.down || (ordered && !group.again) {
            group.phase = Phase::Stopped;
        } else if ordered {
            group.again = false;
            self.start(i, out);
        } else {
            group.phase = match group.backoff.failed(now, ending.chance) {
                Some(wait) => Phase::BackingOff(ending.since.unwrap_or(now) + wait),
                None => Phase::CrashLoop,
            };
        }
    }

    fn again(&mut self, i: usize, running_too: bool, out: &mut Vec<Output>) {
        let group = &mut self.groups[i];
        if self.down {
            return;
        }
        match group.phase {
            Phase::NotBuilt | Phase::Waiting | Phase::WaitingForPeers | Phase::Stopping => {}
            Phase::BackingOff(_) | Phase::CrashLoop | Phase::Stopped => {
                group.backoff = Backoff::default();
                self.start(i, out);
            }
            Phase::Starting | Phase::Ready => {
                group.backoff = Backoff::default();
                if running_too {
                    group.phase = Phase::Stopping;
                    group.again = true;
                    out.push(Output::Stop(i));
                }
            }
        }
    }

    fn go_up(&mut self, now: Moment, out: &mut Vec<Output>) {
        loop {
            let settled: Vec<bool> = self.groups.iter().map(Group::is_settled).collect();
            let open = |of: &[usize]| of.iter().all(|n| settled[*n]);
            let mut changed = false;
            for i in 0..self.groups.len() {
                let group = &mut self.groups[i];
                if group.could_since.is_none() && open(&group.member.needs) && open(&group.member.waits_for) {
                    group.could_since = Some(now);
                }
                if !group.is_settled() && group.could_since.is_some_and(|since| since + self.wait <= now) {
                    group.late = true;
                    changed = true;
                    out.push(Output::Late(i));
                }
                match group.phase {
                    Phase::Waiting if open(&group.member.needs) && group.member.has_peers => {
                        group.phase = Phase::WaitingForPeers;
                        out.push(Output::AwaitPeers(i));
                    }
                    Phase::Waiting if open(&group.member.needs) => self.start(i, out),
                    Phase::BackingOff(until) if until <= now => self.start_again(i, now, out),
                    _ => {}
                }
            }
            // Only a group that is newly settled can open the way for another.
            if !changed {
                return;
            }
        }
    }

    fn go_down(&mut self, out: &mut Vec<Output>) {
        for group in &mut self.groups {
            if !group.phase.runs() && group.phase != Phase::NotBuilt {
                group.phase = Phase::Stopped;
            }
        }
        for i in 0..self.groups.len() {
            let needed = self
                .groups
                .iter()
                .any(|g| g.phase.runs() && (g.member.needs.contains(&i) || g.member.waits_for.contains(&i)));
            let group = &mut self.groups[i];
            if matches!(group.phase, Phase::Starting | Phase::Ready) && !needed {
                group.phase = Phase::Stopping;
                out.push(Output::Stop(i));
            }
        }
        if !self.ended && self.groups.iter().all(|g| !g.phase.runs()) {
            self.ended = true;
            out.push(Output::Ended);
        }
    }
}

#[cfg(test)]
mod tests;

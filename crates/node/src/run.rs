//! The node itself: turns what happens into inputs of the order, and the order's outputs into deeds.

mod describe;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tandem_process::usage;
use tandem_types::{Code, Fault, GroupId, GroupName, NodeName, Timestamp, reason};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::control;
use crate::ends;
use crate::group::{News, Run, Runner};
use crate::layout::Layout;
use crate::link::{self, Link, LinkConfig, PeerStatus};
use crate::lock::DataLock;
use crate::logic::budget::{Flaps, WINDOW};
use crate::logic::forecast::{StartTimes, Times, forecast};
use crate::logic::watch::Verdict;
use crate::logic::{Ending, Input, Machine, Member, Moment, Output, Phase};
use crate::machine::Sampler;
use crate::probes::Health;
use crate::spec::GroupSpec;
use crate::stale::Orphan;
use crate::starts::{self, starts};
use crate::status::{EndKind, Event, ExitStatus, GroupState, GroupStatus, Happening, LinkStatus, NodeStatus};

/// Events that a slow follower may be behind before it is given a fresh picture instead.
const EVENTS: usize = 256;

/// Time between two measurements of what the machine and its groups use.
const MEASURE: Duration = Duration::from_secs(2);

/// What a node runs.
#[derive(Debug)]
pub struct NodeConfig {
    /// Its name.
    pub node: NodeName,
    /// The fleet file as it was named.
    pub fleet: String,
    /// Hash of the plan.
    pub plan_hash: String,
    /// Where things are.
    pub layout: Layout,
    /// Its groups in start order.
    pub groups: Vec<GroupSpec>,
    /// Those of them that a dead node left running and that go on as they are.
    pub taken: Vec<Orphan>,
    /// How long a group is waited for before those that need it go on.
    pub start_wait: Duration,
    /// How long groups of a node that is alive are waited for.
    pub peer_wait: Duration,
    /// How long a group has to finish its work.
    pub drain: Duration,
    /// The link to the other nodes; none in a fleet of one.
    pub link: Option<LinkConfig>,
}

enum Order {
    Down,
    Group(Input, usize),
}

struct Shared {
    status: RwLock<NodeStatus>,
    events: broadcast::Sender<Event>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    ended: watch::Sender<bool>,
    began: Instant,
    link: Option<Link>,
}

/// Tells how a node is doing and gives it orders. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

impl NodeHandle {
    /// How it is doing now.
    pub fn status(&self) -> NodeStatus {
        let mut status = self.shared.status.read().unwrap_or_else(PoisonError::into_inner).clone();
        let rss = |pid: u32| usage(pid).map(|u| u.resident_bytes);
        status.rss_bytes = Some(status.pid).and_then(rss);
        for group in &mut status.groups {
            group.rss_bytes = group.pid.and_then(rss);
        }
        status.peers = self.peers();
        status
    }

    /// What it and the other nodes tell each other. Costs less than the whole status, as processes are not looked at.
    pub fn link(&self) -> LinkStatus {
        let groups = {
            let status = self.shared.status.read().unwrap_or_else(PoisonError::into_inner);
            status.groups.iter().map(link::own).collect()
        };
        LinkStatus { groups, peers: self.peers() }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.shared.link.as_ref().map(Link::peers).unwrap_or_default()
    }

    /// The present picture and everything that happens after it. A follower that is more than 256 events behind is told
    /// so and asks again.
    pub fn follow(&self) -> (NodeStatus, broadcast::Receiver<Event>) {
        let events = self.shared.events.subscribe();
        (self.status(), events)
    }

    /// Begins to end everything; [`NodeHandle::ended`] says when that is done.
    pub async fn down(&self) {
        self.order(Order::Down).await;
    }

    /// Ends a group and starts it again, or starts it if it does not run.
    pub async fn restart(&self, group: &GroupName) -> Result<(), Fault> {
        self.group(group, Input::Restart).await
    }

    /// Forgets a group's failures and starts it if it does not run.
    pub async fn clear(&self, group: &GroupName) -> Result<(), Fault> {
        self.group(group, Input::Clear).await
    }

    /// Waits until everything has ended.
    pub async fn ended(&self) {
        // The sender lives in what this handle holds, so that waiting cannot fail.
        let (Ok(_) | Err(_)) = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    async fn group(&self, name: &GroupName, input: fn(usize) -> Input) -> Result<(), Fault> {
        let status = self.status();
        let Some(place) = status.groups.iter().position(|g| g.group.group == *name) else {
            let known = status.groups.iter().map(|g| g.group.group.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Fault::not_found(format!("node {} has no group {name}; it has {known}", status.node)));
        };
        if status.groups[place].state == GroupState::NotBuilt {
            let message = format!("there is no code for any agent of {}", status.groups[place].group);
            return Err(Fault::new(Code::FailedPrecondition, reason::NOT_BUILT, message));
        }
        if status.ending {
            let message = format!("node {} is ending", status.node);
            return Err(Fault::new(Code::FailedPrecondition, reason::DRAINING, message));
        }
        self.order(Order::Group(input(place), place)).await;
        Ok(())
    }

    async fn order(&self, order: Order) {
        let (done, taken) = oneshot::channel();
        if self.shared.orders.send((order, done)).await.is_ok() {
            // A node that ended meanwhile has nothing left to do for the order.
            let (Ok(()) | Err(_)) = taken.await;
        }
    }
}

/// A running node.
pub struct Node {
    handle: NodeHandle,
    socket: PathBuf,
    driver: tokio::task::JoinHandle<()>,
    control: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Opens the control socket and starts the groups. `lock` is the right to the data directory; groups that a dead node
    /// left behind and that are not taken over have been ended by [`crate::end_orphans`] before.
    pub async fn start(config: NodeConfig, lock: DataLock, runner: Arc<dyn Runner>) -> Result<Self, Fault> {
        let (orders, inbox) = mpsc::channel(16);
        let since = SystemTime::now().into();
        let status = NodeStatus {
            node: config.node.clone(),
            fleet: config.fleet.clone(),
            plan_hash: config.plan_hash.clone(),
            pid: std::process::id(),
            rss_bytes: None,
            since,
            settled: false,
            ending: false,
            forecast: forecast(&config.groups, &starts(&config.layout)),
            healthy_ms: None,
            groups: config.groups.iter().map(|spec| first_status(spec, since)).collect(),
            usage: None,
            peers: Vec::new(),
        };
        let shared = Arc::new(Shared {
            status: RwLock::new(status),
            events: broadcast::Sender::new(EVENTS),
            orders,
            ended: watch::Sender::new(false),
            began: Instant::now(),
            link: config.link.clone().map(Link::new),
        });
        let handle = NodeHandle { shared: shared.clone() };
        let socket = config.layout.socket();
        let control = control::serve(&socket, handle.clone()).await?;
        let driver = Driver::new(config, shared, lock, runner);
        Ok(Self { handle, socket, driver: tokio::spawn(driver.run(inbox)), control })
    }

    /// For orders and questions.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Waits until everything has ended, which takes an order to do so.
    pub async fn wait(self) -> Result<(), Fault> {
        let ended = self.driver.await;
        // Whoever followed the end through the socket has a moment to read the last event.
        let end = Instant::now() + Duration::from_millis(500);
        while self.handle.shared.events.receiver_count() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.control.abort();
        control::remove(&self.socket);
        ended.map_err(|e| Fault::internal(format!("the node broke: {e}")))
    }
}

fn first_status(spec: &GroupSpec, since: Timestamp) -> GroupStatus {
    GroupStatus {
        group: spec.id.clone(),
        state: if spec.built { GroupState::Waiting } else { GroupState::NotBuilt },
        reason: String::new(),
        notice: String::new(),
        since,
        pid: None,
        rss_bytes: None,
        restarts: 0,
        ready_ms: None,
        port: spec.contract.port(),
        scrape_port: spec.scrape.port(),
        limits: spec.limits.clone(),
        last_exit: None,
    }
}

/// What the driver keeps of a group besides its place in the order.
#[derive(Default)]
struct Keeping {
    stop: CancellationToken,
    pid: Option<u32>,
    started: Option<Instant>,
    ready_ms: Option<u64>,
    health: Option<Health>,
    verdict: Option<Verdict>,
    flaps: Flaps,
    last_exit: Option<ExitStatus>,
    ended: Option<Instant>,
    /// What holds it to its limits.
    enforcement: Option<String>,
}

struct Driver {
    /// When it began.
    since: Timestamp,
    config: NodeConfig,
    shared: Arc<Shared>,
    lock: DataLock,
    runner: Arc<dyn Runner>,
    machine: Machine,
    groups: Vec<Keeping>,
    news: mpsc::Sender<(usize, News)>,
    inbox: mpsc::Receiver<(usize, News)>,
    settled: mpsc::Sender<usize>,
    settlings: mpsc::Receiver<usize>,
    tasks: JoinSet<()>,
}

impl Driver {
    /// The time on the clock of the order of starts. It begins where what former nodes saw still counts.
    fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    fn moment(&self, at: Instant) -> Moment {
        WINDOW + at.saturating_duration_since(self.shared.began)
    }

    fn instant(&self, at: Moment) -> Instant {
        self.shared.began + at.saturating_sub(WINDOW)
    }

    fn new(config: NodeConfig, shared: Arc<Shared>, lock: DataLock, runner: Arc<dyn Runner>) -> Self {
        let place = |name: &GroupName| config.groups.iter().position(|g| g.id.group == *name);
        let members = config.groups.iter().map(|group| Member {
            needs: group.needs.iter().filter_map(place).collect(),
            waits_for: group.waits_for.iter().filter_map(place).collect(),
            has_peers: !group.after.is_empty(),
            built: group.built,
        });
        let machine = Machine::new(members.collect(), config.start_wait);
        let (news, inbox) = mpsc::channel(64);
        let (settled, settlings) = mpsc::channel(64);
        let groups = config.groups.iter().map(|_| Keeping::default()).collect();
        let tasks = JoinSet::new();
        let since = SystemTime::now().into();
        Self { since, config, shared, lock, runner, machine, groups, news, inbox, settled, settlings, tasks }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
        self.remember();
        self.take_over();
        if let Some(link) = self.shared.link.clone() {
            self.tasks.spawn(link.run());
        }
        self.tasks.spawn(measure(self.shared.clone()));
        let mut input = Some(Input::Tick);
        loop {
            let outputs = input.map(|input| self.machine.step(self.now(), input)).unwrap_or_default();
            let ended = outputs.contains(&Output::Ended);
            outputs.into_iter().for_each(|output| self.perform(output));
            self.tell();
            if ended {
                break;
            }
            let wake = self.machine.wake().map(|at| self.instant(at));
            input = tokio::select! {
                Some((place, news)) = self.inbox.recv() => self.heard(place, news),
                Some(place) = self.settlings.recv() => Some(Input::PeersSettled(place)),
                Some((order, done)) = orders.recv() => {
                    // The order is taken; whoever gave it may have left.
                    let (Ok(()) | Err(())) = done.send(());
                    Some(match order {
                        Order::Down => Input::Down,
                        Order::Group(input, place) => {
                            tracing::info!(group = %self.config.groups[place].id, "told to start anew");
                            input
                        }
                    })
                }
                () = until(wake) => Some(Input::Tick),
            };
        }
        self.tasks.shutdown().await;
        self.lock.clear();
        self.shared.ended.send_replace(true);
        self.emit(Happening::Ended);
    }

    fn emit(&self, what: Happening) {
        let at_ms = u64::try_from(self.shared.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Nobody need be following.
        let (Ok(_) | Err(_)) = self.shared.events.send(Event { at_ms, what });
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Start(i) => self.start(i),
            Output::Stop(i) => self.groups[i].stop.cancel(),
            Output::AwaitPeers(i) => {
                let (groups, most) = (self.config.groups[i].after.clone(), self.config.peer_wait);
                let (settled, link) = (self.settled.clone(), self.shared.link.clone());
                self.tasks.spawn(async move {
                    if let Some(link) = link
                        && tokio::time::timeout(most, link.settled(&groups)).await.is_err()
                    {
                        tracing::warn!(?groups, "not ready on the other node in time: going on without");
                    }
                    // The driver may have ended meanwhile.
                    let (Ok(()) | Err(_)) = settled.send(i).await;
                });
            }
            Output::Late(i) => {
                let (group, waited_s) = (self.config.groups[i].id.clone(), self.config.start_wait.as_secs());
                tracing::warn!(%group, waited_s, "not ready in time: the start goes on without it");
                self.emit(Happening::Late { group, waited_s });
            }
            Output::Ended => {}
        }
    }

    /// A node that died is no reason to restart more often: what ended under it counts.
    fn remember(&mut self) {
        if self.lock.former().is_none() {
            return;
        }
        let (now, wall): (Moment, Timestamp) = (self.now(), SystemTime::now().into());
        let mut seen = Vec::new();
        for (i, spec) in self.config.groups.iter().enumerate() {
            let ends = ends::of(&self.config.layout, &spec.id).into_iter().filter(|end| end.kind != EndKind::Ordered);
            seen.extend(ends.filter_map(|end| Some((now.checked_sub(wall.since(end.at))?, i))));
        }
        seen.sort_unstable();
        for (at, i) in seen {
            self.machine.step(now, Input::EndedBefore(i, at));
        }
    }

    /// Goes on with what a dead node left running, before anything is started.
    fn take_over(&mut self) {
        for orphan in std::mem::take(&mut self.config.taken) {
            let Some(i) = self.config.groups.iter().position(|spec| spec.id == orphan.group) else { continue };
            tracing::info!(group = %orphan.group, pid = orphan.pid, "taken over from a node that died");
            let input = Input::TookOver { group: i, ready: orphan.ready.is_some(), restarts: orphan.restarts };
            self.machine.step(self.now(), input);
            let now: Timestamp = SystemTime::now().into();
            self.groups[i] = Keeping {
                started: Instant::now().checked_sub(now.since(orphan.since)),
                ready_ms: orphan.ready.map(|ready| ready.ms),
                ..Keeping::default()
            };
            {
                let mut status = self.shared.status.write().unwrap_or_else(PoisonError::into_inner);
                let (state, since) = match orphan.ready {
                    Some(ready) => (GroupState::Ready, ready.at),
                    None => (GroupState::Starting, orphan.since),
                };
                (status.groups[i].state, status.groups[i].since) = (state, since);
            }
            self.attend(i, Some(orphan));
        }
    }

    fn start(&mut self, i: usize) {
        let former = std::mem::take(&mut self.groups[i]);
        self.groups[i] = Keeping {
            started: Some(Instant::now()),
            last_exit: former.last_exit,
            flaps: former.flaps,
            ..Keeping::default()
        };
        self.attend(i, None);
    }

    fn attend(&mut self, i: usize, taken: Option<Orphan>) {
        let run = Run {
            place: i,
            spec: self.config.groups[i].clone(),
            taken,
            restarts: self.machine.restarts(i),
            drain: self.config.drain,
            stop: self.groups[i].stop.clone(),
            news: self.news.clone(),
        };
        let (runner, news) = (self.runner.clone(), self.news.clone());
        self.tasks.spawn(async move {
            let end = runner.run(run).await;
            // The node waits for the end of every run.
            let (Ok(()) | Err(_)) = news.send((i, News::Ended(end))).await;
        });
    }

    fn heard(&mut self, i: usize, news: News) -> Option<Input> {
        let now = self.now();
        let id = &self.config.groups[i].id;
        let group = &mut self.groups[i];
        match news {
            News::Spawned(pid, enforcement) => {
                tracing::info!(group = %id, pid, limits = enforcement, "started");
                group.pid = Some(pid);
                group.enforcement = Some(enforcement);
                None
            }
            News::Ready => {
                group.ready_ms = group.started.and_then(|at| u64::try_from(at.elapsed().as_millis()).ok());
                tracing::info!(group = %id, ready_ms = group.ready_ms, "ready");
                Some(Input::Ready(i))
            }
            News::Health(health) => {
                if group.health.as_ref().map(|h| h.state) != Some(health.state) {
                    tracing::info!(group = %id, state = %health.state, cause = health.cause, "health");
                }
                group.flaps.seen(now, health.state.serves());
                group.health = Some(health);
                None
            }
            News::Verdict(verdict) => {
                if group.verdict.unwrap_or(Verdict::Well) != verdict {
                    tracing::info!(group = %id, ?verdict, "watched");
                }
                group.verdict = Some(verdict);
                None
            }
            News::Ended(end) => {
                let pid = group.pid.take();
                group.health = None;
                group.verdict = None;
                group.ended = Some(Instant::now());
                let ordered = self.machine.phase(i) == Phase::Stopping;
                let exit = ExitStatus {
                    kind: if ordered { EndKind::Ordered } else { end.kind },
                    how: end.how,
                    at: SystemTime::now().into(),
                    pid,
                    peak_bytes: end.peak_bytes,
                    evidence: end.evidence,
                };
                if let Err(fault) = ends::keep(&self.config.layout, id, &exit) {
                    tracing::warn!(%fault, "an end is not kept");
                }
                if ordered {
                    tracing::info!(group = %id, how = exit.how, "ended");
                } else {
                    let evidence = exit.evidence.join(" | ");
                    tracing::warn!(group = %id, kind = exit.kind.as_str(), how = exit.how, evidence, "ended by itself");
                    group.last_exit = Some(exit);
                }
                let since = end.since.map(|at| self.moment(at));
                Some(Input::Exited(i, Ending { since, chance: rand::random() }))
            }
        }
    }

    /// Keeps how long the start took, when it was one: every group ready, none taken over or started twice. Answers in
    /// milliseconds how long.
    fn keep_start(&self, missing: &[GroupId]) -> Option<u64> {
        let built = || (0..self.groups.len()).filter(|i| self.config.groups[*i].built);
        if !missing.is_empty() || built().any(|i| self.machine.restarts(i) > 0) {
            return None;
        }
        let times = built().map(|i| {
            let group = &self.groups[i];
            let started = group.started?.checked_duration_since(self.shared.began)?;
            let started_ms = u64::try_from(started.as_millis()).ok()?;
            let times = Times { started_ms, ready_ms: started_ms + group.ready_ms? };
            Some((self.config.groups[i].id.group.clone(), times))
        });
        let groups: BTreeMap<GroupName, Times> = times.collect::<Option<_>>()?;
        let total = groups.values().map(|times| times.ready_ms).max()?;
        if let Err(fault) = starts::keep(&self.config.layout, StartTimes { at: SystemTime::now().into(), groups }) {
            tracing::warn!(%fault, "the next start is foretold without this one");
        }
        Some(total)
    }

    /// Brings the status up to date and tells followers what has changed.
    fn tell(&self) {
        let now: Timestamp = SystemTime::now().into();
        let mut happenings = Vec::new();
        {
            let mut status = self.shared.status.write().unwrap_or_else(PoisonError::into_inner);
            status.ending = self.machine.is_down();
            for i in 0..self.groups.len() {
                let notice = self.notice(i);
                let (state, reason) = self.describe(i, &notice);
                let old = &mut status.groups[i];
                let group = &self.groups[i];
                let mut limits = old.limits.clone();
                if let Some(enforcement) = &group.enforcement {
                    limits.enforcement.clone_from(enforcement);
                }
                let new = GroupStatus {
                    limits,
                    state,
                    reason,
                    notice,
                    since: if state == old.state { old.since } else { now },
                    pid: group.pid,
                    restarts: self.machine.restarts(i),
                    ready_ms: group.ready_ms,
                    last_exit: group.last_exit.clone(),
                    ..old.clone()
                };
                if new != *old {
                    *old = new.clone();
                    happenings.push(Happening::Group(Box::new(new)));
                }
            }
            if !status.settled && !status.ending && self.machine.is_settled() {
                status.settled = true;
                let ready = |g: &&GroupStatus| {
                    matches!(g.state, GroupState::Ready | GroupState::Degraded | GroupState::NotBuilt)
                };
                let missing: Vec<GroupId> =
                    status.groups.iter().filter(|g| !ready(g)).map(|g| g.group.clone()).collect();
                status.healthy_ms = self.keep_start(&missing);
                happenings.push(Happening::Settled { missing });
            }
            if let Some(link) = &self.shared.link {
                link.publish(&status);
            }
        }
        happenings.into_iter().for_each(|what| self.emit(what));
    }
}

/// Measures what is used here; never ends by itself.
async fn measure(shared: Arc<Shared>) {
    let mut sampler = Sampler::default();
    loop {
        let running = |group: &GroupStatus| Some((group.group.group.clone(), group.pid?));
        let groups: Vec<_> = {
            let status = shared.status.read().unwrap_or_else(PoisonError::into_inner);
            status.groups.iter().filter_map(running).collect()
        };
        let usage = sampler.measure(&groups, SystemTime::now().into());
        if let Some(link) = &shared.link {
            link.publish_use(&usage);
        }
        shared.status.write().unwrap_or_else(PoisonError::into_inner).usage = Some(usage);
        tokio::time::sleep(MEASURE).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

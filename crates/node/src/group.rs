//! Runs one group from its start to its end, as a process or in whatever other way the caller brings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use tandem_process::{Adopt, Child, ControlGroup, ControlGroups, Enforcement, Handle, LogFile, Spawn, Stat, threads};
use tandem_types::{Fault, GroupId, State, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::adopt::{Left, sort};
use crate::layout::Layout;
use crate::logic::watch::Verdict;
use crate::probes::{Health, Hung, Signs};
use crate::spec::{GroupSpec, Launch};
use crate::stale::{Orphan, Readiness, boot, orphans};
use crate::status::EndKind;

/// Time between two looks at how much memory a process has.
const LOOK: Duration = Duration::from_secs(30);
/// Grace for a process that hangs.
const HUNG_GRACE: Duration = Duration::from_millis(500);
/// How often a process that was taken over before it was ready is asked whether it is, and how long it has to answer.
const ASK: Duration = Duration::from_millis(500);

/// Runs groups. A node has one for all of them.
pub trait Runner: Send + Sync + 'static {
    /// Starts a group, says so through `run`, stays until it has ended by itself or as [`Run::stopped`] asks.
    fn run(&self, run: Run) -> BoxFuture<'static, End>;
}

/// How a group's run ended.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// What kind of end it was, if nobody ordered it.
    pub kind: EndKind,
    /// In words, such as `killed by SIGKILL`.
    pub how: String,
    /// Since when it was in trouble, where it was before its end.
    pub since: Option<Instant>,
    /// Most memory it had.
    pub peak_bytes: Option<u64>,
    /// What its threads did when it hung, and its last log lines, oldest first.
    pub evidence: Vec<String>,
}

/// What a run tells its node.
#[derive(Debug)]
pub(crate) enum News {
    Spawned(u32, String),
    Ready,
    Health(Health),
    Verdict(Verdict),
    Ended(End),
}

/// One run of a group: what to run, and how to tell the node about it.
pub struct Run {
    pub(crate) place: usize,
    pub(crate) spec: GroupSpec,
    /// The process that runs already.
    pub(crate) taken: Option<Orphan>,
    /// How often the group was started again.
    pub(crate) restarts: u32,
    pub(crate) drain: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) news: mpsc::Sender<(usize, News)>,
}

impl Run {
    /// What to run.
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// How long the group has to finish its work once it is to end.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// Its process runs, and this holds it to its limits.
    pub async fn spawned(&self, pid: u32, enforcement: String) {
        self.tell(News::Spawned(pid, enforcement)).await;
    }

    /// It is ready.
    pub async fn ready(&self) {
        self.tell(News::Ready).await;
    }

    /// Waits until the group is to end.
    pub fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Waits until the group's health says that it has started.
    async fn has_started(&self) {
        loop {
            if Health::ask(self.spec.contract, ASK).await.is_ok_and(|health| health.state != State::Starting) {
                return;
            }
            tokio::time::sleep(ASK).await;
        }
    }

    pub(crate) async fn tell(&self, news: News) {
        // The node waits for the end of every run, so that somebody listens as long as one speaks.
        let (Ok(()) | Err(_)) = self.news.send((self.place, news)).await;
    }
}

/// Runs each group as a process that says READY by itself.
pub struct Processes {
    layout: Layout,
    margin: Duration,
    launch: Box<dyn Fn(&GroupSpec) -> Launch + Send + Sync>,
    caps: Result<ControlGroups, String>,
    handles: Handles,
}

/// Sockets of groups that were told to end, for those that are started anew.
type Handles = Arc<Mutex<BTreeMap<GroupId, Vec<Handle>>>>;

impl Processes {
    /// `launch` says how a group's process is started. A process that has not ended `margin` after its drain is ended by
    /// force.
    pub fn new(
        layout: Layout,
        margin: Duration,
        launch: impl Fn(&GroupSpec) -> Launch + Send + Sync + 'static,
    ) -> Self {
        Self {
            layout,
            margin,
            launch: Box::new(launch),
            caps: Err("nobody asked for it".to_owned()),
            handles: Handles::default(),
        }
    }

    /// Holds the processes to their limits, or says why nothing does.
    #[must_use]
    pub fn capped(self, caps: Result<ControlGroups, String>) -> Self {
        Self { caps, ..self }
    }

    /// What a dead node left running of this directory: what these would be started as goes on, everything else is to
    /// end. Only meaningful for who holds the directory's lock.
    pub fn left(&self, groups: &[GroupSpec]) -> Left {
        sort(orphans(&self.layout), groups, &self.layout, &self.launch)
    }
}

impl Runner for Processes {
    fn run(&self, run: Run) -> BoxFuture<'static, End> {
        let (name, wanted) = (run.spec.id.group.as_str(), run.spec.limits.caps());
        let caps = match &run.taken {
            Some(orphan) => ControlGroup::of(orphan.pid, name, &wanted),
            None => self.caps.clone().and_then(|groups| groups.make(name, &wanted)),
        };
        let process = Process {
            launch: (self.launch)(&run.spec),
            layout: self.layout.clone(),
            margin: self.margin,
            run,
            caps,
            handles: self.handles.clone(),
        };
        Box::pin(process.attend())
    }
}

struct Process {
    run: Run,
    layout: Layout,
    margin: Duration,
    launch: Launch,
    caps: Result<ControlGroup, String>,
    handles: Handles,
}

impl Process {
    async fn attend(self) -> End {
        let begun = match &self.run.taken {
            Some(orphan) => self.adopt(orphan).map(|child| (child, Some(orphan.clone()))),
            None => self.spawn(),
        };
        let end = match begun {
            Ok((child, record)) => self.stay(child, record).await,
            Err(fault) => {
                let how = if self.run.taken.is_some() { "could not be taken over" } else { "could not be started" };
                End { how: how.into(), evidence: vec![fault.message], ..End::default() }
            }
        };
        // It names a process that has ended; the next start replaces it.
        let (Ok(()) | Err(_)) = std::fs::remove_file(self.layout.record(&self.run.spec.id));
        if let Ok(group) = &self.caps
            && let Err(error) = group.remove()
        {
            // The next start takes it as it is.
            tracing::debug!(group = %self.run.spec.id, %error, "its control group stays");
        }
        end
    }

    fn spawn(&self) -> Result<(Child, Option<Orphan>), Fault> {
        let id = &self.run.spec.id;
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner).remove(id).unwrap_or_default();
        let spec = Spawn {
            name: id.to_string(),
            program: self.launch.program.clone(),
            args: self.launch.args.clone(),
            env: self.launch.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            log: LogFile::new(self.layout.log(id)),
            notify: self.layout.notify(self.run.place),
            caps: self.caps.as_ref().ok().cloned(),
        };
        let child = Child::spawn_with(&spec, handles)?;
        // Of one that has ended already there is nothing to write down.
        let mut record = Stat::of(child.pid()).filter(|stat| !stat.has_ended()).map(|stat| Orphan {
            group: id.clone(),
            pid: child.pid(),
            started_ticks: stat.started_ticks(),
            boot: boot(),
            place: self.run.place,
            since: SystemTime::now().into(),
            ready: None,
            restarts: self.run.restarts,
            limits: Some(self.run.spec.limits.clone()),
            reads: self.launch.reads.clone(),
            ending: false,
        });
        // On a full disk it may serve all the same.
        self.note(&mut record, |_| {});
        Ok((child, record))
    }

    fn adopt(&self, orphan: &Orphan) -> Result<Child, Fault> {
        let id = &self.run.spec.id;
        Child::adopt(&Adopt {
            name: id.to_string(),
            pid: orphan.pid,
            started_ticks: orphan.started_ticks,
            log: LogFile::new(self.layout.log(id)),
            notify: self.layout.notify(self.run.place),
            caps: self.caps.as_ref().ok().cloned(),
        })
    }

    /// Writes down what has become of its process, for a node that may come after this one.
    fn note(&self, record: &mut Option<Orphan>, change: impl FnOnce(&mut Orphan)) {
        let Some(record) = record else { return };
        change(record);
        if let Err(fault) = record.write(&self.layout.record(&self.run.spec.id)) {
            tracing::warn!(group = %self.run.spec.id, %fault, "a node that comes after this one would end the group");
        }
    }

    fn enforcement(&self, pid: u32) -> Enforcement {
        match &self.caps {
            Ok(group) if group.holds(pid) => group.enforcement().clone(),
            Ok(_) => Enforcement::none("the process is not in its control group"),
            Err(why) => Enforcement::none(why),
        }
    }

    async fn stay(&self, mut child: Child, mut record: Option<Orphan>) -> End {
        self.run.spawned(child.pid(), self.enforcement(child.pid()).to_string()).await;
        if record.as_ref().is_none_or(|record| record.ready.is_none()) {
            tokio::select! {
                ready = child.ready(Duration::MAX) => if ready.is_err() {
                    return self.end(child.exited().await, " before it was ready");
                },
                // It may have said so while nobody listened.
                () = self.run.has_started(), if self.run.taken.is_some() => {}
                () = self.run.stopped() => return self.stop(child, record).await,
            }
            self.note(&mut record, |record| {
                let at: Timestamp = SystemTime::now().into();
                let ms = u64::try_from(at.since(record.since).as_millis()).unwrap_or(u64::MAX);
                record.ready = Some(Readiness { at, ms });
            });
            self.run.ready().await;
        }
        let mut looks = tokio::time::interval(LOOK);
        let mut watch = std::pin::pin!(self.run.watch(Some(child.pid()), Signs::Heartbeats(child.messages())));
        loop {
            tokio::select! {
                exit = child.exited() => return self.end(exit, ""),
                () = self.run.stopped() => return self.stop(child, record).await,
                hung = &mut watch => return self.end_hung(child, hung).await,
                _ = looks.tick() => drop(child.usage()),
            }
        }
    }

    async fn end_hung(&self, mut child: Child, hung: Hung) -> End {
        tracing::warn!(group = %self.run.spec.id, how = hung.how, "hangs: ending it");
        let mut evidence = threads(child.pid());
        let end = self.end(child.stop(HUNG_GRACE).await, &format!(", after {}", hung.how));
        evidence.extend(end.evidence);
        End { kind: EndKind::Hang, since: Some(hung.since), evidence, ..end }
    }

    async fn stop(&self, mut child: Child, mut record: Option<Orphan>) -> End {
        self.note(&mut record, |record| record.ending = true);
        let (messages, exit) = (child.messages(), child.stop(self.run.drain + self.margin).await);
        // It was told to end. Who connects meanwhile waits for the next one; of one that ended by itself nobody knows when
        // there is a next.
        let kept = messages.take_handles();
        if !kept.is_empty() {
            let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
            handles.insert(self.run.spec.id.clone(), kept);
        }
        self.end(exit, "")
    }

    fn end(&self, exit: tandem_process::Exit, circumstances: &str) -> End {
        let foreign = exit.code.is_none() && exit.signal.is_none() && self.run.taken.is_some();
        let whose = if foreign { ": it was started by a node that died" } else { "" };
        let kind = if exit.out_of_memory.is_some() { EndKind::OutOfMemory } else { EndKind::Crash };
        let how = format!("{exit}{whose}{circumstances}");
        End { kind, how, since: None, peak_bytes: exit.peak_bytes, evidence: exit.evidence }
    }
}

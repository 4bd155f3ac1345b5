//! Runs one group from its start to its end, as a process or in whatever other way the caller brings.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use tandem_process::{Caps, Child, ControlGroup, ControlGroups, Enforcement, LogFile, Spawn};
use tandem_types::{Fault, State};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::http::get;
use crate::layout::Layout;
use crate::logic::Silence;
use crate::spec::{GroupSpec, Launch, Limits};
use crate::stale::Orphan;

/// Time between two health probes of a group that is ready.
const PROBE_PERIOD: Duration = Duration::from_secs(30);
/// How long one probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Processes and threads of a group; no group needs a tenth of it.
const TASKS: u64 = 2_048;
/// Grace for a process that no longer answers.
const HUNG_GRACE: Duration = Duration::from_secs(5);

/// Runs groups. A node has one for all of them.
pub trait Runner: Send + Sync + 'static {
    /// Starts a group, says so through `run`, stays until it has ended by itself or as [`Run::stopped`] asks.
    fn run(&self, run: Run) -> BoxFuture<'static, End>;
}

/// How a group's run ended.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// In words, such as `killed by SIGKILL`.
    pub how: String,
    /// Its last log lines, oldest first.
    pub evidence: Vec<String>,
}

/// What a run tells its node.
#[derive(Debug)]
pub(crate) enum News {
    Spawned(u32, String),
    Ready,
    Health(State, String),
    Ended(End),
}

/// One run of a group: what to run, and how to tell the node about it.
pub struct Run {
    pub(crate) place: usize,
    pub(crate) spec: GroupSpec,
    pub(crate) drain: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) news: mpsc::Sender<(usize, News)>,
}

#[derive(Deserialize)]
struct Health {
    state: State,
    cause: String,
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

    /// Asks for the group's health again and again; returns when it no longer answers.
    pub async fn probe(&self) {
        let mut silence = Silence::default();
        loop {
            let health = match get(self.spec.contract, "/health", PROBE_LIMIT).await {
                Ok(answer) => serde_json::from_slice::<Health>(&answer.body).map_err(|e| e.to_string()),
                Err(fault) => Err(fault.message),
            };
            let answered = health.is_ok();
            match health {
                Ok(Health { state, cause }) => self.tell(News::Health(state, cause)).await,
                Err(cause) => tracing::warn!(group = %self.spec.id, cause, "a health probe got no answer"),
            }
            if silence.heard(answered) {
                return;
            }
            tokio::time::sleep(PROBE_PERIOD).await;
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
}

impl Processes {
    /// `launch` says how a group's process is started. A process that has not ended `margin` after its drain is ended by
    /// force.
    pub fn new(
        layout: Layout,
        margin: Duration,
        launch: impl Fn(&GroupSpec) -> Launch + Send + Sync + 'static,
    ) -> Self {
        Self { layout, margin, launch: Box::new(launch), caps: Err("nobody asked for it".to_owned()) }
    }

    /// Holds the processes to their limits, or says why nothing does.
    #[must_use]
    pub fn capped(self, caps: Result<ControlGroups, String>) -> Self {
        Self { caps, ..self }
    }
}

impl Runner for Processes {
    fn run(&self, run: Run) -> BoxFuture<'static, End> {
        let caps =
            self.caps.clone().and_then(|groups| groups.make(run.spec.id.group.as_str(), &caps(&run.spec.limits)));
        let process =
            Process { launch: (self.launch)(&run.spec), layout: self.layout.clone(), margin: self.margin, run, caps };
        Box::pin(process.attend())
    }
}

struct Process {
    run: Run,
    layout: Layout,
    margin: Duration,
    launch: Launch,
    caps: Result<ControlGroup, String>,
}

/// What the kernel is told of a group's limits.
fn caps(limits: &Limits) -> Caps {
    Caps {
        memory_bytes: limits.ram_mib.map(|mib| mib << 20),
        cpus: limits.cpu,
        cpu_weight: limits.cpu_weight,
        tasks: TASKS,
    }
}

impl Process {
    async fn attend(self) -> End {
        let end = match self.spawn() {
            Ok(child) => self.stay(child).await,
            Err(fault) => End { how: "could not be started".into(), evidence: vec![fault.message] },
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

    fn spawn(&self) -> Result<Child, Fault> {
        let id = &self.run.spec.id;
        let child = Child::spawn(&Spawn {
            name: id.to_string(),
            program: self.launch.program.clone(),
            args: self.launch.args.clone(),
            env: self.launch.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            log: LogFile::new(self.layout.log(id)),
            notify: self.layout.notify(self.run.place),
            caps: self.caps.as_ref().ok().cloned(),
        })?;
        if let Some(record) = Orphan::of(id, child.pid(), self.run.place) {
            record.write(&self.layout.record(id))?;
        }
        Ok(child)
    }

    fn enforcement(&self, pid: u32) -> Enforcement {
        match &self.caps {
            Ok(group) if group.holds(pid) => group.enforcement().clone(),
            Ok(_) => Enforcement::none("the process is not in its control group"),
            Err(why) => Enforcement::none(why),
        }
    }

    async fn stay(&self, mut child: Child) -> End {
        let grace = self.run.drain + self.margin;
        self.run.spawned(child.pid(), self.enforcement(child.pid()).to_string()).await;
        tokio::select! {
            ready = child.ready(Duration::MAX) => if ready.is_err() {
                return end(child.exited().await, " before it was ready");
            },
            () = self.run.stopped() => return end(child.stop(grace).await, ""),
        }
        self.run.ready().await;
        tokio::select! {
            exit = child.exited() => return end(exit, ""),
            () = self.run.stopped() => {}
            () = self.run.probe() => {
                let why = format!(", after it left /health unanswered {} times in a row", Silence::MOST);
                return end(child.stop(HUNG_GRACE).await, &why);
            }
        }
        end(child.stop(grace).await, "")
    }
}

fn end(exit: tandem_process::Exit, circumstances: &str) -> End {
    End { how: format!("{exit}{circumstances}"), evidence: exit.evidence }
}

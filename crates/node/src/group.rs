//! Owns the process of one group from its start to its end.

use std::time::Duration;

use serde::Deserialize;
use tandem_process::{Child, Exit, LogFile, Spawn};
use tandem_types::{Fault, State};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::http::get;
use crate::layout::Layout;
use crate::logic::Silence;
use crate::spec::GroupSpec;
use crate::stale::Orphan;

/// Time between two health probes of a group that is ready.
const PROBE_PERIOD: Duration = Duration::from_secs(30);
/// How long one probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Grace for a process that no longer answers.
const HUNG_GRACE: Duration = Duration::from_secs(5);

/// What the keeper of a process tells.
#[derive(Debug)]
pub(crate) enum News {
    /// The process runs.
    Spawned(u32),
    /// It said READY.
    Ready,
    /// It answered a health probe.
    Health(State, String),
    /// It ended, or could not be started; in the second case the words say why.
    Exited(Option<Exit>, String),
}

/// Keeps one process.
pub(crate) struct Keeper {
    pub(crate) place: usize,
    pub(crate) spec: GroupSpec,
    pub(crate) layout: Layout,
    pub(crate) grace: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) news: mpsc::Sender<(usize, News)>,
}

#[derive(Deserialize)]
struct Health {
    state: State,
    cause: String,
}

impl Keeper {
    /// Starts the process and stays with it until it has ended.
    pub(crate) async fn keep(self) {
        let (exit, words) = match self.spawn() {
            Ok(child) => {
                let (exit, words) = self.attend(child).await;
                (Some(exit), words)
            }
            Err(fault) => (None, fault.message),
        };
        // It names a process that has ended, and the next start replaces it.
        let (Ok(()) | Err(_)) = std::fs::remove_file(self.layout.record(&self.spec.id));
        self.tell(News::Exited(exit, words)).await;
    }

    async fn tell(&self, news: News) {
        // The node waits for the end of every keeper, so that somebody listens as long as one speaks.
        let (Ok(()) | Err(_)) = self.news.send((self.place, news)).await;
    }

    fn spawn(&self) -> Result<Child, Fault> {
        let launch = &self.spec.launch;
        let child = Child::spawn(&Spawn {
            name: self.spec.id.to_string(),
            program: launch.program.clone(),
            args: launch.args.clone(),
            env: launch.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            log: LogFile::new(self.layout.log(&self.spec.id)),
            notify: self.layout.notify(&self.spec.id),
        })?;
        if let Some(record) = Orphan::of(&self.spec.id, child.pid(), self.place) {
            record.write(&self.layout.record(&self.spec.id))?;
        }
        Ok(child)
    }

    async fn attend(&self, mut child: Child) -> (Exit, String) {
        self.tell(News::Spawned(child.pid())).await;
        tokio::select! {
            ready = child.ready(Duration::MAX) => if ready.is_err() {
                return (child.exited().await, "before it was ready".into());
            },
            () = self.stop.cancelled() => return (child.stop(self.grace).await, String::new()),
        }
        self.tell(News::Ready).await;
        let hung = tokio::select! {
            exit = child.exited() => return (exit, String::new()),
            () = self.stop.cancelled() => false,
            () = self.probe() => true,
        };
        if !hung {
            return (child.stop(self.grace).await, String::new());
        }
        let words = format!("it did not answer /health {} times in a row", Silence::MOST);
        (child.stop(HUNG_GRACE).await, words)
    }

    /// Asks for the group's health again and again; returns when it no longer answers.
    async fn probe(&self) {
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
}

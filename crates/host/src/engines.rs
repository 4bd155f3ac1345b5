//! Engine processes that the group pays for: started with a lease, watched, started again by back-off, stopped.

mod command;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::{Call, rpc};
use tandem_process::{Child, LogFile, LogReader, Spawn, threads, usage};
use tandem_types::{AgentId, Fault, Health, State, Timestamp, reason};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use tandem_agent::{Clock, Peers};

use crate::log_rules;
use crate::logic::Pulse;
use crate::reports::{Reports, Severity};
use command::{args, environment};

/// Longest time an engine may take to load when the caller sets none.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// Lines of an engine that ended by itself that are reported with its end.
const LAST_LINES: usize = 5;
/// How often an engine's output is read for what it tells of failures.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Grace for an engine that hangs.
const HUNG_GRACE: Duration = Duration::from_millis(500);
/// Grace on shutdown of the group.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Where the engine programs are.
#[derive(Debug, Clone)]
pub struct EnginePrograms {
    /// Kind, for example `llama`, to program.
    pub by_kind: BTreeMap<String, PathBuf>,
    /// Folder for engine logs.
    pub logs: PathBuf,
    /// Folder for readiness sockets.
    pub run: PathBuf,
}

struct Engine {
    info: pb::EngineProcess,
    roles: Vec<String>,
    key: Vec<u8>,
    stop: mpsc::Sender<Duration>,
}

/// The engines of one group.
pub(crate) struct Engines {
    programs: EnginePrograms,
    host: AgentId,
    clock: Clock,
    cancel: CancellationToken,
    reports: Arc<Reports>,
    running: Arc<Mutex<BTreeMap<String, Engine>>>,
}

/// An engine with what it is for and whether it can do it.
pub(crate) struct Proven {
    pub(crate) info: pb::EngineProcess,
    pub(crate) roles: Vec<String>,
    /// It has answered a real request within the last ten minutes.
    pub(crate) capable: bool,
}

/// An answer proves an engine capable for this long.
const CAPABLE: Duration = Duration::from_secs(600);
/// How long an engine has to say when it last answered.
const ASK_LIMIT: Duration = Duration::from_millis(300);

impl Engines {
    pub(crate) fn new(
        programs: EnginePrograms,
        host: AgentId,
        clock: Clock,
        cancel: CancellationToken,
        reports: Arc<Reports>,
    ) -> Self {
        Self { programs, host, clock, cancel, reports, running: Arc::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Engine>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn list(&self) -> Vec<pb::EngineProcess> {
        self.lock()
            .values()
            .map(|engine| {
                let mut info = engine.info.clone();
                info.measured_bytes = usage(info.pid).map(|u| u.resident_bytes).or(info.measured_bytes);
                info
            })
            .collect()
    }

    /// An engine that a test runs by other means.
    #[cfg(test)]
    pub(crate) fn adopt(&self, info: pb::EngineProcess, roles: &[&str]) {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let engine = Engine { info: info.clone(), roles, key: vec![], stop: mpsc::channel(1).0 };
        self.lock().insert(info.engine_id, engine);
    }

    /// Every engine, asked when it last answered a real request.
    pub(crate) async fn proven(&self, peers: &Peers) -> Vec<Proven> {
        let roles: BTreeMap<String, Vec<String>> =
            self.lock().iter().map(|(id, engine)| (id.clone(), engine.roles.clone())).collect();
        let asked = self.list().into_iter().map(|info| {
            let roles = roles.get(&info.engine_id).cloned().unwrap_or_default();
            async move {
                let last = self.last_answer(peers, &info).await;
                let capable = last.is_some_and(|at| at > Timestamp(0) && self.clock.now().since(at) <= CAPABLE);
                Proven { info, roles, capable }
            }
        });
        futures::future::join_all(asked).await
    }

    async fn last_answer(&self, peers: &Peers, info: &pb::EngineProcess) -> Option<Timestamp> {
        let client = peers.at(&info.endpoint).ok()?;
        let call = Call::by(&self.host).within(ASK_LIMIT, Instant::now());
        // An engine that does not even say so is not capable now.
        client.unary(rpc::engine::GET_INFO, Default::default(), &call).await.ok().map(|i| Timestamp(i.last_answer_us))
    }

    /// Starts an engine and waits until it has proved itself ready.
    pub(crate) async fn start(&self, request: pb::StartEngineRequest, call: &Call) -> Result<pb::EngineProcess, Fault> {
        if request.lease_bytes == 0 {
            return Err(Fault::invalid_field("lease_bytes", "no engine is started without a lease"));
        }
        if !request.idempotency_key.is_empty() {
            let known = self.lock().values().find(|e| e.key == request.idempotency_key).map(|e| e.info.clone());
            if let Some(info) = known {
                return Ok(info);
            }
        }
        let Some(program) = self.programs.by_kind.get(&request.kind) else {
            let known = self.programs.by_kind.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(Fault::invalid_field(
                "kind",
                format!("`{}` is no engine of this build; known: {known}", request.kind),
            ));
        };
        let id = format!("{}-{}", request.model, &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let spec = Spawn {
            name: format!("{} engine {}", self.host.group_id(), request.model),
            program: program.clone(),
            args: args(&request, &self.host.group_id()),
            env: environment(),
            log: LogFile::new(self.programs.logs.join(format!("engine-{}.log", request.model))),
            notify: self.programs.run.join(format!("{}.notify", &id[id.len() - 8..])),
            // It is in the control group of its host.
            caps: None,
        };
        let limit = call.deadline.map_or(LOAD_LIMIT, |d| d.saturating_duration_since(Instant::now()));
        let mut output = Output {
            log: LogReader::at_end(spec.log.path()),
            host: self.host.clone(),
            reports: self.reports.clone(),
            clock: self.clock.clone(),
        };
        let up = self.bring_up(&spec, &id, &request, limit, 0).await;
        output.read();
        let (child, info) = up?;
        let (stop, stops) = mpsc::channel(1);
        let (roles, key) = (request.roles.clone(), request.idempotency_key.clone());
        let engine = Engine { info: info.clone(), roles, key, stop };
        self.lock().insert(id.clone(), engine);
        tokio::spawn(
            Keeper {
                running: self.running.clone(),
                clock: self.clock.clone(),
                cancel: self.cancel.clone(),
                output,
                id,
                request,
                spec,
            }
            .keep(child, stops),
        );
        Ok(info)
    }

    async fn bring_up(
        &self,
        spec: &Spawn,
        id: &str,
        request: &pb::StartEngineRequest,
        limit: Duration,
        restarts: u32,
    ) -> Result<(Child, pb::EngineProcess), Fault> {
        bring_up(spec, id, request, limit, restarts, &self.clock).await
    }

    /// Stops an engine after its running answers, or after `drain`.
    pub(crate) async fn stop(&self, id: &str, drain: Duration) -> Result<(), Fault> {
        let stop = self.lock().get(id).map(|e| e.stop.clone());
        let stop =
            stop.ok_or_else(|| Fault::not_found(format!("group {} has no engine {id}", self.host.group_id())))?;
        if stop.send(drain).await.is_ok() {
            stop.closed().await;
        }
        Ok(())
    }

    /// Waits until every engine has ended; the group's cancellation tells them to.
    pub(crate) async fn ended(&self) {
        let stops: Vec<_> = self.lock().values().map(|e| e.stop.clone()).collect();
        for stop in stops {
            stop.closed().await;
        }
    }
}

async fn bring_up(
    spec: &Spawn,
    id: &str,
    request: &pb::StartEngineRequest,
    limit: Duration,
    restarts: u32,
    clock: &Clock,
) -> Result<(Child, pb::EngineProcess), Fault> {
    let began = Instant::now();
    let mut child = Child::spawn(spec)?;
    let ready = match child.ready(limit).await {
        Ok(ready) => ready,
        Err(fault) => {
            child.stop(Duration::from_secs(1)).await;
            return Err(fault);
        }
    };
    let Some(endpoint) = ready.get("X_TANDEM_ENDPOINT") else {
        child.stop(Duration::from_secs(1)).await;
        return Err(Fault::internal(format!("{} did not say where it listens", spec.name)));
    };
    let measured = child.usage().resident_bytes;
    info!(engine = id, model = request.model, measured_bytes = measured, "an engine is ready");
    let info = pb::EngineProcess {
        engine_id: id.to_owned(),
        model: request.model.clone(),
        endpoint: endpoint.to_owned(),
        pid: child.pid(),
        health: common::Health::from(&Health::new(State::Ready, "", clock.now())).into(),
        lease_bytes: request.lease_bytes,
        measured_bytes: Some(measured),
        restarts,
        load_seconds: began.elapsed().as_secs_f32(),
        ..Default::default()
    };
    Ok((child, info))
}

/// What an engine prints, read for what it tells of failures.
struct Output {
    log: LogReader,
    host: AgentId,
    reports: Arc<Reports>,
    clock: Clock,
}

impl Output {
    /// Reports what was printed since the last look.
    fn read(&mut self) {
        // An output that cannot be read has nothing to tell; that its disk is ill is told by others.
        for found in self.log.new_lines().unwrap_or_default().iter().filter_map(|line| log_rules::matched(line)) {
            self.reports.note_line(&self.host, found, self.clock.now());
        }
    }
}

/// Owns one engine process until it is told to stop or has failed too often.
struct Keeper {
    running: Arc<Mutex<BTreeMap<String, Engine>>>,
    clock: Clock,
    cancel: CancellationToken,
    output: Output,
    id: String,
    request: pb::StartEngineRequest,
    spec: Spawn,
}

impl Keeper {
    fn set(&self, state: State, cause: &str) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = running.get_mut(&self.id) {
            engine.info.health = common::Health::from(&Health::new(state, cause, self.clock.now())).into();
        }
    }

    fn forget(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }

    async fn keep(mut self, mut child: Child, mut stops: mpsc::Receiver<Duration>) {
        let mut reading = tokio::time::interval(READ_EVERY);
        let mut policy = crate::logic::RestartPolicy::default();
        let mut pulse = Pulse::default();
        let mut restarts = 0;
        loop {
            let messages = child.messages();
            let (exit, hung) = tokio::select! {
                // What came while this process did not run counts before the time that passed.
                biased;
                message = messages.receive() => {
                    if message.is_heartbeat() {
                        pulse.beat(Instant::now());
                    }
                    continue;
                }
                exit = child.exited() => (exit, None),
                _ = reading.tick() => {
                    self.output.read();
                    if !pulse.hangs(Instant::now()) {
                        continue;
                    }
                    let doing = threads(child.pid());
                    (child.stop(HUNG_GRACE).await, Some(doing))
                }
                drain = stops.recv() => {
                    self.set(State::Draining, "stopping");
                    child.stop(drain.unwrap_or(STOP_GRACE)).await;
                    return self.forget();
                }
                () = self.cancel.cancelled() => {
                    child.stop(STOP_GRACE).await;
                    return self.forget();
                }
            };
            let cause = match &hung {
                None => format!("{} ended: {exit}", self.spec.name),
                Some(_) => format!("{} hung: no heartbeat for {} s", self.spec.name, Pulse::SILENCE.as_secs()),
            };
            let evidence: Vec<String> = hung.into_iter().flatten().chain(exit.evidence).collect();
            warn!(engine = self.id, cause, evidence = evidence.join(" | "), "an engine ended by itself or hung");
            metrics::counter!("tandem_engine_restarts_total", "model" => self.request.model.clone()).increment(1);
            let lost = Fault::unavailable(reason::ENGINE_LOST, "");
            self.output.read();
            let last = &evidence[evidence.len().saturating_sub(LAST_LINES)..];
            self.output.reports.note_with(&self.output.host, &lost, Severity::Error, last, self.clock.now());
            // The next process has another port, so whoever holds a ticket asks anew.
            loop {
                let wait = match policy.failed(self.clock.now()) {
                    crate::logic::Next::Restart(wait) => wait,
                    crate::logic::Next::GiveUp => {
                        self.set(State::Failed, &cause);
                        tokio::select! {
                            _ = stops.recv() => {}
                            () = self.cancel.cancelled() => {}
                        }
                        return self.forget();
                    }
                };
                self.set(State::Starting, &format!("starting again in {} s after: {cause}", wait.as_secs()));
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = stops.recv() => return self.forget(),
                    () = self.cancel.cancelled() => return self.forget(),
                }
                restarts += 1;
                let up = bring_up(&self.spec, &self.id, &self.request, LOAD_LIMIT, restarts, &self.clock).await;
                self.output.read();
                match up {
                    Ok((next, info)) => {
                        child = next;
                        pulse = Pulse::default();
                        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(engine) = running.get_mut(&self.id) {
                            engine.info = info;
                        }
                        break;
                    }
                    Err(fault) => warn!(engine = self.id, %fault, "an engine did not come back"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn an_engine_that_cannot_load_is_reported_with_what_it_printed() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("engine");
        std::fs::write(&program, "#!/bin/sh\necho 'cudaMalloc failed: out of memory' >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let programs = EnginePrograms {
            by_kind: [("toy".to_owned(), program)].into(),
            logs: folder.path().join("logs"),
            run: folder.path().to_owned(),
        };
        let reports = Arc::new(Reports::new(true));
        let host = "solo/toys/Host".parse().unwrap();
        let engines = Engines::new(programs, host, Clock::system(), CancellationToken::new(), reports.clone());
        let request = pb::StartEngineRequest {
            kind: "toy".into(),
            model: "m".into(),
            path: "/m".into(),
            lease_bytes: 1,
            ..Default::default()
        };
        let fault = engines.start(request, &Call::default()).await.unwrap_err();
        assert!(fault.message.contains("out of memory"), "{fault}");
        let told = reports.take();
        assert_eq!((told.len(), told[0].reason.as_str(), told[0].count), (1, "out_of_memory", 1));
        assert_eq!(told[0].evidence, ["cudaMalloc failed: out of memory"]);
    }
}

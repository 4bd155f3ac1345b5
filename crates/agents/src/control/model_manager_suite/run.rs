//! Carries out what the desk decides, and tells it what happens outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use metrics::{gauge, histogram};
use serde_json::json;
use tandem_contract::pb::tandem::twin::v1 as twin_pb;
use tandem_contract::rpc::twin;
use tandem_types::{Code, Fault, Timestamp};

use super::books::fresh_key;
use super::logic::{Change, FileState, ModelView, Order, Step};
use super::{CHANGED, Suite};
use crate::control::OVER_LIMIT;

/// How often files are looked at; only changed ones are read.
pub(super) const FILES: Duration = Duration::from_secs(5);
/// How often engines are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How often there may be something to load without anybody having said so.
pub(super) const LOAD: Duration = Duration::from_secs(1);
/// How often it is seen whether an engine should prove itself.
pub(super) const PROVE: Duration = Duration::from_secs(30);
/// How often old counts are removed.
pub(super) const TIDY: Duration = Duration::from_secs(3_600);

/// Signs of life while something takes long.
const BEAT: Duration = Duration::from_secs(5);
/// Looks in a row that may fail before the agent calls itself degraded.
const BLIND: u32 = 3;
/// The twin hears of all leases again after this long, should it have lost them.
const REPORT_AGAIN: Duration = Duration::from_secs(30);
/// Running answers of an engine that is stopped to make room have ended already; this is for its goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What others were told, so that they hear of changes only.
#[derive(Debug, Default)]
pub(super) struct Told {
    leases: Vec<twin_pb::ModelLease>,
    leases_at: Timestamp,
    peaks: BTreeMap<(String, u32, u32), u64>,
    /// Models that the books have in quarantine.
    quarantined: BTreeSet<String>,
    /// Models and roles that have a gauge.
    shown: BTreeSet<(String, String)>,
    blind: u32,
    warm: bool,
}

impl Told {
    /// Nobody was told anything; these models are in quarantine.
    pub(super) fn new(quarantined: BTreeSet<String>) -> Self {
        Self { quarantined, ..Self::default() }
    }
}

impl Suite {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something that may take long, with signs of life.
    async fn patiently<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            self.ctx.beat();
            if let Ok(done) = tokio::time::timeout(BEAT, &mut work).await {
                return done;
            }
        }
    }

    /// Looks at the files of all models, tells the desk, and keeps what is to be kept.
    pub(super) async fn check_files(self: Arc<Self>) -> Result<(), Fault> {
        let names = self.desk().names();
        for name in names {
            let state = self.look_at_file(&name, false).await?;
            self.take_file(&name, state).await?;
            // One that is whole need not wait for the others to be looked at.
            self.stir();
        }
        let now = self.now();
        if !std::mem::replace(&mut self.told().warm, true) {
            self.desk().warm_up(now);
        }
        self.stir();
        self.tell(now).await
    }

    /// How a file is doing; `thoroughly` hashes it whatever was found before.
    async fn look_at_file(&self, name: &str, thoroughly: bool) -> Result<FileState, Fault> {
        let (files, name) = (self.files.clone(), name.to_owned());
        let look = tokio::task::spawn_blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            if thoroughly { files.verify(&name) } else { files.look(&name) }
        });
        self.patiently(look)
            .await
            .map_err(|e| Fault::internal(format!("the thread that looks at model files ended: {e}")))
    }

    async fn take_file(&self, name: &str, state: FileState) -> Result<(), Fault> {
        let before = self.desk().file(name).cloned();
        if before.as_ref() == Some(&state) {
            return Ok(());
        }
        let known = self.told().quarantined.contains(name);
        match &state {
            FileState::Quarantined(why) if !known => {
                tracing::warn!(model = name, why, "the file of a model or an adapter is wrong and not used");
                self.books.quarantine(name, why).await?;
                self.told().quarantined.insert(name.to_owned());
            }
            FileState::Here { path, .. } | FileState::Adapter { path } if known => {
                // Registering the whole file lifts the quarantine.
                let card = self.desk().view(name, self.now()).map(|view| view.card);
                if let Some(card) = card {
                    self.books.register(fresh_key(), &card, path, self.now()).await?;
                }
                self.told().quarantined.remove(name);
            }
            _ => {}
        }
        self.desk().set_file(name, state);
        self.recall(name).await
    }

    /// Takes up what earlier lives measured for the way a model would be started now.
    async fn recall(&self, name: &str) -> Result<(), Fault> {
        let profile = self.desk().wanted_profile(name);
        if let Some(calibration) = self.books.calibration(name, profile).await? {
            self.desk().calibrate(name, profile, calibration);
        }
        Ok(())
    }

    /// Looks after the engines: who died, who came back, what they take.
    pub(super) async fn look(self: Arc<Self>) -> Result<(), Fault> {
        let epoch = self.desk().epoch();
        let listed = self.host.list().await;
        let now = self.now();
        let engines = match listed {
            Ok(engines) => engines,
            Err(fault) => {
                self.blind(&fault);
                return Err(fault);
            }
        };
        self.seeing();
        let strays = self.desk().observe(&engines, epoch, now);
        for engine in strays {
            tracing::warn!(engine, "an engine that serves nobody is stopped");
            self.patiently(self.host.stop(&engine, GOODBYE)).await?;
        }
        self.desk().expire(now);
        self.stir();
        self.keep_peaks(now).await?;
        self.show();
        self.report(now).await;
        self.tell(now).await
    }

    fn blind(&self, fault: &Fault) {
        let mut told = self.told();
        told.blind += 1;
        if told.blind >= BLIND {
            self.ctx
                .health()
                .degraded(format!("the host of {} does not tell of its engines: {}", self.home, fault.message));
        }
    }

    fn seeing(&self) {
        if std::mem::take(&mut self.told().blind) >= BLIND {
            self.ctx.health().ready();
        }
    }

    /// Starts and stops engines until there is nothing more to do.
    pub(super) async fn carry_out(self: Arc<Self>) -> Result<(), Fault> {
        loop {
            let now = self.now();
            let step = self.desk().next_step(now);
            match step {
                Step::Rest => return Ok(()),
                Step::Start(order) => self.start_engine(order).await?,
                Step::Stop { model, engine } => self.stop_engine(&model, &engine).await?,
            }
            self.stir();
            self.tell(self.now()).await?;
        }
    }

    async fn start_engine(&self, order: Order) -> Result<(), Fault> {
        if let Err(fault) = self.ask_twin(&order).await {
            self.desk().not_started(&order.model, fault, self.now());
            return Ok(());
        }
        self.tell(self.now()).await?;
        let begun = std::time::Instant::now();
        let limit = Duration::from_secs(self.settings.load_seconds);
        match self.patiently(self.host.start(&order, limit)).await {
            Ok(seen) => {
                histogram!("tandem_model_load_seconds", "model" => order.model.clone()).record(begun.elapsed());
                self.desk().started(&order.model, &seen, self.now());
                Ok(())
            }
            Err(fault) => {
                tracing::warn!(model = order.model, %fault, "a model did not load");
                let file = self.look_at_file(&order.model, fault.code == Code::Internal).await?;
                self.desk().not_started(&order.model, fault, self.now());
                self.take_file(&order.model, file).await
            }
        }
    }

    /// Refuses a load the machine cannot bear. A twin that does not answer leaves it to the share.
    async fn ask_twin(&self, order: &Order) -> Result<(), Fault> {
        let request = twin_pb::SimulateLoadRequest {
            node: self.home.node.to_string(),
            kind: twin_pb::Kind::KIND_RAM.into(),
            bytes: order.bytes,
            ..Default::default()
        };
        let call = self.ctx.call().within(Duration::from_secs(1), std::time::Instant::now());
        match self.ctx.peers().unary(twin::SIMULATE_LOAD, request, &call).await {
            Ok(answer) if answer.verdict == twin_pb::Verdict::VERDICT_DENY => {
                let message =
                    format!("{} is not loaded, the machine has no room for it: {}", order.model, answer.advice);
                Err(Fault::new(Code::ResourceExhausted, OVER_LIMIT, message))
            }
            Ok(_) => Ok(()),
            Err(fault) => {
                tracing::debug!(%fault, "the twin was not heard about a load");
                Ok(())
            }
        }
    }

    /// Stops an engine and takes its lease back once the host no longer has it.
    async fn stop_engine(&self, model: &str, engine: &str) -> Result<(), Fault> {
        match self.patiently(self.host.stop(engine, GOODBYE)).await {
            Ok(()) => {}
            // It ended by itself; the list below says so.
            Err(fault) if fault.code == Code::NotFound => {}
            Err(fault) => return Err(fault),
        }
        let engines = self.host.list().await?;
        if engines.iter().any(|seen| seen.id == engine) {
            let message = format!("the host of {} stopped engine {engine} and still has it", self.home);
            return Err(Fault::internal(message));
        }
        let freed = self.desk().stopped(model);
        tracing::info!(model, engine, freed_bytes = freed, "a model was unloaded");
        Ok(())
    }

    /// Has each engine write a token that has not answered for long, so that `capable` rests on an answer.
    pub(super) async fn prove(self: Arc<Self>) -> Result<(), Fault> {
        let before = self.now() - Duration::from_secs(self.settings.prove_seconds);
        let unproven = self.desk().unproven(before);
        for (model, endpoint) in unproven {
            match self.host.try_out(&endpoint).await {
                Ok(()) => self.desk().answered(&model, self.now()),
                Err(fault) => tracing::warn!(model, %fault, "a loaded model did not answer a tiny request"),
            }
        }
        Ok(())
    }

    pub(super) async fn tidy(self: Arc<Self>) -> Result<(), Fault> {
        self.books.prune(self.now()).await
    }

    /// Keeps measured peaks that have grown.
    async fn keep_peaks(&self, now: Timestamp) -> Result<(), Fault> {
        let measured = self.desk().calibrations();
        for (model, profile, calibration) in measured {
            let key = (model.clone(), profile.context_tokens, profile.slots);
            if self.told().peaks.get(&key) != Some(&calibration.peak_bytes) {
                self.books.measured(&model, profile, calibration.peak_bytes, now).await?;
                self.told().peaks.insert(key, calibration.peak_bytes);
            }
        }
        Ok(())
    }

    /// Tells the twin what is loaded, when that changed or it may have forgotten. It asks the machine anyway, so a twin
    /// that does not listen is told again later.
    async fn report(&self, now: Timestamp) {
        let models = self.desk().models(now);
        let leases: Vec<twin_pb::ModelLease> = models.iter().filter_map(|view| self.lease(view)).collect();
        {
            let told = self.told();
            if told.leases == leases && now.since(told.leases_at) < REPORT_AGAIN {
                return;
            }
        }
        let request = twin_pb::ReportLeasesRequest {
            node: self.home.node.to_string(),
            models: leases.clone(),
            ..Default::default()
        };
        match self.ctx.peers().unary(twin::REPORT_LEASES, request, &self.ctx.call()).await {
            Ok(_) => {
                let mut told = self.told();
                told.leases = leases;
                told.leases_at = now;
            }
            Err(fault) => tracing::debug!(%fault, "the twin was not told of leases"),
        }
    }

    fn lease(&self, view: &ModelView) -> Option<twin_pb::ModelLease> {
        // Whole MiB, so that a page more or less is no news.
        let whole = |bytes: u64| bytes >> 20 << 20;
        (view.leased_bytes > 0).then(|| twin_pb::ModelLease {
            model: view.card.name.clone(),
            group: self.home.to_string(),
            leased_bytes: view.leased_bytes,
            measured_bytes: view.resident_bytes.map(whole),
            ..Default::default()
        })
    }

    /// Publishes what changed for roles.
    pub(super) async fn tell(&self, now: Timestamp) -> Result<(), Fault> {
        let mut changes = VecDeque::from(self.desk().take_changes(now));
        while let Some(Change { role, model, adapter, state, reason }) = changes.front() {
            let payload = json!({ "role": role, "model": model, "adapter": adapter, "state": state, "reason": reason });
            if let Err(fault) = self.ctx.publisher().publish(CHANGED, role.as_str(), payload).await {
                self.desk().put_back(changes.into());
                return Err(fault);
            }
            changes.pop_front();
        }
        Ok(())
    }

    /// Sets the gauges: states as 0 absent or another model's role, 1 on disk, 2 loading, 3 loaded, 4 quarantined.
    fn show(&self) {
        let now = self.now();
        let (models, roles) = {
            let mut desk = self.desk();
            (desk.models(now), desk.roles(now))
        };
        let mut shown: BTreeMap<(String, String), f64> = BTreeMap::new();
        // What an adapter takes is counted with its model.
        for view in models.into_iter().filter(|view| view.card.base.is_none()) {
            let name = || view.card.name.clone();
            let state = match view.state {
                "on_disk" => 1.0,
                "loading" => 2.0,
                "loaded" => 3.0,
                "quarantined" => 4.0,
                _ => 0.0,
            };
            for role in roles.iter().filter(|role| role.model == view.card.name) {
                shown.insert((name(), role.role.to_string()), state);
            }
            for (kind, bytes) in [("estimate", view.estimate_bytes), ("measured", view.resident_bytes.unwrap_or(0))] {
                gauge!("tandem_model_vram_bytes", "model" => name(), "kind" => kind).set(bytes as f64);
            }
        }
        let left = std::mem::replace(&mut self.told().shown, shown.keys().cloned().collect());
        for (model, role) in left.into_iter().filter(|pair| !shown.contains_key(pair)) {
            // A series cannot be taken back, so a role that went to another model leaves a zero.
            gauge!("tandem_model_state", "model" => model, "role" => role).set(0.0);
        }
        for ((model, role), state) in shown {
            gauge!("tandem_model_state", "model" => model, "role" => role).set(state);
        }
    }
}

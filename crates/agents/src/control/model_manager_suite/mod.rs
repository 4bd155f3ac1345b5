//! Control plane of the engines: knows the models, binds roles to them, loads them into the share that pays, and lends
//! them by ticket.
//!
//! The desk (`logic`) decides, `run` carries out what it decides and keeps it informed, `serve` is the contract. Who asks
//! for a model only touches the desk in memory. Engines are processes under the host of the group that pays; they outlive
//! this agent, which finds them again when it starts.
//!
//! An adapter is kept under its name in a folder that every engine is given, and a ticket names it: the engine lays it
//! over the requests that name it and over no others. Nothing makes room but the policy of last resort in the desk:
//! longest idle first.

mod adapters;
mod books;
mod evaluation;
mod files;
mod host;
mod logic;
mod register;
mod run;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, Topic, TopicKind, bind};
use tandem_contract::Service;
use tandem_contract::rpc::models;
use tandem_engine::catalogue::Catalogue;
use tandem_store::models::SqliteModels;
use tandem_types::{Fault, GroupId, Role, Timestamp};
use tokio::sync::{Notify, watch};

use crate::opening::open;
use books::Books;
use files::{Files, Registered};
use host::EngineHost;
use logic::{Desk, FileState, Limits, Profile, RoleNeed};

/// A role has another state or another model.
const CHANGED: Topic = Topic { name: "model.changed", kind: TopicKind::Journal };

/// The agent.
pub const DEF: AgentDef = AgentDef {
    name: "ModelManagerSuite",
    about: "Binds roles to models, loads them into the share that pays, and lends them by ticket.",
    provides: &[
        models::REGISTER_MODEL.facts(),
        models::LIST_MODELS.facts(),
        models::LIST_ROLES.facts(),
        models::BIND_ROLE.facts(),
        models::LOAD.facts(),
        models::UNLOAD.facts(),
        models::ACQUIRE.facts(),
        models::RELEASE.facts(),
        models::RECORD_USE.facts(),
        models::EVALUATE.facts(),
        models::GET_EVALUATION.facts(),
        models::PUBLISH_ADAPTER.facts(),
        models::ROLLBACK.facts(),
        models::GET_STATS.facts(),
    ],
    needs: &["SystemDigitalTwin", "RequestCoordinator"],
    uses: &["VRAMOptimizerAgent", "RemoteConnectorAgent", "ResourceManager", "AgentTrustScorer"],
    roles: &[],
    publishes: &[CHANGED],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

const MIB: u64 = 1 << 20;
/// Tokens that an engine computes in one step; a host starts engines without saying otherwise, and this is their default.
const BATCH: u32 = 512;

/// Settings of the agent in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// The group that pays for the models and whose host runs them; the agent's own when left out.
    home: Option<GroupId>,
    /// What the group's own process keeps of its RAM.
    reserve_mib: u64,
    /// Folder of model files; the user's cache when left out.
    models: Option<PathBuf>,
    /// Conversations side by side, for roles that are not under `engines`.
    slots: u32,
    /// Engines of single roles.
    engines: BTreeMap<Role, EngineSetting>,
    /// Threads of an engine; 0 lets it choose.
    threads: u32,
    /// How long a ticket lasts.
    ticket_seconds: u64,
    /// Tickets out at once.
    tickets: usize,
    /// How long an engine may take to start.
    load_seconds: u64,
    /// An engine that gave no answer for so long is asked for one token.
    prove_seconds: u64,
}

/// How the engine of a role is started.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineSetting {
    /// Tokens of prompt and answer of one conversation.
    context_tokens: u32,
    /// Conversations side by side.
    slots: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            home: None,
            reserve_mib: 128,
            models: None,
            slots: 2,
            engines: BTreeMap::new(),
            threads: 0,
            ticket_seconds: 600,
            tickets: 1_024,
            load_seconds: 120,
            prove_seconds: 480,
        }
    }
}

impl Settings {
    /// What a role asks of its engine: as set, else as the catalogue says for all conversations together.
    fn needs(&self, catalogue: &Catalogue) -> BTreeMap<Role, RoleNeed> {
        let slots = self.slots.max(1);
        let of_catalogue = catalogue.roles().iter().map(|need| {
            let each = u32::try_from(need.context_tokens / u64::from(slots)).unwrap_or(u32::MAX);
            let profile = Profile { context_tokens: each.max(1), slots };
            (need.role.clone(), RoleNeed { profile, at_most: need.at_most_bytes })
        });
        let mut needs: BTreeMap<Role, RoleNeed> = of_catalogue.collect();
        for (role, set) in &self.engines {
            let profile = Profile { context_tokens: set.context_tokens.max(1), slots: set.slots.max(1) };
            let at_most = needs.get(role).map_or(u64::MAX, |need| need.at_most);
            needs.insert(role.clone(), RoleNeed { profile, at_most });
        }
        needs
    }

    fn limits(&self) -> Limits {
        let profile = Profile { context_tokens: 4_096, slots: self.slots.max(1) };
        Limits {
            ticket_life: Duration::from_secs(self.ticket_seconds),
            tickets: self.tickets.max(1),
            batch: BATCH,
            need: RoleNeed { profile, at_most: u64::MAX },
        }
    }
}

/// Everything the parts of this agent share.
struct Suite {
    ctx: Ctx,
    settings: Settings,
    home: GroupId,
    host: EngineHost,
    books: Books,
    files: Arc<Mutex<Files>>,
    /// Folder of adapters. They are learned and cannot be fetched again, so it is with what is kept and not with models.
    adapters: PathBuf,
    planned: BTreeMap<Role, String>,
    desk: Mutex<Desk>,
    /// Moves whenever somebody who waits should ask again.
    moved: watch::Sender<()>,
    /// Wakes who loads and unloads.
    load: Arc<Notify>,
    /// Wakes who looks after engines.
    look: Arc<Notify>,
    told: Mutex<run::Told>,
    /// Held by the one evaluation that runs.
    evaluating: tokio::sync::Mutex<()>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let home = settings.home.clone().unwrap_or_else(|| ctx.id().group_id());
    let share = ctx.fleet().group(&home).map(|group| group.ram_bytes).ok_or_else(|| {
        Fault::invalid_field("home", format!("the fleet file has no group {home}; name the group that pays for models"))
    })?;
    let (path, folder) = (ctx.data_file("models.db"), settings.models.clone());
    let store = open(move || SqliteModels::open(path)).await?;
    let adapters = ctx.data_file("adapters");
    let swept = adapters.clone();
    let files = open(move || {
        adapters::sweep(&swept);
        Files::open(folder)
    });
    let files = files.await?;
    let planned = planned(&ctx)?;
    let mut desk = Desk::new(
        home.clone(),
        share.saturating_sub(settings.reserve_mib * MIB),
        settings.limits(),
        settings.needs(files.catalogue()),
    );
    let (books, now) = (Books::new(Arc::new(store)), ctx.clock().now());
    let cards = files.cards();
    let (registered, quarantined) = books.enter(&cards, now).await?;
    for card in cards.into_iter().chain(registered.iter().map(|model| model.card.clone())) {
        match card.base {
            None => desk.add_model(card, FileState::Unchecked),
            Some(_) => desk.add_adapter(card, FileState::Unchecked),
        }
    }
    let (words, published) = books.words(&planned).await?;
    desk.set_words(words);
    desk.set_published(published);
    let suite = Arc::new(Suite {
        host: EngineHost::new(&ctx, home.clone(), settings.threads, adapters.clone()),
        adapters,
        files: Arc::new(Mutex::new(with(files, registered))),
        desk: Mutex::new(desk),
        moved: watch::channel(()).0,
        load: Arc::default(),
        look: Arc::default(),
        told: Mutex::new(run::Told::new(quarantined)),
        evaluating: tokio::sync::Mutex::default(),
        ctx,
        settings,
        home,
        books,
        planned,
    });
    Ok(started(&suite))
}

/// What the fleet file binds each role to.
fn planned(ctx: &Ctx) -> Result<BTreeMap<Role, String>, Fault> {
    let parse = |(role, word): (&String, &String)| match role.parse::<Role>() {
        Ok(role) => Ok((role, word.clone())),
        Err(problem) => Err(Fault::invalid_field(format!("roles.{role}"), problem.to_string())),
    };
    ctx.fleet().roles.iter().map(parse).collect()
}

fn with(mut files: Files, registered: Vec<Registered>) -> Files {
    registered.into_iter().for_each(|model| files.add(model));
    files
}

fn started(suite: &Arc<Suite>) -> Started {
    let service = Service::new()
        .unary(models::REGISTER_MODEL, bind(suite, Suite::register_model))
        .unary(models::LIST_MODELS, bind(suite, Suite::list_models))
        .unary(models::LIST_ROLES, bind(suite, Suite::list_roles))
        .unary(models::BIND_ROLE, bind(suite, Suite::bind_role))
        .unary(models::LOAD, bind(suite, Suite::load_model))
        .unary(models::UNLOAD, bind(suite, Suite::unload_model))
        .unary(models::ACQUIRE, bind(suite, Suite::acquire))
        .unary(models::RELEASE, bind(suite, Suite::release))
        .unary(models::RECORD_USE, bind(suite, Suite::record_use))
        .unary(models::EVALUATE, bind(suite, Suite::evaluate))
        .unary(models::GET_EVALUATION, bind(suite, Suite::get_evaluation))
        .unary(models::PUBLISH_ADAPTER, bind(suite, Suite::publish_adapter))
        .unary(models::ROLLBACK, bind(suite, Suite::rollback))
        .unary(models::GET_STATS, bind(suite, Suite::get_stats));
    let again = |suite: &Arc<Suite>| suite.clone();
    let (files, looking, loading, proving, tidying) =
        (again(suite), again(suite), again(suite), again(suite), again(suite));
    Started::serve(service)
        .reconcile("files", run::FILES, move || files.clone().check_files())
        .reconcile_on("look", run::LOOK, suite.look.clone(), move || looking.clone().look())
        .reconcile_on("load", run::LOAD, suite.load.clone(), move || loading.clone().carry_out())
        .reconcile("prove", run::PROVE, move || proving.clone().prove())
        .reconcile("tidy", run::TIDY, move || tidying.clone().tidy())
}

impl Suite {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Each operation leaves the desk whole, so a panic elsewhere does not spoil it.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.ctx.clock().now()
    }

    /// Something changed for those who wait, and maybe for who loads.
    fn stir(&self) {
        self.moved.send_replace(());
        self.load.notify_one();
    }
}

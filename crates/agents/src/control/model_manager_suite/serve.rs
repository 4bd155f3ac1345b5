//! The contract.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tandem_contract::Call;
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_store::models::Use;
use tandem_types::{Code, Fault, Role, reason};

use super::Suite;
use super::logic::{Answer, Ask, FAST, Grant, ModelView, RoleView, TINY};
use crate::fields::Fields;

/// What is left of a caller's time for the answer's way back.
const WAY_BACK: Duration = Duration::from_millis(20);
/// Longest drain of an engine that is unloaded.
const LONGEST_DRAIN_MS: u32 = 300_000;
/// Bytes of the name of a conversation.
const LONGEST_KEY: usize = 256;
/// An answer is certain enough with this confidence and more.
const CERTAIN: f32 = 0.85;
/// Most tokens a context can be asked to have, as a guard against nonsense.
const MOST_CONTEXT: u32 = 16 << 20;

impl Suite {
    /// Lends an engine. Touches nothing but memory, unless the caller waits for a model that is on its way.
    pub(super) async fn acquire(
        self: Arc<Self>,
        call: Call,
        request: pb::AcquireRequest,
    ) -> Result<pb::AcquireResponse, Fault> {
        let begun = Instant::now();
        let mut fields = Fields::default();
        let role = fields.parse::<Role>("role", &request.role);
        fields.require(request.session_key.len() <= LONGEST_KEY, "session_key", "has more than 256 bytes");
        fields.require(request.priority <= 10, "priority", "must be 1 to 10, or 0 for the last");
        let context = fields.at_most("context_tokens", request.context_tokens, 0, MOST_CONTEXT);
        let (role, context_tokens) = fields.all(role.zip(context))?;
        let wait = Duration::from_millis(request.max_wait_ms.into());
        let most = call.deadline.map(|end| end.saturating_duration_since(begun).saturating_sub(WAY_BACK));
        let wait = most.map_or(wait, |most| wait.min(most));
        let holder = if request.holder.is_empty() { call.caller.unwrap_or_default() } else { request.holder };
        let mut ask = Ask {
            role,
            context_tokens,
            priority: if request.priority == 0 { 10 } else { request.priority },
            holder,
            language: request.language,
            min_quality: request.min_quality,
            until: self.now() + wait,
            conversation: request.session_key,
        };
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            let ticket = uuid::Uuid::new_v4().to_string();
            let answer = self.desk().acquire(&ask, ticket, self.now());
            let fault = match answer {
                Answer::Lent(grant) => {
                    histogram!("tandem_ticket_wait_seconds").record(begun.elapsed());
                    if grant.bound_to != ask.role {
                        let (role, to) = (ask.role.to_string(), grant.bound_to.to_string());
                        counter!("tandem_role_fallback_total", "role" => role, "to" => to).increment(1);
                    }
                    let ticket = ticket_of(&ask.role, grant);
                    return Ok(pb::AcquireResponse { ticket: ticket.into(), ..Default::default() });
                }
                Answer::Refused(fault) => return Err(fault),
                Answer::Wait(fault) => fault,
            };
            // Its wish is noted; whoever loads may begin at once.
            self.load.notify_one();
            let left = wait.saturating_sub(begun.elapsed());
            if ask.until <= self.now() || left.is_zero() {
                return Err(fault);
            }
            if tokio::time::timeout(left, moved.changed()).await.is_err() {
                // The last question: a stand-in may answer now.
                ask.until = self.now();
            }
        }
    }

    pub(super) async fn release(
        self: Arc<Self>,
        _: Call,
        request: pb::ReleaseRequest,
    ) -> Result<pb::ReleaseResponse, Fault> {
        self.desk().release(&request.ticket_id, self.now())?;
        self.stir();
        Ok(pb::ReleaseResponse::default())
    }

    /// Counts a use; the count is on disk when this answers.
    pub(super) async fn record_use(
        self: Arc<Self>,
        _: Call,
        request: pb::RecordUseRequest,
    ) -> Result<pb::RecordUseResponse, Fault> {
        let outcome = request.outcome.as_str();
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        if outcome != "ok" && outcome.parse::<Code>().is_err() {
            fields.wrong("outcome", format!("`{outcome}` is neither `ok` nor one of the codes"));
        }
        let key = fields.all(key)?;
        let now = self.now();
        let used = self.desk().record(&request.ticket_id, outcome, now)?;
        if outcome == Code::Unavailable.as_str() {
            self.look.notify_one();
        }
        let tokens = request.usage.into_option().unwrap_or_default();
        let one = Use {
            model: used.model,
            role: used.role.clone(),
            prompt_tokens: tokens.prompt_tokens.into(),
            completion_tokens: tokens.completion_tokens.into(),
            busy: Duration::from_millis(request.duration_ms.into()),
            ok: outcome == "ok",
        };
        self.books.used(key, one, now).await?;
        let role = || used.role.to_string();
        for (kind, count) in [
            ("prompt", tokens.prompt_tokens),
            ("cached", tokens.cached_tokens),
            ("completion", tokens.completion_tokens),
        ] {
            counter!("tandem_tokens_total", "role" => role(), "kind" => kind).increment(count.into());
        }
        if outcome == "ok" && request.first_token_ms > 0 {
            let first = Duration::from_millis(request.first_token_ms.into());
            histogram!("tandem_time_to_first_token_seconds", "role" => role()).record(first);
        }
        Ok(pb::RecordUseResponse::default())
    }

    pub(super) async fn list_roles(
        self: Arc<Self>,
        _: Call,
        _: pb::ListRolesRequest,
    ) -> Result<pb::ListRolesResponse, Fault> {
        let roles = self.desk().roles(self.now()).iter().map(role_info).collect();
        Ok(pb::ListRolesResponse { roles, ..Default::default() })
    }

    pub(super) async fn list_models(
        self: Arc<Self>,
        _: Call,
        _: pb::ListModelsRequest,
    ) -> Result<pb::ListModelsResponse, Fault> {
        let models = self.desk().models(self.now()).iter().map(model_info).collect();
        Ok(pb::ListModelsResponse { models, ..Default::default() })
    }

    pub(super) fn role_answer(&self, role: &Role) -> Result<pb::RoleInfo, Fault> {
        let view = self.desk().role(role, self.now());
        view.as_ref().map(role_info).ok_or_else(|| Fault::not_found(format!("no role `{role}`")))
    }

    pub(super) fn model_answer(&self, name: &str) -> Result<pb::ModelInfo, Fault> {
        let view = self.desk().view(name, self.now());
        view.as_ref().map(model_info).ok_or_else(|| Fault::not_found(format!("no model `{name}`")))
    }

    pub(super) fn plan(&self, role: &Role) -> &str {
        self.planned.get(role).map_or("", String::as_str)
    }

    pub(super) async fn bind_role(
        self: Arc<Self>,
        _: Call,
        request: pb::BindRoleRequest,
    ) -> Result<pb::BindRoleResponse, Fault> {
        let mut fields = Fields::default();
        let (key, role) = (fields.key(&request.idempotency_key), fields.parse::<Role>("role", &request.role));
        fields.require(!request.model.is_empty(), "model", "is missing");
        let (key, role) = fields.all(key.zip(role))?;
        let own = {
            let desk = self.desk();
            desk.check_binding(&role, &request.model)?;
            desk.own_model(&role)
        };
        self.books.bind(key, &role, (&request.model, None), (self.plan(&role), own), self.now()).await?;
        self.rebound(&role).await?;
        Ok(pb::BindRoleResponse { role: self.role_answer(&role)?.into(), ..Default::default() })
    }

    pub(super) async fn rollback(
        self: Arc<Self>,
        _: Call,
        request: pb::RollbackRequest,
    ) -> Result<pb::RollbackResponse, Fault> {
        let mut fields = Fields::default();
        let (key, role) = (fields.key(&request.idempotency_key), fields.parse::<Role>("role", &request.role));
        let (key, role) = fields.all(key.zip(role))?;
        self.desk().check_role(&role)?;
        self.books.roll_back(key, &role, self.now()).await?;
        self.rebound(&role).await?;
        Ok(pb::RollbackResponse { role: self.role_answer(&role)?.into(), ..Default::default() })
    }

    /// Takes up what the books say of a role now; a write that was sent again late changes nothing there.
    pub(super) async fn rebound(&self, role: &Role) -> Result<(), Fault> {
        let now = self.now();
        let (words, mut published) = self.books.words(&self.planned).await?;
        {
            let mut desk = self.desk();
            desk.set_word(role, words.get(role).map_or("", String::as_str));
            desk.publish(role, published.remove(role));
            if [TINY, FAST].contains(&role.as_str()) {
                desk.warm_up(now);
            }
        }
        self.stir();
        self.tell(now).await
    }

    /// Loads a model and answers once it serves.
    pub(super) async fn load_model(
        self: Arc<Self>,
        call: Call,
        request: pb::LoadRequest,
    ) -> Result<pb::LoadResponse, Fault> {
        if !request.share.is_empty() && request.share != self.home.to_string() {
            let problem = format!("`{}` pays for no models; {} does", request.share, self.home);
            return Err(Fault::invalid_field("share", problem));
        }
        self.desk().check_model(&request.model)?;
        let most = Duration::from_secs(self.settings.load_seconds);
        let left = call.deadline.map_or(most, |end| end.saturating_duration_since(Instant::now()));
        let end = tokio::time::Instant::now() + left.saturating_sub(WAY_BACK);
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            let now = self.now();
            let answer = {
                let mut desk = self.desk();
                desk.wish(&request.model, 1, now, now);
                let loaded = desk.loaded(&request.model, now);
                // One that does not load must not be kept for ever by a later caller's load.
                if request.pinned && loaded.is_ok() {
                    desk.pin(&request.model, true);
                }
                loaded
            };
            match answer {
                Ok(()) => break,
                Err(Answer::Wait(fault)) => {
                    self.load.notify_one();
                    if tokio::time::timeout_at(end, moved.changed()).await.is_err() {
                        return Err(fault);
                    }
                }
                Err(Answer::Refused(fault)) => return Err(fault),
                Err(Answer::Lent(_)) => return Err(Fault::internal("a load was answered with a ticket")),
            }
        }
        Ok(pb::LoadResponse { model: self.model_answer(&request.model)?.into(), ..Default::default() })
    }

    /// Unloads a model and answers once its host no longer has it.
    pub(super) async fn unload_model(
        self: Arc<Self>,
        call: Call,
        request: pb::UnloadRequest,
    ) -> Result<pb::UnloadResponse, Fault> {
        let mut fields = Fields::default();
        let drain = fields.at_most("drain_ms", request.drain_ms, 0, LONGEST_DRAIN_MS);
        let drain = Duration::from_millis(fields.all(drain)?.into());
        let now = self.now();
        let resident = self.desk().view(&request.model, now).and_then(|view| view.resident_bytes);
        if !self.desk().unload(&request.model, now + drain)? {
            return Ok(pb::UnloadResponse::default());
        }
        let most = drain + Duration::from_secs(30);
        let left = call.deadline.map_or(most, |end| end.saturating_duration_since(Instant::now()));
        let end = tokio::time::Instant::now() + left.min(most).saturating_sub(WAY_BACK);
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            self.load.notify_one();
            if !self.desk().is_leaving(&request.model) {
                return Ok(pb::UnloadResponse { freed_bytes: resident, ..Default::default() });
            }
            if tokio::time::timeout_at(end, moved.changed()).await.is_err() {
                let message = format!("{} is still finishing answers; its unloading goes on", request.model);
                return Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message));
            }
        }
    }

    pub(super) async fn get_stats(
        self: Arc<Self>,
        _: Call,
        _: pb::GetStatsRequest,
    ) -> Result<pb::GetStatsResponse, Fault> {
        let share = self.desk().share();
        let share = pb::ShareStats {
            group: self.home.to_string(),
            budget_bytes: share.budget,
            leased_bytes: share.leased,
            measured_bytes: share.measured,
            ..Default::default()
        };
        let mut uses: Vec<pb::UseStats> = Vec::new();
        for use_ in self.books.uses(self.now()).await? {
            // The store counts by model and role in order of model; the contract by model.
            if uses.last().is_none_or(|last| last.model != use_.model) {
                uses.push(pb::UseStats { model: use_.model.clone(), ..Default::default() });
            }
            if let Some(sum) = uses.last_mut() {
                sum.tickets += use_.tickets;
                sum.prompt_tokens += use_.prompt_tokens;
                sum.completion_tokens += use_.completion_tokens;
                sum.failures += use_.failures;
            }
        }
        Ok(pb::GetStatsResponse { shares: vec![share], uses, ..Default::default() })
    }
}

fn ticket_of(asked: &Role, grant: Grant) -> pb::Ticket {
    let policy = pb::Policy {
        local_first: true,
        ask_again_below: if grant.ask_again.is_some() { CERTAIN } else { 0.0 },
        ask_again_role: grant.ask_again.map(|role| role.to_string()).unwrap_or_default(),
        remote_judging: false,
        ..Default::default()
    };
    pb::Ticket {
        ticket_id: grant.ticket,
        endpoint: grant.endpoint,
        model: grant.model,
        role: asked.to_string(),
        bound_to: grant.bound_to.to_string(),
        fallback_reason: grant.fallback,
        context_tokens: grant.context_tokens,
        expires_us: grant.expires.micros(),
        slots: grant.slots,
        adapter: grant.adapter.unwrap_or_default(),
        one_conversation: grant.one_conversation,
        policy: policy.into(),
        ..Default::default()
    }
}

fn role_info(view: &RoleView) -> pb::RoleInfo {
    let published = view.published.as_ref();
    pb::RoleInfo {
        adapter: published.map(|published| published.adapter.clone()).unwrap_or_default(),
        canary_percent: published.map_or(0, |published| published.percent.into()),
        adapter_of_others: published.and_then(|published| published.others.clone()).unwrap_or_default(),
        role: view.role.to_string(),
        model: view.model.clone(),
        health: common::Health::from(&view.health).into(),
        capable: view.capable,
        bound_to: view.bound_to.clone(),
        ..Default::default()
    }
}

fn model_info(view: &ModelView) -> pb::ModelInfo {
    pb::ModelInfo {
        name: view.card.name.clone(),
        path: view.path.clone(),
        file_bytes: view.card.file_bytes,
        sha256: view.card.sha256.clone(),
        licence: view.card.licence.clone(),
        format: "gguf".to_owned(),
        roles: view.card.roles.iter().map(Role::to_string).collect(),
        languages: view.card.languages.clone(),
        context_tokens: view.card.context_tokens,
        state: view.state.to_owned(),
        cause: view.cause.clone(),
        estimate_bytes: view.estimate_bytes,
        measured_bytes: view.measured_bytes,
        quality: view.card.quality,
        base: view.card.base.clone().unwrap_or_default(),
        ..Default::default()
    }
}

//! Names a program may ask for as `model`: `tandem`, roles such as `llm.fast`, and models of the catalogue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::{IntoResponse as _, Response};
use futures::try_join;
use serde_json::{Value, json};
use tandem_agent::Ctx;
use tandem_contract::pb::tandem::model::v1::{ListModelsRequest, ListRolesRequest, ModelInfo, RoleInfo};
use tandem_contract::rpc::models;
use tandem_types::Fault;

use super::errors::ApiError;

/// Leaves the choice to whoever answers.
pub(crate) const ANY: &str = "tandem";
/// Roles that write text begin so.
const WRITERS: &str = "llm.";
/// Names that were heard of longer ago are asked for again.
const FRESH: Duration = Duration::from_secs(5);

/// Everything that can be asked for by name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Names that can be served now.
    served: Vec<String>,
    /// Names that exist, served or not: who asks for one of these hears from the models' keeper why not.
    known: Vec<String>,
}

impl Names {
    /// What roles and models come to. Models that write no text are no chat models and not named.
    pub(crate) fn of(roles: &[RoleInfo], models: &[ModelInfo]) -> Self {
        let writes = |role: &&RoleInfo| role.role.starts_with(WRITERS);
        let is_writer = |model: &&ModelInfo| model.roles.iter().any(|role| role.starts_with(WRITERS));
        let is_here = |model: &&ModelInfo| matches!(model.state.as_str(), "on_disk" | "loading" | "loaded");
        let role_names = |bound: bool| {
            roles.iter().filter(writes).filter(move |r| !bound || !r.model.is_empty()).map(|r| r.role.clone())
        };
        let served = std::iter::once(ANY.to_owned())
            .chain(role_names(true))
            .chain(models.iter().filter(is_writer).filter(is_here).map(|m| m.name.clone()))
            .collect();
        let known = std::iter::once(ANY.to_owned())
            .chain(role_names(false))
            .chain(models.iter().filter(is_writer).map(|m| m.name.clone()))
            .collect();
        Self { served, known }
    }

    /// Whether something of this name exists.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name)
    }
}

/// Asks for names and remembers them for a few seconds, which saves two calls per turn.
pub(crate) struct Directory {
    ctx: Ctx,
    /// When this door opened; stands in for the time of a model's making, which nobody here knows.
    opened: i64,
    kept: tokio::sync::Mutex<Option<(Instant, Arc<Names>)>>,
}

impl Directory {
    /// Knows no name yet.
    pub(crate) fn new(ctx: &Ctx) -> Self {
        let opened = ctx.clock().now().micros() / 1_000_000;
        Self { ctx: ctx.clone(), opened, kept: tokio::sync::Mutex::default() }
    }

    async fn ask(&self) -> Result<Arc<Names>, Fault> {
        let (peers, call) = (self.ctx.peers(), self.ctx.call());
        let (roles, models) = try_join!(
            peers.unary(models::LIST_ROLES, ListRolesRequest::default(), &call),
            peers.unary(models::LIST_MODELS, ListModelsRequest::default(), &call),
        )?;
        Ok(Arc::new(Names::of(&roles.roles, &models.models)))
    }

    async fn names(&self, fresh: Duration) -> Result<Arc<Names>, Fault> {
        let mut kept = self.kept.lock().await;
        if let Some((heard, names)) = kept.as_ref()
            && heard.elapsed() < fresh
        {
            return Ok(names.clone());
        }
        let names = self.ask().await?;
        *kept = Some((Instant::now(), names.clone()));
        Ok(names)
    }

    /// What to ask the coordinator for when a program asks for `name`.
    pub(crate) async fn resolve(&self, name: &str) -> Result<String, ApiError> {
        if name == ANY {
            return Ok(String::new());
        }
        let names = self.names(FRESH).await.map_err(|fault| ApiError::from(&fault))?;
        if names.knows(name) {
            return Ok(name.to_owned());
        }
        // It may have come since.
        let names = self.names(Duration::ZERO).await.map_err(|fault| ApiError::from(&fault))?;
        if names.knows(name) { Ok(name.to_owned()) } else { Err(ApiError::no_such_model(name, &names.served)) }
    }

    fn entry(&self, name: &str) -> Value {
        json!({"id": name, "object": "model", "created": self.opened, "owned_by": "tandem"})
    }

    /// `GET /v1/models`.
    pub(crate) async fn list(&self) -> Response {
        match self.names(FRESH).await {
            Ok(names) => {
                let data: Vec<Value> = names.served.iter().map(|name| self.entry(name)).collect();
                axum::Json(json!({"object": "list", "data": data})).into_response()
            }
            Err(fault) => ApiError::from(&fault).into_response(),
        }
    }

    /// `GET /v1/models/{name}`.
    pub(crate) async fn one(&self, name: &str) -> Response {
        match self.resolve(name).await {
            Ok(_) => axum::Json(self.entry(name)).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_writes_text_is_named_and_only_what_is_here_is_listed() {
        let role = |role: &str, model: &str| RoleInfo { role: role.into(), model: model.into(), ..Default::default() };
        let model = |name: &str, state: &str, role: &str| ModelInfo {
            name: name.into(),
            state: state.into(),
            roles: vec![role.into()],
            ..Default::default()
        };
        let names = Names::of(
            &[role("embed", "minilm"), role("llm.fast", "smol"), role("llm.smart", "")],
            &[
                model("big", "absent", "llm.smart"),
                model("broken", "quarantined", "llm.fast"),
                model("minilm", "loaded", "embed"),
                model("smol", "on_disk", "llm.fast"),
            ],
        );
        assert_eq!(names.served, ["tandem", "llm.fast", "smol"]);
        for (name, known) in [
            ("tandem", true),
            ("llm.smart", true),
            ("big", true),
            ("broken", true),
            ("embed", false),
            ("gpt-4o", false),
        ] {
            assert_eq!(names.knows(name), known, "{name}");
        }
    }
}

//! `tandem models add-adapter | publish | rollback`, and what a running fleet knows of adapters and roles.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use tandem_contract::pb::tandem::model::v1::{
    ListModelsRequest, ListRolesRequest, ModelInfo, PublishAdapterRequest, RegisterModelRequest, RoleInfo,
    RollbackRequest,
};
use tandem_contract::rpc::models;
use tandem_contract::{Call, Client};
use tandem_engine::catalogue::sha256_of;
use tandem_types::{Fault, Role};

use crate::evaluate::DOOR;
use crate::fleet::Planned;
use crate::place::Place;
use crate::{NO_NODE, Outcome, fleet, style};

/// Speaks with whoever keeps the models of a running node.
fn keeper(running: &Planned, place: &Place) -> Result<Client, Fault> {
    fleet::client(&running.plan, &running.node, models::PUBLISH_ADAPTER.path(), place)
}

fn key() -> Vec<u8> {
    uuid::Uuid::new_v4().as_bytes().to_vec()
}

/// Makes an adapter known.
pub(crate) async fn add(file: &Path, base: &str, name: Option<String>, licence: String, place: Place) -> Outcome {
    let Some(running) = fleet::here(&place).await? else { return Ok(ExitCode::from(NO_NODE)) };
    let unread = |e: std::io::Error| Fault::invalid_field("FILE", format!("{} cannot be read: {e}", file.display()));
    let path = std::path::absolute(file).map_err(unread)?;
    let sha256 = sha256_of(&path).map_err(unread)?;
    let named = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let model = ModelInfo {
        name: name.unwrap_or_else(named),
        path: path.to_string_lossy().into_owned(),
        sha256,
        licence,
        format: "gguf".into(),
        base: base.to_owned(),
        ..Default::default()
    };
    let request = RegisterModelRequest { idempotency_key: key(), model: model.into(), ..Default::default() };
    let answer = keeper(&running, &place)?.unary(models::REGISTER_MODEL, request, &Call::from_door(DOOR)).await?;
    let known = answer.model.into_option().unwrap_or_default();
    let what = format!("{} for {}, {}", known.name, known.base, size(known.file_bytes));
    anstream::println!("{} {what}, hash checked: {}", style::good("✔"), known.path);
    Ok(ExitCode::SUCCESS)
}

/// Publishes an adapter for a role.
pub(crate) async fn publish(adapter: &str, role: &Role, percent: u8, place: Place) -> Outcome {
    let Some(running) = fleet::here(&place).await? else { return Ok(ExitCode::from(NO_NODE)) };
    let request = PublishAdapterRequest {
        idempotency_key: key(),
        adapter: adapter.to_owned(),
        role: role.to_string(),
        canary_percent: percent.into(),
        ..Default::default()
    };
    let answer = keeper(&running, &place)?.unary(models::PUBLISH_ADAPTER, request, &Call::from_door(DOOR)).await?;
    Ok(told(&answer.role.into_option().unwrap_or_default()))
}

/// Takes a role back to what it had before.
pub(crate) async fn roll_back(role: &Role, place: Place) -> Outcome {
    let Some(running) = fleet::here(&place).await? else { return Ok(ExitCode::from(NO_NODE)) };
    let request = RollbackRequest { idempotency_key: key(), role: role.to_string(), ..Default::default() };
    let answer = keeper(&running, &place)?.unary(models::ROLLBACK, request, &Call::from_door(DOOR)).await?;
    Ok(told(&answer.role.into_option().unwrap_or_default()))
}

fn told(role: &RoleInfo) -> ExitCode {
    anstream::println!("{} {}  {}", style::good("✔"), role.role, bound(role));
    ExitCode::SUCCESS
}

/// What answers for a role.
fn bound(role: &RoleInfo) -> String {
    let model = match (role.model.as_str(), role.bound_to.as_str()) {
        ("", _) => return "no model".to_owned(),
        (model, "") => model.to_owned(),
        (model, other) => format!("{model} of {other}"),
    };
    let others = match role.adapter_of_others.as_str() {
        "" => "the others none".to_owned(),
        other => format!("the others {other}"),
    };
    match (role.adapter.as_str(), role.canary_percent) {
        ("", _) => model,
        (adapter, 100) => format!("{model} + {adapter}"),
        (adapter, percent) => format!("{model} + {adapter} for {percent} % of conversations, {others}"),
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What a running fleet says of adapters and roles.
pub(crate) struct Running {
    adapters: Vec<ModelInfo>,
    roles: Vec<RoleInfo>,
}

/// Asks the fleet that runs here. None where none does; that it runs and does not answer is said.
pub(crate) async fn running(place: &Place) -> Option<Running> {
    let status = place.control().status().await.ok()?;
    let asked = async {
        let client = keeper(&fleet::running(place, &status)?, place)?;
        let call = Call::from_door(DOOR);
        let models = client.unary(models::LIST_MODELS, ListModelsRequest::default(), &call).await?.models;
        let roles = client.unary(models::LIST_ROLES, ListRolesRequest::default(), &call).await?.roles;
        Ok::<_, Fault>(Running { adapters: models.into_iter().filter(|m| !m.base.is_empty()).collect(), roles })
    };
    let told = asked.await;
    told.inspect_err(|fault| style::complain(&style::warn("note"), &format!("roles are not shown: {}", fault.message)))
        .ok()
}

impl Running {
    /// A line for each adapter, and one for each role that has a model.
    pub(crate) fn in_words(&self) -> Vec<String> {
        let width = |words: &mut dyn Iterator<Item = &String>| words.map(|word| word.len()).max().unwrap_or(0);
        let names = width(&mut self.adapters.iter().map(|adapter| &adapter.name));
        let mut lines = Vec::new();
        if !self.adapters.is_empty() {
            lines.extend([String::new(), style::bold("Adapters")]);
        }
        for adapter in &self.adapters {
            let state = match (adapter.state.as_str(), adapter.cause.as_str()) {
                ("on_disk", _) => style::good("present"),
                (state, "") => style::warn(state),
                (state, why) => style::bad(&format!("{state}: {why}")),
            };
            let about = style::dim(&format!("{}  for {}", adapter.licence, adapter.base));
            lines.push(format!("{:<names$}  {:>10}  {state}  {about}", adapter.name, size(adapter.file_bytes)));
        }
        let bound_roles: Vec<&RoleInfo> = self.roles.iter().filter(|role| !role.model.is_empty()).collect();
        let roles = width(&mut bound_roles.iter().map(|role| &role.role));
        if !bound_roles.is_empty() {
            lines.extend([String::new(), style::bold("Roles")]);
        }
        lines.extend(bound_roles.into_iter().map(|role| format!("{:<roles$}  {}", role.role, bound(role))));
        lines
    }

    /// The adapters, each with the roles it is published for.
    pub(crate) fn in_json(&self) -> Vec<serde_json::Value> {
        let row = |adapter: &ModelInfo| {
            let published: Vec<_> = self
                .roles
                .iter()
                .filter_map(|role| match &adapter.name {
                    name if *name == role.adapter => Some((role, role.canary_percent)),
                    name if *name == role.adapter_of_others => Some((role, 100 - role.canary_percent)),
                    _ => None,
                })
                .map(|(role, percent)| json!({"role": role.role, "percent": percent}))
                .collect();
            json!({
                "name": adapter.name, "base": adapter.base, "size_bytes": adapter.file_bytes, "licence": adapter.licence,
                "sha256": adapter.sha256, "state": if adapter.state == "on_disk" { "present" } else { &adapter.state },
                "path": adapter.path, "published": published,
            })
        };
        self.adapters.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, adapter: (&str, u32, &str)) -> RoleInfo {
        RoleInfo {
            role: name.into(),
            model: "smol".into(),
            adapter: adapter.0.into(),
            canary_percent: adapter.1,
            adapter_of_others: adapter.2.into(),
            ..Default::default()
        }
    }

    #[test]
    fn roles_say_what_is_laid_over_their_model_for_whom() {
        for (role, says) in [
            (role("llm.fast", ("", 0, "")), "smol"),
            (RoleInfo { bound_to: "llm.fast".into(), ..role("llm.smart", ("", 0, "")) }, "smol of llm.fast"),
            (role("llm.fast", ("warm", 100, "")), "smol + warm"),
            (role("llm.fast", ("warm", 10, "")), "smol + warm for 10 % of conversations, the others none"),
            (role("llm.fast", ("new", 10, "warm")), "smol + new for 10 % of conversations, the others warm"),
            (RoleInfo::default(), "no model"),
        ] {
            assert_eq!(bound(&role), says);
        }
    }

    #[test]
    fn adapters_are_listed_with_their_model_and_roles() {
        let adapter = |name: &str, state: &str, cause: &str| ModelInfo {
            name: name.into(),
            base: "smol".into(),
            licence: "MIT".into(),
            file_bytes: 3 << 19,
            state: state.into(),
            cause: cause.into(),
            ..Default::default()
        };
        let running = Running {
            adapters: vec![adapter("new", "quarantined", "its hash is wrong"), adapter("warm", "on_disk", "")],
            roles: vec![role("llm.fast", ("new", 10, "warm")), RoleInfo { role: "stt".into(), ..Default::default() }],
        };
        let plain: Vec<String> =
            running.in_words().iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(
            plain,
            [
                "",
                "Adapters",
                "new      1.5 MiB  quarantined: its hash is wrong  MIT  for smol",
                "warm     1.5 MiB  present  MIT  for smol",
                "",
                "Roles",
                "llm.fast  smol + new for 10 % of conversations, the others warm",
            ]
        );
        let rows = running.in_json();
        assert_eq!(
            (&rows[0]["published"][0]["percent"], &rows[1]["published"][0]["percent"]),
            (&json!(10), &json!(90))
        );
        assert_eq!((&rows[0]["state"], &rows[1]["state"]), (&json!("quarantined"), &json!("present")));
    }
}

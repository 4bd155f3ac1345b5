//! Messages of `system.v1` to and from the words of the stores.

use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_fleet::Finding;
use tandem_store::actions::{Action, DataGroup, DataRequest, Maintenance};
use tandem_types::{AgentId, Health};

use crate::checks::Check;

pub(super) fn action(of: Action) -> pb::Action {
    pb::Action {
        action_id: of.id,
        kind: of.what.kind,
        target: of.what.target,
        actor: of.what.actor,
        reason: of.what.reason,
        outcome: of.state.as_str().to_owned(),
        detail: of.detail,
        at_us: of.at.micros(),
        fencing: of.fencing,
        ..Default::default()
    }
}

pub(super) fn maintenance(of: Maintenance) -> pb::Maintenance {
    pb::Maintenance {
        maintenance_id: of.id,
        scope: of.what.scope,
        from_us: of.what.from.micros(),
        to_us: of.what.to.micros(),
        reason: of.what.reason,
        ..Default::default()
    }
}

pub(super) fn data_request(of: DataRequest) -> pb::DataRequest {
    pb::DataRequest {
        request_id: of.id,
        kind: of.kind.as_str().to_owned(),
        user_id: of.user.to_string(),
        state: if of.closed.is_some() { "closed" } else { "open" }.to_owned(),
        groups: of.groups.into_iter().map(data_group).collect(),
        path: of.path,
        ..Default::default()
    }
}

fn data_group(of: DataGroup) -> pb::DataRequestGroup {
    let state = match of.answered {
        Some(_) => "done".to_owned(),
        None if of.waits_for.is_empty() => "not asked yet".to_owned(),
        None => of.waits_for,
    };
    let store = |(store, rows)| pb::ForgottenStore { store, rows, ..Default::default() };
    pb::DataRequestGroup {
        group: of.group.to_string(),
        state,
        stores: of.stores.into_iter().map(store).collect(),
        ..Default::default()
    }
}

pub(super) fn finding(of: &Finding) -> pb::Finding {
    let at = match of.span {
        Some(span) => format!("{}:{}:{}", of.file, span.line, span.column),
        None => of.file.clone(),
    };
    pb::Finding {
        severity: of.severity.to_string(),
        code: of.code.to_owned(),
        message: of.message.clone(),
        fix: of.fix.clone(),
        at,
        ..Default::default()
    }
}

pub(super) fn check(of: Check) -> pb::Check {
    pb::Check {
        name: of.name,
        outcome: of.grade.as_str().to_owned(),
        detail: of.detail,
        remedy: of.remedy,
        ..Default::default()
    }
}

pub(super) fn agent_health(id: &AgentId, health: &Health, required: bool, built: bool) -> pb::AgentHealth {
    pb::AgentHealth {
        agent: id.to_string(),
        health: common::Health::from(health).into(),
        required,
        built,
        ..Default::default()
    }
}

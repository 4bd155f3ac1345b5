//! The contract.

use std::sync::Arc;

use tandem_contract::Call;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_store::forecasts::{ForecastStore, Recovery, RecoveryMode};
use tandem_store::paging::Page;
use tandem_types::{AgentId, Fault};

use super::logic::forecast::{Forecast, Level};
use super::{Monitor, built, lock};
use crate::fields::Fields;

/// Why there is no forecast.
const TOO_FEW: &str = "there are fewer than 10 samples of the last 20 minutes, or its hub does not answer";

fn mode(of: RecoveryMode) -> pb::RecoveryMode {
    match of {
        RecoveryMode::Off => pb::RecoveryMode::RECOVERY_MODE_OFF,
        RecoveryMode::Advise => pb::RecoveryMode::RECOVERY_MODE_ADVISE,
        RecoveryMode::Act => pb::RecoveryMode::RECOVERY_MODE_ACT,
    }
}

fn told(agent: &AgentId, forecast: Option<&Forecast>) -> pb::Forecast {
    let agent = agent.to_string();
    let Some(forecast) = forecast else {
        return pb::Forecast { agent, missing: TOO_FEW.into(), ..Default::default() };
    };
    let level = match forecast.level {
        Level::Normal => pb::ForecastLevel::FORECAST_LEVEL_NORMAL,
        Level::Warning => pb::ForecastLevel::FORECAST_LEVEL_WARNING,
        Level::Critical => pb::ForecastLevel::FORECAST_LEVEL_CRITICAL,
    };
    let [probability_5m, probability_15m] = forecast.probabilities;
    pb::Forecast {
        agent,
        level: level.into(),
        probability_5m: Some(probability_5m),
        probability_15m: Some(probability_15m),
        calibrated: forecast.calibrated,
        causes: forecast.reading.causes.clone(),
        memory_full_seconds: forecast.reading.memory_full.map(|left| left.as_secs_f64()),
        at_us: forecast.reading.at.micros(),
        since_us: forecast.since.micros(),
        ..Default::default()
    }
}

impl Monitor {
    pub(super) async fn get_forecast(
        self: Arc<Self>,
        _: Call,
        request: pb::GetForecastRequest,
    ) -> Result<pb::GetForecastResponse, Fault> {
        let mut fields = Fields::default();
        let only = fields.optional::<AgentId>("agent", &request.agent);
        let only = fields.all(only)?;
        let mut agents = built(&self.ctx);
        if let Some(only) = only {
            agents.retain(|agent| *agent == only);
            if agents.is_empty() {
                return Err(Fault::not_found(format!(
                    "the fleet file has no agent {only} that this program has code for"
                )));
            }
        }
        let known = lock(&self.known);
        let forecast = |agent: &AgentId| known.get(agent).and_then(|one| one.forecast.as_ref());
        agents.sort_by(|a, b| {
            let weight = |agent| forecast(agent).map_or(-1.0, |forecast| forecast.probabilities[1]);
            weight(b).total_cmp(&weight(a))
        });
        Ok(pb::GetForecastResponse {
            forecasts: agents.iter().map(|agent| told(agent, forecast(agent))).collect(),
            mode: mode(*lock(&self.mode)).into(),
            failures: u32::try_from(lock(&self.map).1).unwrap_or(u32::MAX),
            ..Default::default()
        })
    }

    pub(super) async fn list_recoveries(
        self: Arc<Self>,
        _: Call,
        request: pb::ListRecoveriesRequest,
    ) -> Result<pb::ListRecoveriesResponse, Fault> {
        let page = self.store.recoveries(Page { size: request.page_size, token: request.page_token }).await?;
        let recovery = |one: Recovery| pb::Recovery {
            recovery_id: one.id,
            agent: one.what.agent.to_string(),
            tier: one.what.tier,
            outcome: one.what.outcome.to_string(),
            detail: one.what.detail,
            evidence_json: one.what.evidence,
            at_us: one.at.micros(),
            ..Default::default()
        };
        Ok(pb::ListRecoveriesResponse {
            recoveries: page.items.into_iter().map(recovery).collect(),
            next_page_token: page.next,
            ..Default::default()
        })
    }

    pub(super) async fn set_recovery_mode(
        self: Arc<Self>,
        _: Call,
        request: pb::SetRecoveryModeRequest,
    ) -> Result<pb::SetRecoveryModeResponse, Fault> {
        let wanted = match request.mode.as_known() {
            Some(pb::RecoveryMode::RECOVERY_MODE_OFF) => RecoveryMode::Off,
            Some(pb::RecoveryMode::RECOVERY_MODE_ADVISE) => RecoveryMode::Advise,
            Some(pb::RecoveryMode::RECOVERY_MODE_ACT) => RecoveryMode::Act,
            Some(pb::RecoveryMode::RECOVERY_MODE_UNSPECIFIED) | None => {
                let problem =
                    "is missing or unknown; send RECOVERY_MODE_OFF, RECOVERY_MODE_ADVISE or RECOVERY_MODE_ACT";
                return Err(Fault::invalid_field("mode", problem));
            }
        };
        self.store.set_mode(wanted).await?;
        *lock(&self.mode) = wanted;
        tracing::info!(mode = %wanted, "what may be done against failures was set");
        Ok(pb::SetRecoveryModeResponse { mode: mode(wanted).into(), ..Default::default() })
    }
}

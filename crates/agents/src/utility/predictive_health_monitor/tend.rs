//! Applies remedies, one at a time.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use metrics::counter;
use serde_json::json;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::system;
use tandem_store::forecasts::{ForecastStore, NewRecovery, Recovery, RecoveryMode, RecoveryOutcome};
use tandem_types::{AgentId, Code, Fault, Timestamp};

use super::logic::forecast::Forecast;
use super::logic::remedy::{Past, Patient, Remedy, Tier, choose};
use super::logic::watch::HORIZON;
use super::{Monitor, built, lock, text};

/// Looks in a row at which it must be critical before anything is done.
const IN_A_ROW: u32 = 2;
/// How often it says that it is not stuck while another agent works.
const PULSE: Duration = Duration::from_secs(5);

/// How UnifiedSystemAgent's answer counts.
fn judge(answer: Result<Option<pb::Action>, Fault>) -> (RecoveryOutcome, String) {
    match answer {
        Ok(Some(action)) if action.outcome == "done" => (RecoveryOutcome::Done, action.detail),
        Ok(Some(action)) => (RecoveryOutcome::Failed, format!("is {}: {}", action.outcome, action.detail)),
        Ok(None) => (RecoveryOutcome::Failed, "UnifiedSystemAgent did not say how it went".to_owned()),
        Err(fault) => {
            let away = matches!(fault.code, Code::Unavailable | Code::DeadlineExceeded | Code::Internal);
            (if away { RecoveryOutcome::Failed } else { RecoveryOutcome::Refused }, fault.message)
        }
    }
}

impl Monitor {
    /// Ends what an earlier life of this agent left half done.
    pub(super) async fn settle(&self) -> Result<(), Fault> {
        for one in self.store.since(self.now() - self.budget.horizon()).await? {
            if one.what.outcome == RecoveryOutcome::Running {
                let cut = "PredictiveHealthMonitor was restarted while this was done";
                self.store.end(&one.id, RecoveryOutcome::Failed, cut).await?;
            }
        }
        Ok(())
    }

    /// Does, or advises, what the most serious case calls for.
    pub(super) async fn tend(&self, now: Timestamp) -> Result<(), Fault> {
        let mode = *lock(&self.mode);
        if mode == RecoveryMode::Off {
            return Ok(());
        }
        let kept = self.store.since(now - self.budget.horizon()).await?;
        let past: Vec<Past> =
            kept.iter().filter(|one| one.what.outcome != RecoveryOutcome::Advised).map(past).collect();
        let advised: BTreeSet<&AgentId> = kept
            .iter()
            .filter(|one| one.what.outcome == RecoveryOutcome::Advised && now.since(one.at) < self.budget.refused)
            .map(|one| &one.what.agent)
            .collect();
        for (agent, forecast) in self.cases() {
            let remedy = match choose(&self.patient(&agent), &past, &self.budget, now) {
                Ok(remedy) => remedy,
                Err(why) => {
                    tracing::debug!(%agent, why, "nothing is done now");
                    continue;
                }
            };
            if mode == RecoveryMode::Advise {
                if !advised.contains(&agent) {
                    let what = self.recovery(&agent, &forecast, &remedy, RecoveryOutcome::Advised, now).await?;
                    count(&self.store.begin(what, now).await?);
                }
                continue;
            }
            // What the first one does may help the next.
            return self.apply(&agent, &forecast, &remedy, now).await;
        }
        Ok(())
    }

    /// Agents that are failing and were critical at the last looks, the likeliest to fail first.
    fn cases(&self) -> Vec<(AgentId, Forecast)> {
        let me = self.ctx.id();
        let known = lock(&self.known);
        let case = |(agent, one): (&AgentId, &super::Known)| {
            let forecast = one.forecast.as_ref()?;
            let due = one.failing && forecast.criticals >= IN_A_ROW && agent != me;
            due.then(|| (agent.clone(), forecast.clone()))
        };
        let mut cases: Vec<_> = known.iter().filter_map(case).collect();
        cases.sort_by(|(_, a), (_, b)| b.probabilities[1].total_cmp(&a.probabilities[1]));
        cases
    }

    /// Only agents of the plan that this program has code for: nothing else is ever touched.
    fn patient(&self, agent: &AgentId) -> Patient {
        let (fleet, all) = (self.ctx.fleet(), built(&self.ctx));
        let planned = fleet.group(&agent.group_id()).and_then(|g| g.agents.iter().find(|a| a.name == agent.agent));
        let needs: Vec<AgentId> = planned
            .into_iter()
            .flat_map(|planned| &planned.needs)
            .filter_map(|need| fleet.find(need, &agent.node))
            .filter(|need| need.node == agent.node && need != self.ctx.id())
            .collect();
        Patient {
            agent: agent.clone(),
            // In the order of the plan, which is the order in which groups start.
            needs: all.iter().filter(|one| needs.contains(one)).cloned().collect(),
            group: all.into_iter().filter(|one| one.group_id() == agent.group_id()).collect(),
        }
    }

    async fn recovery(
        &self,
        agent: &AgentId,
        forecast: &Forecast,
        remedy: &Remedy,
        outcome: RecoveryOutcome,
        now: Timestamp,
    ) -> Result<NewRecovery, Fault> {
        let errors: Vec<_> = self
            .errors_of(agent, now - HORIZON)
            .await
            .into_iter()
            .map(|e| json!({ "code": e.code, "reason": e.reason, "count": e.count, "at_us": e.at_us, "evidence": e.evidence }))
            .collect();
        let names = remedy.restarts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Ok(NewRecovery {
            agent: agent.clone(),
            tier: remedy.tier.number(),
            restarts: remedy.restarts.clone(),
            outcome,
            detail: format!("restart {names}"),
            evidence: text(&json!({ "forecast": forecast, "errors": errors }))?,
        })
    }

    /// Keeps the evidence and what is to be done, then does it.
    async fn apply(&self, agent: &AgentId, forecast: &Forecast, remedy: &Remedy, now: Timestamp) -> Result<(), Fault> {
        let what = self.recovery(agent, forecast, remedy, RecoveryOutcome::Running, now).await?;
        let begun = self.store.begin(what, now).await?;
        let why = format!("a failure is foreseen: {}", forecast.reading.causes.join("; "));
        let mut outcome = (RecoveryOutcome::Done, String::new());
        if remedy.tier == Tier::Group {
            outcome = judge(self.recycle(agent, why).await);
        } else {
            for one in &remedy.restarts {
                outcome = judge(self.restart(one, why.clone()).await);
                if outcome.0 != RecoveryOutcome::Done {
                    outcome.1 = format!("{one}: {}", outcome.1);
                    break;
                }
            }
        }
        let (outcome, detail) = outcome;
        tracing::info!(%agent, tier = remedy.tier.number(), outcome = %outcome, detail, "a remedy was applied");
        count(&self.store.end(&begun.id, outcome, &detail).await?);
        Ok(())
    }

    async fn restart(&self, agent: &AgentId, reason: String) -> Result<Option<pb::Action>, Fault> {
        let (idempotency_key, agent) = (fresh_key(), agent.to_string());
        let request = pb::RestartAgentRequest { idempotency_key, agent, reason, ..Default::default() };
        let call = self.ctx.call();
        let answer = self.ctx.peers().unary(system::RESTART_AGENT, request, &call);
        Ok(self.beating(answer).await?.action.into_option())
    }

    async fn recycle(&self, agent: &AgentId, reason: String) -> Result<Option<pb::Action>, Fault> {
        let (idempotency_key, group) = (fresh_key(), agent.group_id().to_string());
        let request = pb::RecycleGroupRequest { idempotency_key, group, reason, ..Default::default() };
        let call = self.ctx.call();
        let answer = self.ctx.peers().unary(system::RECYCLE_GROUP, request, &call);
        Ok(self.beating(answer).await?.action.into_option())
    }

    /// Says all the while that what takes long is not stuck.
    async fn beating<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            match tokio::time::timeout(PULSE, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.ctx.beat(),
            }
        }
    }
}

fn past(kept: &Recovery) -> Past {
    Past {
        agent: kept.what.agent.clone(),
        at: kept.at,
        tier: kept.what.tier,
        restarts: kept.what.restarts.clone(),
        refused: kept.what.outcome == RecoveryOutcome::Refused,
    }
}

fn count(recovery: &Recovery) {
    let (tier, outcome) = (recovery.what.tier.to_string(), recovery.what.outcome.as_str());
    counter!("tandem_recoveries_total", "tier" => tier, "outcome" => outcome).increment(1);
}

fn fresh_key() -> Vec<u8> {
    uuid::Uuid::new_v4().into_bytes().to_vec()
}

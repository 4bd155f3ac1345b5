//! Who can answer: what each dialogue handler says of itself, kept so that a turn need not ask.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tandem_agent::{Ctx, Provider};
use tandem_contract::pb::tandem::dialogue::v1::{DescribeRequest, DescribeResponse};
use tandem_contract::rpc::dialogue;
use tandem_types::{AgentId, Fault, reason};

use super::choice::{Candidate, UNSCORED};

/// How long a turn waits for the word of a handler that has said nothing yet. There is nobody else to give it to, so this is
/// more than a look that only refreshes takes.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// What handlers said of themselves.
pub(super) struct Handlers {
    ctx: Ctx,
    /// Longest wait for a handler's word when it is only refreshed.
    limit: Duration,
    known: Mutex<HashMap<AgentId, DescribeResponse>>,
}

impl Handlers {
    /// Knows none yet.
    pub(super) fn new(ctx: &Ctx, limit: Duration) -> Self {
        Self { ctx: ctx.clone(), limit, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<AgentId, DescribeResponse>> {
        // The map is whole after each single operation, so a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody in the plan who answers turns.
    pub(super) fn providers(&self) -> Vec<Provider> {
        self.ctx.peers().providers(dialogue::HANDLE.path())
    }

    /// Asks everybody anew what they are good at. Those that do not answer keep their former word.
    pub(super) async fn refresh(&self) {
        futures::future::join_all(self.providers().iter().map(|provider| self.describe(provider, self.limit))).await;
    }

    async fn describe(&self, provider: &Provider, limit: Duration) -> Option<DescribeResponse> {
        let call = self.ctx.call().within(limit, Instant::now()).to(provider.agent.agent.clone());
        // Asking is how it is found out that somebody has come, so no breaker stands before it.
        let said = match self.ctx.peers().group(&provider.agent.group_id()) {
            Ok(group) => group.unary(dialogue::DESCRIBE, DescribeRequest::default(), &call).await,
            Err(fault) => Err(fault),
        };
        match said {
            Ok(said) => {
                self.known().insert(provider.agent.clone(), said.clone());
                Some(said)
            }
            Err(fault) => {
                tracing::debug!(agent = %provider.agent, code = %fault.code, "a handler did not describe itself");
                None
            }
        }
    }

    /// Who could answer a turn with this intent in this language. `load` tells the share of running turns an agent has.
    pub(super) async fn candidates(
        &self,
        intent: &str,
        language: &str,
        load: impl Fn(&AgentId) -> f64,
    ) -> Result<Vec<Candidate>, Fault> {
        let providers = self.providers();
        let mut candidates = Vec::with_capacity(providers.len());
        let mut silent = Vec::new();
        for provider in providers {
            let known = self.known().get(&provider.agent).cloned();
            let said = match known {
                Some(said) => Some(said),
                None => self.describe(&provider, FIRST_WORD.max(self.limit)).await,
            };
            let Some(said) = said else {
                silent.push(provider.agent.to_string());
                continue;
            };
            candidates.push(Candidate {
                capability: said.capability.get(intent).copied().unwrap_or(0.0),
                trust: UNSCORED,
                load: load(&provider.agent),
                side_effects: said.side_effects,
                speaks: language.is_empty() || said.languages.is_empty() || speaks(&said.languages, language),
                serves: provider.state.is_none_or(tandem_types::State::serves),
                role: said.role,
                agent: provider.agent,
            });
        }
        if !candidates.is_empty() {
            return Ok(candidates);
        }
        Err(match &silent[..] {
            [] => Fault::unavailable(reason::NOT_BUILT, "this fleet has no agent that answers turns"),
            silent => Fault::unavailable(
                reason::PEER_AWAY,
                format!("no agent that answers turns can be reached: {}", silent.join(", ")),
            ),
        })
    }

    /// How many turns all handlers together can answer side by side; none when one of them says no number.
    pub(super) fn parallel(&self) -> Option<usize> {
        let known = self.known();
        let of = |said: &DescribeResponse| usize::try_from(said.parallel).ok().filter(|turns| *turns > 0);
        known.values().map(of).sum::<Option<usize>>().filter(|_| !known.is_empty())
    }

    /// The model role that a turn of unknown intent will most likely ask for.
    pub(super) fn likely_role(&self) -> Option<String> {
        let known = self.known();
        let fitness = |said: &&DescribeResponse| said.capability.get("unknown").copied().unwrap_or(0.0);
        known
            .values()
            .filter(|said| !said.role.is_empty())
            .max_by(|a, b| fitness(a).total_cmp(&fitness(b)))
            .map(|said| said.role.clone())
    }
}

/// Whether a list of language tags covers `wanted`; regions make no difference, and `fil` is `tl`.
fn speaks(languages: &[String], wanted: &str) -> bool {
    fn primary(tag: &str) -> String {
        let primary = tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        if primary == "fil" { "tl".to_owned() } else { primary }
    }
    let wanted = primary(wanted);
    languages.iter().any(|tag| primary(tag) == wanted)
}

#[cfg(test)]
mod tests {
    use super::speaks;

    #[test]
    fn regions_make_no_difference() {
        let languages = ["en".to_owned(), "tl".to_owned()];
        for (wanted, covered) in [("en-US", true), ("fil", true), ("TL", true), ("es", false), ("eng", false)] {
            assert_eq!(speaks(&languages, wanted), covered, "{wanted}");
        }
    }
}

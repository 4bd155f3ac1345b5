//! Which handler answers. Pure: chance is handed in.

use tandem_types::AgentId;

/// Trust in a handler nobody has scored.
pub(super) const UNSCORED: f64 = 0.5;
/// Share of turns that try the runner-up.
const TRY_RUNNER_UP: f64 = 0.05;
/// Capability from which a runner-up may be tried.
const NEARLY_SURE: f64 = 0.9;

/// An agent that could answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    /// Who.
    pub(super) agent: AgentId,
    /// Fitness for the intent, 0 to 1.
    pub(super) capability: f64,
    /// Lower bound of trust, 0 to 1.
    pub(super) trust: f64,
    /// Share of the running turns it has, 0 to 1.
    pub(super) load: f64,
    /// It can change something outside the conversation.
    pub(super) side_effects: bool,
    /// It answers in the wanted language.
    pub(super) speaks: bool,
    /// It said last that it serves, or has not said anything yet.
    pub(super) serves: bool,
    /// The model role it needs.
    pub(super) role: String,
}

impl Candidate {
    fn score(&self) -> f64 {
        0.5 * self.capability + 0.3 * self.trust + 0.2 * (1.0 - self.load)
    }
}

/// The candidates to try, best first. Nobody checks what a handler is about to change, so only those that change nothing
/// are tried. Those that said they cannot serve come last: when nobody else is left, their own word on why is the answer.
/// `chance` is drawn from 0 to 1.
pub(super) fn rank(candidates: Vec<Candidate>, chance: f64) -> Vec<Candidate> {
    let mut ranked: Vec<Candidate> = candidates.into_iter().filter(|c| c.speaks && !c.side_effects).collect();
    ranked.sort_by(|a, b| b.serves.cmp(&a.serves).then(b.score().total_cmp(&a.score())));
    let even = |c: &Candidate| c.serves && c.capability >= NEARLY_SURE;
    if chance < TRY_RUNNER_UP && ranked.len() > 1 && ranked[..2].iter().all(even) {
        ranked.swap(0, 1);
    }
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, capability: f64) -> Candidate {
        Candidate {
            agent: format!("solo/language_stack/{name}").parse().unwrap(),
            capability,
            trust: UNSCORED,
            load: 0.0,
            side_effects: false,
            speaks: true,
            serves: true,
            role: String::new(),
        }
    }

    fn order(candidates: Vec<Candidate>, chance: f64) -> String {
        rank(candidates, chance).iter().map(|c| c.agent.agent.as_str()).collect()
    }

    #[test]
    fn capability_trust_and_load_are_weighed() {
        let (a, b) = (candidate("A", 0.8), candidate("B", 0.9));
        for (a, b, expected) in [
            (a.clone(), b.clone(), "BA"),
            (Candidate { trust: 0.7, ..a.clone() }, b.clone(), "AB"),
            (a.clone(), Candidate { load: 0.5, ..b.clone() }, "AB"),
            (a.clone(), Candidate { serves: false, ..b.clone() }, "AB"),
            (a.clone(), Candidate { speaks: false, ..b.clone() }, "A"),
            (Candidate { side_effects: true, ..a.clone() }, b.clone(), "B"),
        ] {
            assert_eq!(order(vec![a, b], 1.0), expected);
        }
    }

    #[test]
    fn a_runner_up_gets_its_chance_only_when_both_are_nearly_sure() {
        for (a, b, chance, expected) in
            [(0.95, 0.91, 0.04, "BA"), (0.95, 0.91, 0.05, "AB"), (0.95, 0.89, 0.04, "AB"), (0.8, 0.7, 0.0, "AB")]
        {
            assert_eq!(order(vec![candidate("A", a), candidate("B", b)], chance), expected);
        }
        assert_eq!(order(vec![], 0.0), "");
    }
}

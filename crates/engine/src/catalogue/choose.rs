//! The best model for a role that fits a machine, with the sums that led there.

use tandem_types::Role;

use super::model::{Catalogue, Model, RoleNeed};

const MIB: u64 = 1024 * 1024;

/// What stays for the operating system and Tandem's own processes, however small the machine.
const RESERVE_BYTES: u64 = 1536 * MIB;

/// What a role gets on a machine, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'c> {
    /// The model; none when nothing fits.
    pub model: Option<&'c Model>,
    /// Resident memory its engine will take; 0 without a model.
    pub memory_bytes: u64,
    /// The choice in a sentence, with its sum.
    pub reason: String,
    /// The other models of the role, best first, and why each was not taken.
    pub refused: Vec<Refused<'c>>,
}

/// A model that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<'c> {
    /// The model.
    pub model: &'c Model,
    /// Why, with its sum.
    pub reason: String,
}

/// Chooses the model with the highest quality whose engine fits.
///
/// The engine may take the least of: half of the machine's memory, what 1.5 GiB of reserve leave of it, the
/// group's budget where one is given, and the bound of the role. The sums count weights, the context that the role
/// keeps, and the engine's work space.
pub fn choose<'c>(
    catalogue: &'c Catalogue,
    role: &Role,
    machine_ram_bytes: u64,
    group_budget_bytes: Option<u64>,
) -> Choice<'c> {
    let nothing = |reason| Choice { model: None, memory_bytes: 0, reason, refused: Vec::new() };
    let Some(need) = catalogue.role(role) else {
        return nothing(format!("the catalogue has no model for {role}"));
    };
    let (allowed, because) = allowance(need, machine_ram_bytes, group_budget_bytes);
    let suits = |model: &&Model| model.format.is_served() && model.roles.contains(role);
    let mut candidates: Vec<&Model> = catalogue.models().iter().filter(suits).collect();
    candidates.sort_by_key(|model| std::cmp::Reverse(model.quality));

    let mut choice = nothing(format!("no model of the catalogue fits {role}: allowed are {because}"));
    for model in candidates {
        let memory_bytes = model.memory_bytes(need.context_tokens);
        let sum = sum(model, need);
        if memory_bytes > allowed {
            let reason = format!("{sum}, but allowed are {because}");
            choice.refused.push(Refused { model, reason });
        } else if let Some(better) = choice.model {
            choice
                .refused
                .push(Refused { model, reason: format!("{sum}; it fits, but {} answers better", better.name) });
        } else {
            choice.model = Some(model);
            choice.memory_bytes = memory_bytes;
            choice.reason = format!("{} is the best that fits {role}: {sum}, allowed are {because}", model.name);
        }
    }
    choice
}

/// The bytes an engine of the role may take, and the bound that decided.
fn allowance(need: &RoleNeed, machine: u64, group: Option<u64>) -> (u64, String) {
    let half = (machine / 2, format!("half of the machine's {} MiB", mib(machine)));
    let rest = (
        machine.saturating_sub(RESERVE_BYTES),
        format!("the machine's {} MiB less {} MiB for everything else", mib(machine), mib(RESERVE_BYTES)),
    );
    let role = (need.at_most_bytes, format!("the bound of {}", need.role));
    let group = group.map(|bytes| (bytes, "the group's budget".to_owned()));
    let (bytes, bound) = [role, half, rest]
        .into_iter()
        .chain(group)
        .fold((u64::MAX, String::new()), |least, next| if next.0 < least.0 { next } else { least });
    (bytes, format!("{} MiB ({bound})", mib(bytes)))
}

fn sum(model: &Model, need: &RoleNeed) -> String {
    format!(
        "weights {} + context {} ({} tokens) + work {} = {} MiB",
        mib(model.size_bytes),
        mib(model.kv_bytes_per_token * need.context_tokens),
        need.context_tokens,
        mib(model.work_bytes),
        mib(model.memory_bytes(need.context_tokens)),
    )
}

/// Whole MiB, rounded to the nearest.
pub(super) fn mib(bytes: u64) -> u64 {
    (bytes + MIB / 2) / MIB
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::built_in;

    const GIB: u64 = 1024 * MIB;

    #[test]
    fn the_best_model_that_fits_is_chosen() {
        let (catalogue, _) = built_in().unwrap();
        for (role, ram_gib, group_mib, model) in [
            ("llm.fast", 1, None, None),
            ("llm.fast", 2, None, Some("smollm2-135m")),
            ("llm.fast", 3, None, Some("qwen2.5-coder-0.5b")),
            ("llm.fast", 4, None, Some("qwen2.5-coder-1.5b")),
            ("llm.fast", 8, None, Some("qwen2.5-coder-1.5b")),
            ("llm.fast", 16, None, Some("qwen2.5-coder-1.5b")),
            ("llm.fast", 64, None, Some("qwen2.5-coder-1.5b")),
            ("llm.fast", 64, Some(1024), Some("qwen2.5-coder-0.5b")),
            ("llm.fast", 64, Some(512), Some("smollm2-135m")),
            ("llm.fast", 64, Some(300), None),
            ("llm.tiny", 2, None, Some("smollm2-135m")),
            ("llm.tiny", 4, None, Some("qwen2.5-coder-0.5b")),
            ("llm.tiny", 64, None, Some("qwen2.5-coder-0.5b")),
            ("llm.smart", 2, None, None),
            ("llm.smart", 4, None, Some("qwen2.5-coder-1.5b")),
            ("stt", 64, None, None),
        ] {
            let role = Role::new(role).unwrap();
            let choice = choose(&catalogue, &role, ram_gib * GIB, group_mib.map(|mib| mib * MIB));
            let found = choice.model.map(|model| model.name.as_str());
            assert_eq!(found, model, "{role} with {ram_gib} GiB, group {group_mib:?}: {}", choice.reason);
            let others = catalogue.models().iter().filter(|model| model.roles.contains(&role)).count();
            assert_eq!(choice.refused.len() + usize::from(model.is_some()), others);
        }
    }

    #[test]
    fn a_choice_shows_its_sums() {
        let (catalogue, _) = built_in().unwrap();
        let choice = choose(&catalogue, &Role::new("llm.fast").unwrap(), 3 * GIB, None);
        assert_eq!(
            choice.reason,
            "qwen2.5-coder-0.5b is the best that fits llm.fast: weights 469 + context 96 (8192 tokens) + work 361 = \
             926 MiB, allowed are 1536 MiB (half of the machine's 3072 MiB)"
        );
        assert_eq!(mib(choice.memory_bytes), 926);
        let refused: Vec<_> = choice.refused.iter().map(|refused| refused.reason.as_str()).collect();
        assert_eq!(
            refused,
            [
                "weights 1066 + context 224 (8192 tokens) + work 361 = 1651 MiB, but allowed are 1536 MiB (half of the \
                 machine's 3072 MiB)",
                "weights 94 + context 180 (8192 tokens) + work 160 = 434 MiB; it fits, but qwen2.5-coder-0.5b answers \
                 better",
            ]
        );
        let nothing = choose(&catalogue, &Role::new("llm.smart").unwrap(), 2 * GIB, Some(GIB));
        assert_eq!(
            nothing.reason,
            "no model of the catalogue fits llm.smart: allowed are 512 MiB (the machine's 2048 MiB less 1536 MiB for \
             everything else)"
        );
    }
}

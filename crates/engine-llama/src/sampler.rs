//! How the next token is chosen.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use tandem_engine::Sampling;

/// Tokens the repeat penalty looks back on.
const PENALTY_SPAN: usize = 64;

/// The steps of a choice, in llama.cpp's own order: penalty, top k, top p, min p, temperature, dice.
pub(crate) fn sampler(sampling: &Sampling, vocabulary: i32, prompt: &[LlamaToken]) -> LlamaSampler {
    let mut steps = Vec::new();
    if sampling.repeat_penalty != 1.0 {
        let tail = &prompt[prompt.len().saturating_sub(PENALTY_SPAN)..];
        let span = PENALTY_SPAN as i32;
        steps.push(LlamaSampler::penalties(vocabulary, span, sampling.repeat_penalty, 0.0, 0.0).with_tokens(tail));
    }
    if sampling.temperature <= 0.0 {
        steps.push(LlamaSampler::greedy());
        return LlamaSampler::chain(steps, true);
    }
    if sampling.top_k > 0 {
        steps.push(LlamaSampler::top_k(i32::try_from(sampling.top_k).unwrap_or(i32::MAX)));
    }
    if sampling.top_p < 1.0 {
        steps.push(LlamaSampler::top_p(sampling.top_p, 1));
    }
    if sampling.min_p > 0.0 {
        steps.push(LlamaSampler::min_p(sampling.min_p, 1));
    }
    steps.push(LlamaSampler::temp(sampling.temperature));
    steps.push(LlamaSampler::dist(dice_seed(sampling.seed)));
    LlamaSampler::chain(steps, true)
}

/// llama.cpp takes 32 bits and throws its own dice for all ones.
fn dice_seed(seed: Option<u64>) -> u32 {
    let Some(seed) = seed else { return u32::MAX };
    let folded = (seed ^ (seed >> 32)) as u32;
    if folded == u32::MAX { 0 } else { folded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_a_seed() {
        assert_eq!(dice_seed(None), u32::MAX);
        assert_eq!(dice_seed(Some(7)), 7);
        assert_ne!(dice_seed(Some(1 << 40)), dice_seed(Some(1 << 41)));
        assert_eq!(dice_seed(Some(u64::from(u32::MAX))), 0);
    }
}

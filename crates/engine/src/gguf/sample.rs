//! An adapter for tests, laid out as the converters of llama.cpp do.

use super::GgufInfo;

/// Rows of its matrices.
const RANK: u64 = 4;

/// The file of an adapter that changes what every layer of a `llama` model looks for, each seed in another way, and strongly
/// enough that the model says something else.
pub fn sample_adapter(model: &GgufInfo, seed: u64) -> Vec<u8> {
    let [inputs, outputs] = [model.embedding, model.heads * model.key_width].map(u64::from);
    let mut bytes = b"GGUF".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3u32.to_le_bytes());
    bytes.extend([u64::from(model.layers) * 2, 4].map(u64::to_le_bytes).concat());
    for (key, value) in
        [("general.type", "adapter"), ("general.architecture", &model.architecture), ("adapter.type", "lora")]
    {
        text(&mut bytes, key);
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, value);
    }
    text(&mut bytes, "adapter.lora.alpha");
    bytes.extend([6u32.to_le_bytes(), 8f32.to_le_bytes()].concat());
    let mut numbers = Vec::new();
    let mut state = seed;
    for layer in 0..model.layers {
        for (half, [width, height], size) in [("a", [inputs, RANK], 0.05), ("b", [RANK, outputs], 0.5)] {
            text(&mut bytes, &format!("blk.{layer}.attn_q.weight.lora_{half}"));
            bytes.extend(2u32.to_le_bytes());
            bytes.extend([width, height].map(u64::to_le_bytes).concat());
            bytes.extend(0u32.to_le_bytes());
            bytes.extend((numbers.len() as u64).to_le_bytes());
            for _ in 0..width * height {
                // Knuth's generator of 64 bits.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * size;
                numbers.extend(number.to_le_bytes());
            }
            numbers.resize(numbers.len().next_multiple_of(32), 0);
        }
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(numbers);
    bytes
}

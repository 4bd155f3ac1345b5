//! Adapters: small matrices that are added to some of a model's own.

use std::collections::BTreeMap;
use std::path::Path;

use super::read::{Header, Tensor, Value};
use super::{GgufError, header_of};

/// What the header of an adapter's file says.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterInfo {
    /// Kind of network of the model it was made for, for example `llama`.
    pub architecture: String,
    /// Its weight, which is divided by its rank.
    pub alpha: f32,
    /// Rows of its narrowest matrices; the widest pair counts.
    pub rank: u64,
    /// Matrices of the model that it changes.
    pub matrices: usize,
    /// Bytes of the file, which is also what it takes in memory.
    pub file_bytes: u64,
}

/// The two matrices whose product is added to one of the model.
#[derive(Debug, Default)]
struct Pair<'h> {
    a: Option<&'h Tensor>,
    b: Option<&'h Tensor>,
}

impl AdapterInfo {
    /// Reads the header of an adapter and compares it with that of its model, of which it must change matrices that are
    /// there and have its sizes.
    ///
    /// llama.cpp ends the process at some of what is refused here, so it gets no file that was not read by this.
    ///
    /// # Errors
    /// [`GgufError::Unfit`] with everything that keeps it from being an adapter of that model; else what is wrong with
    /// either file.
    pub fn read(path: &Path, model: &Path) -> Result<Self, GgufError> {
        let (header, file_bytes) = header_of(path)?;
        let (model, _) = header_of(model)?;
        let mut wrong = Vec::new();
        for (key, must) in [("general.type", "adapter"), ("adapter.type", "lora")] {
            if header.text(key) != Some(must) {
                let is = header.text(key).map_or("missing".to_owned(), |is| format!("`{is}`"));
                wrong.push(format!("`{key}` is {is} instead of `{must}`"));
            }
        }
        let (own, other) = (header.architecture()?, model.architecture()?);
        if own != other {
            wrong.push(format!("it was made for the architecture `{own}`, the model has `{other}`"));
        }
        let alpha = match header.values.get(ALPHA) {
            Some(Value::Real(alpha)) if alpha.is_finite() => *alpha,
            Some(_) => {
                wrong.push(format!("`{ALPHA}` is no number of 32 bits with a point"));
                0.0
            }
            None => 0.0,
        };
        if header.values.contains_key(INVOKED) {
            wrong.push(format!("it has `{INVOKED}`, and adapters that begin in mid-prompt are not known here"));
        }
        let pairs = pairs(&header, &mut wrong);
        let sizes: BTreeMap<&str, &[u64]> = model.tensors.iter().map(|t| (t.name.as_str(), &t.sizes[..])).collect();
        let mut rank = 0;
        for (name, pair) in &pairs {
            match check(name, pair, sizes.get(name.as_str()).copied()) {
                Ok(of_pair) => rank = rank.max(of_pair),
                Err(problem) => wrong.push(problem),
            }
        }
        if pairs.is_empty() && wrong.is_empty() {
            wrong.push("it changes nothing".to_owned());
        }
        if wrong.is_empty() {
            Ok(Self { architecture: own.to_owned(), alpha, rank, matrices: pairs.len(), file_bytes })
        } else {
            Err(GgufError::Unfit(wrong))
        }
    }
}

const ALPHA: &str = "adapter.lora.alpha";
/// Tokens after which an adapter counts, from "activated LoRA".
const INVOKED: &str = "adapter.alora.invocation_tokens";

/// The adapter's matrices by the model's matrix they change.
fn pairs<'h>(header: &'h Header, wrong: &mut Vec<String>) -> BTreeMap<String, Pair<'h>> {
    let mut pairs: BTreeMap<String, Pair<'h>> = BTreeMap::new();
    for tensor in &header.tensors {
        let name = &tensor.name;
        if let Some(of) = name.strip_suffix(".lora_a") {
            pairs.entry(of.to_owned()).or_default().a = Some(tensor);
        } else if let Some(of) = name.strip_suffix(".lora_b") {
            pairs.entry(of.to_owned()).or_default().b = Some(tensor);
        } else {
            wrong.push(format!("tensor `{name}` ends neither in .lora_a nor in .lora_b"));
        }
    }
    pairs
}

/// The rank of a pair, or why it cannot be added to the matrix of the model.
fn check(name: &str, pair: &Pair<'_>, model: Option<&[u64]>) -> Result<u64, String> {
    let Pair { a: Some(a), b: Some(b) } = pair else {
        let lacks = if pair.a.is_none() { "lora_a" } else { "lora_b" };
        return Err(format!("`{name}` has no {lacks}"));
    };
    // Of the first matrix it is a table that is looked up, and may be the last one too, which is multiplied.
    if !name.starts_with("blk.") && name != "output.weight" {
        return Err(format!("`{name}` is no matrix of a layer and not `output.weight`; others are not changed here"));
    }
    let Some(model) = model else { return Err(format!("the model has no `{name}`")) };
    if let Some(odd) = [a, b].into_iter().find(|tensor| !MULTIPLIED.contains(&tensor.kind)) {
        return Err(format!("`{}` is of type {}; known are F32, F16, BF16 and Q8_0", odd.name, odd.kind));
    }
    let ([inputs, outputs], [a_in, rank], [b_in, b_out]) = (model, &a.sizes[..], &b.sizes[..]) else {
        return Err(format!("`{name}` and what changes it must have two dimensions"));
    };
    if (a_in, rank, b_out) != (inputs, b_in, outputs) || *rank == 0 {
        return Err(format!(
            "`{name}` has {inputs} × {outputs} numbers, what changes it {a_in} × {rank} and {b_in} × {b_out}"
        ));
    }
    Ok(*rank)
}

/// ggml's numbers of the types that adapters are written in: F32, F16, Q8_0, BF16.
const MULTIPLIED: [u32; 4] = [0, 1, 8, 30];

#[cfg(test)]
mod tests {
    use super::super::GgufInfo;
    use super::super::tests::Sample;
    use super::*;

    /// The header's values, then tensors: name, sizes and type.
    type File<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a [u64], u32)]);

    fn write((values, tensors): File<'_>, alpha: Option<f32>) -> tempfile::NamedTempFile {
        let count = values.len() + usize::from(alpha.is_some());
        let mut sample = Sample::new(tensors.len() as u64, count as u64);
        for (key, value) in values {
            sample = sample.text(key).u32(8).text(value);
        }
        if let Some(alpha) = alpha {
            sample = sample.text(ALPHA).u32(6).u32(alpha.to_bits());
        }
        let mut end = 0;
        for (name, sizes, kind) in tensors {
            sample = sample.text(name).u32(sizes.len() as u32);
            sample = sizes.iter().fold(sample, |sample, size| sample.u64(*size)).u32(*kind).u64(end);
            end += 4 * sizes.iter().product::<u64>().next_multiple_of(32);
        }
        let start = sample.0.len().next_multiple_of(32);
        sample.0.resize(start + end as usize, 0);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &sample.0).unwrap();
        file
    }

    fn model() -> tempfile::NamedTempFile {
        let tensors: &[(&str, &[u64], u32)] = &[
            ("blk.0.attn_q.weight", &[64, 32], 0),
            ("blk.0.attn_norm.weight", &[64], 0),
            ("blk.0.ffn_down_exps.weight", &[8, 8, 2], 0),
            ("token_embd.weight", &[64, 8], 0),
        ];
        write((&[("general.architecture", "llama")], tensors), None)
    }

    const HEAD: &[(&str, &str)] =
        &[("general.architecture", "llama"), ("general.type", "adapter"), ("adapter.type", "lora")];

    const OTHER: &[(&str, &str)] =
        &[("general.architecture", "qwen2"), ("general.type", "adapter"), ("adapter.type", "control")];

    #[test]
    fn an_adapter_says_what_it_changes() {
        let tensors: &[(&str, &[u64], u32)] =
            &[("blk.0.attn_q.weight.lora_a", &[64, 4], 0), ("blk.0.attn_q.weight.lora_b", &[4, 32], 1)];
        let (file, model) = (write((HEAD, tensors), Some(8.0)), model());
        let info = AdapterInfo::read(file.path(), model.path()).unwrap();
        assert_eq!((info.architecture.as_str(), info.alpha, info.rank, info.matrices), ("llama", 8.0, 4, 1));
        assert_eq!(info.file_bytes, file.as_file().metadata().unwrap().len());
        let error = GgufInfo::read(file.path()).unwrap_err();
        assert!(matches!(error, GgufError::Adapter), "{error}");
    }

    #[test]
    fn everything_that_does_not_fit_is_said_at_once() {
        const Q: (&str, &[u64], u32) = ("blk.0.attn_q.weight.lora_a", &[64, 4], 0);
        let cases: Vec<(File<'_>, &[&str])> = vec![
            ((&HEAD[..1], &[]), &["`general.type` is missing instead of `adapter`", "`adapter.type` is missing"]),
            ((HEAD, &[]), &["it changes nothing"]),
            (
                (OTHER, &[Q]),
                &[
                    "`adapter.type` is `control` instead of `lora`",
                    "it was made for the architecture `qwen2`, the model has `llama`",
                    "`blk.0.attn_q.weight` has no lora_b",
                ],
            ),
            (
                (HEAD, &[Q, ("blk.0.attn_q.weight.lora_b", &[4, 31], 0)]),
                &["has 64 × 32 numbers, what changes it 64 × 4"],
            ),
            ((HEAD, &[Q, ("blk.0.attn_q.weight.lora_b", &[5, 32], 0)]), &["64 × 4 and 5 × 32"]),
            ((HEAD, &[Q, ("blk.0.attn_q.weight.lora_b", &[4, 32], 26)]), &["is of type 26; known are F32"]),
            (
                (
                    HEAD,
                    &[("blk.9.x.weight.lora_a", &[1, 1], 0), ("blk.9.x.weight.lora_b", &[1, 1], 0), ("odd", &[1], 0)],
                ),
                &["`odd` ends neither", "the model has no `blk.9.x.weight`"],
            ),
            (
                (
                    HEAD,
                    &[
                        ("blk.0.ffn_down_exps.weight.lora_a", &[8, 4, 2], 0),
                        ("blk.0.ffn_down_exps.weight.lora_b", &[4, 8, 2], 0),
                        ("token_embd.weight.lora_a", &[4, 8], 0),
                        ("token_embd.weight.lora_b", &[4, 64], 0),
                    ],
                ),
                &["must have two dimensions", "`token_embd.weight` is no matrix of a layer"],
            ),
        ];
        let model = model();
        for (file, says) in cases {
            match AdapterInfo::read(write(file, None).path(), model.path()) {
                Err(GgufError::Unfit(problems)) => {
                    assert_eq!(problems.len(), says.len(), "{problems:?}");
                    assert!(problems.iter().zip(says).all(|(is, said)| is.contains(said)), "{problems:?}: {says:?}");
                }
                other => panic!("{other:?} does not say {says:?}"),
            }
        }
    }

    #[test]
    fn a_file_that_is_no_header_is_said_like_a_models() {
        let (model, file) = (model(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(file.path(), b"<html>").unwrap();
        assert!(matches!(AdapterInfo::read(file.path(), model.path()), Err(GgufError::NotGguf)));
        let whole = std::fs::read(write((HEAD, &[("blk.0.x.lora_a", &[8, 8], 0)]), None).path()).unwrap();
        std::fs::write(file.path(), &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(AdapterInfo::read(file.path(), model.path()), Err(GgufError::Short { .. })));
    }
}

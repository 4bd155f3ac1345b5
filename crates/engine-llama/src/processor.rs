//! The instructions that llama.cpp was compiled with, beside those that this processor has.

use tandem_types::{Code, Fault};

/// The processor lacks what llama.cpp was compiled with.
pub const OTHER_PROCESSOR: &str = "other_processor";

/// A kind of instruction: its name, whether llama.cpp was compiled with it, and whether it is here.
type Kind = (&'static str, bool, bool);

/// Refuses to run where llama.cpp would use an instruction that the processor does not have, which ends a process without a
/// word. Nothing but this check may be called where it fails.
///
/// # Errors
/// `failed_precondition`, `other_processor`, with all that is missing.
pub fn check_processor() -> Result<(), Fault> {
    check(&kinds())
}

fn check(kinds: &[Kind]) -> Result<(), Fault> {
    let missing: Vec<_> = kinds.iter().filter(|(_, used, here)| *used && !here).map(|(name, ..)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "this engine was built for a processor with {}, which this one does not have; build it on this machine (`make build`)",
        missing.join(", ")
    );
    Err(Fault::new(Code::FailedPrecondition, OTHER_PROCESSOR, message))
}

#[cfg(target_arch = "x86_64")]
fn kinds() -> Vec<Kind> {
    use llama_cpp_sys_2 as native;
    use std::arch::is_x86_feature_detected as here;

    let avx512 = here!("avx512f") && here!("avx512cd") && here!("avx512vl") && here!("avx512dq") && here!("avx512bw");
    // SAFETY: these functions give back what the compiler was told, and touch nothing.
    #[allow(unsafe_code, reason = "the wrapper does not have them")]
    let used = unsafe {
        [
            native::ggml_cpu_has_avx(),
            native::ggml_cpu_has_avx2(),
            native::ggml_cpu_has_fma(),
            native::ggml_cpu_has_f16c(),
            native::ggml_cpu_has_bmi2(),
            native::ggml_cpu_has_avx_vnni(),
            native::ggml_cpu_has_avx512(),
            native::ggml_cpu_has_avx512_vbmi(),
            native::ggml_cpu_has_avx512_vnni(),
            native::ggml_cpu_has_avx512_bf16(),
        ]
    };
    let here = [
        ("AVX", here!("avx")),
        ("AVX2", here!("avx2")),
        ("FMA", here!("fma")),
        ("F16C", here!("f16c")),
        ("BMI2", here!("bmi2")),
        ("AVX-VNNI", here!("avxvnni")),
        ("AVX-512", avx512),
        ("AVX-512 VBMI", here!("avx512vbmi")),
        ("AVX-512 VNNI", here!("avx512vnni")),
        ("AVX-512 BF16", here!("avx512bf16")),
    ];
    here.into_iter().zip(used).map(|((name, here), used)| (name, used != 0, here)).collect()
}

/// Elsewhere llama.cpp is compiled for what every processor of the kind has.
#[cfg(not(target_arch = "x86_64"))]
fn kinds() -> Vec<Kind> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named() {
        let check = |kinds: &[Kind]| check(kinds).map_err(|fault| (fault.reason.to_string(), fault.message));
        assert_eq!(check(&[("A", true, true), ("B", false, false), ("C", false, true)]), Ok(()));
        let (reason, message) = check(&[("A", true, false), ("B", true, true), ("C", true, false)]).unwrap_err();
        assert_eq!(reason, OTHER_PROCESSOR);
        assert!(message.contains("a processor with A, C, which"), "{message}");
    }

    #[test]
    fn this_build_runs_here() {
        check_processor().unwrap();
        assert_eq!(kinds().is_empty(), cfg!(not(target_arch = "x86_64")));
    }
}

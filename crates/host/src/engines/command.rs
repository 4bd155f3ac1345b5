//! How an engine's program is called.

use std::ffi::{OsStr, OsString};

use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_types::GroupId;

/// The variable by which the C library is set.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// Weights are read from end to end for each token: in huge pages one stream writes up to a tenth faster. Kernels give
/// them by default only to who asks (`/sys/kernel/mm/transparent_hugepage/enabled`).
const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";

pub(super) fn args(request: &pb::StartEngineRequest, pays: &GroupId) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut put = |name: &str, value: &str| args.extend([name.into(), value.into()]);
    put("--model", &request.path);
    put("--name", &request.model);
    for role in &request.roles {
        put("--role", role);
    }
    put("--group", &pays.to_string());
    put("--lease-bytes", &request.lease_bytes.to_string());
    for (name, value) in [("--ctx", request.context_tokens), ("--slots", request.slots), ("--threads", request.threads)]
    {
        if value > 0 {
            put(name, &value.to_string());
        }
    }
    if !request.adapters.is_empty() {
        put("--adapters", &request.adapters);
    }
    args
}

/// What is added to its environment.
pub(super) fn environment() -> Vec<(OsString, OsString)> {
    vec![(TUNABLES.into(), tunables(std::env::var_os(TUNABLES).as_deref()))]
}

/// With what a person has set: of two words on the same thing the later one counts.
fn tunables(theirs: Option<&OsStr>) -> OsString {
    let mut all = OsString::from(HUGE_PAGES);
    if let Some(theirs) = theirs.filter(|theirs| !theirs.is_empty()) {
        all.push(":");
        all.push(theirs);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_told_its_folder_of_adapters() {
        let pays = "solo/coordination".parse().unwrap();
        let told = |adapters: &str| {
            let args = args(&pb::StartEngineRequest { adapters: adapters.into(), ..Default::default() }, &pays);
            args.windows(2).find(|pair| pair[0] == *"--adapters").map(|pair| pair[1].clone())
        };
        assert_eq!((told("/data/adapters"), told("")), (Some("/data/adapters".into()), None));
    }

    #[test]
    fn what_a_person_set_for_the_c_library_stays() {
        let of = |theirs: &str| tunables(Some(theirs.as_ref()));
        assert_eq!(of("glibc.malloc.check=3"), "glibc.malloc.hugetlb=1:glibc.malloc.check=3");
        assert_eq!((of(""), tunables(None)), (HUGE_PAGES.into(), HUGE_PAGES.into()));
    }
}

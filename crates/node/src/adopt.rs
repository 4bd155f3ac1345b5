//! Which groups that a dead node left running a new node takes over: those whose processes are what it would start.
//!
//! What a process was started with is read from the kernel, which knows it better than any record.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::layout::Layout;
use crate::spec::{GroupSpec, Launch};
use crate::stale::Orphan;

/// Variables that a group inherits and heeds begin like this.
const HEEDED: [&str; 2] = ["TANDEM_", "OTEL_"];
/// Those of them that the node heeds and hands on as arguments.
const HANDED_ON: [&str; 2] = ["TANDEM_DATA", "TANDEM_FLEET"];
/// Where a process looks for its readiness socket.
pub(crate) const NOTIFY: &str = "NOTIFY_SOCKET";

/// What becomes of the groups that a dead node left running.
#[derive(Debug, Default)]
pub struct Left {
    /// Go on, as groups of the new node.
    pub taken: Vec<Orphan>,
    /// Are to end, last to start first, each with the reason.
    pub ended: Vec<(Orphan, String)>,
}

/// A file by what it is, not by its name.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// What a process was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    program: Option<FileId>,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: BTreeMap<String, OsString>,
}

impl Origin {
    /// Of a process that runs; none when it cannot be read.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
        let words = |bytes: Vec<u8>| -> Vec<OsString> {
            let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
            text.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect()
        };
        let variable = |word: OsString| {
            let at = word.as_bytes().iter().position(|byte| *byte == b'=')?;
            let (name, value) = word.as_bytes().split_at(at);
            Some((String::from_utf8_lossy(name).into_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
        };
        Some(Self {
            // The file itself, also where another one has its name by now.
            program: file_id(Path::new(&format!("/proc/{pid}/exe"))),
            args: words(read("cmdline")?).into_iter().skip(1).collect(),
            env: words(read("environ")?).into_iter().filter_map(variable).collect(),
        })
    }
}

/// What would be started in the place of a process.
struct Wanted<'a> {
    launch: &'a Launch,
    program: Option<FileId>,
    spec: &'a GroupSpec,
    notify: &'a Path,
    /// What it would inherit.
    inherited: &'a BTreeMap<String, OsString>,
}

impl Wanted<'_> {
    /// All that it would see of the variables it heeds.
    fn env(&self) -> BTreeMap<&str, OsString> {
        let heeded = self.inherited.iter().filter(|(name, _)| heeded(name));
        let mut env: BTreeMap<&str, OsString> = heeded.map(|(name, value)| (&name[..], value.clone())).collect();
        env.extend(self.launch.env.iter().map(|(name, value)| (&name[..], value.into())));
        env.insert(NOTIFY, self.notify.into());
        env
    }

    /// Why a process cannot stand in for it; none when it can.
    fn differs(&self, orphan: &Orphan, origin: &Origin) -> Option<String> {
        if orphan.ending {
            return Some("it was ending".into());
        }
        if origin.program.is_none() || origin.program != self.program {
            return Some("its program is another one now".into());
        }
        if orphan.reads.is_empty() {
            return Some("what was written down of it is lost".into());
        }
        if orphan.reads != self.launch.reads {
            return Some("the fleet file means something else now".into());
        }
        if origin.args != self.launch.args {
            return Some("it has other arguments now".into());
        }
        if orphan.limits.as_ref() != Some(&self.spec.limits) {
            return Some("it has other limits now".into());
        }
        let wanted = self.env();
        let of = |name: &str| origin.env.get(name);
        let theirs = origin.env.keys().filter(|name| heeded(name)).map(String::as_str);
        let mut other: Vec<&str> = theirs.filter(|name| !wanted.contains_key(name)).collect();
        other.extend(wanted.iter().filter(|(name, value)| of(name) != Some(*value)).map(|(name, _)| *name));
        (!other.is_empty()).then(|| format!("its environment is another one now: {}", other.join(", ")))
    }
}

fn heeded(name: &str) -> bool {
    HEEDED.iter().any(|prefix| name.starts_with(prefix)) && !HANDED_ON.contains(&name)
}

/// Sorts what a dead node left by what would be started now. The order of `left` is kept.
pub(crate) fn sort(
    left: Vec<Orphan>,
    groups: &[GroupSpec],
    layout: &Layout,
    launch: impl Fn(&GroupSpec) -> Launch,
) -> Left {
    let inherited: BTreeMap<String, OsString> =
        std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value)).collect();
    let mut sorted = Left::default();
    for orphan in left {
        let why_not = match groups.iter().enumerate().find(|(_, spec)| spec.built && spec.id == orphan.group) {
            None => Some("this node does not run it now".to_owned()),
            Some((place, spec)) => {
                let (launch, notify) = (launch(spec), layout.notify(place));
                let program = file_id(&launch.program);
                let wanted = Wanted { launch: &launch, program, spec, notify: &notify, inherited: &inherited };
                match Origin::of(orphan.pid) {
                    Some(origin) => wanted.differs(&orphan, &origin),
                    None => Some("what it was started with cannot be read".to_owned()),
                }
            }
        };
        match why_not {
            None => sorted.taken.push(orphan),
            Some(why) => sorted.ended.push((orphan, why)),
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Limits;

    fn limits(ram_mib: u64) -> Limits {
        Limits { ram_mib: Some(ram_mib), cpu: None, cpu_weight: 100, enforcement: "not enforced".into() }
    }

    #[test]
    fn only_what_would_be_started_again_is_taken_over() {
        let spec = GroupSpec {
            id: "solo/a".parse().unwrap(),
            needs: vec![],
            waits_for: vec![],
            after: vec![],
            built: true,
            contract: "127.0.0.1:1".parse().unwrap(),
            scrape: "127.0.0.1:2".parse().unwrap(),
            limits: limits(64),
            env: BTreeMap::new(),
        };
        let launch = Launch {
            program: "/bin/tandem".into(),
            args: vec!["serve".into(), "solo/a".into()],
            env: BTreeMap::from([("RED".to_owned(), "1".to_owned())]),
            reads: "hash".into(),
        };
        let inherited: BTreeMap<String, OsString> =
            [("TANDEM_LOG", "debug"), ("TANDEM_FLEET", "x.toml"), ("TERM", "vt100")]
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into();
        let notify = Path::new("/run/group-0.notify");
        let wanted = Wanted { launch: &launch, program: Some((1, 2)), spec: &spec, notify, inherited: &inherited };
        let origin = Origin {
            program: Some((1, 2)),
            args: launch.args.clone(),
            env: [("TANDEM_LOG", "debug"), ("RED", "1"), ("NOTIFY_SOCKET", "/run/group-0.notify"), ("HOME", "/x")]
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into(),
        };
        let text = serde_json::json!({ "group": "solo/a", "pid": 7, "started_ticks": 1, "place": 0 });
        let bare: Orphan = serde_json::from_value(text).unwrap();
        let orphan = Orphan { reads: "hash".into(), limits: Some(limits(64)), ..bare };
        assert_eq!(wanted.differs(&orphan, &origin), None);

        let with = |change: &dyn Fn(&mut Orphan, &mut Origin)| {
            let (mut orphan, mut origin) = (orphan.clone(), origin.clone());
            change(&mut orphan, &mut origin);
            wanted.differs(&orphan, &origin).unwrap_or_default()
        };
        assert_eq!(with(&|orphan, _| orphan.ending = true), "it was ending");
        assert_eq!(with(&|_, origin| origin.program = Some((1, 3))), "its program is another one now");
        assert_eq!(with(&|orphan, _| orphan.reads.clear()), "what was written down of it is lost");
        assert_eq!(with(&|orphan, _| orphan.reads.push('x')), "the fleet file means something else now");
        assert_eq!(with(&|_, origin| origin.args.push("--more".into())), "it has other arguments now");
        assert_eq!(with(&|orphan, _| orphan.limits = Some(limits(65))), "it has other limits now");
        let environment = with(&|_, origin| {
            origin.env.remove("RED");
            origin.env.insert("OTEL_X".into(), "1".into());
            origin.env.insert("NOTIFY_SOCKET".into(), "/run/group-1.notify".into());
        });
        assert_eq!(environment, "its environment is another one now: OTEL_X, NOTIFY_SOCKET, RED");
        let gone = Wanted { program: None, ..wanted };
        assert!(gone.differs(&orphan, &Origin { program: None, ..origin }).is_some(), "a program that is gone");
    }

    #[test]
    fn the_kernel_tells_what_a_process_was_started_with() {
        let own = Origin::of(std::process::id()).unwrap();
        assert_eq!(own.program, file_id(&std::env::current_exe().unwrap()));
        assert_eq!(own.args, std::env::args_os().skip(1).collect::<Vec<_>>());
        assert_eq!(own.env.get("PATH"), std::env::var_os("PATH").as_ref());
        assert_eq!(Origin::of(u32::MAX), None);
    }
}

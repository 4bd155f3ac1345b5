//! Checks of this machine and of a fleet file, for `tandem doctor` and for UnifiedSystemAgent: what was looked at, what was
//! seen, what to do.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tandem_fleet::{Finding, Plan, Severity};
use tandem_types::{GroupId, Timestamp};

use crate::machine::disk;

/// How a check came out; failed ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Something does not work.
    Fail,
    /// It works, and a person should know.
    Warn,
    /// As it should be.
    Pass,
}

impl Grade {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::Pass => "pass",
        }
    }

    /// Of the contract's word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Fail, Self::Warn, Self::Pass].into_iter().find(|grade| grade.as_str() == word)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at; the same name is the same check, whoever looked.
    pub name: String,
    /// How it came out.
    pub grade: Grade,
    /// What was seen.
    pub detail: String,
    /// What to do; empty when it passed.
    pub remedy: String,
}

impl Check {
    /// It is as it should be.
    pub fn pass(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), grade: Grade::Pass, detail: detail.into(), remedy: String::new() }
    }

    /// It works, and a person should know.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), grade: Grade::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    /// It does not work.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Fail, ..Self::warn(name, detail, remedy) }
    }
}

const MIB: u64 = 1 << 20;

/// Free bytes of the data folder's disk.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// With less a person is warned.
    pub warn_below: u64,
    /// With less it is a failure.
    pub fail_below: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { warn_below: 2048 * MIB, fail_below: 256 * MIB }
    }
}

/// Whether the data folder can be written, by nobody else, with room on its disk. Blocks for as long as the disk takes.
pub fn data_folder(folder: &Path, room: Room) -> Vec<Check> {
    vec![writable(folder), private(folder), free(folder, room)]
}

/// Name of the check whether a folder can be written.
pub const WRITABLE: &str = "disk: data folder";

fn writable(folder: &Path) -> Check {
    let probe = folder.join(".doctor");
    let written = std::fs::write(&probe, b"written by the doctor").and_then(|()| File::open(&probe)?.sync_all());
    let removed = std::fs::remove_file(&probe);
    let at = folder.display();
    match written.and(removed) {
        Ok(()) => Check::pass(WRITABLE, format!("{at} can be written")),
        Err(e) => Check::fail(
            WRITABLE,
            format!("{at} cannot be written: {e}"),
            format!(
                "`ls -ld {at}` shows who owns it: make it writable for the user who runs Tandem, or use --data DIR"
            ),
        ),
    }
}

fn private(folder: &Path) -> Check {
    let (name, at) = ("disk: privacy", folder.display());
    match others_may(folder) {
        Ok(None) => Check::pass(name, format!("only its owner can look into {at}")),
        Ok(Some(mode)) => {
            let detail = format!("other users of this machine can look into {at} (mode {mode:o})");
            Check::warn(name, detail, format!("`chmod 700 {at}`"))
        }
        Err(e) => {
            Check::fail(name, format!("{at} cannot be looked at: {e}"), format!("`ls -ld {at}` shows who owns it"))
        }
    }
}

/// The mode of a file or folder that others than its owner may use.
fn others_may(path: &Path) -> std::io::Result<Option<u32>> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

fn free(folder: &Path, room: Room) -> Check {
    match disk(folder) {
        Ok(disk) => disk_room(disk.free, disk.total(), room),
        Err(e) => {
            let detail = format!("{} cannot be asked for its disk: {e}", folder.display());
            Check::fail("disk: room", detail, "see whether the folder is there, or use --data DIR")
        }
    }
}

fn disk_room(free: u64, total: u64, room: Room) -> Check {
    let name = "disk: room";
    let detail = format!("{} MiB of {} MiB are free for the data folder", free / MIB, total / MIB);
    let remedy =
        format!("make room on its disk until at least {} MiB are free, or use --data DIR", room.warn_below / MIB);
    match free {
        free if free < room.fail_below => Check::fail(name, detail, remedy),
        free if free < room.warn_below => Check::warn(name, detail, remedy),
        _ => Check::pass(name, detail),
    }
}

/// How far clocks that are equal may be apart.
pub(crate) const CLOCKS_EQUAL: Duration = Duration::from_secs(2);
/// What to do about a wrong clock.
pub(crate) const SET_CLOCK: &str = "set it by a time server: `timedatectl set-ntp true`";

/// The clock against this program's age, and against the newest file of the data folder: time goes on.
pub fn clock(now: Timestamp, data: &Path) -> Check {
    clock_went_back(now, newest(data))
}

fn clock_went_back(now: Timestamp, newest_file: Option<Timestamp>) -> Check {
    let name = "clock: here";
    // No copy of this program is older.
    if now < Timestamp::from_secs(1_760_000_000) {
        return Check::fail(name, "the clock stands before this program was written", SET_CLOCK);
    }
    match newest_file.map(|at| at.since(now)).filter(|ahead| *ahead > CLOCKS_EQUAL) {
        Some(ahead) => {
            let detail = format!("a file in the data folder was written {} s after now", ahead.as_secs());
            Check::fail(name, detail, SET_CLOCK)
        }
        None => Check::pass(name, "the clock is set and has not gone back"),
    }
}

/// When the newest file of the folder was written.
fn newest(folder: &Path) -> Option<Timestamp> {
    let written = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.metadata().ok()?.modified().ok();
    std::fs::read_dir(folder).ok()?.filter_map(written).max().map(|at: SystemTime| at.into())
}

/// Whether the kernel holds this process, which is the group's, to the group's memory.
pub(crate) fn memory_limit(group: &GroupId, planned: u64) -> Check {
    limit_against_plan(group, own_limit(), planned)
}

fn limit_against_plan(group: &GroupId, limit: Option<u64>, planned: u64) -> Check {
    let name = format!("limits: {group}");
    let remedy =
        "`tandem status` says why; nothing ends a group that takes more, so leave the machine room beyond the plan";
    match limit {
        Some(limit) if limit <= planned + planned / 20 => {
            Check::pass(name, format!("the kernel holds it to {} MiB", limit / MIB))
        }
        Some(limit) => {
            let detail =
                format!("its limit of {} MiB is not enforced: the kernel allows {} MiB", planned / MIB, limit / MIB);
            Check::warn(name, detail, remedy)
        }
        None => Check::warn(name, format!("its limit of {} MiB is not enforced", planned / MIB), remedy),
    }
}

/// The lowest limit of memory from the control group of this process upwards, in both trees there may be; none where
/// nothing limits it (Linux, "Control Group v2", "Memory Interface Files"; "Memory Resource Controller").
fn own_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = |controller: &str| {
        groups.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let root = PathBuf::from(crate::machine::CGROUP);
    let trees = [("", root.clone(), "memory.max"), ("memory", root.join("memory"), "memory.limit_in_bytes")];
    let lowest = |(controller, root, file): &(&str, PathBuf, &str)| {
        let own = root.join(own(controller)?);
        let limit = |folder: &Path| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        own.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(limit).min()
    };
    // The older tree writes "no limit" as a number beyond all memory.
    trees.iter().filter_map(lowest).filter(|bytes| *bytes < 1 << 60).min()
}

/// Whether the secret that opens the door is its owner's alone.
pub(crate) fn token_file(file: &Path) -> Check {
    let (name, at) = ("keys: door", file.display());
    match others_may(file) {
        Ok(None) => Check::pass(name, format!("only its owner can read the token in {at}")),
        Ok(Some(mode)) => {
            let detail = format!("other users of this machine can read the token in {at} (mode {mode:o})");
            Check::warn(name, detail, format!("`chmod 600 {at}`, and a new token if somebody may have read it"))
        }
        Err(e) => {
            Check::fail(name, format!("the token in {at} cannot be looked at: {e}"), "see `token_file` under [web]")
        }
    }
}

/// Errors and warnings about a fleet file.
pub fn fleet_file(findings: &[Finding]) -> Vec<Check> {
    let check = |finding: &Finding| {
        let name = format!("fleet file: {}", finding.code);
        match finding.severity {
            Severity::Error => Some(Check::fail(name, &finding.message, &finding.fix)),
            Severity::Warning => Some(Check::warn(name, &finding.message, &finding.fix)),
            Severity::Note => None,
        }
    };
    let checks: Vec<Check> = findings.iter().filter_map(check).collect();
    if checks.is_empty() { vec![Check::pass("fleet file", "has no errors and no warnings")] } else { checks }
}

/// Shares of graphics cards. Until an engine has seen its own limits, a share is a wish.
pub fn shares(plan: &Plan) -> Vec<Check> {
    let shares = plan.nodes.values().flat_map(|node| &node.cards).flat_map(|card| &card.shares);
    let remedy =
        "none in this version: what is loaded there is limited by what the model manager lends, not by the driver";
    shares
        .map(|share| Check::warn(format!("share: {}", share.owner), "not enforced: nothing has verified it", remedy))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Grade::{Fail, Pass, Warn};
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_790_000_000 + seconds)
    }

    #[test]
    fn checks_come_out_as_measured() {
        let room = Room { warn_below: 200, fail_below: 100 };
        for (free, grade) in [(300, Pass), (200, Pass), (199, Warn), (100, Warn), (99, Fail)] {
            assert_eq!(disk_room(free, 1_000, room).grade, grade, "{free} free");
        }
        assert_eq!(clock_went_back(at(0), Some(at(-5))).grade, Pass);
        assert_eq!(clock_went_back(at(0), Some(at(2))).grade, Pass);
        assert_eq!(clock_went_back(at(0), Some(at(60))).grade, Fail);
        assert_eq!(clock_went_back(Timestamp::from_secs(0), None).grade, Fail);
        let group: GroupId = "pc2/a".parse().unwrap();
        for (limit, grade) in [(Some(100), Pass), (Some(105), Pass), (Some(106), Warn), (None, Warn)] {
            assert_eq!(limit_against_plan(&group, limit, 100).grade, grade, "{limit:?}");
        }
    }

    #[test]
    fn a_folder_is_looked_at_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let grades = |path: &Path| {
            data_folder(path, Room { warn_below: 0, fail_below: 0 }).iter().map(|c| c.grade).collect::<Vec<_>>()
        };
        let mode = |mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        assert_eq!(grades(path), [Pass, Pass, Pass]);
        mode(0o750);
        assert_eq!(grades(path), [Pass, Warn, Pass]);
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "the probe is left behind");
        assert_eq!(grades(&path.join("nowhere")), [Fail, Fail, Fail]);
        assert_eq!(clock(at(0) - Duration::from_secs(1 << 30), path).grade, Fail);
    }

    #[test]
    fn a_token_that_others_can_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert_eq!(token_file(&file).grade, Fail);
        std::fs::write(&file, "secret").unwrap();
        for (mode, grade) in [(0o600, Pass), (0o400, Pass), (0o640, Warn), (0o604, Warn)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(token_file(&file).grade, grade, "{mode:o}");
        }
    }

    #[test]
    fn the_words_of_the_contract_are_read_back() {
        for grade in [Fail, Warn, Pass] {
            assert_eq!(Grade::of(grade.as_str()), Some(grade));
        }
        assert_eq!(Grade::of("fine"), None);
    }

    #[test]
    fn notes_about_a_fleet_file_are_no_matter_for_a_doctor() {
        let plan = |text: &str| {
            let document = tandem_fleet::Document::read("mine.toml", text);
            tandem_fleet::plan(&document, &tandem_fleet::Facts::default())
        };
        let good = plan(tandem_fleet::SOLO).unwrap();
        assert!(fleet_file(&good.findings).iter().all(|check| check.grade != Fail), "{:?}", good.findings);
        assert!(shares(&good).is_empty());
        let refused = plan("[node.a]\ncolour = 1\n").unwrap_err();
        let checks = fleet_file(&refused.findings);
        assert!(checks.iter().any(|check| check.grade == Fail && !check.remedy.is_empty()), "{checks:?}");
    }
}

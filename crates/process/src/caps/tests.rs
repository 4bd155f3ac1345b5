//! A tree of plain folders in the place of the kernel's, and the kernel's own where it lets this process.

use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::child::enter;

const CAPS: Caps = Caps { memory_bytes: Some(64 << 20), cpus: Some(1.5), cpu_weight: 300, tasks: 200 };

fn mounts_of_first(folder: &TempDir) -> String {
    let at = folder.path().display();
    let mounts = ["memory", "cpu,cpuacct", "pids"].map(|options| {
        let name = options.split(',').next().unwrap();
        format!("35 31 0:32 /box {at}/{name} rw,relatime shared:9 - cgroup cgroup rw,{options}\n")
    });
    mounts.concat()
}

/// A machine with one tree for each controller; this process is deep in that of memory.
fn first(folder: &TempDir) -> ControlGroups {
    for name in ["memory", "cpu", "pids"] {
        std::fs::create_dir_all(folder.path().join(name).join("own")).unwrap();
    }
    let own = "9:pids:/box\n4:memory:/box/own\n1:cpu,cpuacct:/box\n0::/\n";
    ControlGroups::from_kernel(&mounts_of_first(folder), own, 7).unwrap()
}

fn mount_of_second(folder: &TempDir) -> String {
    format!("41 31 0:38 / {} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n", folder.path().display())
}

/// A machine with one tree for all controllers.
fn second(folder: &TempDir) -> ControlGroups {
    let own = folder.path().join("user.slice/me");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    ControlGroups::from_kernel(&mount_of_second(folder), "0::/user.slice/me\n", 7).unwrap()
}

fn written(folder: &TempDir, path: &str) -> String {
    std::fs::read_to_string(folder.path().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn caps_are_written_where_the_kernel_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let group = first(&folder).make("talk", &CAPS).unwrap();
    assert_eq!(group.enforcement().to_string(), "cgroup v1: memory, CPU, tasks");
    for (file, value) in [
        ("memory/own/tandem-7/talk/memory.limit_in_bytes", "67108864"),
        ("cpu/tandem-7/talk/cpu.shares", "3072"),
        ("cpu/tandem-7/talk/cpu.cfs_quota_us", "150000"),
        ("pids/tandem-7/talk/pids.max", "200"),
    ] {
        assert_eq!(written(&folder, file), value, "{file}");
    }
    assert_eq!(group.doors().len(), 3);

    let folder = tempfile::tempdir().unwrap();
    let group = second(&folder).make("talk", &CAPS).unwrap();
    assert_eq!(group.enforcement().to_string(), "cgroup v2: memory, CPU, tasks");
    for (file, value) in [
        ("cgroup.subtree_control", "+memory +cpu +pids"),
        ("tandem-7/cgroup.subtree_control", "+memory +cpu +pids"),
        ("tandem-7/node/cgroup.procs", "7"),
        ("tandem-7/talk/memory.max", "67108864"),
        ("tandem-7/talk/memory.high", "65011712"),
        ("tandem-7/talk/cpu.weight", "300"),
        ("tandem-7/talk/cpu.max", "150000 100000"),
        ("tandem-7/talk/pids.max", "200"),
    ] {
        assert_eq!(written(&folder, &format!("user.slice/me/{file}")), value, "{file}");
    }
    assert_eq!(group.doors().len(), 1);
}

#[test]
fn what_is_not_taken_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let groups = first(&folder);
    // Where a folder is, nothing can be written.
    std::fs::create_dir_all(folder.path().join("memory/own/tandem-7/talk/memory.limit_in_bytes")).unwrap();
    let group = groups.make("talk", &CAPS).unwrap();
    let said = group.enforcement().to_string();
    assert!(said.starts_with("cgroup v1: CPU, tasks; memory not enforced: "), "{said}");
    let free = Caps { memory_bytes: None, ..CAPS };
    let said = groups.make("free", &free).unwrap().enforcement().to_string();
    assert_eq!(said, "cgroup v1: CPU, tasks", "without a limit there is none to keep");

    assert_eq!(Enforcement::none("no control groups").to_string(), "not enforced: no control groups");
    let none = ControlGroups::from_kernel("1 2 0:3 / / rw - ext4 /dev/a rw\n", "", 7).unwrap_err();
    assert_eq!(none, "this machine has no control groups");
    // A tree without controllers is none.
    let folder = tempfile::tempdir().unwrap();
    assert!(ControlGroups::from_kernel(&mount_of_second(&folder), "0::/\n", 7).is_err());
    // Who cannot leave its group says why, and is where it was.
    let own = folder.path().join("own");
    std::fs::create_dir_all(own.join("cgroup.subtree_control")).unwrap();
    std::fs::write(own.join("cgroup.controllers"), "memory").unwrap();
    let fault = ControlGroups::from_kernel(&mount_of_second(&folder), "0::/own\n", 7).unwrap_err();
    assert!(fault.contains("cgroup.subtree_control"), "{fault}");
    assert_eq!(written(&folder, "own/cgroup.procs"), "7");
}

#[test]
fn a_group_that_another_process_made_is_found_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let made = first(&folder).make("talk", &CAPS).unwrap();
    let mounts = mounts_of_first(&folder);
    let of = |home: &str| format!("9:pids:/box/{home}\n4:memory:/box/own/{home}\n1:cpu,cpuacct:/box/{home}\n0::/\n");
    let found = |home: &str, caps| ControlGroup::from_kernel(&mounts, &of(home), "talk", caps);
    assert_eq!(found("tandem-7/talk", &CAPS).unwrap(), made);
    let other = found("tandem-7/talk", &Caps { tasks: 100, ..CAPS }).unwrap().enforcement().to_string();
    assert!(other.starts_with("cgroup v1: memory, CPU; tasks not enforced: "), "{other}");
    for home in ["tandem-7/walk", "talk", "tandem-7"] {
        assert!(found(home, &CAPS).is_err(), "{home}");
    }

    let folder = tempfile::tempdir().unwrap();
    let made = second(&folder).make("talk", &CAPS).unwrap();
    let of = "0::/user.slice/me/tandem-7/talk\n";
    assert_eq!(ControlGroup::from_kernel(&mount_of_second(&folder), of, "talk", &CAPS).unwrap(), made);
}

#[test]
fn amounts_of_memory_are_cut_to_pages() {
    for (wanted, now, met) in [
        ("67108865", "67108864", true),
        ("67108864", "67104768", false),
        ("67108864", "9223372036854771712", false),
        ("150000 100000", "150000 100000", true),
        ("150000 100000", "max 100000", false),
    ] {
        let setting = settings::Setting { file: "x", value: wanted.into(), optional: false };
        assert_eq!(setting.is_met(now), met, "{wanted} {now}");
    }
}

#[test]
fn what_a_dead_node_left_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let groups = first(&folder);
    for name in ["tandem-5/old", "tandem-6/lives", "tandem-7/own", "other/x", "tandem-y/z"] {
        std::fs::create_dir_all(folder.path().join("cpu").join(name)).unwrap();
    }
    groups.sweep(|pid| [6, 7].contains(&pid));
    let mut left: Vec<String> = std::fs::read_dir(folder.path().join("cpu"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["other", "own", "tandem-6", "tandem-7", "tandem-y"]);
}

#[test]
fn the_kernel_keeps_what_it_took() {
    let groups = match ControlGroups::find() {
        Ok(groups) => groups,
        // Where the kernel gives nothing there is nothing to be kept, and it says why.
        Err(why) => return assert!(!why.is_empty()),
    };
    let group = match groups.make("test", &CAPS) {
        Ok(group) if !group.enforcement().to_string().contains("memory not enforced") => group,
        Ok(group) => {
            group.remove().unwrap();
            return assert!(group.enforcement().to_string().contains("memory not enforced: "), "and it says why");
        }
        Err(why) => return assert!(!why.is_empty()),
    };
    // The second holds 200 MB at once, which is more than it may.
    let mut greedy = Command::new("/bin/sh");
    greedy.args(["-c", "head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null"]);
    enter(&mut greedy, &group);
    let mut child = greedy.spawn().unwrap();
    assert!(group.holds(child.id()), "it is not in its group");
    let ended = child.wait().unwrap();
    // How a shell says that its last command was killed.
    assert_eq!(ended.code(), Some(128 + 9), "{ended:?}");
    assert!(group.memory_kills() >= 1);
    let peak = group.peak_bytes().unwrap();
    assert!(peak <= 64 << 20 && peak > 32 << 20, "{peak}");
    group.remove().unwrap();
}

//! What this machine has, as the kernel tells it: the files of proc(5), and of "Control Group v2", "Memory Interface
//! Files", where a container limits the whole of it.

use std::fs::read_to_string;
use std::path::Path;

use tandem_fleet::Machine;

use crate::cards::Driver;

/// Where the kernel tells.
pub(crate) const PROC: &str = "/proc";
/// The control group that a container sees as its root. Outside a container the root has no limits.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup";

/// Memory of the machine, or of the container that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes in all.
    pub(crate) total: u64,
    /// Bytes that can be taken without swapping; none where the kernel does not say.
    pub(crate) available: Option<u64>,
}

/// This machine. Nobody has looked for its cards where no driver tells of them.
pub fn here() -> Machine {
    let total = memory(Path::new(PROC), Path::new(CGROUP)).map_or(0, |memory| memory.total);
    Machine { ram_mib: total >> 20, cpus: cpus().max(1), cards: Driver::open().planned() }
}

/// Processors that this process may use; 0 when the kernel does not say.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Memory by `meminfo` under `proc`, or by the limit of the control group where that is lower.
pub(crate) fn memory(proc: &Path, cgroup: &Path) -> Option<Memory> {
    let text = read_to_string(proc.join("meminfo")).ok()?;
    let machine = Memory { total: kib(&text, "MemTotal")?, available: kib(&text, "MemAvailable") };
    let number = |name: &str| read_to_string(cgroup.join(name)).ok()?.trim().parse::<u64>().ok();
    // Without a limit the file says `max`.
    let Some(limit) = number("memory.max").filter(|limit| *limit < machine.total) else { return Some(machine) };
    // Pages of files that nobody used lately are given up first, so they count as free.
    let idle = read_to_string(cgroup.join("memory.stat"))
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok()));
    let used = number("memory.current").zip(idle).map(|(current, idle)| current.saturating_sub(idle));
    let left = used.map(|used| limit.saturating_sub(used));
    Some(Memory { total: limit, available: machine.available.zip(left).map(|(machine, left)| machine.min(left)) })
}

/// The disk a folder is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Bytes in use.
    pub(crate) used: u64,
    /// Bytes that this user may still take.
    pub(crate) free: u64,
}

impl Disk {
    /// Bytes in all, without those that only root may take, as `df` counts.
    pub(crate) fn total(&self) -> u64 {
        self.used + self.free
    }
}

/// Asks the disk that `folder` is on; blocks for as long as it takes to say.
pub(crate) fn disk(folder: &Path) -> std::io::Result<Disk> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let used = stat.blocks().saturating_sub(stat.blocks_free());
    Ok(Disk { used: bytes(used), free: bytes(stat.blocks_available()) })
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO: &str = "MemTotal:       4194304 kB\nMemFree:        1 kB\nMemAvailable:   3145728 kB\n";

    fn told(files: &[(&str, &str)]) -> Option<Memory> {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
        memory(folder.path(), folder.path())
    }

    #[test]
    fn memory_is_the_machine_s_or_what_its_container_may_take() {
        let whole = Memory { total: 4096 * MIB, available: Some(3072 * MIB) };
        let stat = "anon 1\ninactive_file 104857600\nactive_file 5\n";
        for (files, wanted) in [
            (vec![], whole),
            (vec![("memory.max", "max\n"), ("memory.current", "1\n")], whole),
            (vec![("memory.max", "8589934592\n"), ("memory.current", "1\n"), ("memory.stat", stat)], whole),
            (
                vec![("memory.max", "1073741824\n"), ("memory.current", "524288000\n"), ("memory.stat", stat)],
                Memory { total: 1024 * MIB, available: Some(624 * MIB) },
            ),
            (
                // The machine is fuller than the container.
                vec![("memory.max", "4292870144\n"), ("memory.current", "104857600\n"), ("memory.stat", stat)],
                Memory { total: 4094 * MIB, available: Some(3072 * MIB) },
            ),
            (vec![("memory.max", "1073741824\n")], Memory { total: 1024 * MIB, available: None }),
        ] {
            let files = [&[("meminfo", MEMINFO)][..], &files[..]].concat();
            assert_eq!(told(&files), Some(wanted), "{files:?}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_say_is_absent() {
        assert_eq!(told(&[]), None);
        for (text, wanted) in [
            ("", None),
            ("MemTotal: 1", None),
            ("MemTotal: 1 kB", Some(Memory { total: 1024, available: None })),
            ("MemTotal: 1 kB\nMemAvailable: x kB", Some(Memory { total: 1024, available: None })),
        ] {
            assert_eq!(told(&[("meminfo", text)]), wanted, "{text:?}");
        }
    }

    #[test]
    fn this_machine_has_memory_and_processors() {
        let machine = here();
        assert!(machine.ram_mib > 0 && machine.cpus > 0, "{machine:?}");
    }
}

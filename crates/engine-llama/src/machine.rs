//! What the machine offers and what this process takes of it.

use std::collections::BTreeSet;
use std::fs;

/// Threads that compute fastest: one on each physical core this process may use. Two on one core only wait for each
/// other at llama.cpp's barriers.
pub fn default_threads() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings = (0..).map_while(|cpu| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    });
    threads(allowed, siblings)
}

/// Physical cores are as many as there are different lists of sibling threads.
fn threads(allowed: usize, siblings: impl Iterator<Item = String>) -> u32 {
    let physical = siblings.collect::<BTreeSet<_>>().len();
    let threads = if physical == 0 { allowed } else { allowed.min(physical) };
    u32::try_from(threads).unwrap_or(u32::MAX).max(1)
}

/// Bytes of this process in RAM; zero where the system does not say.
pub fn resident_bytes() -> u64 {
    fs::read_to_string("/proc/self/status").ok().as_deref().and_then(vm_rss).unwrap_or(0)
}

fn vm_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_physical_cores_and_what_is_allowed() {
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>().into_iter();
        assert_eq!(threads(4, list(&["0,2\n", "1,3\n", "0,2\n", "1,3\n"])), 2);
        assert_eq!(threads(1, list(&["0\n", "1\n"])), 1);
        assert_eq!(threads(6, list(&[])), 6);
    }

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(vm_rss("Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(vm_rss("Name:\tx\n"), None);
        assert!(resident_bytes() > 0);
    }
}

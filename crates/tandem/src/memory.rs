//! Keeps processes small that mostly wait: there are many of them on one machine.

use std::time::Duration;

/// How soon after a start memory is given back for the first time: what follows the start needs some once more.
const FIRST: Duration = Duration::from_secs(5);
/// Time between two returns.
const EVERY: Duration = Duration::from_secs(10);

/// One heap for all threads, and big pieces outside of it. By default glibc gives every thread a heap of its own and
/// never gives back what lies below a piece that is still in use. To be called before there are other threads; what
/// the person who starts the process has set counts more.
pub(crate) fn be_frugal() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Pieces of this size and more are mapped by themselves and returned when they are freed. Setting it also keeps
        /// glibc from raising it.
        const BIG: libc::c_int = 128 * 1024;
        for (name, option, value) in
            [("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, 1), ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, BIG)]
        {
            if std::env::var_os(name).is_none() {
                // SAFETY: sets a number inside the allocator, which takes its own lock.
                #[allow(unsafe_code, reason = "glibc has no other way in")]
                let taken = unsafe { libc::mallopt(option, value) };
                if taken == 0 {
                    tracing::debug!(name, value, "the allocator keeps its own setting");
                }
            }
        }
    }
}

/// Gives memory back again and again; never ends by itself.
pub(crate) async fn stay_small() {
    tokio::time::sleep(FIRST).await;
    loop {
        give_back();
        tokio::time::sleep(EVERY).await;
    }
}

/// Returns what nobody uses: memory that was freed, which reading plans and opening stores leaves behind, and the parts
/// of the program that ran at the start. Those are mapped again from the page cache, where all processes of this program
/// share one copy, when they are needed.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Whether there was something to return is of no interest.
        // SAFETY: looks for free pages under the allocator's own locks and touches nothing that is in use.
        #[allow(unsafe_code, reason = "glibc has no other way in")]
        let _ = unsafe { libc::malloc_trim(0) };
        // SAFETY: `unmap` keeps to what the loader promises of its argument, and does not unwind.
        #[allow(unsafe_code, reason = "only the loader knows the segments")]
        let _ = unsafe { libc::dl_iterate_phdr(Some(unmap), std::ptr::null_mut()) };
    }
}

/// Unmaps the segments of one loaded object that were never writable.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "called by the loader")]
unsafe extern "C" fn unmap(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: u64 = 4096;
    // SAFETY: the loader hands in a valid object and keeps it, with its program headers, for the time of this call.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let begin = (base + header.p_vaddr) & !(PAGE - 1);
        let end = base + header.p_vaddr + header.p_memsz;
        let (Ok(length), begin) = (usize::try_from(end - begin), begin as *mut libc::c_void) else { continue };
        // A segment that cannot be advised on stays as it is.
        // SAFETY: the segment is a private mapping of a file that was never writable, so that no page of it differs from
        // the file; the next touch maps the same bytes again.
        let _ = unsafe { libc::madvise(begin, length, libc::MADV_DONTNEED) };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_program_goes_on_with_less() {
        let file_backed = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        be_frugal();
        // Touches every page of the program's code that the test needs, and more.
        let words: Vec<String> = tandem_fleet::SOLO.lines().map(str::to_uppercase).collect();
        let before = file_backed();
        give_back();
        assert!(file_backed() < before, "{} of {before} KiB are still there", file_backed());
        let again: Vec<String> = tandem_fleet::SOLO.lines().map(str::to_uppercase).collect();
        assert_eq!(words, again);
    }
}

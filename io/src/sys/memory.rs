//! What keeps a thread running when the machine is short of memory or of time: locked pages, real-time priority.
//!
//! None of it is needed for safety - a host that is too slow to renew is stopped like any other - but a renewal
//! that waits for a page to be read back from a slow disk costs a healthy host its leases. Each call reports what
//! the system did not allow; the daemon turns that into one warning and goes on.
//!
//! Units: priorities as in sched(7), 1 to 99. Errors: [`MemoryError`], one per call.
//! Source: mlockall(2), sched_setscheduler(2), prctl(2).
#![allow(unsafe_code)]

use std::ffi::CString;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit};

/// What the system did not allow.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// `mlockall` failed.
    #[error("memory cannot be locked (RLIMIT_MEMLOCK {limit} bytes): {source}")]
    Lock {
        /// The soft limit found; `u64::MAX` is none.
        limit: u64,
        /// Why.
        source: Errno,
    },
    /// Only what is mapped now was locked: locking later mappings too would make them fail at the limit.
    #[error("only the present memory is locked: RLIMIT_MEMLOCK is {limit} bytes and CAP_IPC_LOCK is missing")]
    PresentOnly {
        /// The soft limit found.
        limit: u64,
    },
    /// `sched_setscheduler` failed.
    #[error("round-robin priority {priority} is not allowed: {source}")]
    Priority {
        /// The priority asked for.
        priority: i32,
        /// Why.
        source: Errno,
    },
    /// `PR_SET_NAME` failed.
    #[error("the thread cannot be named {name:?}: {source}")]
    Name {
        /// The name asked for.
        name: String,
        /// Why.
        source: Errno,
    },
}

/// Locks every page mapped now, reading it in, and every later page when it is first touched.
///
/// Later pages are locked on fault so that a thread's stack, megabytes reserved of which kilobytes are used, does
/// not become resident as a whole. Call it once, after privileges have been dropped: locked mappings count against
/// `RLIMIT_MEMLOCK` for whoever lacks `CAP_IPC_LOCK`.
///
/// # Errors
/// [`MemoryError::Lock`] when nothing could be locked, [`MemoryError::PresentOnly`] when the later pages were left out.
pub fn lock_memory() -> Result<(), MemoryError> {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _hard)| soft);
    mlockall(MlockAllFlags::MCL_CURRENT).map_err(|source| MemoryError::Lock { limit, source })?;
    if limit != libc::RLIM_INFINITY && !may_lock_without_limit() {
        // Under a limit a locked future turns a later allocation into an abort of the daemon: worse than a fault.
        return Err(MemoryError::PresentOnly { limit });
    }
    // SAFETY: mlockall takes no pointer; locking pages changes no content and no mapping.
    let locked = unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    Errno::result(locked).map_err(|source| MemoryError::Lock { limit, source })?;
    Ok(())
}

/// Whether this process has `CAP_IPC_LOCK`, to which no limit applies.
fn may_lock_without_limit() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_capabilities(&status).is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(field.trim(), 16).ok()
}

/// Gives the calling thread round-robin real-time priority; its children and new threads start without it.
///
/// # Errors
/// [`MemoryError::Priority`], mostly `EPERM` for want of `CAP_SYS_NICE`.
pub fn realtime_priority(priority: i32) -> Result<(), MemoryError> {
    let param = libc::sched_param { sched_priority: priority };
    // Reset on fork: a guarded program, or a helper that ends one, must not run at the daemon's priority.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 names the calling thread, and `param` is a live sched_param that the call only reads.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    Errno::result(set).map_err(|source| MemoryError::Priority { priority, source })?;
    Ok(())
}

/// Names the calling thread, as ps and top show it; the kernel keeps the first 15 bytes.
///
/// # Errors
/// [`MemoryError::Name`] for a name with a NUL in it.
pub fn name_thread(name: &str) -> Result<(), MemoryError> {
    let refused = |source| MemoryError::Name { name: name.to_owned(), source };
    let text = CString::new(name).map_err(|_nul| refused(Errno::EINVAL))?;
    nix::sys::prctl::set_name(&text).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_bears_its_name_cut_to_15_bytes() {
        let name = std::thread::spawn(|| {
            name_thread("renewal-of-a-long-lockspace").unwrap();
            nix::sys::prctl::get_name().unwrap()
        });
        assert_eq!(name.join().unwrap().to_str().unwrap(), "renewal-of-a-lo");
    }

    #[test]
    fn a_name_with_a_nul_is_refused() {
        let error = name_thread("a\0b").unwrap_err().to_string();
        assert_eq!(error, "the thread cannot be named \"a\\0b\": EINVAL: Invalid argument");
    }

    #[test]
    fn an_impossible_priority_is_refused_with_the_number() {
        let refused = std::thread::spawn(|| realtime_priority(1000)).join().unwrap();
        assert_eq!(
            refused.unwrap_err().to_string(),
            "round-robin priority 1000 is not allowed: EINVAL: Invalid argument"
        );
    }

    #[test]
    fn a_granted_priority_is_round_robin_and_not_inherited() {
        // Where it is not granted the only answer is the permission error that becomes the daemon's one warning.
        let policies = std::thread::spawn(|| {
            realtime_priority(1)?;
            let here = policy_in_stat("/proc/thread-self/stat");
            let child = std::thread::spawn(|| policy_in_stat("/proc/thread-self/stat")).join().unwrap();
            Ok((here, child))
        });
        match policies.join().unwrap() {
            Ok(found) => assert_eq!(found, (libc::SCHED_RR, libc::SCHED_OTHER)),
            Err(error) => assert!(matches!(error, MemoryError::Priority { source: Errno::EPERM, .. }), "{error}"),
        }
    }

    /// Field 41 of /proc/PID/stat, counted from behind the name's closing parenthesis (field 3 comes first).
    fn policy_in_stat(path: &str) -> i32 {
        let stat = std::fs::read_to_string(path).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(41 - 3).unwrap().parse().unwrap()
    }

    #[test]
    fn locked_memory_shows_in_the_status_of_the_process() {
        match lock_memory() {
            Ok(()) | Err(MemoryError::PresentOnly { .. }) => {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
                let kib: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
                assert!(kib > 100, "{kib} KiB locked");
            }
            Err(error) => assert!(matches!(error, MemoryError::Lock { .. }), "{error}"),
        }
        nix::sys::mman::munlockall().unwrap();
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"), Some(0x1ff_feff_ffff));
        assert_eq!(effective_capabilities("CapEff:\tnonsense\n"), None);
        assert_eq!(effective_capabilities(""), None);
    }
}

//! Processes by descriptor instead of by number: a pidfd names one process for ever, a pid only until it is reused.
//!
//! The kill ladder ends processes by pidfd, never by pid, and a pid that was noted earlier (in the state file) is
//! signalled only after a pidfd was opened *and then* its start time was found unchanged: from the moment the pidfd
//! exists, the number cannot come to mean another process unseen.
//!
//! | wanted | here | needs unsafe |
//! | --- | --- | --- |
//! | pidfd of a pid | [`pidfd_open`] | yes, a bare system call |
//! | a signal to a pidfd | [`send_signal`] | yes, a bare system call |
//! | a descriptor of another process | [`descriptor_of`] | yes, a bare system call |
//! | has it exited | [`has_exited`], [`wait_for_exit`] | no: a pidfd polls readable once the whole process has |
//! | who is on the other end of a socket | [`peer`], [`peer_pidfd`] | no |
//! | a child in a process group of its own | [`spawn_in_own_group`] | no |
//! | a child in a session of its own that dies with us | [`spawn_in_own_session`] | yes, code between fork and exec |
//! | run code in the child, then become the program | start this executable again, then `CommandExt::exec` | no |
//!
//! The last row is on purpose no function here: a closure between fork and exec may not even allocate, so code that
//! speaks to the daemon there cannot be made safe. A second start of the same executable can do anything, keeps its pid
//! over `exec`, and hands down a descriptor with [`keep_across_exec`].
//!
//! Errors: [`ProcessError`], with the operation and the pid where there is one. "No such process" is an answer
//! (`None`, `false`), not an error: the process one wanted to end is gone. Source: pidfd_open(2), unix(7), prctl(2).
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;

/// A system call about a process that failed for another reason than the process being gone.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A call that names a process.
    #[error("{operation} of process {pid} failed: {source}")]
    OfProcess {
        /// The call.
        operation: &'static str,
        /// The process, or process group.
        pid: i32,
        /// Why.
        source: Errno,
    },
    /// A call on a descriptor or on this process itself.
    #[error("{operation} failed: {source}")]
    Call {
        /// The call.
        operation: &'static str,
        /// Why.
        source: Errno,
    },
    /// 0 is our own group and 1 would be everyone's: neither is ever meant.
    #[error("process group {pgid} is none that may be signalled: expected 2 or more")]
    NoSuchGroupEver {
        /// The number given.
        pgid: i32,
    },
}

/// A descriptor of the process `pid`, close-on-exec; `None` when there is none by that number.
///
/// # Errors
/// Anything but `ESRCH`, for example no more descriptors.
pub fn pidfd_open(pid: i32) -> Result<Option<OwnedFd>, ProcessError> {
    // SAFETY: pidfd_open takes two integers and no pointer.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match Errno::result(returned) {
        Ok(number) => owned(number, "pidfd_open").map(Some),
        Err(Errno::ESRCH) => Ok(None),
        Err(source) => Err(ProcessError::OfProcess { operation: "pidfd_open", pid, source }),
    }
}

/// Takes over a descriptor that a bare system call has just made.
fn owned(number: libc::c_long, operation: &'static str) -> Result<OwnedFd, ProcessError> {
    let Ok(raw) = RawFd::try_from(number) else {
        return Err(ProcessError::Call { operation, source: Errno::EBADF });
    };
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A descriptor of ours, close-on-exec, for the open file description that is `number` in the process behind `pidfd`. `None`: it
/// has none by that number, or is gone.
///
/// # Errors
/// Anything else, mostly `EPERM`: it takes what it takes to trace that process. Source: pidfd_getfd(2).
pub fn descriptor_of(pidfd: BorrowedFd<'_>, number: RawFd) -> Result<Option<OwnedFd>, ProcessError> {
    // SAFETY: pidfd_getfd takes three integers and no pointer.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    match Errno::result(returned) {
        Ok(number) => owned(number, "pidfd_getfd").map(Some),
        Err(Errno::ESRCH | Errno::EBADF) => Ok(None),
        Err(source) => Err(ProcessError::Call { operation: "pidfd_getfd", source }),
    }
}

/// Sends `signal` to the process behind `pidfd`. `false`: it is gone, nothing was sent.
///
/// # Errors
/// Anything but `ESRCH`, mostly `EPERM`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<bool, ProcessError> {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open, and a null siginfo asks the kernel to fill one in as kill(2) does.
    let returned =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as libc::c_int, no_info, 0) };
    match Errno::result(returned) {
        Ok(_) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(source) => Err(ProcessError::Call { operation: "pidfd_send_signal", source }),
    }
}

/// Whether the process behind `pidfd`, every thread of it, has exited (it may still be a zombie).
///
/// # Errors
/// A failed poll.
pub fn has_exited(pidfd: BorrowedFd<'_>) -> Result<bool, ProcessError> {
    wait_for_exit(pidfd, Some(Duration::ZERO))
}

/// Waits until the process behind `pidfd` has exited, or `at_most` that long; says whether it has.
///
/// # Errors
/// A failed poll.
pub fn wait_for_exit(pidfd: BorrowedFd<'_>, at_most: Option<Duration>) -> Result<bool, ProcessError> {
    let timeout = at_most.map_or(PollTimeout::NONE, |wait| PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    loop {
        match poll(&mut polled, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(source) => {
                return Err(ProcessError::Call { operation: "poll of a pidfd", source });
            }
        }
    }
}

/// Sends `signal` to every process of a group. `false`: the group is empty, nothing was sent.
///
/// # Errors
/// A group number below 2, and anything but `ESRCH`.
pub fn signal_group(pgid: i32, signal: Signal) -> Result<bool, ProcessError> {
    if pgid < 2 {
        return Err(ProcessError::NoSuchGroupEver { pgid });
    }
    match nix::sys::signal::killpg(Pid::from_raw(pgid), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(source) => Err(ProcessError::OfProcess { operation: "killpg", pid: pgid, source }),
    }
}

/// From now on an orphaned descendant of this process, however far down, becomes its child.
///
/// # Errors
/// A failed prctl.
pub fn become_subreaper() -> Result<(), ProcessError> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|source| ProcessError::Call { operation: "prctl(PR_SET_CHILD_SUBREAPER)", source })
}

/// Who connected the other end of a unix socket, as the kernel noted it at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process; it may be gone, and its number reused, by now.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// `SO_PEERCRED` of a connected unix socket.
///
/// # Errors
/// A descriptor that is no unix socket.
pub fn peer<Socket: AsFd>(socket: &Socket) -> Result<Peer, ProcessError> {
    let found = getsockopt(socket, sockopt::PeerCredentials)
        .map_err(|source| ProcessError::Call { operation: "getsockopt(SO_PEERCRED)", source })?;
    Ok(Peer { pid: found.pid(), uid: found.uid(), gid: found.gid() })
}

/// A pidfd of the process that connected the other end; `None` when that process is gone.
///
/// `SO_PEERPIDFD` (Linux 6.5) names that very process even if its pid was reused meanwhile. On an older kernel this is
/// the pid of [`peer`] opened now: a client that dies between connect and this call, and whose number is reused at
/// once, would be mistaken - then its connection is at EOF, which the caller finds before it guards anything.
///
/// # Errors
/// A descriptor that is no unix socket; no more descriptors.
pub fn peer_pidfd<Socket: AsFd>(socket: &Socket) -> Result<Option<OwnedFd>, ProcessError> {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(Some(pidfd)),
        // A process that was reaped already: ESRCH, or EINVAL, depending on the kernel's age.
        Err(Errno::ESRCH | Errno::EINVAL) => Ok(None),
        Err(Errno::ENOPROTOOPT) => pidfd_open(peer(socket)?.pid),
        Err(source) => Err(ProcessError::Call { operation: "getsockopt(SO_PEERPIDFD)", source }),
    }
}

/// Lets `fd` stay open in the program this process becomes by `exec`, and in every child it has from now on.
///
/// # Errors
/// A failed fcntl.
pub fn keep_across_exec<Fd: AsFd>(fd: Fd) -> Result<(), ProcessError> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|source| ProcessError::Call { operation: "fcntl(F_SETFD)", source })?;
    Ok(())
}

/// Starts `command` as the leader of a process group of its own, whose number is the child's pid.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn_in_own_group(command: &mut Command) -> std::io::Result<Child> {
    command.process_group(0).spawn()
}

/// Starts `command` as the leader of a session (and group) of its own, with no signal blocked, which gets SIGKILL when
/// the calling *thread* ends.
///
/// # Errors
/// As [`Command::spawn`]; `ECHILD` when the caller died before the child had arranged for that.
pub fn spawn_in_own_session(command: &mut Command) -> std::io::Result<Child> {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::unistd::setsid()?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            // The parent died before the line above: its death's signal has been missed.
            return Err(Errno::ECHILD.into());
        }
        // std hands our signal mask down; a program that starts with SIGTERM blocked could not be ended politely.
        nix::sys::signal::sigprocmask(
            nix::sys::signal::SigmaskHow::SIG_SETMASK,
            Some(&nix::sys::signal::SigSet::empty()),
            None,
        )?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are made: setsid, prctl, getppid and sigprocmask are
    // bare system calls on values made before or on the stack, and an error is an integer; nothing allocates or locks.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixStream;
    use std::process::Stdio;

    fn pid_of(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_pidfd_becomes_readable_when_its_process_is_killed_and_takes_no_signal_after() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(pid_of(&child)).unwrap().unwrap();
        assert!(!has_exited(pidfd.as_fd()).unwrap());
        assert!(send_signal(pidfd.as_fd(), Signal::SIGKILL).unwrap());
        assert!(wait_for_exit(pidfd.as_fd(), None).unwrap());
        child.wait().unwrap();
        assert!(!send_signal(pidfd.as_fd(), Signal::SIGKILL).unwrap(), "reaped: nothing to send to");
        assert!(has_exited(pidfd.as_fd()).unwrap());
    }

    #[test]
    fn a_reaped_process_has_no_pidfd() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(pidfd_open(pid_of(&child)).unwrap().is_none());
    }

    #[test]
    fn waiting_for_a_living_process_ends_at_the_limit() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(pid_of(&child)).unwrap().unwrap();
        assert!(!wait_for_exit(pidfd.as_fd(), Some(Duration::from_millis(20))).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_group_of_its_own_is_signalled_as_a_whole_and_only_it() {
        let mut child =
            spawn_in_own_group(Command::new("sh").args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped()))
                .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let grandchild = pidfd_open(line.trim().parse().unwrap()).unwrap().unwrap();
        assert!(signal_group(pid_of(&child), Signal::SIGKILL).unwrap());
        child.wait().unwrap();
        assert!(wait_for_exit(grandchild.as_fd(), None).unwrap());
        for pgid in [-1, 0, 1] {
            assert!(matches!(signal_group(pgid, Signal::SIGKILL), Err(ProcessError::NoSuchGroupEver { .. })));
        }
    }

    #[test]
    fn a_session_of_its_own_has_no_signal_blocked_and_dies_with_the_thread_that_started_it() {
        let script = "cut -d' ' -f6 /proc/self/stat; grep SigBlk /proc/self/status; exec sleep 1000";
        let starter = std::thread::spawn(move || {
            let mut mask = nix::sys::signal::SigSet::empty();
            mask.add(Signal::SIGTERM);
            mask.thread_block().unwrap();
            let mut command = Command::new("sh");
            let mut child = spawn_in_own_session(command.args(["-c", script]).stdout(Stdio::piped())).unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let session: u32 = lines.next().unwrap().unwrap().parse().unwrap();
            assert_eq!(session, child.id(), "leader of its session");
            assert_eq!(lines.next().unwrap().unwrap(), "SigBlk:\t0000000000000000");
            child
        });
        let mut child = starter.join().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    #[test]
    fn the_other_end_of_a_socket_is_found_by_credentials_and_by_pidfd() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let found = peer(&ours).unwrap();
        assert_eq!(found.pid, nix::unistd::getpid().as_raw());
        assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
        let pidfd = peer_pidfd(&ours).unwrap().unwrap();
        assert!(!has_exited(pidfd.as_fd()).unwrap());
        drop(theirs);
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(peer(&file).unwrap_err().to_string().starts_with("getsockopt(SO_PEERCRED) failed: ENOTSOCK"));
    }

    #[test]
    fn a_descriptor_kept_across_exec_is_the_same_socket_in_the_program_that_inherits_it() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let name = format!("/proc/self/fd/{}", theirs.as_raw_fd());
        let seen_by_child = || Command::new("readlink").arg(&name).output().unwrap().stdout;
        let here = std::fs::read_link(&name).unwrap();
        assert_ne!(seen_by_child(), format!("{}\n", here.display()).as_bytes(), "close-on-exec as std makes it");
        keep_across_exec(&theirs).unwrap();
        assert_eq!(seen_by_child(), format!("{}\n", here.display()).as_bytes());
    }
}

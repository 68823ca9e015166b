//! By whose rights a path is opened and a program run: a daemon that is root lends root's rights to nobody.
//!
//! Whoever may connect to its socket names paths and programs. Of a process that is not root itself they are opened and run as that
//! process could: user, group and supplementary groups, as the kernel noted them when it connected. A daemon that is not root has
//! nothing to lend but its own rights, and does that, as sanlock's does.
//!
//! | wanted | how | on what |
//! | --- | --- | --- |
//! | open(2) | `setgroups`, `setresgid`, `setresuid` of the effective ones | a thread that does this one thing: nothing is to be taken back |
//! | a program | `setsid`, `setgroups`, `setresgid`, `setresuid` | the child, between fork and exec |
//!
//! The C library's `setgroups` is for all threads at once, so the bare system calls are made. When rights change, the kernel takes
//! what the daemon's memory holds for a secret: whether it leaves a core dump from then on is up to fs.suid_dumpable.
//!
//! Source: credentials(7), capabilities(7), unix(7), SO_PEERGROUPS.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{geteuid, setsid};

use super::process::{Peer, ProcessError, peer};

/// By whose rights something is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rights {
    /// By our own.
    #[default]
    Ours,
    /// By those of somebody who has fewer.
    Of(Arc<Credentials>),
}

/// Who a process is, for the purpose of what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rights::Ours => f.write_str("our own rights"),
            Rights::Of(of) => write!(f, "the rights of user {}, groups {} {:?}", of.uid, of.gid, of.groups),
        }
    }
}

impl Rights {
    /// Those that whoever connected the other end of a unix socket may ask for.
    ///
    /// # Errors
    /// A descriptor that is no unix socket, or a kernel that does not tell.
    pub fn of_peer<Socket: AsFd>(socket: &Socket) -> Result<Rights, ProcessError> {
        let Peer { uid, gid, .. } = peer(socket)?;
        if uid == 0 || !geteuid().is_root() {
            return Ok(Rights::Ours);
        }
        Ok(Rights::Of(Arc::new(Credentials { uid, gid, groups: peer_groups(socket)? })))
    }

    /// Does something by these rights that may hang, such as open(2).
    ///
    /// # Errors
    /// No thread, or the kernel does not let us be somebody else: nothing was done.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let Rights::Of(of) = self else { return Ok(work()) };
        std::thread::scope(|scope| {
            let lent = || of.assume().map(|()| work());
            let thread = std::thread::Builder::new().name("rights".into()).spawn_scoped(scope, lent)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Has a program run by these rights. A child that cannot get them runs nothing.
    pub fn apply(&self, command: &mut Command) {
        let Rights::Of(of) = self else { return };
        let of = Arc::clone(of);
        // SAFETY: between fork and exec the closure makes four system calls on numbers that were there before, and allocates nothing:
        // an `io::Error` from a number does not.
        unsafe { command.pre_exec(move || of.become_them()) };
    }
}

impl Credentials {
    /// From now on the calling thread does what it does by these rights, and no other does: with root's effective user all that the kernel
    /// calls capabilities goes out of force, so that neither /proc nor a device asks it for less than of them.
    fn assume(&self) -> io::Result<()> {
        const AS_IT_IS: u32 = u32::MAX;
        self.set_groups()?;
        // SAFETY: setresgid takes three numbers and no pointer.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, AS_IT_IS, self.gid, AS_IT_IS) })?;
        // SAFETY: setresuid likewise. The last: with it goes the right to do any of this.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, AS_IT_IS, self.uid, AS_IT_IS) })?;
        Ok(())
    }

    /// For good, with no way back, and away from the terminal that we may have.
    fn become_them(&self) -> io::Result<()> {
        let (uid, gid) = (self.uid, self.gid);
        setsid()?;
        self.set_groups()?;
        // SAFETY: setresgid takes three numbers and no pointer.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
        // SAFETY: setresuid likewise. The last: with it goes the right to do any of this.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
        Ok(())
    }

    /// Of the calling thread alone.
    fn set_groups(&self) -> io::Result<()> {
        // SAFETY: the kernel reads as many numbers as there are, from where they are.
        let done = unsafe { libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) };
        Errno::result(done).map(drop).map_err(io::Error::from)
    }
}

/// `SO_PEERGROUPS`.
fn peer_groups<Socket: AsFd>(socket: &Socket) -> Result<Vec<u32>, ProcessError> {
    let failed = |source| ProcessError::Call { operation: "getsockopt(SO_PEERGROUPS)", source };
    let each = size_of::<u32>();
    let mut groups = vec![0_u32; 64];
    loop {
        let mut len = libc::socklen_t::try_from(groups.len() * each).map_err(|_| failed(Errno::ERANGE))?;
        // SAFETY: the kernel writes at most `len` bytes, which `groups` has, and how many these are, or would be, to `len`.
        let done = unsafe {
            let (to, len) = (groups.as_mut_ptr().cast(), &raw mut len);
            libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, to, len)
        };
        let count = usize::try_from(len).unwrap_or(0) / each;
        match Errno::result(done) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(source) => return Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn nobody(groups: &[u32]) -> Rights {
        Rights::Of(Arc::new(Credentials { uid: 65534, gid: 65534, groups: groups.to_vec() }))
    }

    #[test]
    fn a_connection_of_our_own_has_our_rights_and_a_command_is_left_as_it_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Rights::of_peer(&ours).unwrap(), Rights::Ours);
        let mut own = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect::<Vec<_>>();
        let mut told = peer_groups(&ours).unwrap();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
        let mut command = Command::new("true");
        Rights::Ours.apply(&mut command);
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn root_lends_nobody_what_he_does_not_have_himself_and_loses_nothing_by_it() {
        if !geteuid().is_root() {
            // Then there is nothing to lend, and it is refused.
            assert!(nobody(&[]).run(|| ()).is_err());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("leases");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
        chown(&path, Some(0), Some(4711)).unwrap();
        let open = || File::options().read(true).write(true).open(&path).map(drop).map_err(|e| e.kind());
        assert_eq!(nobody(&[]).run(open).unwrap(), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(nobody(&[1, 4711]).run(open).unwrap(), Ok(()));
        assert_eq!(open(), Ok(()), "our own are as they were");
        // With root's effective user the kernel's capabilities are gone as well, on that thread.
        let effective = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find_map(|line| line.strip_prefix("CapEff:").map(|set| set.trim().to_owned())).unwrap()
        };
        assert_eq!(nobody(&[]).run(effective).unwrap(), "0000000000000000");
        assert_ne!(effective(), "0000000000000000");

        let mut id = Command::new("sh");
        id.args(["-c", "id -u; id -g; id -G"]);
        nobody(&[4711]).apply(&mut id);
        let told = String::from_utf8(id.output().unwrap().stdout).unwrap();
        assert_eq!(told, "65534\n65534\n65534 4711\n");
    }
}

//! Real processes for system tests.
//!
//! | file | what |
//! | --- | --- |
//! | `host.rs` | [`Machine`]: a tree of processes under a fake watchdog, with [`Daemon`]s and [`Guest`]s in it |
//! | `guest.rs` | [`Guest`]: a guarded program, `guest.py`, and what it wrote down |
//! | `crowd.rs` | [`Crowd`]: connections that say nonsense; [`Inquirers`]: clients that never stop asking |
//! | `disk.rs` | [`Area`]: a lease file read from the outside; [`FreezableDisk`]: a device whose writes can be held back; [`LoopDevice`] |
//!
//! All times are [`LocalInstant`]s of CLOCK_BOOTTIME: the daemons', the guests' and the tests' are one clock. Tests wait
//! for conditions, with a deadline that only turns a hang into a failure. Declare disks before machines, and machines
//! before a [`Frozen`]: they go in the opposite order, and a process that writes to a frozen disk cannot be killed.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod crowd;
pub mod disk;
pub mod guest;
pub mod host;

use std::time::Duration;

pub use crowd::{Crowd, Inquirers};
pub use disk::{Area, FreezableDisk, Frozen, LoopDevice, RESOURCES, SPACE, Sector};
pub use guest::Guest;
pub use holdfast_io::clock::{LocalInstant, boot_now};
pub use host::{Daemon, Fired, Machine, Process, lease_on, wire_lease};
use nix::poll::{PollTimeout, poll};

/// Longer than anything here takes, shorter than patience.
pub const AT_MOST: Duration = Duration::from_secs(60);
/// What a loaded machine may add to a deadline that the daemon meets.
pub const LATE: Duration = Duration::from_secs(4);

/// Looks again and again until there is an answer.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = boot_now().after(within);
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(boot_now() < until, "not within {within:?}: {what}");
        pause();
    }
}

/// Looks again and again until it is so.
pub fn wait_until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    wait_for(what, within, || so().then_some(()));
}

/// Between two looks.
pub fn pause() {
    poll(&mut [], PollTimeout::from(5_u8)).unwrap();
}

/// It stays so until that instant.
pub fn stays_so_until(what: &str, until: LocalInstant, mut so: impl FnMut() -> bool) {
    while boot_now() < until {
        assert!(so(), "no longer so: {what}");
        pause();
    }
}

/// Runs a program to its end; what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let done = std::process::Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|e| panic!("{program} is needed here and cannot be run: {e}"));
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{program} {arguments:?}: {}\n{out}{err}", done.status);
    out.trim().to_owned()
}

/// Loop devices, frozen file systems and other users' rights are root's.
pub fn must_be_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: for loop devices, or to act as another user");
}

//! Who may join under a host_id, and when: one at a time on this machine and elsewhere, a silent holder only after the
//! computed silence (D1), one's own name at once after a clean leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::time::Duration;

use harness::host::IO_TIMEOUT;
use harness::{AT_MOST, Area, FreezableDisk, LATE, LocalInstant, Machine, boot_now};
use holdfast_client::protocol::ResultCode;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use nix::sys::signal::Signal;

fn timing(fire: u64) -> Timing {
    Timing::new(IoTimeout::new(u64::from(IO_TIMEOUT)).unwrap(), FireTimeout::new(fire).unwrap())
}

#[test]
fn a_second_daemon_with_our_host_id_is_refused_while_the_holder_lives() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let (mut first, mut second) = (Machine::boot(), Machine::boot());
    let holder = first.daemon("first", "--watchdog none");
    holder.format(&area);
    holder.join(&area, 1);
    let generation = area.generation(1);
    let rival = second.daemon("first", "--watchdog none");
    let refused = rival.try_join(&area, 1).unwrap_err();
    assert_eq!(refused.refusal(), Some(ResultCode::HOST_ID_BUSY), "{refused}");
    rival.wait_said("another daemon on this machine uses host_id 1 of lockspace SYSTEM", AT_MOST);
    rival.wait_said("stop one of the two", AT_MOST);
    // Under an id of its own it is welcome.
    rival.join(&area, 2);
    holder.wait_renewal();
    assert_eq!(area.generation(1), generation);
}

#[test]
fn a_second_daemon_that_comes_by_another_node_sees_no_lock_and_is_refused_by_what_it_reads() {
    // The same bytes as a file and as a loop device: two inodes, so neither sees the other's fence.
    let disk = FreezableDisk::new();
    let by_file = Area { path: disk.area.backing.clone(), backing: disk.area.backing.clone() };
    for (name, sentence) in [
        ("first", "in use by another daemon on this machine, also named \"first\""),
        ("second", "in use by another daemon on this machine, named \"first\""),
    ] {
        let (mut first, mut second) = (Machine::boot(), Machine::boot());
        let holder = first.daemon("first", "--watchdog none");
        holder.format(&disk.area);
        holder.join(&disk.area, 1);
        let generation = by_file.generation(1);
        let rival = second.daemon(name, "--watchdog none");
        let refused = rival.try_join(&by_file, 1).unwrap_err();
        assert_eq!(refused.refusal(), Some(ResultCode::HOST_ID_BUSY), "{refused}");
        rival.wait_said(sentence, AT_MOST);
        rival.wait_said("which renewed it", AT_MOST);
        holder.wait_renewal();
        assert_eq!(by_file.generation(1), generation);
        holder.leave(&disk.area, 1);
    }
}

#[test]
fn a_silent_holder_is_replaced_after_the_computed_silence_and_not_before() {
    const FIRE: u32 = 4;
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut first = Machine::boot();
    let options = first.watchdog(FIRE);
    let holder = first.daemon("first", &options);
    holder.format(&area);
    holder.join(&area, 1);
    // The whole host is gone, its run directory with it: the next one of that name can prove nothing (P1).
    drop(first);
    let last = area.delta(1).record;
    let silent_since = LocalInstant::EARLIEST.after(Duration::from_secs(last.timestamp.0));

    let mut second = Machine::boot();
    let taker = second.daemon("first", "--watchdog none");
    let asked = boot_now();
    let joined = taker.join(&area, 1);
    let silence = timing(u64::from(FIRE)).silence_for_takeover();
    assert!(joined >= asked.after(silence), "taken {:?} after it was first looked at", joined.since(asked));
    assert!(joined >= silent_since.after(silence));
    let settled = Timing::settle(None, timing(u64::from(FIRE)).io_timeout);
    assert!(joined <= asked.after(silence + settled + LATE), "taken {:?} after it was asked for", joined.since(asked));
    assert_eq!(area.generation(1), last.owner_generation.0 + 1);
}

#[test]
fn after_a_clean_leave_the_same_name_or_another_joins_at_once() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut generation = 0;
    for name in ["first", "first", "other"] {
        let mut machine = Machine::boot();
        let daemon = machine.daemon(name, "--watchdog none");
        if generation == 0 {
            daemon.format(&area);
        }
        let asked = boot_now();
        let joined = daemon.join(&area, 1);
        // Only the settling of its own write, no silence of anybody.
        assert!(joined <= asked.after(Duration::from_secs(u64::from(2 * IO_TIMEOUT)) + LATE));
        generation += 1;
        assert_eq!(area.generation(1), generation);
        daemon.leave(&area, 1);
        assert_eq!(area.delta(1).record.timestamp.0, 0, "given back");
    }
}

#[test]
fn a_second_daemon_in_one_run_directory_is_refused_with_the_pid_of_the_first() {
    let mut machine = Machine::boot();
    let first = machine.daemon("first", "--watchdog none");
    let second = machine.start_daemon("second", "--watchdog none");
    second.wait_said(&format!("another daemon (pid {}) uses", first.process.pid), AT_MOST);
    second.process.wait_over("the second daemon", AT_MOST);
    // Killed, it leaves its files and no lock.
    first.process.signal(Signal::SIGKILL);
    let third = machine.daemon("third", "--watchdog none");
    let pid = std::fs::read_to_string(third.run_dir.join("sanlock.pid")).unwrap();
    assert_eq!(pid.trim(), third.process.pid.to_string());
}

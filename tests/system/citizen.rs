//! The daemon among the programs of a host: how it starts, where it goes, and how it ends when the host shuts down.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use harness::{AT_MOST, Area, Daemon, Guest, Machine, Process, SPACE, run, wait_until, wire_lease};
use holdfast_client::protocol::Options;
use holdfast_client::protocol::codes::ResultCode;
use holdfast_client::protocol::command::AcquireFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, User, getsid};

/// The executable under sanlock's name.
fn as_sanlock(directory: &Path, words: &[&str]) -> Output {
    let program = directory.join("sanlock");
    if !program.exists() {
        symlink(env!("CARGO_BIN_EXE_holdfast"), &program).unwrap();
    }
    Command::new(program).args(words).env("SANLOCK_RUN_DIR", directory.join("run")).output().unwrap()
}

/// Left running by a test that failed.
struct Ended(Process);

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.0.is_over() {
            self.0.signal(Signal::SIGKILL);
        }
    }
}

#[test]
fn sanlock_daemon_goes_to_the_background_once_it_serves_and_says_why_if_it_does_not() {
    harness::must_be_root();
    let directory = tempfile::tempdir().unwrap();
    let words = ["daemon", "-w", "0", "-l", "0", "-a", "1", "-e", "citizen"];
    let started = as_sanlock(directory.path(), &words);
    assert!(started.status.success(), "{started:?}");
    let pid = fs::read_to_string(directory.path().join("run/sanlock.pid")).unwrap();
    let daemon = Ended(Process::of(pid.trim().parse().unwrap()));
    // No wait here: that is what its status promised.
    let told = as_sanlock(directory.path(), &["client", "status"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout).lines().next(), Some("daemon citizen"));
    let of = |number: i32| getsid(Some(Pid::from_raw(number))).unwrap();
    assert_ne!(of(daemon.0.pid), of(0), "in our session still");
    let socket = fs::metadata(directory.path().join("run/sanlock.sock")).unwrap();
    let sanlock = User::from_name("sanlock").unwrap().expect("the user that Debian's package of sanlock makes");
    let group: u32 = run("getent", &["group", "sanlock"]).split(':').nth(2).unwrap().parse().unwrap();
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (sanlock.uid.as_raw(), group, 0o660));
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", daemon.0.pid)).unwrap(), Path::new("/"));

    let second = as_sanlock(directory.path(), &words);
    let why = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(why.contains(&format!("another daemon (pid {})", daemon.0.pid)), "{why}");
    let wrong = as_sanlock(directory.path(), &["daemon", "-w", "0", "-o", "999"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("io_timeout is 999"), "{wrong:?}");

    daemon.0.signal(Signal::SIGTERM);
    daemon.0.wait_over("the daemon, which has joined nothing", AT_MOST);
}

#[test]
fn a_signal_to_end_waits_for_guests_and_then_leaves_in_good_order() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let watchdog = machine.watchdog(10);
    let daemon = machine.daemon("first", &watchdog);
    daemon.format(&area);
    daemon.join(&area, 1);
    let guest = Guest::holding(&mut machine, &area, "one", "");

    daemon.process.signal(Signal::SIGTERM);
    daemon.wait_said("waiting until nothing is guarded any more", AT_MOST);
    daemon.wait_renewal();
    assert!(daemon.space().is_some_and(|s| s["state"] == "active") && !guest.process.is_over());

    // The guest is shut down by whoever runs it.
    guest.process.signal(Signal::SIGTERM);
    daemon.process.wait_over("the daemon, which guards nothing any more", AT_MOST);
    assert_eq!(area.delta(1).record.timestamp.0, 0, "the host_id was not given back");
    wait_until("the watchdog is closed", AT_MOST, || machine.watchdog_openers() == 0);
    assert!(machine.is_up());
}

#[test]
fn the_daemon_is_ready_once_the_lockspaces_of_the_configuration_are_joined() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let first = machine.daemon("first", "--watchdog none");
    first.format(&area);
    first.process.signal(Signal::SIGTERM);
    first.process.wait_over("nothing is joined", AT_MOST);

    let (file, socket) = (machine.path("holdfast.toml"), machine.path("notify"));
    // One that cannot be joined keeps nobody waiting.
    let lockspaces = format!("[\"{SPACE}:1:{}:0\", \"none:1:/nowhere:0\"]", area.path.display());
    fs::write(&file, format!("lockspaces = {lockspaces}\n")).unwrap();
    let told = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    told.set_read_timeout(Some(AT_MOST)).unwrap();
    let options = format!("--watchdog none --config {}", file.display());
    let notified = |command| format!("NOTIFY_SOCKET={} {command}", socket.display());
    let daemon = machine.start_daemon_by("first", &options, notified);
    let mut message = [0; 64];
    let length = told.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    assert_eq!(daemon.space().unwrap()["state"], "active");
}

#[test]
fn a_lockspace_of_the_configuration_is_joined_once_its_device_is_there() {
    let disk = tempfile::tempdir().unwrap();
    let (area, late) = (Area::file(disk.path(), "early"), disk.path().join("late"));
    let mut machine = Machine::boot();
    let file = machine.path("holdfast.toml");
    fs::write(&file, format!("lockspaces = [\"{SPACE}:1:{}:0\"]\n", late.display())).unwrap();
    let daemon = machine.daemon("first", &format!("--watchdog none --config {}", file.display()));
    daemon.wait_said("not joined", AT_MOST);
    daemon.format(&area);
    fs::rename(&area.path, &late).unwrap();
    wait_until("the lockspace is joined", AT_MOST, || daemon.space().is_some_and(|s| s["state"] == "active"));
}

#[test]
fn sanlocks_file_is_read_where_there_is_none_of_ours() {
    harness::must_be_root();
    let mut machine = Machine::boot();
    let file = machine.path("sanlock.conf");
    let text =
        "# of a site\nour_host_name = by-the-file\nuse_watchdog = 0\nio_timeout = 3\nmlock_level = 0\nsh_retries = 4\n";
    fs::write(&file, text).unwrap();
    // Nobody else sees it there; and no file of ours may be found before it.
    let run = format!(
        "unshare -m sh -c 'mkdir -p /etc/sanlock /etc/holdfast && touch /etc/sanlock/sanlock.conf && mount --bind {file} \
         /etc/sanlock/sanlock.conf && mount -t tmpfs none /etc/holdfast && exec {program} daemon'",
        file = file.display(),
        program = env!("CARGO_BIN_EXE_holdfast"),
    );
    let process = machine.start("configured", &run);
    let daemon = Daemon::other(process, machine.path("run"), machine.path("configured.log"));
    daemon.wait_said("ready", AT_MOST);
    for words in ["configured by sanlock's file", "NO WATCHDOG", "sh_retries"] {
        daemon.wait_said(words, AT_MOST);
    }
    assert_eq!(daemon.status()["host_name"], "by-the-file");
    let area = Area::file(machine.path("").as_path(), "leases");
    daemon.format(&area);
    daemon.try_join_with(&area, 1, 0).unwrap();
    assert_eq!(daemon.space().unwrap()["io_timeout_s"], 3);
}

/// What a line of /proc/PID/status says, kB.
fn kilobytes(daemon: &Daemon, of: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap_or_else(|| panic!("no {of} in {status}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A daemon that locks its memory, started by a command.
fn locking(machine: &mut Machine, by: &str) -> Daemon {
    let name = machine.next_name("locking");
    let process = machine.start(&name, &format!("{by} {} daemon --watchdog none", env!("CARGO_BIN_EXE_holdfast")));
    let daemon = Daemon::other(process, machine.path("run"), machine.path(&format!("{name}.log")));
    daemon.wait_said("ready", AT_MOST);
    daemon
}

#[test]
fn memory_is_locked_but_not_the_megabytes_of_stack_that_nobody_touches() {
    harness::must_be_root();
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = locking(&mut machine, "env");
    daemon.format(&area);
    daemon.join(&area, 1);
    let _guest = Guest::holding(&mut machine, &area, "one", "");
    assert!(kilobytes(&daemon, "VmLck:") > 0, "nothing is locked: {}", daemon.log());
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.process.pid)).unwrap().count() as u64;
    let (resident, mapped) = (kilobytes(&daemon, "VmRSS:"), kilobytes(&daemon, "VmLck:"));
    assert!(threads > 2, "no thread has a stack to lock");
    assert!(resident < 40 << 10, "{resident} kB are resident, of {mapped} kB that are mapped and locked");
}

#[test]
fn where_nothing_may_be_locked_or_raised_the_daemon_says_so_and_serves() {
    harness::must_be_root();
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    // As in a container: root, but not for this.
    let less = "-sys_nice,-ipc_lock,-sys_resource";
    let bound = format!("prlimit --memlock=65536 --nofile=512:512 setpriv --bounding-set {less} --inh-caps {less}");
    let daemon = locking(&mut machine, &bound);
    daemon.wait_said("memory is not locked", AT_MOST);
    daemon.wait_said("the OOM killer may choose this daemon", AT_MOST);
    daemon.format(&area);
    daemon.join(&area, 1);
    let guest = Guest::holding(&mut machine, &area, "one", "");
    daemon.wait_renewal();
    assert!(!guest.process.is_over());
}

#[test]
fn where_no_thread_is_to_be_had_what_needs_one_is_refused_and_renewals_go_on() {
    harness::must_be_root();
    let (disk, user) = (tempfile::tempdir().unwrap(), "54321");
    let (area, another) = (Area::file(disk.path(), "leases"), Area::file(disk.path(), "more"));
    let mut machine = Machine::boot();
    // A limit on threads is for users that are not root; in a cgroup pids.max would be the same to the kernel's clone(2).
    let (program, run) = (machine.path("program"), machine.path("run"));
    fs::copy(env!("CARGO_BIN_EXE_holdfast"), &program).unwrap();
    fs::create_dir_all(&run).unwrap();
    let as_user = format!("setpriv --reuid {user} --regid {user} --clear-groups");
    let theirs = format!("chown -R {user}:{user} {} {}", run.display(), disk.path().display());
    let shown = format!("chmod 711 {}", machine.path("").display());
    let built = env!("CARGO_BIN_EXE_holdfast");
    let by = |command: String| {
        let command = command.replace(built, &program.display().to_string());
        format!("sh -c '{shown} && {theirs} && exec {as_user} {command}'")
    };
    let daemon = machine.start_daemon_by("first", "--watchdog none", by);
    daemon.wait_said("ready", AT_MOST);
    [&area, &another].into_iter().for_each(|area| daemon.format(area));
    daemon.join(&area, 1);
    let mut client = daemon.connection().register().unwrap();
    daemon.take_and_give_back(&mut client, &area, "one");

    let pid = daemon.process.pid.to_string();
    let most = |threads: &str| {
        let limit = format!("exec {as_user} prlimit --pid {pid} --nproc={threads}:");
        assert!(Command::new("sh").args(["-c", &limit]).status().unwrap().success());
    };
    most("1");
    let lease = vec![wire_lease(&another, "two")];
    let refused = client.acquire(AcquireFlags::NONE, lease, Options::default()).unwrap_err();
    assert_eq!(refused.refusal(), Some(ResultCode::EAGAIN), "{refused}");
    daemon.wait_said("no thread to open it", AT_MOST);
    daemon.wait_renewal();
    most("4096");
    daemon.take_and_give_back(&mut client, &another, "two");
}

#[test]
fn with_strict_clients_a_lease_outlives_a_closed_descriptor_until_its_process_is_gone() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let file = machine.path("holdfast.toml");
    fs::write(&file, "strict_clients = true\n").unwrap();
    let daemon = machine.daemon("first", &format!("--watchdog none --config {}", file.display()));
    daemon.format(&area);
    daemon.join(&area, 1);
    let leases = || daemon.status()["leases"].as_array().unwrap().len();
    let guest = Guest::holding(&mut machine, &area, "one", "--close");
    guest.wait_said("closed", AT_MOST);
    daemon.wait_renewal();
    assert_eq!(leases(), 1, "its process still writes");
    let other = Guest::start(&mut machine, &area, "one", "", disk.path());
    other.wait_said("refused", AT_MOST);
    guest.process.signal(Signal::SIGKILL);
    wait_until("the lease is given back", AT_MOST, || leases() == 0);
}

//! A thousand connections that say nothing, or nonsense, or ask all the time, or do not read, and a log that nobody reads: no renewal is
//! late, and every request of a client is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use harness::{AT_MOST, Area, Crowd, Daemon, Guest, Inquirers, Machine, Process, boot_now, run, wait_until};
use holdfast_client::protocol::codes::ResultCode;
use holdfast_client::protocol::command::Command;
use holdfast_client::protocol::header::{HEADER_SIZE, Header};
use holdfast_client::protocol::{Disk, DiskPath, HostEvent, Lockspace, Name48, Request, Resource, ResourceHead};
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// No renewal has failed, and the next one is not far.
fn renews(daemon: &Daemon) {
    daemon.wait_renewal();
    assert!(daemon.space().is_some_and(|s| s["state"] == "active" && s["failed_renewals"] == 0));
}

#[test]
fn a_thousand_hostile_connections_delay_no_renewal_and_no_client() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let mut client = daemon.connection().register().unwrap();
    let crowd = Crowd::of_headers_cut_short(&daemon, 1000);
    for _ in 0..10 {
        daemon.take_and_give_back(&mut client, &area, "one");
    }
    renews(&daemon);
    drop(crowd);
    let crowd = Crowd::of(&daemon, 1000);
    for _ in 0..5 {
        for _ in 0..10 {
            daemon.take_and_give_back(&mut client, &area, "one");
        }
        daemon.wait_renewal();
    }
    renews(&daemon);
    assert!(!daemon.log().contains("renewal failed"), "{}", daemon.log());
    let answers = crowd.answers();
    assert!(answers.len() > 150 && answers.iter().all(|n| *n == 64), "{answers:?}");
    daemon.take_and_give_back(&mut client, &area, "one");
    assert!(daemon.answers());
}

#[test]
fn a_thousand_clients_that_ask_for_the_status_all_the_time_let_no_renewal_be_heard_of_late() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let inquirers = Inquirers::of(&daemon, 1000);
    // Renewals land on disk whatever the loop does. Between the first and the last of these D2's instant comes, and comes
    // again, unless the loop hears of them.
    let mut last = area.delta(1).bytes;
    let renewals = 10;
    for _ in 0..renewals {
        wait_until("a renewal on disk", AT_MOST, || area.delta(1).bytes != last);
        last = area.delta(1).bytes;
    }
    assert!(!daemon.log().contains("lockspace lost"), "{}", daemon.log());
    assert!(inquirers.answers() > 100, "they were answered, too");
    assert!(daemon.space().is_some_and(|s| s["state"] == "active"));
}

/// Whoever inherited a connection is found by a look through all processes. The ladder does not wait for that.
#[test]
fn two_hundred_connections_that_are_ended_at_once_with_their_heir_let_no_other_lockspace_miss_a_renewal() {
    let disk = tempfile::tempdir().unwrap();
    let (area, other) = (Area::file(disk.path(), "leases"), Area::file(disk.path(), "other"));
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    daemon.format_space_as(&other, "OTHER");
    daemon.join_as(&other, "OTHER", 1);
    let _processes = machine.start("sleeps", "sh -c 'for i in $(seq 800); do sleep 1000 & done; wait'");
    let guest = Guest::holding(&mut machine, &area, "one", "--connections 200 --ignore-term --heir");
    guest.wait_said("heir", AT_MOST);
    let heir = Process::of(guest.pid_of("heir").unwrap());
    guest.process.wait_over("the client that left an heir", AT_MOST);
    daemon.leave(&area, 1);
    heir.wait_over("the heir", AT_MOST);
    let left = daemon.status()["lockspaces"].as_array().unwrap().clone();
    assert!(matches!(left.as_slice(), [s] if s["name"] == "OTHER" && s["state"] == "active"), "{left:?}");
    assert!(!daemon.log().contains("lockspace lost"), "{}", daemon.log());
    assert!(!daemon.log().contains("half of the renewal budget"), "{}", daemon.log());
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_renewal_and_no_request() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let path = machine.path("stderr");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    // Open at both ends: nobody waits for the other to open it, and what is written stays in it.
    let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let into_it = |command: String| format!("sh -c 'exec {command} 2>{}'", path.display());
    let daemon = machine.start_daemon_by("first", "--watchdog none", into_it);
    wait_until("it takes connections", AT_MOST, || daemon.run_dir.join("sanlock.sock").exists() && daemon.answers());
    daemon.format(&area);
    daemon.join(&area, 1);

    let mut asking = daemon.connection();
    let nowhere = Disk::new(DiskPath::new("/nowhere").unwrap(), 0);
    let head = ResourceHead::named(Name48::new("LS").unwrap(), Name48::new("r").unwrap());
    for _ in 0..10_000 {
        asking.read_resource(Resource::new(head.clone(), vec![nowhere.clone()])).unwrap_err();
    }
    let mut client = daemon.connection().register().unwrap();
    for _ in 0..100 {
        daemon.take_and_give_back(&mut client, &area, "one");
    }
    renews(&daemon);

    // Once it is read, everything is there that clients cannot cause at will, and of the rest how much there was.
    let mut log = String::new();
    while log.matches("more like this").count() == 0 || log.matches(": released lease=").count() < 100 {
        let ready = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::from(60_000_u16)).unwrap();
        assert!(ready > 0, "nothing more is logged:\n{log}");
        let mut bytes = [0; 4096];
        let read = pipe.read(&mut bytes).unwrap();
        log.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    let lines = |words: &str| log.lines().filter(|line| line.contains(words) && !line.contains("like=")).count();
    assert_eq!(lines(": acquired lease="), 100, "{log}");
    assert!((50..2000).contains(&lines(": refused")), "{log}");
    assert!(log.contains("like=\"refused\""), "{log}");
}

/// What a daemon has in memory, MiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn a_thousand_logs_that_clients_ask_for_and_do_not_read_fill_no_memory() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none -D");
    daemon.format(&area);
    daemon.join(&area, 1);
    let mut client = daemon.connection().register().unwrap();
    let socket = daemon.run_dir.join("sanlock.sock");
    while daemon.log().len() < 1 << 18 {
        (0..10).for_each(|_| daemon.take_and_give_back(&mut client, &area, "one"));
    }
    let before = resident(&daemon);
    let ask = [Header::request(Command::Register).encode(), Header::request(Command::LogDump).encode()].concat();
    let mut unread: Vec<UnixStream> = (0..1000)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(&ask).unwrap();
            stream
        })
        .collect();
    // What fits the sockets and 16 MiB is served, to whomever comes first: in which order that is, nothing promises.
    let answers: Vec<Header> = unread
        .iter_mut()
        .map(|stream| {
            let mut header = [0; HEADER_SIZE];
            stream.set_read_timeout(Some(AT_MOST)).unwrap();
            stream.read_exact(&mut header).unwrap();
            Header::decode(&header)
        })
        .collect();
    let refused = |answer: &Header| answer.data.cast_signed() == ResultCode::ENOMEM.number();
    let refusals = answers.iter().filter(|answer| refused(answer)).count();
    assert!((500..1000).contains(&refusals), "{refusals} of 1000 are refused");
    let after = resident(&daemon);
    assert!(after < before + 50, "{before} MiB before, {after} after");
    daemon.take_and_give_back(&mut client, &area, "one");
    renews(&daemon);

    // One that was not refused, once it reads on, has all of it.
    let served = answers.iter().position(|answer| !refused(answer)).unwrap();
    let mut log = vec![0; usize::try_from(answers[served].data).unwrap()];
    unread[served].read_exact(&mut log).unwrap();
    assert!(log.len() > 100_000, "{}", log.len());
}

/// Registers so many times, says how often that was answered, and stays until its input ends.
const REGISTERS: &str = "
import socket, struct, sys
path, register = sys.argv[1], bytes.fromhex(sys.argv[2])
kept, clients = [], 0
for _ in range(int(sys.argv[3])):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    try:
        s.sendall(register + bytes.fromhex(sys.argv[4]))
        clients += len(s.recv(32)) == 32
    except (BrokenPipeError, ConnectionResetError):
        pass
    kept.append(s)
print(clients, flush=True)
sys.stdin.read()
";

#[test]
fn a_user_with_all_the_connections_that_one_may_have_keeps_out_neither_another_nor_root() {
    harness::must_be_root();
    let mut machine = Machine::boot();
    for shown in [machine.path(""), machine.path("run")] {
        fs::create_dir_all(&shown).unwrap();
        fs::set_permissions(&shown, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Room for 48 connections: 24 of one user, 42 of all that are not root.
    let few = |command: String| format!("sh -c 'ulimit -n 400; exec {command}'");
    let daemon = machine.start_daemon_by("first", "--watchdog none -U root -G nogroup", few);
    daemon.wait_said("ready", AT_MOST);
    let socket = daemon.run_dir.join("sanlock.sock");
    let hex = |command| Header::request(command).encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let comes_as = |uid: &str| {
        let mut program = Program::new("setpriv");
        program.args(["--reuid", uid, "--regid", "nogroup", "--clear-groups", "/usr/bin/python3", "-c", REGISTERS]);
        program.arg(&socket).args([hex(Command::Register), "60".into(), hex(Command::Version)]);
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        (child, String::from_utf8_lossy(&said).into_owned())
    };
    let (mut first, clients) = comes_as("65534");
    assert_eq!(clients, "24");
    daemon.wait_said("too many connections", AT_MOST);
    assert!(daemon.log().contains(&format!("most_pid={}", first.id())), "{}", daemon.log());
    let (mut second, clients) = comes_as("65533");
    assert_eq!(clients, "18");
    assert!(daemon.answers());
    daemon.connection().register().unwrap();
    // 36 and 42 were turned away; one warning in ten seconds speaks for them.
    assert!(daemon.log().matches("too many connections").count() < 10, "{}", daemon.log());

    // Whoever goes makes room.
    drop(first.stdin.take());
    first.wait().unwrap();
    wait_until("they are gone", AT_MOST, || daemon.status()["clients"].as_array().is_some_and(|all| all.len() < 24));
    let (mut third, clients) = comes_as("65534");
    assert_eq!(clients, "24");
    for child in [&mut second, &mut third] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_connection_that_waits_for_events_does_not_go_for_others_that_are_idle() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    // Room for 48 connections.
    let few = |command: String| format!("sh -c 'ulimit -n 400; exec {command}'");
    let daemon = machine.start_daemon_by("first", "--watchdog none", few);
    daemon.wait_said("ready", AT_MOST);
    daemon.format(&area);
    daemon.join(&area, 1);
    let come = || {
        let stream = UnixStream::connect(daemon.run_dir.join("sanlock.sock")).unwrap();
        stream.set_read_timeout(Some(AT_MOST)).unwrap();
        stream
    };
    let (mut idle, mut listens) = (come(), come());
    let lockspace = Lockspace::new(Name48::new(harness::SPACE).unwrap(), 1, Disk::new(DiskPath::new("").unwrap(), 0));
    let event = HostEvent { host_id: 0, generation: 0, event: 0, data: 0 };
    listens.write_all(&Request::RegEvent { lockspace, event }.encode()).unwrap();
    let mut answer = [0; HEADER_SIZE];
    listens.read_exact(&mut answer).unwrap();

    let _crowd: Vec<UnixStream> = (0..60).map(|_| come()).collect();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the oldest idle one goes first");
    daemon.wait_renewal();
    listens.set_nonblocking(true).unwrap();
    let open = listens.read(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn where_no_descriptor_is_left_whoever_comes_is_told_at_once_and_renewals_go_on() {
    harness::must_be_root();
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let mut inside = daemon.connection();
    let pid = daemon.process.pid.to_string();
    let most = |descriptors: &str| run("prlimit", &["--pid", &pid, &format!("--nofile={descriptors}:")]);
    most("40");
    let socket = daemon.run_dir.join("sanlock.sock");
    let mut crowd: Vec<UnixStream> = (0..60).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let last = crowd.last_mut().unwrap();
    last.set_read_timeout(Some(AT_MOST)).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0, "it is closed");
    daemon.wait_said("a connection could not be accepted", AT_MOST);

    let asked = boot_now();
    wait_until("a renewal", AT_MOST, || {
        let status: serde_json::Value = serde_json::from_slice(&inside.holdfast_status().unwrap()).unwrap();
        let space = &status["lockspaces"][0];
        assert_eq!((&space["state"], &space["failed_renewals"]), (&"active".into(), &0.into()));
        let ago = space["last_renewal_ms_ago"].as_u64().unwrap();
        Duration::from_millis(ago) < boot_now().since(asked)
    });
    most("4096");
    let mut client = daemon.connection().register().unwrap();
    daemon.take_and_give_back(&mut client, &area, "one");
}

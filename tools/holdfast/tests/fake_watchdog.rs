//! The fake watchdog as a user runs it: the built program, real processes below it, its device opened the way the
//! daemon opens it. Every wait is for an exit, a line or an answer; "has not fired yet" is a wait for the exit that
//! must not come within the time given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy exempts only #[test]

use std::io::{BufRead as _, BufReader, Lines};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use holdfast_daemon::watchdog::{Choice, FakeDevice, Timer as _, WatchdogError};
use holdfast_io::clock::LocalInstant;
use holdfast_io::sys::process::{has_exited, pidfd_open, send_signal, wait_for_exit};
use holdfast_io::sys::watchdog::Seconds;
use holdfast_io::timing::FireTimeout;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tempfile::TempDir;

const FIRED: i32 = 64;
const POWERED_OFF: i32 = 65;

/// A running `holdfast fake-watchdog` whose host is a shell script. It dies with the thread of the test.
struct Fake {
    program: Child,
    pidfd: OwnedFd,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    directory: TempDir,
}

impl Fake {
    fn start(options: &[&str], script: &str) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["fake-watchdog", "--die-with-parent", "--socket"])
            .arg(directory.path().join("wd"))
            .args(options)
            .args(["--", "sh", "-c", script])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = pidfd(i32::try_from(program.id()).unwrap());
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        Fake { pidfd, input: program.stdin.take(), lines, directory, program }
    }

    /// The socket is there as soon as the host runs, and it runs once it printed a line.
    fn socket(&self) -> PathBuf {
        self.directory.path().join("wd")
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line from the host").unwrap()
    }

    /// Processes of the host, which prints their numbers, taken hold of while they live.
    fn processes(&mut self, count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| pidfd(self.line().parse().expect("a pid"))).collect()
    }

    fn still_runs_after(&self, wait: Duration) -> bool {
        !wait_for_exit(self.pidfd.as_fd(), Some(wait)).unwrap()
    }

    /// Waits for the end: exit status, and the last line, which tells why.
    fn end(&mut self) -> (i32, String) {
        let status = self.program.wait().unwrap();
        let last = self.lines.by_ref().map(Result::unwrap).last().expect("a last line");
        (status.code().expect("an exit status"), last)
    }
}

fn pidfd(pid: i32) -> OwnedFd {
    pidfd_open(pid).unwrap().expect("a living process")
}

fn all_dead(processes: &[OwnedFd]) -> bool {
    processes.iter().all(|process| has_exited(process.as_fd()).unwrap())
}

/// "last pet 1.003 s ago" as a number.
fn seconds_since_last_pet(line: &str) -> f64 {
    let (_, age) = line.split_once("last pet ").expect(line);
    age.trim_end_matches(" s ago").parse().expect(line)
}

#[test]
fn a_device_closed_without_v_counts_on_and_fires() {
    let mut fake = Fake::start(&["--timeout", "1"], "sleep 1000 & echo $!; echo $$; wait");
    let host = fake.processes(2);
    drop(FakeDevice::open(&fake.socket()).unwrap());
    let (status, line) = fake.end();
    assert_eq!(status, FIRED);
    assert!(line.starts_with("fired at ") && line.contains(": killed 2 processes of the host in "), "{line}");
    assert!(seconds_since_last_pet(&line) >= 1.0, "{line}");
    assert!(all_dead(&host));
    assert!(!fake.socket().exists());
}

#[test]
fn a_pet_postpones_the_firing() {
    let mut fake = Fake::start(&["--timeout", "3"], "echo $$; exec sleep 1000");
    let host = fake.processes(1);
    let mut device = FakeDevice::open(&fake.socket()).unwrap();
    assert!(fake.still_runs_after(Duration::from_millis(1500)));
    device.pet().unwrap();
    assert!(fake.still_runs_after(Duration::from_millis(2000)), "3.5 s after it was opened, 2 s after the pet");
    assert!(!all_dead(&host));
    let (status, line) = fake.end();
    assert_eq!(status, FIRED);
    assert!(seconds_since_last_pet(&line) >= 3.0, "{line}");
    assert!(all_dead(&host));
    assert!(device.pet().is_err(), "nothing is left to pet");
}

#[test]
fn the_magic_close_disarms_and_the_status_of_the_host_is_handed_on() {
    let mut fake = Fake::start(&["--timeout", "1"], "echo $$; read line; exit 7");
    let host = fake.processes(1);
    FakeDevice::open(&fake.socket()).unwrap().disarm().unwrap();
    assert!(fake.still_runs_after(Duration::from_millis(1500)));
    assert!(!all_dead(&host));
    drop(fake.input.take());
    assert_eq!(fake.end(), (7, "the host ended by itself with status 7, the watchdog is not armed".to_owned()));
}

#[test]
fn a_host_ended_by_a_signal_is_told_as_a_shell_tells_it() {
    let mut fake = Fake::start(&[], "kill -TERM $$");
    assert_eq!(fake.end().0, 128 + 15);
}

#[test]
fn programs_that_left_session_group_and_parents_die_when_it_fires() {
    // A new session; a double fork whose middle has exited; a group of its own below that. COMMAND itself is gone.
    let script = "setsid sh -c 'echo $$; exec sleep 1000' & \
                  (setsid sh -c 'setsid sleep 1000 & echo $!; exec setsid sh -c \"echo \\$\\$; exec sleep 1000\"' &)";
    let mut fake = Fake::start(&["--timeout", "1"], script);
    let host = fake.processes(3);
    let _device = FakeDevice::open(&fake.socket()).unwrap();
    let (status, line) = fake.end();
    assert_eq!(status, FIRED);
    assert!(line.contains(": killed 3 processes of the host in "), "{line}");
    assert!(all_dead(&host));
}

#[test]
fn frozen_programs_die_when_it_fires() {
    let script = "sleep 1000 & echo $!; kill -STOP $!; echo $$; kill -STOP $$";
    let mut fake = Fake::start(&["--timeout", "1"], script);
    let host = fake.processes(2);
    let _device = FakeDevice::open(&fake.socket()).unwrap();
    assert_eq!(fake.end().0, FIRED);
    assert!(all_dead(&host));
}

#[test]
fn a_program_that_keeps_replacing_itself_does_not_escape() {
    // Ten thousand times at most, so that a watchdog that fails to end it does not leave it running for ever.
    let script = "echo 'echo $$ >> leaps.$1; [ $2 -lt 10000 ] && sh ./leap $1 $(($2 + 1)) &' > leap; \
                  for n in 1 2 3; do sh ./leap $n 0 & done; echo $$; wait; exec sleep 1000";
    let mut fake = Fake::start(&["--timeout", "1"], script);
    let host = fake.processes(1);
    let _device = FakeDevice::open(&fake.socket()).unwrap();
    let (status, line) = fake.end();
    assert_eq!(status, FIRED, "{line}");
    assert!(all_dead(&host));
    for leaper in ["leaps.1", "leaps.2", "leaps.3"] {
        let pids = std::fs::read_to_string(fake.directory.path().join(leaper)).expect("it ran");
        assert!(pids.lines().count() > 1, "it did replace itself");
    }
    let directory = fake.directory.path();
    assert_eq!(processes_working_in(directory), 0, "none is left in {}", directory.display());
}

/// Everything of a test's host was started in the test's own directory, and stays there.
fn processes_working_in(directory: &std::path::Path) -> usize {
    let directory = directory.canonicalize().unwrap();
    let works_here =
        |process: &std::fs::DirEntry| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == directory);
    std::fs::read_dir("/proc").unwrap().map(Result::unwrap).filter(works_here).count()
}

#[test]
fn settimeout_rounds_up_to_the_granularity() {
    let mut fake = Fake::start(&["--granularity", "20"], "echo $$; read line");
    let _host = fake.processes(1);
    let mut device = FakeDevice::open(&fake.socket()).unwrap();
    assert_eq!(device.timeout(), Seconds(60));
    assert_eq!(device.set_timeout(Seconds(30)).unwrap(), Seconds(40));
    assert_eq!(device.read_timeout().unwrap(), Seconds(40));
    assert!(matches!(device.set_timeout(Seconds(0)), Err(WatchdogError::Refused { source: Errno::EINVAL, .. })));
    device.disarm().unwrap();
    drop(fake.input.take());
    fake.end();
}

#[test]
fn a_device_too_coarse_for_d3_is_refused_by_the_daemon_and_left_disarmed() {
    let mut fake = Fake::start(&["--granularity", "40", "--timeout", "1"], "echo $$; read line");
    let _host = fake.processes(1);
    let choice = Choice::parse(fake.socket().to_str().unwrap()).unwrap();
    let Err(error) = choice.open(FireTimeout::SANLOCK, "") else { panic!("accepted") };
    assert!(matches!(error, WatchdogError::TooLong { found: Seconds(40), limit: Seconds(29), .. }), "{error}");
    drop(fake.input.take());
    let (_, line) = fake.end();
    assert!(line.ends_with("the watchdog is not armed"), "{line}");
}

#[test]
fn a_second_open_is_refused_until_the_first_is_closed() {
    let mut fake = Fake::start(&[], "echo $$; read line");
    let _host = fake.processes(1);
    let mut first = FakeDevice::open(&fake.socket()).unwrap();
    for _ in 0..3 {
        let refused = FakeDevice::open(&fake.socket()).unwrap_err();
        assert!(matches!(refused, WatchdogError::Refused { source: Errno::EBUSY, .. }), "{refused}");
    }
    first.pet().unwrap();
    for _ in 0..200 {
        drop(first);
        first = FakeDevice::open(&fake.socket()).expect("closed before it was opened again");
    }
    first.disarm().unwrap();
    drop(fake.input.take());
    fake.end();
}

#[test]
fn an_armed_device_fires_even_when_the_host_has_ended() {
    let mut fake = Fake::start(&["--timeout", "1"], "echo $$; read line");
    let host = fake.processes(1);
    let device = FakeDevice::open(&fake.socket()).unwrap();
    drop(fake.input.take());
    wait_for_exit(host[0].as_fd(), None).unwrap();
    drop(device);
    let (status, line) = fake.end();
    assert_eq!(status, FIRED);
    assert!(line.contains(": killed 0 processes of the host in "), "{line}");
}

#[test]
fn firing_at_once_resets_the_host_long_before_the_timeout() {
    let mut fake = Fake::start(&["--timeout", "60"], "echo $$; exec sleep 1000");
    let host = fake.processes(1);
    let mut watchdog = Choice::parse(fake.socket().to_str().unwrap()).unwrap().open(FireTimeout::SANLOCK, "").unwrap();
    assert_eq!(watchdog.timeout(), Some(Seconds(29)));
    watchdog.pet(LocalInstant::NEVER).unwrap();
    assert_eq!(watchdog.fire_at_once().unwrap(), Seconds(1));
    assert!(watchdog.pet(LocalInstant::NEVER).is_err());
    let (status, line) = fake.end();
    assert_eq!(status, FIRED);
    assert!((1.0..20.0).contains(&seconds_since_last_pet(&line)), "{line}");
    assert!(all_dead(&host));
}

#[test]
fn the_power_switch_leaves_no_descendant() {
    let script = "setsid sleep 1000 & echo $!; (setsid sh -c 'echo $$; trap \"\" TERM; sleep 1000; sleep 1000' &); \
                  echo $$; exec sleep 1000";
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut fake = Fake::start(&[], script);
        let host = fake.processes(3);
        let _device = FakeDevice::open(&fake.socket()).unwrap();
        assert!(send_signal(fake.pidfd.as_fd(), signal).unwrap());
        let (status, line) = fake.end();
        assert_eq!(status, POWERED_OFF);
        assert!(
            line.starts_with("powered off at ") && line.contains(&format!("by signal {}", signal as i32)),
            "{line}"
        );
        assert!(all_dead(&host));
        assert!(!fake.socket().exists());
    }
}

#[test]
fn it_dies_with_its_parent_when_asked_to_and_takes_the_host_along() {
    let directory = tempfile::tempdir().unwrap();
    let script =
        "\"$0\" fake-watchdog --die-with-parent --socket wd -- sh -c 'setsid sleep 1000 & echo $!; wait' & wait";
    let mut harness = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_holdfast")])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let below = pidfd(lines.next().unwrap().unwrap().parse().unwrap());
    harness.kill().unwrap();
    harness.wait().unwrap();
    assert!(wait_for_exit(below.as_fd(), None).unwrap());
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(last.starts_with("powered off at "), "{last}");
}

#[test]
fn a_host_that_cannot_be_started_is_an_error_by_name_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("wd");
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["fake-watchdog", "--socket"])
        .arg(&socket)
        .args(["--", "/no/such/program"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/no/such/program: the host cannot be started: No such file"), "{error}");
    assert!(!socket.exists());
}

#[test]
fn a_file_in_the_place_of_the_socket_is_kept_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["fake-watchdog", "--socket"])
        .arg(&path)
        .args(["--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("precious: expected nothing or a socket nobody listens on"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

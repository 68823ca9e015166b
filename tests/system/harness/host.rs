//! A host: a tree of processes under a fake watchdog.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use holdfast_client::blocking::{Connection, Registered};
use holdfast_client::protocol::{
    self, AcquireFlags, AddLockspaceFlags, DiskPath, HostState, Lockspace, Name48, Options, ReleaseFlags,
    RemLockspaceFlags, Resource, ResourceHead, WriteResourceFlags,
};
use holdfast_client::{ClientError, Endpoint, Hosts};
use holdfast_io::sys::process::{has_exited, pidfd_open, send_signal, wait_for_exit};
use nix::libc;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{AT_MOST, Area, LocalInstant, RESOURCES, SPACE, boot_now, pause, wait_for, wait_until};

/// The io_timeout of all tests, seconds: the shortest there is.
pub const IO_TIMEOUT: u32 = 1;
/// D2 for it.
pub const RENEWAL_FAIL: Duration = Duration::from_secs(8);

/// A host. Dropping it is the power switch: everything in it is killed.
pub struct Machine {
    /// Files of this host.
    pub directory: TempDir,
    fake: Child,
    pidfd: OwnedFd,
    shell: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    named: u32,
}

/// The watchdog's last words.
#[derive(Debug)]
pub struct Fired {
    /// When it fired.
    pub at: LocalInstant,
    /// When it was petted for the last time.
    pub last_pet: LocalInstant,
}

/// A process of a host.
pub struct Process {
    /// Its number.
    pub pid: i32,
    pidfd: OwnedFd,
}

/// A running lease daemon.
pub struct Daemon {
    /// It.
    pub process: Process,
    /// Its run directory.
    pub run_dir: PathBuf,
    log: PathBuf,
}

impl Process {
    /// A process known by number, while it lives.
    pub fn of(pid: i32) -> Process {
        let pidfd = pidfd_open(pid).unwrap().unwrap_or_else(|| panic!("process {pid} has ended already"));
        Process { pid, pidfd }
    }

    /// Every thread of it has ended.
    pub fn is_over(&self) -> bool {
        has_exited(self.pidfd.as_fd()).unwrap()
    }

    /// It was killed: nothing of it runs, though threads that wait for a disk may be left.
    pub fn is_dead(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        self.is_over() || stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(send_signal(self.pidfd.as_fd(), signal).unwrap(), "process {} has ended already", self.pid);
    }

    /// Waits for its end; when it was seen.
    pub fn wait_over(&self, what: &str, within: Duration) -> LocalInstant {
        assert!(wait_for_exit(self.pidfd.as_fd(), Some(within)).unwrap(), "not over within {within:?}: {what}");
        boot_now()
    }

    /// Whether its first thread sits in a blocking receive: a daemon of ours waits so for its watchdog, and nothing else.
    pub fn waits_for_an_answer(&self) -> bool {
        let call = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/syscall", pid = self.pid)).unwrap_or_default();
        let before = call();
        let number = before.split(' ').next().and_then(|word| word.parse().ok());
        [libc::SYS_read, libc::SYS_recvfrom].map(Some).contains(&number) && (0..20).all(|_| call() == before)
    }

    /// Whether one of its threads waits for a disk, where no signal reaches it, and goes on waiting.
    pub fn hangs_in_io(&self) -> bool {
        let mut hanging = self.threads_in_io();
        let until = boot_now().after(Duration::from_millis(300));
        while !hanging.is_empty() && boot_now() < until {
            let now = self.threads_in_io();
            hanging.retain(|thread| now.contains(thread));
            pause();
        }
        !hanging.is_empty()
    }

    fn threads_in_io(&self) -> Vec<PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let waits = |task: &PathBuf| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
        };
        tasks.map(|task| task.path()).filter(waits).collect()
    }
}

impl Machine {
    /// Switches a host on. Nothing runs on it but a shell.
    pub fn boot() -> Machine {
        Machine::boot_with(tempfile::tempdir().unwrap(), &[])
    }

    /// The same with files that are there already, and options of its watchdog.
    pub fn boot_with(directory: TempDir, options: &[&str]) -> Machine {
        let mut fake = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["fake-watchdog", "--die-with-parent", "--socket"])
            .arg(directory.path().join("watchdog"))
            .args(options)
            .args(["--", "sh", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(i32::try_from(fake.id()).unwrap()).unwrap().unwrap();
        let lines = BufReader::new(fake.stdout.take().unwrap());
        Machine { directory, shell: fake.stdin.take(), fake, pidfd, lines, named: 0 }
    }

    /// A file of this host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A name not used before.
    pub fn next_name(&mut self, of: &str) -> String {
        self.named += 1;
        format!("{of}{}", self.named)
    }

    /// Starts a program; its output goes to a file of that name.
    pub fn start(&mut self, name: &str, command: &str) -> Process {
        let (run_dir, log) = (self.path("run"), self.path(&format!("{name}.log")));
        let line = format!(
            "NO_COLOR=1 SANLOCK_RUN_DIR={} {command} >{log} 2>&1 </dev/null & echo $!\n",
            run_dir.display(),
            log = log.display()
        );
        self.shell.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        let mut pid = String::new();
        self.lines.read_line(&mut pid).unwrap();
        Process::of(pid.trim().parse().unwrap_or_else(|_| panic!("not a pid: {pid:?}")))
    }

    /// Starts a lease daemon, which need not get anywhere.
    pub fn start_daemon(&mut self, host_name: &str, options: &str) -> Daemon {
        self.start_daemon_by(host_name, options, |command| command)
    }

    /// The same by a command made of the usual one.
    pub fn start_daemon_by(&mut self, host_name: &str, options: &str, by: impl FnOnce(String) -> String) -> Daemon {
        let name = self.next_name("daemon");
        let program = env!("CARGO_BIN_EXE_holdfast");
        let command = by(format!("{program} daemon -l 0 -e {host_name} -o {IO_TIMEOUT} {options}"));
        let process = self.start(&name, &command);
        Daemon { process, run_dir: self.path("run"), log: self.path(&format!("{name}.log")) }
    }

    /// Starts a lease daemon that answers.
    pub fn daemon(&mut self, host_name: &str, options: &str) -> Daemon {
        let daemon = self.start_daemon(host_name, options);
        daemon.wait_said("ready", AT_MOST);
        daemon
    }

    /// `--watchdog` and `--fire-timeout` for this host's watchdog.
    pub fn watchdog(&self, fire_timeout: u32) -> String {
        format!("--watchdog {} --fire-timeout {fire_timeout}", self.path("watchdog").display())
    }

    /// How many processes have the watchdog open now.
    pub fn watchdog_openers(&self) -> usize {
        // The accepted end of a connection carries the socket's path; state 01 is a listener, 03 connected.
        let path = self.path("watchdog").display().to_string();
        let table = fs::read_to_string("/proc/net/unix").unwrap();
        let of_it = table.lines().filter(|line| line.split_whitespace().last() == Some(&path));
        of_it.filter(|line| line.split_whitespace().nth(5) == Some("03")).count()
    }

    /// Stops the watchdog device itself, so that whoever pets it hangs, or lets it go on.
    pub fn signal_watchdog(&self, signal: Signal) {
        assert!(send_signal(self.pidfd.as_fd(), signal).unwrap(), "the watchdog has ended already");
    }

    /// The host still runs.
    pub fn is_up(&self) -> bool {
        !has_exited(self.pidfd.as_fd()).unwrap()
    }

    /// Waits for the watchdog to fire and to have killed everything.
    pub fn wait_fired(&mut self, within: Duration) -> Fired {
        assert!(
            wait_for_exit(self.pidfd.as_fd(), Some(within)).unwrap(),
            "the watchdog has not fired within {within:?}"
        );
        let mut last = String::new();
        while self.lines.read_line(&mut last).unwrap() > 0 && !last.contains("fired at ") {
            last.clear();
        }
        let number = |before: &str| -> f64 {
            let rest = last.split_once(before).unwrap_or_else(|| panic!("it did not fire: {last:?}")).1;
            let word = rest.split([' ', ':']).next().unwrap();
            word.parse().unwrap_or_else(|_| panic!("not a number: {word:?} in {last:?}"))
        };
        let at = LocalInstant::EARLIEST.after(Duration::from_secs_f64(number("fired at ")));
        Fired { at, last_pet: at.before(Duration::from_secs_f64(number("last pet "))) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _sent = send_signal(self.pidfd.as_fd(), Signal::SIGTERM);
        let _going_on = send_signal(self.pidfd.as_fd(), Signal::SIGCONT);
        let _ended = self.fake.wait();
        if std::thread::panicking() {
            let logs = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
            for log in logs.filter(|f| f.path().extension().is_some_and(|e| e == "log" || e == "events")) {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().filter(|l| !l.contains("not acquired")).collect();
                eprintln!("--- {}\n{}", log.path().display(), lines.join("\n"));
            }
        }
    }
}

/// A resource as a client names it, with a copy on each of these disks.
pub fn lease_on(areas: &[&Area], resource: &str) -> Resource {
    let head = ResourceHead::named(Name48::new(SPACE).unwrap(), Name48::new(resource).unwrap());
    Resource::new(head, areas.iter().map(|area| wire_disk(area, Area::offset_of(resource))).collect())
}

/// A lease of an area, to ask for.
pub fn wire_lease(area: &Area, resource: &str) -> Resource {
    let head = ResourceHead::named(Name48::new(SPACE).unwrap(), Name48::new(resource).unwrap());
    Resource::new(head, vec![wire_disk(area, Area::offset_of(resource))])
}

fn wire_disk(area: &Area, offset: u64) -> protocol::Disk {
    protocol::Disk::new(DiskPath::new(area.path.to_str().unwrap()).unwrap(), offset)
}

fn wire_space(area: &Area, host_id: u64) -> Lockspace {
    wire_space_as(area, SPACE, host_id)
}

fn wire_space_as(area: &Area, name: &str, host_id: u64) -> Lockspace {
    Lockspace::new(Name48::new(name).unwrap(), host_id, wire_disk(area, 0))
}

impl Daemon {
    /// A daemon that is not ours.
    pub fn other(process: Process, run_dir: PathBuf, log: PathBuf) -> Daemon {
        Daemon { process, run_dir, log }
    }

    /// It takes connections.
    pub fn answers(&self) -> bool {
        assert!(!self.process.is_over(), "the daemon has ended:\n{}", self.log());
        Connection::open(&Endpoint::new(&self.run_dir)).is_ok()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for words in its log.
    pub fn wait_said(&self, words: &str, within: Duration) {
        wait_until(&format!("the daemon says {words:?}; it said:\n{}", self.log()), within, || {
            self.log().contains(words)
        });
    }

    /// A connection that gives up in the end.
    pub fn connection(&self) -> Connection {
        Connection::open(&Endpoint::new(&self.run_dir).with_deadline(AT_MOST)).unwrap()
    }

    /// Makes a lockspace and the resources.
    pub fn format(&self, area: &Area) {
        self.connection().write_lockspace(IO_TIMEOUT, wire_space(area, 0)).unwrap();
        self.format_resources(area);
    }

    /// Makes the resources alone.
    pub fn format_resources(&self, area: &Area) {
        RESOURCES.iter().for_each(|resource| self.format_resource(area, resource));
    }

    /// Makes one resource, whatever is there.
    pub fn format_resource(&self, area: &Area, resource: &str) {
        let head = ResourceHead::named(Name48::new(SPACE).unwrap(), Name48::new(resource).unwrap());
        let disks = vec![wire_disk(area, Area::offset_of(resource))];
        self.connection().write_resource(WriteResourceFlags::NONE, 0, Resource::new(head, disks)).unwrap();
    }

    /// A client acquires a lease exclusively, and gives it back.
    pub fn take_and_give_back(&self, client: &mut Registered, area: &Area, resource: &str) {
        let lease = wire_lease(area, resource);
        let head = lease.head.clone();
        client.acquire(AcquireFlags::NONE, vec![lease], Options::default()).unwrap();
        client.release(ReleaseFlags::NONE, vec![head]).unwrap();
    }

    /// Asks for a lockspace to be joined, and waits for the answer.
    pub fn try_join(&self, area: &Area, host_id: u64) -> Result<(), ClientError> {
        self.try_join_with(area, host_id, IO_TIMEOUT)
    }

    /// The same with an io_timeout of its own, seconds.
    pub fn try_join_with(&self, area: &Area, host_id: u64, io_timeout: u32) -> Result<(), ClientError> {
        self.connection().add_lockspace(AddLockspaceFlags::NONE, io_timeout, wire_space(area, host_id))
    }

    /// Joins; when the answer was there.
    pub fn join(&self, area: &Area, host_id: u64) -> LocalInstant {
        self.try_join(area, host_id).unwrap();
        boot_now()
    }

    /// Makes a lockspace of another name.
    pub fn format_space_as(&self, area: &Area, name: &str) {
        self.connection().write_lockspace(IO_TIMEOUT, wire_space_as(area, name, 0)).unwrap();
    }

    /// Joins it.
    pub fn join_as(&self, area: &Area, name: &str, host_id: u64) {
        let space = wire_space_as(area, name, host_id);
        self.connection().add_lockspace(AddLockspaceFlags::NONE, IO_TIMEOUT, space).unwrap();
    }

    /// Leaves.
    pub fn leave(&self, area: &Area, host_id: u64) {
        self.connection().rem_lockspace(RemLockspaceFlags::NONE, wire_space(area, host_id)).unwrap();
    }

    /// Begins to leave.
    pub fn leave_soon(&self, area: &Area, host_id: u64) {
        self.connection().rem_lockspace(RemLockspaceFlags::ASYNC, wire_space(area, host_id)).unwrap();
    }

    /// Whether it takes that host for a living one.
    pub fn sees_live(&self, host_id: u64) -> bool {
        match self.connection().get_hosts(Name48::new(SPACE).unwrap(), host_id) {
            Ok(Hosts::Known(hosts)) => hosts.iter().any(|h| h.state() == Some(HostState::Live)),
            Ok(Hosts::NotYet) => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// `status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.connection().holdfast_status().unwrap()).unwrap()
    }

    /// The lockspace's row in it.
    pub fn space(&self) -> Option<Value> {
        self.status()["lockspaces"].as_array().unwrap().first().cloned()
    }

    /// D2's instant, from the start of the last good renewal: not before the first, not after the second.
    pub fn fails_at(&self) -> (LocalInstant, LocalInstant) {
        let before = boot_now();
        let space = self.space().expect("a joined lockspace");
        assert_eq!(space["state"], "active");
        // Whole milliseconds, rounded down.
        let ago = Duration::from_millis(space["last_renewal_ms_ago"].as_u64().expect("a joined lockspace"));
        let fails = |from: LocalInstant| from.before(ago).after(RENEWAL_FAIL);
        (fails(before).before(Duration::from_millis(1)), fails(boot_now()))
    }

    /// Waits until no renewal gets through any more, then tells D2's instant.
    pub fn fails_at_once_blocked(&self) -> (LocalInstant, LocalInstant) {
        wait_until("renewals fail", AT_MOST, || self.space().is_some_and(|s| s["failed_renewals"].as_u64() > Some(0)));
        self.fails_at()
    }

    /// Waits for a renewal that starts after now.
    pub fn wait_renewal(&self) {
        let asked = boot_now();
        wait_until("a renewal", AT_MOST, || {
            let now = boot_now();
            let ago = self.space().and_then(|s| s["last_renewal_ms_ago"].as_u64());
            ago.is_some_and(|ms| Duration::from_millis(ms) < now.since(asked))
        });
    }
}

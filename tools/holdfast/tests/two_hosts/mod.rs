//! Two hosts on one disk, for tests: real daemons with run directories of their own, without a watchdog and with an
//! io_timeout of 1 s, a lockspace and three leases in a file. Every wait is for a condition, with a limit.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use holdfast_io::clock::boot_now;
use holdfast_io::sys::process::{pidfd_open, send_signal, wait_for_exit};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// Looks until there is something to see.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = boot_now().after(LIMIT);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(boot_now() < end, "waited in vain: {what}");
        poll(&mut [], PollTimeout::from(20_u8)).unwrap();
    }
}

/// What `holdfast` says to arguments, with no daemon in the run directory that is given.
pub fn holdfast(run_dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast")).args(args).env("SANLOCK_RUN_DIR", run_dir).output().unwrap()
}

/// A host: a daemon.
pub struct Host {
    pub run_dir: PathBuf,
    pub host_id: u32,
    disk: PathBuf,
    daemon: Child,
}

impl Host {
    fn start(dir: &Path, name: &str, host_id: u32) -> Self {
        let run_dir = dir.join(name);
        std::fs::create_dir(&run_dir).unwrap();
        let daemon = Self::daemon(&run_dir, name);
        let host = Self { run_dir, host_id, disk: dir.join("disk"), daemon };
        host.serves();
        host
    }

    fn daemon(run_dir: &Path, name: &str) -> Child {
        let log = File::options().create(true).append(true).open(run_dir.with_extension("log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["daemon", "-l", "0", "-e", name, "--watchdog", "none", "-g", "1"])
            .env("SANLOCK_RUN_DIR", run_dir)
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn serves(&self) {
        eventually("the daemon answers", || self.run(&["status"]).status.success().then_some(()));
    }

    /// Kills the daemon; a successor of the same name takes its place and serves.
    pub fn succeed(&mut self, name: &str) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = Self::daemon(&self.run_dir, name);
        self.serves();
    }

    /// The lockspace as this host joins it.
    pub fn lockspace(&self) -> String {
        format!("LS:{}:{}:0", self.host_id, self.disk.display())
    }

    /// A lease: vm1, vm2 or vm3.
    pub fn lease(&self, name: &str) -> String {
        format!("LS:{name}:{}:{}M", self.disk.display(), name.trim_start_matches("vm"))
    }

    pub fn run(&self, args: &[&str]) -> Output {
        holdfast(&self.run_dir, args)
    }

    /// Standard output of what must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit status and standard error of what must fail.
    pub fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub fn join(&self) {
        self.ok(&["lockspace", "add", "--io-timeout", "1", &self.lockspace()]);
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// The process that holds a lease here.
    pub fn holder(&self, name: &str) -> Option<i64> {
        let status = self.status();
        let lease = status["leases"].as_array().unwrap().iter().find(|l| l["resource"] == name && l["state"] == "held");
        lease.map(|l| l["pid"].as_i64().unwrap())
    }

    /// Waits until a list of the status (leases, waiting, clients) has so many entries.
    pub fn eventually_has(&self, count: usize, list: &str) -> Value {
        eventually(&format!("{count} {list}"), || {
            let entries = self.status()[list].clone();
            (entries.as_array().unwrap().len() == count).then_some(entries)
        })
    }

    /// Starts `holdfast exec OPTIONS -- sh -c SCRIPT`.
    pub fn exec(&self, options: &[&str], script: &str) -> Exec {
        let mut program = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg("exec")
            .args(options)
            .args(["--", "sh", "-c", script])
            .env("SANLOCK_RUN_DIR", &self.run_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(program.stdout.take().unwrap());
        Exec { program, output }
    }

    /// Starts a command that holds a lease, and waits until it runs: its pid is known.
    pub fn hold(&self, name: &str) -> (Exec, i32) {
        let mut exec = self.exec(&["-r", &self.lease(name)], HOLD);
        let pid = exec.line().parse().unwrap();
        (exec, pid)
    }
}

/// Says its pid and stays.
pub const HOLD: &str = "echo $$; exec sleep 300";

impl Drop for Host {
    fn drop(&mut self) {
        // Whatever a failed test left behind is not to run on.
        if let Ok(status) = serde_json::from_slice::<Value>(&self.run(&["status", "--json"]).stdout) {
            for pid in status["clients"].as_array().into_iter().flatten().filter_map(|c| c["pid"].as_i64()) {
                kill(i32::try_from(pid).unwrap(), Signal::SIGKILL);
            }
        }
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.run_dir.with_extension("log")).unwrap_or_default();
            eprintln!("--- the daemon in {} said:\n{log}", self.run_dir.display());
        }
    }
}

/// A running `holdfast exec`.
pub struct Exec {
    pub program: Child,
    output: BufReader<ChildStdout>,
}

impl Exec {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.program.id()).unwrap()
    }

    /// The next line of COMMAND's output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn status(&mut self) -> Option<i32> {
        self.program.wait().unwrap().code()
    }
}

/// Signals a process; `false` if it is gone.
pub fn kill(pid: i32, signal: Signal) -> bool {
    let Some(pidfd) = pidfd_open(pid).unwrap() else { return false };
    send_signal(pidfd.as_fd(), signal).unwrap()
}

/// Waits for the end of a process that may be nobody's child here.
pub fn is_gone(pid: i32) -> bool {
    pidfd_open(pid).unwrap().is_none_or(|pidfd| wait_for_exit(pidfd.as_fd(), Some(LIMIT)).unwrap())
}

/// Two hosts that have joined, on one disk.
pub struct TwoHosts {
    pub a: Host,
    pub b: Host,
    pub dir: TempDir,
}

impl TwoHosts {
    /// Both joined.
    pub fn start() -> Self {
        let hosts = Self::apart();
        std::thread::scope(|scope| {
            scope.spawn(|| hosts.a.join());
            scope.spawn(|| hosts.b.join());
        });
        hosts
    }

    /// Neither joined.
    pub fn apart() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        let init = |args: &[&str]| assert!(holdfast(dir.path(), args).status.success(), "{args:?}");
        init(&["init", "--io-timeout", "1", "-s", &format!("LS:0:{}:0", disk.display())]);
        for n in 1..4 {
            init(&["init", "-r", &format!("LS:vm{n}:{}:{n}M", disk.display())]);
        }
        let (a, b) = (Host::start(dir.path(), "hostA", 1), Host::start(dir.path(), "hostB", 2));
        Self { a, b, dir }
    }
}

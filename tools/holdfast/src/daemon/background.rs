//! `sanlock daemon` without -D: in the background, as its init scripts and units expect (spec B 2).
//!
//! The daemon is started anew, in a session of its own, and tells by `NOTIFY_SOCKET`, as it would a service manager, when it serves or
//! why it does not. Only then does the command end: where sanlock's ends with 0 before it can know, this one's status is the answer.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use super::{Error, notify};

/// Where sanlock logs to, and what rotates and collects logs looks.
const LOG: &str = "/var/log/sanlock.log";
/// Between two looks at whether the daemon has ended without a word.
const LOOK: Duration = Duration::from_millis(50);
/// The longest message that is read.
const LONGEST: usize = 4096;

/// Variables that name directories: the daemon goes to another one.
const DIRECTORIES: [&str; 2] = ["SANLOCK_RUN_DIR", "WDMD_RUN_DIR"];

/// Starts the daemon in the background and waits until it serves.
pub(super) fn start() -> Result<ExitCode, Error> {
    let failed = |doing| move |source| Error::Background { doing, source };
    let place = Place::new().map_err(failed("make a directory"))?;
    let told = UnixDatagram::bind(place.socket()).map_err(failed("bind a socket"))?;
    told.set_read_timeout(Some(LOOK)).map_err(failed("wait at a socket"))?;
    let mut daemon = Command::new("/proc/self/exe");
    daemon.arg0("sanlock").args(["daemon", "--in-background"]).args(std::env::args_os().skip(2));
    daemon.env("NOTIFY_SOCKET", place.socket()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log());
    for name in DIRECTORIES {
        if let Some(path) = std::env::var_os(name).and_then(|path| std::path::absolute(path).ok()) {
            daemon.env(name, path);
        }
    }
    let daemon = daemon.spawn().map_err(failed("start the daemon"))?;
    match outcome(&told, daemon).map_err(failed("wait for the daemon"))? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            eprintln!("sanlock: the daemon has not started: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A directory that nobody else can reach, for as long as the daemon starts.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Place> {
        let names = (0..100).map(|n| std::env::temp_dir().join(format!("holdfast-{}-{n}", std::process::id())));
        let mut last = io::ErrorKind::AlreadyExists.into();
        for path in names {
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Place(path)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("started")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _socket = std::fs::remove_file(self.socket());
        let _directory = std::fs::remove_dir(&self.0);
    }
}

/// The journal, if standard error is that already; otherwise the file.
fn log() -> Stdio {
    if is_the_journal() {
        return Stdio::inherit();
    }
    match OpenOptions::new().create(true).append(true).open(LOG) {
        Ok(file) => file.into(),
        Err(error) => {
            eprintln!("sanlock: {LOG}: {error}; what the daemon logs is to be had by `sanlock client log_dump` alone");
            Stdio::null()
        }
    }
}

/// The variable alone says little: what is started under the journal may write elsewhere (systemd.exec(5)).
fn is_the_journal() -> bool {
    let Ok(stat) = nix::sys::stat::fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Waits until the daemon serves, or has ended; why, in that case.
fn outcome(told: &UnixDatagram, mut daemon: Child) -> io::Result<Result<(), String>> {
    let mut why = "its log says why".to_owned();
    let mut message = [0; LONGEST];
    loop {
        let ended = daemon.try_wait()?;
        match told.recv(&mut message) {
            Ok(length) => {
                let message = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
                if message.lines().any(|line| line == notify::READY) {
                    return Ok(Ok(()));
                }
                if let Some(status) = message.strip_prefix(notify::STATUS) {
                    why = status.trim_end().to_owned();
                }
            }
            // Nothing more comes from one that has ended: what it said lay in the socket before.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && ended.is_some() => return Ok(Err(why)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Away from the terminal and the directory of whoever started us.
pub(super) fn detach() -> Result<(), Error> {
    let failed = |doing| move |source| Error::Background { doing, source };
    nix::unistd::setsid().map_err(io::Error::from).map_err(failed("begin a session"))?;
    std::env::set_current_dir("/").map_err(failed("change to /"))
}

//! From settings to a serving daemon, in the order that P1 asks for: lock the run directory, settle what a predecessor
//! left, only then open the socket. The watchdog is opened later still, right before the first delta write.

use std::future::Future;
use std::path::PathBuf;

use holdfast_io::identity::{IdentityError, Machine};
use holdfast_io::ids::SpaceName;
use holdfast_io::seal::SealedFire;
use holdfast_io::sys::memory;
use holdfast_io::timing::FireTimeout;
use holdfast_protocol::arguments;
use holdfast_protocol::command::AddLockspaceFlags;
use holdfast_protocol::request::Request;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, getgid, getuid};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Config, ConfigError};
use crate::linux::Linux;
use crate::log_ring::{self, LogRing};
use crate::oom;
use crate::platform::Platform;
use crate::procfs::{ProcError, Procfs};
use crate::restart::{Inheritance, Succession};
use crate::rundir::{RunDir, RunDirError};
use crate::runtime::{Desk, Outside, serve};
use crate::shares::Shares;
use crate::sock_diag;
use crate::state_file::{self, SpaceRecord, StateFileError};
use crate::supervisor::{Report, Settings, Supervisor};
use crate::sysfs::Sysfs;
use crate::watchdog::facts::Facts;
use crate::watchdog::{Choice, Kind, WatchdogError};
use crate::works::{Works, WorksError};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the administrator decided.
    pub config: Config,
    /// Where the socket, the pid file and the state file are.
    pub run_dir: PathBuf,
    /// Whose socket it is.
    pub owner: (Option<Uid>, Option<Gid>),
    /// Where log lines are kept for clients that ask.
    pub log: LogRing,
    /// Called once clients are served, and what is joined at the start is joined, or cannot be, or takes long.
    pub ready: fn(),
}

/// Why the daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The run directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Which machine this is cannot be told.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Which boot this is cannot be told.
    #[error("cannot tell which boot this is")]
    Boot(#[source] ProcError),
    /// The watchdog named cannot be served.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// A predecessor's state file.
    #[error(
        "{0}\nIt is not known which processes the daemon before this one guarded. Make sure that none of them runs, or \
         let the watchdog reset this host; then remove the file and start again."
    )]
    State(#[source] StateFileError),
    /// A predecessor's writes may still be in flight, and its watchdog counts.
    #[error(
        "it is not known whether writes of the daemon before this one are still in flight (lockspaces {lockspaces}): \
         the watchdog that it left counting is not touched, and resets this host. Should it not, because it does not \
         count, then make sure that the devices named in {} are in order, remove that file from the run directory and start again.",
        state_file::FILE_NAME
    )]
    LeftToFire {
        /// Which.
        lockspaces: String,
    },
    /// A predecessor has left an entry in wdmd, or it cannot be told whether it has.
    #[error(
        "the daemon before this one has not ended in good order, and wdmd kept the watchdog for it. {why}\nShould this host not be \
         reset within a few minutes, because wdmd's device does not count, then make sure that nothing runs that used the \
         leases, remove {} from the run directory and start again.",
        state_file::FILE_NAME
    )]
    LeftInWdmd {
        /// Which, or what was tried.
        why: String,
    },
    /// No threads, no timers, no sockets.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A lockspace of the configuration.
    #[error("lockspace {text:?} of the configuration: {why}")]
    Lockspace {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// It ended by itself.
    #[error("the daemon ended; the watchdog is left counting: {0}")]
    Runtime(#[from] WorksError),
}

/// What has come from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT: to end.
    End,
    /// SIGHUP: to read the configuration again.
    Reload,
}

/// Runs the daemon to its end. `again` reads the configuration anew.
///
/// # Errors
/// [`DaemonError`].
pub fn run(options: &Options, again: &dyn Fn() -> Result<Config, ConfigError>) -> Result<(), DaemonError> {
    let mut run_dir = RunDir::lock(&options.run_dir)?;
    let machine = Machine::of_this_host()?;
    let boot_id = Procfs::default().boot_id().map_err(DaemonError::Boot)?;
    let watchdog = Choice::parse(&options.config.watchdog)?;
    let at_start = joins(&options.config)?;
    announce(options, &watchdog);
    oom::spare_us();
    let seats = Shares::new(most_guests(descriptors()));
    let linux = Linux::new(watchdog.clone(), options.run_dir.clone())?;
    let linux = linux.without_watchdog(options.config.unsafe_no_watchdog);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let settings = Settings {
            host_name: options.config.host_name.to_string(),
            io_timeout: options.config.io_timeout,
            fire_timeout: options.config.fire_timeout,
            watchdog: watchdog.kind(),
            sealed: match &watchdog {
                Choice::None => SealedFire::NoWatchdog,
                _ => SealedFire::Within(options.config.fire_timeout),
            },
            kill_grace: options.config.kill_grace,
            strict_clients: options.config.strict_clients,
            boot_id,
            report: Report::default(),
        };
        // Until a dead predecessor is gone it also has the watchdog open.
        let proven = succeed(&linux, &settings, run_dir.settle(linux.clock())).await?;
        let counts_on = linux.has_left_it_counting(&settings.boot_id);
        watchdog.look()?;
        let settings = Settings { report: report(options, &watchdog), ..settings };
        let listener = UnixListener::from_std(run_dir.listen(options.owner)?)?;
        tracing::info!(run_dir = %run_dir.path().display(), host = %options.config.host_name, "ready");
        let works = Works::new(Supervisor::new(settings, proven), linux.clone(), machine, options.config.host_name);
        let (unread, log) = (Shares::new(MOST_UNREAD), options.log.clone());
        let desk = Desk { seats, unread, log };
        let (config, ready) = (options.config.clone(), options.ready);
        let outside = Outside { listener, signals: signals()?, config, again, ready, counts_on };
        serve(works, desk, outside, at_start).await.map_err(DaemonError::from)
    })
}

/// What a daemon does before it does anything else (P1, data flow 6): what a predecessor guarded is ended, its fences are
/// taken, and only then the watchdog that it left counting is stopped. `settled`: the predecessor is gone from the run
/// directory, and has the watchdog open no more. The lockspaces that are proven over.
///
/// # Errors
/// [`DaemonError::State`], [`DaemonError::LeftToFire`], or what `settled` says.
pub async fn succeed<P: Platform>(
    platform: &P,
    settings: &Settings,
    settled: impl Future<Output = Result<(), RunDirError>>,
) -> Result<Vec<SpaceRecord>, DaemonError> {
    let succession = Succession { platform, boot_id: &settings.boot_id, kill_grace: settings.kill_grace };
    let Inheritance { proven, unproven, unclean, watchdog } = succession.run().await.map_err(DaemonError::State)?;
    settled.await?;
    if unclean && watchdog == Some(Kind::Wdmd) {
        platform.is_clear_of_wdmd().map_err(|e| DaemonError::LeftInWdmd { why: e.to_string() })?;
    }
    if unclean {
        // D3: a write that may still land keeps the host under the watchdog until it is reset. Without a watchdog there
        // is nothing to leave counting, and other hosts wait for as long as they can.
        if !unproven.is_empty() && settings.sealed != SealedFire::NoWatchdog {
            return Err(DaemonError::LeftToFire { lockspaces: unproven.join(", ") });
        }
        match (watchdog, settings.watchdog) {
            // It ended between the state file and its entry, on the way in or out; or it had none.
            (Some(Kind::Wdmd | Kind::None), _) => {}
            (_, Kind::Wdmd) => {
                tracing::error!("a predecessor left a device counting, which wdmd cannot stop: it may fire")
            }
            _ => stop_predecessors_watchdog(platform, settings.fire_timeout),
        }
    }
    Ok(proven)
}

/// The lockspaces of the configuration, each with the request that joins it.
pub(crate) fn joins(config: &Config) -> Result<Vec<(SpaceName, Request)>, DaemonError> {
    let join = |text: &String| {
        let bad = |why: String| DaemonError::Lockspace { text: text.clone(), why };
        let lockspace = arguments::parse_lockspace(text).map_err(|e| bad(e.to_string()))?;
        let name = SpaceName::new(lockspace.name.as_bytes()).map_err(|e| bad(e.to_string()))?;
        Ok((name, Request::AddLockspace { flags: AddLockspaceFlags::ASYNC, io_timeout: 0, lockspace }))
    };
    config.lockspaces.iter().map(join).collect()
}

/// Raises the limit on descriptors as far as it goes, and returns it.
fn descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return LEAST_DESCRIPTORS };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit on descriptors could not be raised");
            soft
        }
    }
}

/// What any system grants.
const LEAST_DESCRIPTORS: u64 = 1024;
/// Descriptors for devices, the state file, and looks at processes.
const OTHER_DESCRIPTORS: u64 = 256;

/// Bytes of replies that wait to be read: sixteen whole logs.
const MOST_UNREAD: usize = 16 * (log_ring::MOST + 4096);

/// Connections served at once: socket and pidfd each, and one to spare. One counts until its last descriptor is closed.
fn most_guests(descriptors: u64) -> usize {
    let most = (descriptors.saturating_sub(OTHER_DESCRIPTORS) / 3).clamp(16, 10_000);
    usize::try_from(most).unwrap_or(16)
}

fn announce(options: &Options, watchdog: &Choice) {
    if let Some(asked) = options.config.asked_grace {
        tracing::warn!(
            asked_s = asked.as_secs(),
            kill_grace_s = options.config.kill_grace.as_secs(),
            "kill grace is longer than the fire timeout allows, and shortened: SIGKILL must still have a chance"
        );
    }
    if matches!(watchdog, Choice::None) {
        tracing::warn!(
            "NO WATCHDOG: if this host hangs, or its guarded processes cannot be killed, nothing ends them before other \
             hosts take their leases. The seal on disk says so."
        );
    }
}

/// Whether the watchdog has reset this host, as far as it tells without being opened.
fn reset_by(watchdog: &Choice) -> Option<bool> {
    let facts = Facts::of(watchdog, &Sysfs::default())?;
    let reset = facts.has_reset_us()?;
    if reset {
        let up_since = Procfs::default().up_since().map(|t| t.strftime("%Y-%m-%d %H:%M:%S %z").to_string());
        tracing::error!(%watchdog, up_since, "THIS HOST WAS RESET BY ITS WATCHDOG before it came up");
    }
    Some(reset)
}

/// Whether clients can be guarded here; if not, why.
fn asks_for_peers() -> Option<String> {
    let why = sock_diag::answers().err()?;
    tracing::error!(why, "NO LEASE CAN BE GIVEN: the kernel does not tell which processes share a client's connection");
    Some(why)
}

/// Everything that the predecessor guarded is gone and none of its writes is in flight: its watchdog may be stopped.
fn stop_predecessors_watchdog<P: Platform>(platform: &P, fire: FireTimeout) {
    match platform.open_watchdog(fire).and_then(|mut device| device.disarm()) {
        Ok(()) => tracing::info!("the watchdog that a predecessor left counting is stopped"),
        Err(error) => {
            tracing::error!(%error, "the watchdog that a predecessor left counting cannot be stopped: it may fire")
        }
    }
}

fn report(options: &Options, watchdog: &Choice) -> Report {
    let mlock_level = match options.config.lock_memory.then(memory::lock_memory) {
        Some(Ok(())) => 1,
        Some(Err(error)) => {
            tracing::warn!(%error, "memory is not locked: under memory pressure renewals may be late");
            0
        }
        None => 0,
    };
    Report {
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        use_watchdog: !matches!(watchdog, Choice::None),
        high_priority: false,
        mlock_level,
        reset_by_watchdog: reset_by(watchdog),
        no_peers: asks_for_peers(),
    }
}

fn signals() -> std::io::Result<mpsc::UnboundedReceiver<Asked>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for (kind, asked) in [
        (SignalKind::terminate(), Asked::End),
        (SignalKind::interrupt(), Asked::End),
        (SignalKind::hangup(), Asked::Reload),
    ] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tokio::task::spawn_local(async move {
            while signals.recv().await.is_some() {
                if sender.send(asked).is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

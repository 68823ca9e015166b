//! `holdfast drill`: a rehearsal of the watchdog, to its end: this host is reset.
//!
//! The device is armed by the daemon's own code, and then not petted. What ought to happen is written down before (`drill/note.rs`), and
//! while the count runs the note says once a second that this host lives still: so the note tells afterwards, to the second, when it did
//! not any more. `holdfast drill --report`, after the reboot, compares (`drill/report.rs`).
//!
//! Nothing is armed without an operator's word, and not beside a daemon: its run directory is locked for as long as the drill lasts, and
//! what a daemon that died has left there is not the drill's to end.
//!
//! Exit status: 0 the drill was passed (`--report`); 1 it was not, or was refused, or this host has outlived its watchdog; 2 wrong usage.

mod note;
mod report;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use holdfast_daemon::config::{Config, ConfigError, ConfigFile};
use holdfast_daemon::procfs::{ProcError, Procfs};
use holdfast_daemon::rundir::{RunDir, RunDirError};
use holdfast_daemon::state_file::{StateFile, StateFileError};
use holdfast_daemon::watchdog::{Choice, Kind, Watchdog, WatchdogError, most_seconds};
use holdfast_daemon::wdmd;
use holdfast_io::clock::{BootClock, Clock, LocalInstant};
use holdfast_io::timing::{WATCHDOG_TICK, Wdmd};

use note::{Note, NoteError};

/// Rehearse the watchdog: arm it as the daemon would, pet it no more, and see this host reset in time
///
/// THIS HOST IS RESET. Everything that runs on it ends as by a power cut. An operator's word is asked for. Run it with --report
/// once the host is up again.
///
/// Exit status: 0 passed (--report), 1 not passed, or refused, 2 wrong usage.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Say what came of the last drill
    #[arg(long, conflicts_with_all = ["config", "watchdog", "fire_timeout", "yes_reset_this_host"])]
    report: bool,
    /// With --report: print JSON
    #[arg(long, requires = "report")]
    json: bool,
    /// The configuration that the daemon has
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As of `holdfast daemon`: a device, or wdmd
    #[arg(long, value_name = "DEVICE|wdmd")]
    watchdog: Option<String>,
    /// As of `holdfast daemon`: seconds within which a failed host is reset
    #[arg(long, value_name = "SECONDS")]
    fire_timeout: Option<u64>,
    /// Where it is written down what ought to happen; it has to outlast the reset
    #[arg(long, value_name = "FILE", default_value = "/var/lib/holdfast/drill.json")]
    note: PathBuf,
    /// Instead of typing it: yes, reset this host
    #[arg(long)]
    yes_reset_this_host: bool,
}

/// Why there is no drill, or no report of one.
#[derive(Debug, thiserror::Error)]
enum DrillError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    #[error("there is no watchdog to rehearse: --watchdog none")]
    None,
    #[error("a drill is not held beside a daemon, and resets what it guards: {0}")]
    Daemon(#[source] RunDirError),
    #[error(transparent)]
    State(#[from] StateFileError),
    #[error(
        "the daemon before has not ended in good order: {guarded} processes may be guarded, and its watchdog may count. Start a daemon, which \
         settles that, and end it"
    )]
    Unsettled { guarded: usize },
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("cannot tell which boot this is: {0}")]
    Boot(#[from] ProcError),
    #[error("no timer: {0}")]
    Clock(std::io::Error),
    #[error("{0}; nothing was armed")]
    NotConfirmed(String),
    #[error(
        "THIS HOST HAS OUTLIVED ITS WATCHDOG: {watchdog} was to reset it within {seconds} s, and has not. {stopped}"
    )]
    Outlived { watchdog: String, seconds: u64, stopped: String },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    let ended = if args.report { report::run(&args.note, args.json) } else { drill(args) };
    match ended {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
        Err(error) => {
            eprintln!("holdfast drill: {}", holdfast_daemon::codes::chain(&error));
            ExitCode::from(if matches!(error, DrillError::Config(_)) { 2 } else { 1 })
        }
    }
}

/// Ends only where the watchdog has failed, or before it was armed.
fn drill(args: &Args) -> Result<bool, DrillError> {
    let config = configured(args)?;
    let choice = Choice::parse(&config.watchdog)?;
    if choice == Choice::None {
        return Err(DrillError::None);
    }
    choice.look()?;
    let boot_id = Procfs::default().boot_id()?;
    // Held to the end: no daemon starts meanwhile.
    let _alone = alone(&RunDir::from_environment(), &boot_id)?;
    confirmed(args, &config, &choice)?;
    let clock = BootClock::new().map_err(DrillError::Clock)?;
    let mut note = Note::planned(&args.note, &choice, &config, boot_id)?;
    nix::unistd::sync();
    let mut watchdog = choice.open(config.fire_timeout, &wdmd::entry_name(Path::new("drill")))?;
    let within = count(&clock, &choice, watchdog.as_mut())?;
    let armed = clock.now();
    note.armed(&watchdog.describe(), within)?;
    println!("armed: {}. It is petted no more; this host is reset within {} s", watchdog.describe(), within.as_secs());
    wait(&clock, &mut note, armed, within)?;
    let stopped = match watchdog.disarm() {
        Ok(()) => "It was told to stop".to_owned(),
        Err(error) => format!("It could not be told to stop: {error}"),
    };
    note.outlived()?;
    Err(DrillError::Outlived { watchdog: choice.to_string(), seconds: within.as_secs(), stopped })
}

fn configured(args: &Args) -> Result<Config, ConfigError> {
    let mut file = ConfigFile::read(args.config.as_deref())?;
    file.watchdog = args.watchdog.clone().or(file.watchdog);
    file.watchdog_fire_timeout = args.fire_timeout.or(file.watchdog_fire_timeout);
    file.decide()
}

fn alone(run_dir: &Path, boot_id: &str) -> Result<RunDir, DrillError> {
    let lock = RunDir::lock(run_dir).map_err(DrillError::Daemon)?;
    match StateFile::read(run_dir)? {
        Some(state) if state.boot_id == boot_id && (state.watchdog_armed || !state.guarded.is_empty()) => {
            Err(DrillError::Unsettled { guarded: state.guarded.len() })
        }
        _ => Ok(lock),
    }
}

/// Says exactly what will happen, and takes an operator's word for it. Nothing is guessed from a pipe.
fn confirmed(args: &Args, config: &Config, choice: &Choice) -> Result<(), DrillError> {
    let seconds = match choice.kind() {
        Kind::Wdmd => Wdmd::FIRE.seconds().into(),
        Kind::Device | Kind::None => most_seconds(config.fire_timeout).0,
    };
    let words = format!("reset {}", config.host_name);
    eprintln!(
        "The watchdog {choice} is armed as the daemon arms it, with at most {seconds} s, and petted no more. THIS HOST IS THEN RESET, as by a\n\
         power cut: everything that runs on it ends, and what was not written to its disks is lost. What is on them is synced first.\n\
         Once it is armed nothing stops it: ended, this program would only make the count begin anew.\n\
         When the host is up again: holdfast drill --report --note {}\n",
        args.note.display()
    );
    if args.yes_reset_this_host {
        return Ok(());
    }
    let refused = |why: String| Err(DrillError::NotConfirmed(why));
    if !std::io::stdin().is_terminal() {
        return refused("standard input is no terminal: a script says --yes-reset-this-host".to_owned());
    }
    eprint!("Type {words:?} without the quotes to confirm: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Err(error) => refused(format!("nothing could be read: {error}")),
        Ok(_) if line.trim() != words => refused(format!("the words to type are {words:?}, found {:?}", line.trim())),
        Ok(_) => Ok(()),
    }
}

/// How long wdmd is told that this host is well: long enough that its first test passes.
const TOLD_WDMD: Duration = Duration::from_secs(25);

/// The last pet: within which time this host is reset. A device counts since it was opened, and may lag by a tick (A6); wdmd counts
/// from when it was told that this host would not be well any more (D3).
fn count(clock: &BootClock, choice: &Choice, watchdog: &mut dyn Watchdog) -> Result<Duration, WatchdogError> {
    if choice.kind() == Kind::Wdmd {
        watchdog.pet(clock.now().after(TOLD_WDMD))?;
        return Ok(TOLD_WDMD + Duration::from_secs(Wdmd::FIRE.seconds().into()));
    }
    let timeout = watchdog.timeout().map_or(Duration::ZERO, Duration::from);
    Ok(timeout + WATCHDOG_TICK)
}

/// How much longer than it may take is waited before the watchdog counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Once a second the note says that this host lives, until it does not.
fn wait(clock: &BootClock, note: &mut Note, armed: LocalInstant, within: Duration) -> Result<(), DrillError> {
    let terminal = std::io::stdout().is_terminal();
    loop {
        let passed = clock.now().since(armed);
        if passed >= within + PATIENCE {
            println!();
            return Ok(());
        }
        note.alive(passed)?;
        let left = within.as_secs().checked_sub(passed.as_secs());
        let words = left.map_or("OVERDUE".to_owned(), |left| format!("{left:>3} s left"));
        let _shown = write!(
            std::io::stdout(),
            "{}{words}{}",
            if terminal { "\r" } else { "" },
            if terminal { "" } else { "\n" }
        );
        let _shown = std::io::stdout().flush();
        pollster::block_on(clock.sleep_until(next_second(armed, passed)));
    }
}

fn next_second(armed: LocalInstant, passed: Duration) -> LocalInstant {
    armed.after(Duration::from_secs(passed.as_secs() + 1))
}

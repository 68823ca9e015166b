//! `holdfast daemon`, `holdfastd`, and `sanlock daemon`: sanlock's flags, and our own.

mod background;
mod notify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use holdfast_daemon::config::{Config, ConfigError, ConfigFile};
use holdfast_daemon::daemon::{DaemonError, Options, run as run_daemon};
use holdfast_daemon::rundir::RunDir;
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use crate::log;

/// Run the daemon, in the foreground, logging to standard error.
///
/// Files are in $SANLOCK_RUN_DIR (default /run/sanlock). Options of sanlock's daemon that have no meaning here are accepted.
// Of an option that is said twice the last counts, as in sanlock: distributions put theirs first, administrators add to it.
#[derive(ClapArgs, Debug)]
#[command(disable_help_flag = true, args_override_self = true)]
pub struct Args {
    /// Our host name in every lockspace; the node name if not given.
    #[arg(short = 'e', long = "host-name", value_name = "HOSTNAME")]
    host_name: Option<String>,
    /// Configuration file. If not given: /etc/holdfast/holdfast.toml; where that is not there, what /etc/sanlock/sanlock.conf says that has
    /// a meaning here. SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A watchdog device, wdmd (which has one open; its socket is in $WDMD_RUN_DIR, default /run/wdmd), the socket of `holdfast
    /// fake-watchdog`, or none.
    #[arg(long, value_name = "DEVICE|wdmd|none")]
    watchdog: Option<String>,
    /// With --watchdog none: use block devices all the same. Nothing resets this host if it hangs, while others take its leases.
    #[arg(long)]
    unsafe_no_watchdog: bool,
    /// Seconds within which a failed host is reset, as sealed on disk (4 to 60; 60 with wdmd); the device gets not quite half.
    #[arg(long, value_name = "SECONDS")]
    fire_timeout: Option<u64>,
    /// How disks are read and written.
    #[arg(long, value_name = "auto|threads")]
    io_engine: Option<String>,
    /// Log more; HOLDFAST_LOG chooses what, as in `holdfast_daemon=debug`.
    #[arg(short = 'D', long)]
    debug: bool,
    /// 0: no watchdog, as --watchdog none --unsafe-no-watchdog; 1: wdmd, where no other is named, as in sanlock.
    #[arg(short = 'w', value_name = "0|1")]
    use_watchdog: Option<u32>,
    /// Seconds from SIGTERM to SIGKILL, at most what the fire timeout leaves; 40 if none, or a negative number, is given.
    #[arg(short = 'g', value_name = "SECONDS", allow_negative_numbers = true)]
    kill_grace: Option<i64>,
    /// io_timeout of lockspaces that are added without one.
    #[arg(short = 'o', value_name = "SECONDS")]
    io_timeout: Option<u64>,
    /// 0: do not lock memory.
    #[arg(short = 'l', value_name = "LEVEL", allow_negative_numbers = true)]
    mlock_level: Option<i64>,
    /// Owner of the socket. Who may connect may end what others hold, but gets no file and no program that he may not open or run himself.
    #[arg(short = 'U', value_name = "USER")]
    user: Option<String>,
    /// Group of the socket.
    #[arg(short = 'G', value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    ignored: Ignored,
    /// Started as `sanlock daemon`: in the background without -D, and with wdmd.
    #[arg(long, hide = true)]
    as_sanlock: bool,
    /// What `sanlock daemon` starts to stay in the background.
    #[arg(long, hide = true)]
    in_background: bool,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// sanlock's options without a meaning here; -1 turns some of them off.
#[derive(ClapArgs, Debug)]
struct Ignored {
    #[arg(short = 'Q', hide = true, allow_negative_numbers = true)]
    quiet_fail: Option<String>,
    #[arg(short = 'R', hide = true, allow_negative_numbers = true)]
    debug_renew: Option<String>,
    #[arg(short = 'H', hide = true, allow_negative_numbers = true)]
    renewal_history: Option<String>,
    #[arg(short = 'L', hide = true, allow_negative_numbers = true)]
    logfile_priority: Option<String>,
    #[arg(short = 'S', hide = true, allow_negative_numbers = true)]
    syslog_priority: Option<String>,
    #[arg(short = 'a', hide = true, allow_negative_numbers = true)]
    use_aio: Option<String>,
    #[arg(short = 'h', hide = true, allow_negative_numbers = true)]
    high_priority: Option<String>,
    #[arg(short = 't', hide = true, allow_negative_numbers = true)]
    worker_threads: Option<String>,
    #[arg(short = 'b', hide = true, allow_negative_numbers = true)]
    bitmap_seconds: Option<String>,
}

/// What stops the daemon from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// Nothing can be started in the background.
    #[error("cannot go to the background: cannot {doing}: {source}")]
    Background {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Runs the daemon to its end.
///
/// # Errors
/// [`Error`]: it did not start, or could not go on.
pub fn run(mut args: Args) -> Result<ExitCode, Error> {
    if args.as_sanlock && !args.debug && !args.in_background {
        return background::start();
    }
    if args.in_background {
        args.config = args.config.map(|path| std::path::absolute(&path).unwrap_or(path));
        // A device or a socket; wdmd and none have no slash.
        let device = args.watchdog.as_ref().filter(|name| name.contains('/'));
        let device = device.and_then(|name| std::path::absolute(name).ok()).map(|path| path.display().to_string());
        args.watchdog = device.or(args.watchdog);
        background::detach()?;
    }
    let ended = serve(&args);
    if let Err(error) = &ended {
        notify::tell(&format!("{}{}", notify::STATUS, holdfast_daemon::codes::chain(error)));
    }
    ended.map(|()| ExitCode::SUCCESS)
}

fn serve(args: &Args) -> Result<(), Error> {
    // The flush comes last: whatever stops the daemon is logged by then.
    let log::Log { ring, flush: _flush } = log::start(args.debug).map_err(DaemonError::System)?;
    let config = configured(args)?;
    let options = Options {
        owner: owner(config.user.as_deref(), config.group.as_deref(), args.as_sanlock),
        config,
        run_dir: RunDir::from_environment(),
        log: ring,
        ready: || notify::tell(notify::READY),
    };
    run_daemon(&options, &|| configured(args)).map_err(Error::from)
}

/// The configuration, the command line having the last word.
fn configured(args: &Args) -> Result<Config, ConfigError> {
    let mut file = ConfigFile::read(args.config.as_deref())?;
    file.host_name = args.host_name.clone().or(file.host_name);
    file.watchdog = args.watchdog.clone().or_else(|| use_watchdog(args.use_watchdog, file.watchdog));
    if args.unsafe_no_watchdog || args.use_watchdog == Some(0) {
        file.unsafe_no_watchdog = Some(true);
    }
    if args.as_sanlock {
        file.watchdog = file.watchdog.or_else(|| Some("wdmd".to_owned()));
    }
    file.watchdog_fire_timeout = args.fire_timeout.or(file.watchdog_fire_timeout);
    file.io_engine = args.io_engine.clone().or(file.io_engine);
    file.kill_grace_seconds = args.kill_grace.and_then(|s| u64::try_from(s).ok()).or(file.kill_grace_seconds);
    file.io_timeout = args.io_timeout.or(file.io_timeout);
    file.lock_memory = args.mlock_level.map(|level| level > 0).or(file.lock_memory);
    file.user = args.user.clone().or(file.user);
    file.group = args.group.clone().or(file.group);
    file.decide()
}

/// What `-w` makes of the watchdog that a file names: 1 is wdmd, as in sanlock, unless another one is named.
fn use_watchdog(flag: Option<u32>, named: Option<String>) -> Option<String> {
    match flag {
        None => named,
        Some(0) => Some("none".to_owned()),
        Some(_) => named.filter(|name| name != "none").or_else(|| Some("wdmd".to_owned())),
    }
}

/// Whom sanlock's packages make its socket's owner.
const SANLOCK: &str = "sanlock";

/// Whose socket it is: as named; started as sanlock, the user and the group sanlock where there are both; otherwise whoever started us.
/// Who may connect has power over every client and lockspace, though over no file and no program that he has not himself (`Rights`). So
/// nobody gets it who was not named, but where sanlock's own name was: that group has it there as well (spec A 7.4). A name that is
/// not known stands for root, as in sanlock: nobody gets access by it.
fn owner(user: Option<&str>, group: Option<&str>, as_sanlock: bool) -> (Option<Uid>, Option<Gid>) {
    let uid_of = |name| User::from_name(name).ok().flatten().map(|user| user.uid);
    let gid_of = |name| Group::from_name(name).ok().flatten().map(|group| group.gid);
    if as_sanlock && user.is_none() && group.is_none() && geteuid().is_root() {
        let (uid, gid) = (uid_of(SANLOCK), gid_of(SANLOCK));
        return if uid.is_some() && gid.is_some() { (uid, gid) } else { (None, None) };
    }
    let (uid, gid) = (user.map(uid_of), group.map(gid_of));
    if uid == Some(None) || gid == Some(None) {
        tracing::warn!(user, group, "not known on this system: the socket is root's");
    }
    (uid.map(|known| known.unwrap_or(Uid::from_raw(0))), gid.map(|known| known.unwrap_or(Gid::from_raw(0))))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Args, Gid, Uid, owner, use_watchdog};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn sanlocks_options_are_taken_and_of_two_the_last_counts() {
        let read = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
        let ignored = "sanlock -a 0 -Q 1 -R 2 -H 180 -L -1 -S -1 -h 1 -t 8 -b 60";
        let args = read(&format!("{ignored} -w 1 -l 2 -g 40 -D -e a -w 0 -l -1 -g -1 -D -e b")).unwrap();
        assert_eq!((args.use_watchdog, args.mlock_level, args.kill_grace), (Some(0), Some(-1), Some(-1)));
        assert_eq!((args.debug, args.host_name.as_deref()), (true, Some("b")));
        assert!(read("sanlock -j 1").is_err() && read("sanlock -w").is_err() && read("sanlock -g x").is_err());
    }

    #[test]
    fn w_1_is_wdmd_unless_a_device_is_named_and_w_0_is_none() {
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(use_watchdog(Some(1), None), named("wdmd"));
        assert_eq!(use_watchdog(Some(1), named("none")), named("wdmd"));
        assert_eq!(use_watchdog(Some(1), named("/dev/watchdog1")), named("/dev/watchdog1"));
        assert_eq!(use_watchdog(Some(0), named("/dev/watchdog1")), named("none"));
        assert_eq!((use_watchdog(None, None), use_watchdog(None, named("x"))), (None, named("x")));
    }
    #[test]
    fn a_socket_of_an_owner_that_nobody_knows_is_roots() {
        assert_eq!(owner(Some("root"), None, true), (Some(Uid::from_raw(0)), None));
        let unknown = owner(Some("nobody has this name"), Some("nor this"), false);
        assert_eq!(unknown, (Some(Uid::from_raw(0)), Some(Gid::from_raw(0))));
        assert_eq!(owner(None, None, false), (None, None), "nobody gets it who was not named");
    }
}

//! `holdfast preflight`: what an administrator wants to know of a host and its storage before anything runs on them.
//!
//! It reads only, and arms nothing. Each check says what it found and, where that is not as it ought to be, what to do. A *warning* is what
//! will hurt some day - a host that is reset where its guests could have been ended, a takeover that is late -, a *failure* is what keeps the
//! daemon from working here, or the promise from being kept. At the end stands what a failover takes at this site, from the daemon's own
//! [`Timing`](holdfast_io::timing::Timing).
//!
//! | file | what is looked at |
//! | --- | --- |
//! | `preflight/finding.rs` | what a check says |
//! | `preflight/machine.rs` | where everything is read: `/sys`, `/proc`, `/etc`, or a tree that a test made up |
//! | `preflight/watchdog.rs` | the watchdog: there, free, short enough, to be stopped |
//! | `preflight/host.rs` | clock source, suspend, what the kernel tells of connections, locked memory |
//! | `preflight/storage.rs` | the areas: found, read fast enough |
//! | `preflight/device.rs` | block devices: multipath, SCSI, FC and iSCSI, caches |
//! | `preflight/mount.rs` | files: NFS and its options |
//! | `preflight/lockspace.rs` | names and host_ids, those that are twice above all |
//! | `preflight/failover.rs` | what a failover takes |
//!
//! Exit status: 0 nothing failed, 1 something did, 2 wrong usage.

mod device;
mod failover;
mod finding;
mod host;
mod lockspace;
mod machine;
mod mount;
mod storage;
mod watchdog;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_daemon::config::{Config, ConfigError, ConfigFile};
use holdfast_daemon::watchdog::Choice;
use serde_json::json;

use failover::Failover;
use finding::{Finding, Grade};
use machine::Machine;
use storage::Area;

/// Check this host and its storage before anything runs on them, and say what a failover will take
///
/// Reads only, and arms nothing. Without areas, those of the configuration are looked at.
///
/// Exit status: 0 nothing failed, 1 something did, 2 wrong usage.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A lockspace as this host will join it, NAME:HOST_ID:PATH[:OFFSET], or a device or file with leases, PATH
    #[arg(value_name = "LOCKSPACE:HOST_ID:PATH:OFFSET|PATH")]
    areas: Vec<Area>,
    /// The configuration that the daemon will have
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How this host will be called
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// Seconds that one lease I/O may take
    #[arg(long, value_name = "SECONDS")]
    io_timeout: Option<u64>,
    /// As of `holdfast daemon`: a device, wdmd, or none
    #[arg(long, value_name = "DEVICE|wdmd|none")]
    watchdog: Option<String>,
    /// As of `holdfast daemon`: seconds within which a failed host is reset
    #[arg(long, value_name = "SECONDS")]
    fire_timeout: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    let configured = configured(args).and_then(|config| {
        let areas = if args.areas.is_empty() { of_config(&config)? } else { args.areas.clone() };
        Ok((config, areas))
    });
    let (config, areas) = match configured {
        Ok(configured) => configured,
        Err(error) => {
            eprintln!("holdfast preflight: {error}");
            return ExitCode::from(2);
        }
    };
    let findings = look(&Machine::default(), &config, &areas);
    let failover = Failover::of(&config);
    let failed = findings.iter().any(|f| f.grade == Grade::Fail);
    let text = if args.json {
        let document = json!({ "ok": !failed, "checks": findings, "failover": failover });
        format!("{document:#}\n")
    } else {
        render(&findings, &failover)
    };
    // A reader that has gone (`| head`) has seen what it wanted.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(u8::from(failed))
}

/// The daemon's settings, the command line having the last word.
fn configured(args: &Args) -> Result<Config, ConfigError> {
    let mut file = ConfigFile::read(args.config.as_deref())?;
    file.host_name = args.host_name.clone().or(file.host_name);
    file.io_timeout = args.io_timeout.or(file.io_timeout);
    file.watchdog = args.watchdog.clone().or(file.watchdog);
    file.watchdog_fire_timeout = args.fire_timeout.or(file.watchdog_fire_timeout);
    file.decide()
}

fn of_config(config: &Config) -> Result<Vec<Area>, ConfigError> {
    let bad = |text: &String| ConfigError::Range {
        key: "lockspaces",
        found: text.clone(),
        expected: "NAME:HOST_ID:PATH:OFFSET",
    };
    config.lockspaces.iter().map(|text| text.parse().map_err(|_| bad(text))).collect()
}

/// Every check, in the order in which things have to be put right.
fn look(machine: &Machine, config: &Config, areas: &[Area]) -> Vec<Finding> {
    let mut findings = watchdog::look(machine, config, areas);
    findings.extend(host::look(machine));
    for area in areas {
        findings.extend(storage::look(machine, config, area));
    }
    findings
}

fn render(findings: &[Finding], failover: &Failover) -> String {
    let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    let of = |grade| findings.iter().filter(|f| f.grade == grade).count();
    text +=
        &format!("\n{} ok, {} warnings, {} failures\n\n{failover}", of(Grade::Ok), of(Grade::Warn), of(Grade::Fail));
    text
}

/// The watchdog chosen, if it can be told from the machine as it is.
fn choice(config: &Config) -> Result<Choice, String> {
    Choice::parse(&config.watchdog).map_err(|e| e.to_string())
}

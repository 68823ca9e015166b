//! What the subcommands share that ask the daemon of this host: connecting, its JSON, failing in words, printing.
//!
//! Exit status of all of them (`exec` has its own): 0 done; 1 refused or failed; 2 wrong usage; 3 no daemon can be
//! reached. What is printed for a person goes to standard output, what went wrong to standard error; with `--json`
//! standard output carries one document in either case, `{"ok":false,"error":{..}}` after a failure.
//!
//! The shapes of HOLDFAST_STATUS and EXPLAIN are read leniently: what a daemon of another version leaves out is unknown,
//! not an error. Times are milliseconds. Source: the daemon's `queries` and `supervisor::answers`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use holdfast_client::blocking::Connection;
use holdfast_client::{ClientError, Endpoint};
use holdfast_protocol::arguments::{ArgumentError, parse_lockspace, parse_resource};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::payload::{Lockspace, Resource};
use holdfast_protocol::strings::StringFault;
use serde::Deserialize;
use serde_json::{Value, json};

/// Refused, or failed.
pub const FAILED: u8 = 1;
/// No daemon can be reached.
pub const NO_DAEMON: u8 = 3;

/// How long a question may take that the daemon answers from memory, or with one small read.
const PATIENCE: Duration = Duration::from_secs(20);

/// What keeps a command from doing what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The daemon, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Leases refused, and who holds them.
    #[error("{0}")]
    Held(crate::refusal::Refusal),
    /// An answer that is no such document.
    #[error("the daemon's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
    /// A STATE string that is none.
    #[error("the daemon's answer cannot be read: {0}")]
    State(#[from] StringFault),
    /// An operator's word that was not taken.
    #[error("{why}; nothing was changed")]
    NotConfirmed {
        /// The daemon's answer, if it was asked.
        code: Option<ResultCode>,
        /// In words.
        why: String,
    },
    /// A lockspace that is not joined here.
    #[error("lockspace {name} is not joined on this host; joined are: {joined}")]
    NotJoined {
        /// As asked for.
        name: String,
        /// What there is.
        joined: String,
    },
}

impl CommandError {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Client(ClientError::NoDaemon { .. } | ClientError::NotAllowed { .. }) => NO_DAEMON,
            _ => FAILED,
        }
    }

    /// The daemon's answer, if it was a refusal.
    pub fn code(&self) -> Option<ResultCode> {
        match self {
            Self::Client(error) => error.refusal(),
            Self::Held(refusal) => Some(refusal.code),
            Self::NotConfirmed { code, .. } => *code,
            _ => None,
        }
    }

    /// What the person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Client(ClientError::NoDaemon { .. }) => Some(
                "Start one with `holdfast daemon`, or name its run directory in SANLOCK_RUN_DIR (default /run/sanlock).",
            ),
            Self::Client(ClientError::NotAllowed { .. }) => Some(
                "Run this as root, or as a member of the group that `holdfast daemon -G GROUP` gives the socket to.",
            ),
            Self::Client(ClientError::Deadline { .. }) => {
                Some("If that is sanlock's own daemon, it does not know this question: ask `sanlock client status`.")
            }
            Self::NotConfirmed { .. } => None,
            Self::NotJoined { .. } => Some("Join it with `holdfast lockspace add LOCKSPACE:HOST_ID:PATH:OFFSET`."),
            _ => self.code().and_then(hint_for),
        }
    }

    fn document(&self) -> Value {
        let code = self.code();
        let mut error = json!({
            "message": self.to_string(),
            "hint": self.hint(),
            "code": code.map(ResultCode::number),
            "name": code.and_then(ResultCode::name),
            "meaning": code.map(ResultCode::meaning),
        });
        if let Self::Held(refusal) = self {
            error["leases"] = refusal.document();
        }
        json!({ "ok": false, "error": error })
    }
}

/// What to do about a refusal, where its meaning alone does not say.
fn hint_for(code: ResultCode) -> Option<&'static str> {
    Some(match code {
        ResultCode::ESRCH => {
            "Leases belong to processes that registered with the daemon, such as those that `holdfast exec` starts; \
             `holdfast status` lists them."
        }
        ResultCode::ENOSPC | ResultCode::NO_LOCKSPACE => {
            "See `holdfast status`; join a lockspace with `holdfast lockspace add LOCKSPACE:HOST_ID:PATH:OFFSET`."
        }
        ResultCode::LEADER_MAGIC => {
            "Look what lies there with `holdfast dump PATH:OFFSET`; make lease areas with `holdfast init`."
        }
        ResultCode::LEADER_CHECKSUM | ResultCode::DBLOCK_CHECKSUM => {
            "Look at the damage with `holdfast dump --hex PATH:OFFSET`."
        }
        ResultCode::HOST_ID_BUSY => {
            "Give every host a host_id of its own. If it was this host's before a crash, the join has to wait until it \
             is certain that nothing of it still runs."
        }
        ResultCode::WATCHDOG_ERROR => "See the daemon's log, and `holdfast preflight`.",
        ResultCode::EINPROGRESS => "Wait for it: `holdfast status` shows how far it is.",
        ResultCode::EPERM => "`holdfast inquire PID` lists what a process holds.",
        _ => return None,
    })
}

/// The daemon of this host, asked without a limit of time: what changes something may take as long as its disks.
pub fn open() -> Result<Connection, CommandError> {
    Ok(Connection::open(&Endpoint::from_environment())?)
}

/// The daemon of this host, for a question.
pub fn ask() -> Result<Connection, CommandError> {
    Ok(Connection::open(&Endpoint::from_environment().with_deadline(PATIENCE))?)
}

/// The daemon's state as it sends it.
pub fn status_document() -> Result<Value, CommandError> {
    Ok(serde_json::from_slice(&ask()?.holdfast_status()?)?)
}

/// The daemon's state.
pub fn status() -> Result<Status, CommandError> {
    Ok(serde_json::from_slice(&ask()?.holdfast_status()?)?)
}

/// `--json`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a command has to say: for people, and as JSON.
pub struct Output {
    /// Lines, each with its newline.
    pub text: String,
    /// The same, and more.
    pub document: Value,
}

impl Output {
    /// That something was done.
    pub fn done(text: impl Into<String>, mut document: Value) -> Self {
        document["ok"] = Value::Bool(true);
        Self { text: text.into() + "\n", document }
    }
}

/// Prints what came of a command and gives its exit status.
pub fn finish(format: Format, result: Result<Output, CommandError>) -> ExitCode {
    let (text, status) = match result {
        Ok(output) if format.json => (pretty(&output.document), 0),
        Ok(output) => (output.text, 0),
        Err(error) => {
            complain(&error);
            let document = if format.json { pretty(&error.document()) } else { String::new() };
            (document, error.status())
        }
    };
    // A reader that has gone (`| head`) has seen what it wanted.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(status)
}

/// Says on standard error what went wrong and what can be done.
pub fn complain(error: &CommandError) {
    eprintln!("holdfast: {error}");
    let explained = match error {
        CommandError::Held(refusal) => !refusal.held.is_empty(),
        CommandError::NotConfirmed { .. } => true,
        _ => false,
    };
    if let Some(why) = error.code().filter(|_| !explained).and_then(reason) {
        eprintln!("The daemon says: {why}");
    }
    if let Some(hint) = error.hint() {
        eprintln!("{hint}");
    }
}

/// The daemon's own words for the refusal just received: sanlock's protocol carries its number alone.
fn reason(code: ResultCode) -> Option<String> {
    let status = status_document().ok()?;
    let refusals = status["refusals"].as_array()?;
    let latest = refusals.iter().rev().find(|r| r["code"] == code.number())?;
    let fresh = latest["ms_ago"].as_u64().is_some_and(|ms| ms < RECENT_MS);
    latest["why"].as_str().filter(|_| fresh).map(plain)
}

/// A refusal older than this was somebody else's.
const RECENT_MS: u64 = 2000;

fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}

/// A resource as typed.
#[derive(Clone, Debug)]
pub struct ResourceArg {
    /// As typed.
    pub text: String,
    /// As read.
    pub resource: Resource,
}

impl FromStr for ResourceArg {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        Ok(Self { text: text.into(), resource: parse_resource(text)? })
    }
}

/// A lockspace as typed.
pub fn lockspace(text: &str) -> Result<Lockspace, ArgumentError> {
    parse_lockspace(text)
}

/// HOLDFAST_STATUS.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Our host's name.
    pub host_name: String,
    /// Its watchdog.
    pub watchdog: Watchdog,
    /// Joined lockspaces, those that are being joined or left included.
    pub lockspaces: Vec<Space>,
    /// Leases of this host's clients.
    pub leases: Vec<Lease>,
    /// Acquires that wait, first come first.
    pub waiting: Vec<Waiting>,
    /// Registered clients.
    pub clients: Vec<Client>,
    /// The hosts of each lockspace.
    pub hosts: BTreeMap<String, Vec<HostFacts>>,
}

/// The watchdog of this host.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    /// device, wdmd or none; empty from a daemon that knew only devices.
    pub kind: String,
    /// Whether it counts.
    pub armed: bool,
    /// Its own timeout; unknown without a device.
    pub device_timeout_s: Option<u64>,
    /// When it was last petted.
    pub last_pet_ms_ago: Option<u64>,
    /// It cannot be stopped.
    pub stays_on: bool,
    /// It has reset this host before it came up; unknown to some.
    pub reset_this_host: Option<bool>,
}

/// A lockspace.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// Our id in it.
    pub host_id: u64,
    /// Our generation.
    pub generation: Option<u64>,
    /// Where it lies.
    pub path: String,
    /// Where it lies, in bytes.
    pub offset: u64,
    /// Its io_timeout.
    pub io_timeout_s: u64,
    /// joining, active, removing, failing, leaving.
    pub state: String,
    /// The last renewal that succeeded.
    pub last_renewal_ms_ago: Option<u64>,
    /// Time left until D2's instant, when everything in it is ended.
    pub fails_in_ms: Option<u64>,
    /// Failed renewals since.
    pub failed_renewals: u64,
    /// Processes that are being ended.
    pub guarded: u64,
}

/// A lease of this host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// Its lockspace.
    pub lockspace: String,
    /// Its name.
    pub resource: String,
    /// Its version.
    pub lver: u64,
    /// exclusive, shared.
    pub mode: String,
    /// acquiring, held, converting, releasing.
    pub state: String,
    /// The process that registered; none once that has gone and the lease is being given back.
    pub pid: Option<i64>,
    /// What that process calls itself.
    pub name: Option<String>,
    /// The process has exited and left its connection to others.
    pub inherited: bool,
    /// How long it has been held.
    pub held_for_ms: Option<u64>,
}

/// An acquire that waits.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// The lockspace.
    pub lockspace: String,
    /// The lease.
    pub resource: String,
    /// Who waits.
    pub pid: Option<i64>,
    /// What that process calls itself.
    pub name: Option<String>,
}

/// A registered client.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Client {
    /// The process that registered.
    pub pid: i64,
    /// What it calls itself.
    pub name: String,
    /// It has exited and left its connection to others.
    pub inherited: bool,
    /// Who else has its connection, as far as the daemon's latest look has shown: their pids. Empty where it uses no lease.
    pub heirs: Vec<i64>,
    /// It is gone, and something that it wrote is in flight still.
    pub writes_in_flight: bool,
    /// Signals it was sent to end it.
    pub signals_sent: u64,
}

/// What is known of a host of a lockspace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// Its id.
    pub host_id: u64,
    /// Its name, if it has written one.
    pub name: Option<String>,
    /// Its generation.
    pub generation: Option<u64>,
    /// Its last renewal, in seconds of its own clock.
    pub timestamp: Option<u64>,
    /// FREE, LIVE, FAIL, DEAD, UNKNOWN.
    pub state: String,
    /// It is this host.
    pub own: bool,
    /// When it was last seen to have renewed.
    pub last_renewal_seen_ms_ago: Option<u64>,
    /// An operator has said that it is dead.
    pub confirmed_dead: bool,
    /// Until the computed instant (D1), if it is silent from its last renewal on.
    pub takeover_possible_in_ms: Option<u64>,
    /// Whether Holdfast wrote its record; sanlock otherwise.
    pub sealed: bool,
    /// Whether it says it has a watchdog.
    pub watchdog: Option<bool>,
    /// Within what time a failed host is reset.
    pub fire_timeout_s: Option<u64>,
    /// What is wrong with its record.
    pub damage: Option<String>,
}

/// A length of time as a person reads it.
#[must_use]
pub fn time(ms: u64) -> String {
    let (minutes, hours) = (ms / 60_000, ms / 3_600_000);
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", ms / 1000 % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// A text from a disk or a peer, without what would move a terminal's cursor.
#[must_use]
pub fn plain(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

/// Rows as aligned columns, the first row being the heading.
#[must_use]
pub fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{indent}{}", cells.join("  ")).trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A row of [`table`].
#[must_use]
pub fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|c| plain(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_at_a_glance() {
        for (ms, text) in
            [(0, "0.0 s"), (449, "0.4 s"), (13_600, "13.6 s"), (61_000, "1 min 1 s"), (7_500_000, "2 h 5 min")]
        {
            assert_eq!(time(ms), text);
        }
        assert_eq!(time(90_000_000), "1 d 1 h");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() {
        let rows = [row(&["id", "name"]), row(&["1", "zürich"]), row(&["2000", "a\u{1b}[2J"])];
        assert_eq!(table(" ", &rows), " id    name\n 1     zürich\n 2000  a\\u{1b}[2J\n");
        assert_eq!(table("", &[]), "");
    }

    #[test]
    fn a_status_of_another_version_is_read_as_far_as_it_goes() {
        let text =
            r#"{"host_name":"a","leases":[{"resource":"vm1","new":1}],"hosts":{"LS":[{"host_id":1,"name":null}]}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.leases[0].resource, "vm1");
        assert_eq!(status.hosts["LS"][0].name, None);
        assert!(!status.watchdog.armed);
    }
}

//! `holdfast lockspace add|remove|list`: which lockspaces this host takes part in.
//!
//! Joining takes as long as it takes to be sure that nobody else uses the host_id (D1, P1), which is why it can be left to
//! itself with `--no-wait`. Leaving ends the processes that hold leases there first. Exit status as `client_cmd` says.

use std::process::ExitCode;

use clap::Subcommand;
use holdfast_protocol::command::{AddLockspaceFlags, LockspaceFlags, RemLockspaceFlags};
use holdfast_protocol::payload::Lockspace;
use serde_json::{Value, json};

use crate::client_cmd::{self, CommandError, Format, Output, ask, finish, open, row, table};

/// Join, leave and list lockspaces
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Join a lockspace under a host_id
    ///
    /// Exit status: 0 joined (or begun, with --no-wait), 1 refused or failed, 2 wrong usage, 3 no daemon.
    Add(Add),
    /// Leave a lockspace
    ///
    /// Processes that hold leases in it are killed first, unless --unused is given.
    ///
    /// Exit status: 0 left (or begun, with --no-wait), 1 refused or failed, 2 wrong usage, 3 no daemon.
    Remove(Remove),
    /// List the lockspaces of this host
    ///
    /// Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon.
    List(List),
}

#[derive(Clone, Debug, clap::Args)]
struct Add {
    /// As sanlock writes it
    #[arg(value_name = "LOCKSPACE:HOST_ID:PATH[:OFFSET]", value_parser = to_join)]
    lockspace: Lockspace,
    /// Seconds that one read or write may take, from which every interval follows; the daemon's own if not given
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=255))]
    io_timeout: Option<u32>,
    /// Return when joining has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Debug, clap::Args)]
struct Remove {
    /// As it was added
    #[arg(value_name = "LOCKSPACE:HOST_ID:PATH[:OFFSET]", value_parser = client_cmd::lockspace)]
    lockspace: Lockspace,
    /// Refuse while any lease in it is held
    #[arg(long)]
    unused: bool,
    /// Return when leaving has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct List {
    #[command(flatten)]
    format: Format,
}

fn to_join(text: &str) -> Result<Lockspace, String> {
    let lockspace = client_cmd::lockspace(text).map_err(|e| e.to_string())?;
    match lockspace.host_id {
        0 => Err(format!("{text:?}: the host_id is 0, expected the one of this host, from 1 to 2000")),
        _ => Ok(lockspace),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    match &args.what {
        What::Add(args) => finish(args.format, add(args)),
        What::Remove(args) => finish(args.format, remove(args)),
        What::List(args) => finish(args.format, list()),
    }
}

fn add(args: &Add) -> Result<Output, CommandError> {
    let flags = if args.no_wait { AddLockspaceFlags::ASYNC } else { AddLockspaceFlags::NONE };
    open()?.add_lockspace(flags, args.io_timeout.unwrap_or(0), args.lockspace.clone())?;
    let (name, host_id) = (args.lockspace.name, args.lockspace.host_id);
    let text = if args.no_wait {
        format!("joining {name} as host_id {host_id}; `holdfast status` shows when it is active")
    } else {
        format!("joined {name} as host_id {host_id}")
    };
    Ok(Output::done(text, document(&args.lockspace)))
}

fn remove(args: &Remove) -> Result<Output, CommandError> {
    let unused = if args.unused { RemLockspaceFlags::UNUSED } else { RemLockspaceFlags::NONE };
    let no_wait = if args.no_wait { RemLockspaceFlags::ASYNC } else { RemLockspaceFlags::NONE };
    open()?.rem_lockspace(unused | no_wait, args.lockspace.clone())?;
    let name = args.lockspace.name;
    let text = if args.no_wait { format!("leaving {name}") } else { format!("left {name}") };
    Ok(Output::done(text, document(&args.lockspace)))
}

fn list() -> Result<Output, CommandError> {
    let lockspaces = ask()?.get_lockspaces()?;
    let document: Value = lockspaces.iter().map(document).collect();
    if lockspaces.is_empty() {
        return Ok(Output { text: "no lockspace is joined\n".into(), document });
    }
    let heading = row(&["name", "host_id", "state", "path:offset"]);
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(lockspaces.iter().map(listed)).collect();
    Ok(Output { text: table("", &rows), document })
}

fn listed(lockspace: &Lockspace) -> Vec<String> {
    let place = format!("{}:{}", lockspace.disk.path, lockspace.disk.offset);
    row(&[&lockspace.name.to_string(), &lockspace.host_id.to_string(), state(lockspace), &place])
}

fn state(lockspace: &Lockspace) -> &'static str {
    match lockspace.flags {
        flags if flags.contains(LockspaceFlags::ADD) => "joining",
        flags if flags.contains(LockspaceFlags::REM) => "leaving",
        _ => "joined",
    }
}

fn document(lockspace: &Lockspace) -> Value {
    json!({
        "lockspace": lockspace.name.to_string(),
        "host_id": lockspace.host_id,
        "path": lockspace.disk.path.to_string(),
        "offset": lockspace.disk.offset,
        "state": state(lockspace),
    })
}

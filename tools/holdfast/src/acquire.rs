//! `holdfast acquire`: takes leases for a process that has registered with the daemon.
//!
//! All or none, and without waiting for others: a refusal says who holds them. The process keeps the name it has.
//! Exit status as `client_cmd` says.

use std::process::ExitCode;

use holdfast_protocol::command::AcquireFlags;
use holdfast_protocol::payload::{MAX_RESOURCES, Options, Resource};
use holdfast_protocol::request::Target;
use holdfast_protocol::text::Name48;
use serde_json::json;

use crate::client_cmd::{CommandError, Format, Output, ResourceArg, finish, open, status};
use crate::refusal::Refusal;

/// Take leases for a registered process
///
/// The process must have registered with the daemon, as what `holdfast exec` starts has. All leases or none.
///
/// Exit status: 0 taken, 1 refused or failed, 2 wrong usage, 3 no daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A lease to take; may be repeated
    #[arg(short = 'r', long = "resource", required = true, value_name = "LOCKSPACE:RESOURCE:PATH:OFFSET")]
    resources: Vec<ResourceArg>,
    /// The process
    #[arg(short = 'p', long, value_parser = clap::value_parser!(u32).range(1..=0x7fff_ffff))]
    pid: u32,
    #[command(flatten)]
    format: Format,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    if args.resources.len() > MAX_RESOURCES {
        eprintln!("holdfast: {} resources, but one call takes at most {MAX_RESOURCES}", args.resources.len());
        return ExitCode::from(2);
    }
    finish(args.format, acquire(args))
}

fn acquire(args: &Args) -> Result<Output, CommandError> {
    let resources: Vec<Resource> = args.resources.iter().map(|r| r.resource.clone()).collect();
    // ACQUIRE sets the client's name, so the one it has is sent again.
    let client = status()?.clients.into_iter().find(|c| c.pid == i64::from(args.pid));
    let owner_name = Name48::cut(client.map(|c| c.name).unwrap_or_default().as_bytes());
    let options = Options { owner_name, ..Options::default() };
    let mut daemon = open()?;
    let asked = daemon.acquire(Target::Pid(args.pid), AcquireFlags::OWNER_NOWAIT, resources.clone(), options);
    if let Err(error) = asked {
        return Err(match error.refusal() {
            // That is about the process, not about a lease.
            Some(holdfast_protocol::ResultCode::ESRCH) | None => error.into(),
            Some(code) => CommandError::Held(Refusal::of(&resources, code)),
        });
    }
    let names: Vec<String> = resources.iter().map(|r| r.head.name.to_string()).collect();
    let text = format!("process {} holds {}", args.pid, names.join(", "));
    Ok(Output::done(text, json!({ "pid": args.pid, "resources": names })))
}

//! `holdfast confirm-dead`: an operator who has cut a host's power says so, and what it held can be taken at once.
//!
//! The words to type name the host and its generation as they were shown, and the daemon is told the renewal that was shown as the
//! last: a host that writes meanwhile, or has joined anew, is not the one that was meant. Exit status as `client_cmd` says.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use holdfast_client::Confirmation;
use holdfast_protocol::payload::{Host, Lockspace};
use holdfast_protocol::text::Name48;
use serde_json::json;

use crate::client_cmd::{CommandError, Format, HostFacts, Output, ask, finish, plain, status, time};

/// Say that a silent host is dead, so that what it held can be taken at once
///
/// For an operator, or a fencing agent, who knows that its power is off or that it was cut off from the storage, and that nothing it
/// wrote is on its way there. If it still runs, two hosts will write to one disk. Counts for this host's daemon alone, for this
/// generation of that host, and until it is seen to write again.
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The lockspace
    lockspace: String,
    /// The dead host's id in it
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    host_id: u64,
    /// Refuse if it is another generation that is on disk
    #[arg(long)]
    generation: Option<u64>,
    /// The words that would have to be typed, "NAME GENERATION": for a fencing agent
    #[arg(long, value_name = "WORDS")]
    typed: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    finish(args.format, confirm(args))
}

fn confirm(args: &Args) -> Result<Output, CommandError> {
    let host = find(args)?;
    let generation = host.generation.unwrap_or(0);
    if let Some(expected) = args.generation.filter(|expected| *expected != generation) {
        return Err(refused(format!("host_id {} has generation {generation}, expected {expected}", args.host_id)));
    }
    let words = format!("{} {generation}", name_of(&host));
    let typed = match &args.typed {
        Some(typed) => typed.clone(),
        None => type_in(args, &host, &words)?,
    };
    if typed.trim() != words {
        return Err(refused(format!("the words to type are {words:?}, found {:?}", typed.trim())));
    }
    let lockspace = Lockspace { name: named(args)?, ..Lockspace::default() };
    let last = Host { host_id: args.host_id, generation, timestamp: host.timestamp.unwrap_or(0), ..Host::default() };
    match ask()?.confirm_dead(lockspace, last)? {
        Confirmation::Taken => Ok(Output::done(
            format!(
                "{} (host_id {}, generation {generation}) counts as dead on this host: what it held can be taken",
                name_of(&host),
                args.host_id
            ),
            json!({ "lockspace": args.lockspace, "host_id": args.host_id, "generation": generation }),
        )),
        Confirmation::Refused { code, why } => Err(CommandError::NotConfirmed { code: Some(code), why }),
    }
}

fn refused(why: String) -> CommandError {
    CommandError::NotConfirmed { code: None, why }
}

fn named(args: &Args) -> Result<Name48, CommandError> {
    let no_name = |_| refused(format!("{:?} is no name of a lockspace", args.lockspace));
    Name48::new(&args.lockspace).map_err(no_name)
}

fn find(args: &Args) -> Result<HostFacts, CommandError> {
    let status = status()?;
    let Some(hosts) = status.hosts.get(&args.lockspace) else {
        let joined: Vec<String> = status.hosts.keys().map(|name| plain(name)).collect();
        let joined = if joined.is_empty() { "none".to_owned() } else { joined.join(", ") };
        return Err(CommandError::NotJoined { name: args.lockspace.clone(), joined });
    };
    let host = hosts.iter().find(|host| host.host_id == args.host_id).cloned();
    host.ok_or_else(|| {
        refused(format!("nobody ever held host_id {} of lockspace {}", args.host_id, plain(&args.lockspace)))
    })
}

fn name_of(host: &HostFacts) -> String {
    plain(host.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("-"))
}

/// Shows who is meant and what is at stake, and reads what the operator types. Nothing is guessed from a pipe.
fn type_in(args: &Args, host: &HostFacts, words: &str) -> Result<String, CommandError> {
    let name = name_of(host);
    let renewed = host.last_renewal_seen_ms_ago.map_or("never".to_owned(), |ms| format!("{} ago", time(ms)));
    let left = host.takeover_possible_in_ms.map_or("-".to_owned(), time);
    eprintln!(
        "host_id {} of lockspace {} is {name}, generation {}, {}; last seen to renew {renewed}.\n\
         If it stays silent, what it holds can be taken in {left} without anybody's word.\n\n\
         Confirm only what you know: the power of {name} is off, or it is cut off from this storage, and nothing that\n\
         it wrote is on its way there. If {name} still runs, two hosts will write to one disk.\n",
        args.host_id,
        plain(&args.lockspace),
        host.generation.map_or("-".to_owned(), |g| g.to_string()),
        host.state,
    );
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!("standard input is no terminal: give the words with --typed {words:?}")));
    }
    eprint!("Type {words:?} without the quotes to confirm: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| refused(format!("nothing could be read: {e}")))?;
    Ok(line)
}

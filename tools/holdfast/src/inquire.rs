//! `holdfast inquire`: what a registered process holds. Sanlock's own daemon answers it as well.
//!
//! Exit status as `client_cmd` says.

use std::process::ExitCode;

use holdfast_protocol::payload::Resource;
use holdfast_protocol::request::Target;
use holdfast_protocol::strings::{parse_state, print_resource};
use serde_json::{Value, json};

use crate::client_cmd::{CommandError, Format, Output, ask, finish, plain};

/// Show the leases of a registered process, one line each
///
/// Exit status: 0 done (it may hold none), 1 refused or failed, 2 wrong usage, 3 no daemon.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// The process
    #[arg(value_parser = clap::value_parser!(u32).range(1..=0x7fff_ffff))]
    pid: u32,
    #[command(flatten)]
    format: Format,
}

/// Runs the subcommand.
pub fn run(args: Args) -> ExitCode {
    finish(args.format, inquire(args.pid))
}

fn inquire(pid: u32) -> Result<Output, CommandError> {
    let answer = ask()?.inquire(Target::Pid(pid))?;
    let leases = if answer.state.is_empty() { Vec::new() } else { parse_state(&answer.state)? };
    let document = json!({ "pid": pid, "leases": leases.iter().map(document).collect::<Value>() });
    let mut text: String = leases.iter().map(|l| plain(&string(l)) + "\n").collect();
    if leases.is_empty() {
        text = format!("process {pid} holds no lease\n");
    }
    Ok(Output { text, document })
}

fn string(lease: &Resource) -> String {
    String::from_utf8_lossy(&print_resource(lease)).into_owned()
}

fn document(lease: &Resource) -> Value {
    let disks: Value = lease.disks.iter().map(|d| json!({ "path": d.path.to_string(), "offset": d.offset })).collect();
    json!({
        "lockspace": lease.head.lockspace_name.to_string(),
        "resource": lease.head.name.to_string(),
        "lver": lease.head.lver,
        "disks": disks,
        "string": string(lease),
    })
}

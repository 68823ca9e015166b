//! `holdfast release`: gives back leases of a registered process, which goes on without them.
//!
//! Exit status as `client_cmd` says.

use std::process::ExitCode;
use std::str::FromStr;

use holdfast_protocol::arguments::{ArgumentError, parse_resource};
use holdfast_protocol::command::ReleaseFlags;
use holdfast_protocol::payload::ResourceHead;
use holdfast_protocol::request::Target;
use serde_json::json;

use crate::client_cmd::{CommandError, Format, Output, finish, open};

/// Give back leases of a registered process
///
/// Another host may take them at once: the process must no longer use what they protect.
///
/// Exit status: 0 given back, 1 refused or failed, 2 wrong usage, 3 no daemon.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "which", required = true, multiple = false, args = ["resources", "all"])]
pub struct Args {
    /// A lease to give back; may be repeated
    #[arg(short = 'r', long = "resource", value_name = "LOCKSPACE:RESOURCE[:PATH:OFFSET]")]
    resources: Vec<LeaseName>,
    /// Everything it holds
    #[arg(long)]
    all: bool,
    /// The process
    #[arg(short = 'p', long, value_parser = clap::value_parser!(u32).range(1..=0x7fff_ffff))]
    pid: u32,
    #[command(flatten)]
    format: Format,
}

/// A lease by its names; where it lies the daemon knows.
#[derive(Clone, Debug)]
struct LeaseName(ResourceHead);

impl FromStr for LeaseName {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        // A colon or backslash is allowed in paths alone, so two fields have one colon.
        let names_alone = text.matches(':').count() == 1;
        let whole = if names_alone { parse_resource(&format!("{text}:/:0")) } else { parse_resource(text) };
        Ok(Self(whole?.head))
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> ExitCode {
    finish(args.format, release(args))
}

fn release(args: &Args) -> Result<Output, CommandError> {
    let flags = if args.all { ReleaseFlags::ALL } else { ReleaseFlags::NONE };
    let heads: Vec<ResourceHead> = args.resources.iter().map(|name| name.0.clone()).collect();
    let names: Vec<String> = heads.iter().map(|head| head.name.to_string()).collect();
    open()?.release(Target::Pid(args.pid), flags, heads)?;
    let what = if args.all { "everything".to_owned() } else { names.join(", ") };
    let document = json!({ "pid": args.pid, "all": args.all, "resources": names });
    Ok(Output::done(format!("process {} gave back {what}", args.pid), document))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_named_with_or_without_its_place() {
        for text in ["LS:vm1", "LS:vm1:/dev/x:1M"] {
            let LeaseName(head) = text.parse().unwrap();
            assert_eq!((head.lockspace_name.as_bytes(), head.name.as_bytes()), (b"LS".as_slice(), b"vm1".as_slice()));
        }
        for text in ["LS", "LS:", "LS:vm1:/dev/x"] {
            assert!(text.parse::<LeaseName>().is_err(), "{text}");
        }
    }
}

//! The one executable. Started as `holdfastd` it is the daemon, started as `sanlock` it takes sanlock's command line.
#![forbid(unsafe_code)]

mod acquire;
mod client_cmd;
mod completions;
mod confirm_dead;
mod daemon;
mod demo;
mod drill;
mod exec;
mod fake_watchdog;
mod hosts;
mod inquire;
mod lockspace;
mod log;
mod preflight;
mod refusal;
mod release;
mod sanlock;
mod sim;
mod status;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use holdfast::{dump, init};

/// Leases on shared storage: what must run once, runs once.
#[derive(Parser)]
#[command(name = "holdfast", version)]
enum Command {
    Init(Box<init::Args>),
    Dump(dump::Args),
    Daemon(Box<daemon::Args>),
    FakeWatchdog(fake_watchdog::Args),
    Demo(demo::Args),
    Sim(sim::Args),
    #[command(hide = true)]
    DemoHost(demo::HostArgs),
    #[command(hide = true)]
    DemoProgram(demo::ProgramArgs),
    Exec(exec::Args),
    /// What `exec` starts to become its command.
    #[command(hide = true)]
    ExecInner(exec::InnerArgs),
    Status(status::Args),
    Hosts(hosts::Args),
    ConfirmDead(confirm_dead::Args),
    Preflight(preflight::Args),
    Drill(drill::Args),
    Lockspace(lockspace::Args),
    Inquire(inquire::Args),
    Acquire(acquire::Args),
    Release(release::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let arguments = arguments();
    if is_called(&arguments, "sanlock") {
        let words: Vec<String> = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        return sanlock::run(&words);
    }
    match run(Command::parse_from(arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("holdfast: {}", holdfast_daemon::codes::chain(&*error));
            ExitCode::from(1)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    Ok(match command {
        Command::Init(args) => init::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Daemon(args) => daemon::run(*args)?,
        Command::FakeWatchdog(args) => fake_watchdog::run(args)?,
        Command::Demo(args) => demo::run(&args)?,
        Command::Sim(args) => sim::run(&args)?,
        Command::DemoHost(args) => demo::run_host(&args)?,
        Command::DemoProgram(args) => demo::run_program(&args)?,
        Command::Exec(args) => exec::run(&args),
        Command::ExecInner(args) => exec::run_inner(&args),
        Command::Status(args) => status::run(args),
        Command::Hosts(args) => hosts::run(&args),
        Command::ConfirmDead(args) => confirm_dead::run(&args),
        Command::Preflight(args) => preflight::run(&args),
        Command::Drill(args) => drill::run(&args),
        Command::Lockspace(args) => lockspace::run(&args),
        Command::Inquire(args) => inquire::run(args),
        Command::Acquire(args) => acquire::run(&args),
        Command::Release(args) => release::run(&args),
        Command::Completions(args) => completions::run::<Command>(args),
    })
}

/// The command line; the name `holdfastd`, and `sanlock daemon`, stand for `holdfast daemon`.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if is_called(&arguments, "holdfastd") {
        arguments.insert(1, "daemon".into());
    } else if is_called(&arguments, "sanlock") && arguments.get(1).is_some_and(|word| word == "daemon") {
        arguments[0] = "holdfast".into();
        arguments.insert(2, "--as-sanlock".into());
    }
    arguments
}

/// Whether the executable was started under this name.
fn is_called(arguments: &[OsString], name: &str) -> bool {
    arguments.first().map(Path::new).and_then(Path::file_name).is_some_and(|n| n == name)
}

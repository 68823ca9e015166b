//! `holdfast completions`: what a shell needs to complete our command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Print completions for a shell
///
/// For bash: `holdfast completions bash > /etc/bash_completion.d/holdfast`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints the completions of the command line `C`.
pub fn run<C: CommandFactory>(args: Args) -> ExitCode {
    let mut text = Vec::new();
    generate(args.shell, &mut C::command(), "holdfast", &mut text);
    // A reader that has gone (`| head`) has seen what it wanted.
    let _ = std::io::stdout().lock().write_all(&text);
    ExitCode::SUCCESS
}

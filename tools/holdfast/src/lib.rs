//! What the executable's offline subcommands do, as a library, so that tests in other rooms can call it.
#![forbid(unsafe_code)]

pub mod dump;
pub mod init;
pub mod probe;
pub mod units_arg;

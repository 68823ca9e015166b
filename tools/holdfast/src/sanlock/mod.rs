//! The `sanlock` name: started as `sanlock`, the executable takes that program's command line (spec B 1 to 6), so that scripts
//! that run it and read what it prints go on as they are.
//!
//! | file | what |
//! | --- | --- |
//! | `options.rs` | the two-character options, and what they say |
//! | `wire.rs` | one request, one answer, as a number and bytes |
//! | `client.rs` | `sanlock client ACTION` |
//! | `direct.rs` | `sanlock direct dump` |
//! | `leader.rs` | `sanlock direct read_leader` |
//! | `format.rs` | `sanlock direct init` |
//! | `index.rs` | the actions about a resource index |
//! | `offline.rs` | a device without a daemon |
//! | `print.rs` | what is read by scripts: status, hosts, renewals |
//!
//! All is printed to standard output, errors too, and the exit status is 0 if and only if the last result is 0: also a positive
//! one, which `align` and `release -O` have, gives 1. `sanlock daemon` is `holdfast daemon`. Of `sanlock direct` all is served that reads
//! or formats. What takes and gives back leases past the daemon is not: two that do not know of each other would hold one host_id.

/// Prints a line. Who reads it may be gone by then (`| head -1`): the rest is still done, and the exit status says how it went.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($words)*)));
    }};
}

mod client;
mod direct;
mod format;
mod index;
mod leader;
mod offline;
mod options;
mod print;
mod wire;

use std::process::ExitCode;

use options::Options;

const USAGE: &str = "\
Usage:
sanlock daemon [options]            the lease daemon (holdfast daemon --help)
sanlock client ACTION [options]     asks the daemon
sanlock direct dump PATH[:OFFSET[:SIZE]] [-f 0|1|2]
sanlock direct read_leader -s LOCKSPACE | -r RESOURCE
sanlock direct init -s LOCKSPACE [-o SECONDS] | -r RESOURCE [-n HOSTS] [-z 1]
sanlock direct format | rebuild -x INDEX
sanlock direct lookup -x INDEX [-e NAME[:OFFSET]]
sanlock direct update -x INDEX -e NAME:OFFSET [-z 1]
sanlock ACTION [options]            the same

status [-D] [-o p|s]                         host_status [-s LOCKSPACE] [-D]
gets [-h 1]                                  renewal -s LOCKSPACE
log_dump                                     shutdown [-f 1] [-w 1]
version
init -s LOCKSPACE | -r RESOURCE [-z 1]       read -s LOCKSPACE | -r RESOURCE [-h 1] [-D]
align -s LOCKSPACE
add_lockspace -s LOCKSPACE [-o SECONDS]      inq_lockspace -s LOCKSPACE
rem_lockspace -s LOCKSPACE
command -r RESOURCE -c PATH [ARGUMENTS]      acquire -r RESOURCE -p PID
convert -r RESOURCE -p PID                   release -r RESOURCE | -a 1 | -O 1 -p PID
inquire -p PID [-D]                          request -r RESOURCE -f MODE
examine -r RESOURCE | -s LOCKSPACE
set_event -s LOCKSPACE -i HOST_ID [-g GENERATION] -e EVENT -d DATA
set_config -s LOCKSPACE [-u 0|1] [-O 0|1]
format -x INDEX                              rebuild -x INDEX
create -x INDEX -e NAME                      delete -x INDEX -e NAME[:OFFSET]
lookup -x INDEX [-e NAME[:OFFSET]]           update -x INDEX -e NAME:OFFSET [-z 1]

LOCKSPACE  NAME:HOST_ID:PATH:OFFSET
RESOURCE   LOCKSPACE_NAME:NAME:PATH:OFFSET[:LVER|SH]
INDEX      LOCKSPACE_NAME:PATH:OFFSET
-A 1M|2M|4M|8M, -Z 512|4096          sizes of areas and sectors
-n NUMBER, -m NUMBER                 hosts";

/// What sanlock does past its daemon, and no action here.
const NOT_SERVED: &[&str] =
    &["acquire", "release", "acquire_id", "renew_id", "release_id", "write_leader", "next_free"];

/// sanlock's version, whose command line this is.
const VERSION: &str = "3.8.5";

/// Runs one command line; `arguments` without the program's name.
pub fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (action, rest) = match words.as_slice() {
        [] | ["help" | "--help" | "-h", ..] => {
            say!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["version", ..] => {
            say!("{VERSION}");
            return ExitCode::SUCCESS;
        }
        ["--version" | "-V", ..] => {
            say!("sanlock {VERSION} (built as holdfast {})", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        ["client" | "direct"] => {
            say!("{USAGE}");
            return ExitCode::from(1);
        }
        // Whatever stands there is the place.
        ["direct", "dump", place, rest @ ..] => {
            return end(Options::parse(rest).map(|options| direct::dump_lines(place, &options)));
        }
        ["direct", "dump"] => return ExitCode::from(1),
        ["direct", "read_leader", rest @ ..] => {
            return end(Options::parse(rest).map(|options| leader::run(&options)));
        }
        ["direct", "init", rest @ ..] => {
            return end(Options::parse(rest).map(|options| format::run(&options)));
        }
        ["direct", action, rest @ ..] if index::DIRECT_ACTIONS.contains(action) => {
            return end(Options::parse(rest).map(|options| index::direct(action, &options)));
        }
        ["direct", action, ..] => {
            if NOT_SERVED.contains(action) {
                say!("direct action \"{action}\" is not served: see holdfast dump and holdfast init");
            } else {
                say!("direct action \"{action}\" is unknown");
            }
            return ExitCode::from(1);
        }
        ["client", action, rest @ ..] | [action, rest @ ..] => (*action, rest),
    };
    if index::CLIENT_ACTIONS.contains(&action) {
        return end(Options::parse(rest).map(|options| index::client(action, &options)));
    }
    if !client::ACTIONS.contains(&action) {
        say!("client action \"{action}\" is unknown");
        return ExitCode::from(1);
    }
    end(Options::parse(rest).map(|options| client::run(action, &options)))
}

/// The exit status of the last result, or of options that cannot be.
fn end(result: Result<i32, String>) -> ExitCode {
    let result = result.unwrap_or_else(|complaint| {
        say!("{complaint}");
        1
    });
    ExitCode::from(u8::from(result != 0))
}

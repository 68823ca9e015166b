//! `sanlock client ACTION` (spec B 3). Each action returns the last result, which decides the exit status.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;

use holdfast_client::{ClientError, Endpoint, blocking};
use holdfast_protocol::command::{
    AcquireFlags, AddLockspaceFlags, InqLockspaceFlags, LeaseFlags, ReleaseFlags, RemLockspaceFlags, RequestFlags,
    SetEventFlags, WriteResourceFlags,
};
use holdfast_protocol::payload::{Disk, Host, HostEvent, Lockspace, Resource, ResourceHead};
use holdfast_protocol::reply::Reply;
use holdfast_protocol::request::{Request, Target};
use holdfast_protocol::state::{StateKind, StateRecord};
use holdfast_protocol::strings::{parse_state, print_resource, print_state};
use nix::errno::Errno;

use super::options::Options;
use super::print;
use super::wire::{Answer, ask, result_of, tell};

/// All actions.
pub(super) const ACTIONS: &[&str] = &[
    "status",
    "host_status",
    "gets",
    "renewal",
    "log_dump",
    "shutdown",
    "version",
    "init",
    "write",
    "read",
    "align",
    "add_lockspace",
    "inq_lockspace",
    "rem_lockspace",
    "command",
    "acquire",
    "convert",
    "release",
    "inquire",
    "request",
    "examine",
    "set_event",
    "set_config",
];

const EINVAL: i32 = -22;
/// A short or wrong answer.
const NO_ANSWER: i32 = -1;
/// io_timeout where none is said.
const IO_TIMEOUT: u32 = 10;
/// How far STATUS goes.
const AFTER_LOCKSPACES: u32 = 3;
/// What a command says before it begins: sanlock's buffer is lost when another program takes its place.
const ACQUIRED: &str = "register\nregister done 3\nacquire fd 3\nacquire done 0";

/// Runs one.
pub(super) fn run(action: &str, options: &Options) -> i32 {
    match action {
        "status" => status(options),
        "host_status" => host_status(options),
        "gets" => gets(options),
        "renewal" => renewal(options),
        "log_dump" => log_dump(),
        "shutdown" => shutdown(options),
        "version" => version(),
        "init" | "write" => init(options),
        "read" => read(options),
        "align" => align(options),
        "add_lockspace" => add_lockspace(options),
        "inq_lockspace" => {
            let lockspace = options.lockspace();
            told(action, &Request::InqLockspace { flags: InqLockspaceFlags::NONE, lockspace })
        }
        "rem_lockspace" => {
            let lockspace = options.lockspace();
            told(action, &Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace })
        }
        "command" => command(options),
        "acquire" => acquire(options),
        "convert" => convert(options),
        "release" => release(options),
        "inquire" => inquire(options),
        "request" => request(options),
        "examine" => examine(options),
        "set_event" => set_event(options),
        _ => set_config(options),
    }
}

/// The action, then what came of it.
fn told(action: &str, request: &Request) -> i32 {
    say!("{action}");
    done(action, result_of(request))
}

fn done(action: &str, result: i32) -> i32 {
    say!("{action} done {result}");
    result
}

/// The records of a stream; sanlock says nothing of a failure but by its exit status.
fn stream(request: &Request) -> Result<Vec<StateRecord>, i32> {
    let answer = ask(request)?;
    match answer.result() {
        0 => StateRecord::decode_stream(&answer.payload).map_err(|_| -1),
        failed => Err(failed),
    }
}

fn status(options: &Options) -> i32 {
    match stream(&Request::Status { stop_after: 0 }) {
        Ok(records) => {
            print::status(&records, options.detail, options.text('o'));
            0
        }
        Err(failed) => failed,
    }
}

fn lockspaces() -> Result<Vec<Lockspace>, i32> {
    match ask(&Request::GetLockspaces)?.reply {
        Reply::Lockspaces { result, lockspaces } if result.number() >= 0 => Ok(lockspaces),
        other => Err(other.result().number()),
    }
}

fn host_status(options: &Options) -> i32 {
    let hosts = |lockspace: Lockspace| match stream(&Request::HostStatus { lockspace }) {
        Ok(records) => {
            print::hosts(&records, options.detail);
            0
        }
        Err(failed) => failed,
    };
    if let Some(lockspace) = options.named_lockspace() {
        return hosts(lockspace);
    }
    let all = match stream(&Request::Status { stop_after: AFTER_LOCKSPACES }) {
        Ok(all) => all,
        Err(failed) => return failed,
    };
    for lockspace in all.into_iter().filter(|record| record.kind == StateKind::Lockspace) {
        say!("lockspace {}", lockspace.name);
        // One that is just being joined has none to tell of, which is no failure.
        hosts(Lockspace::new(lockspace.name, 0, Disk::default()));
    }
    0
}

fn gets(options: &Options) -> i32 {
    let joined = match lockspaces() {
        Ok(joined) => joined,
        Err(failed) => {
            say!("gets error {failed}");
            return failed;
        }
    };
    for lockspace in joined {
        print::space(&lockspace);
        if options.is_on('h') {
            hosts_of(Lockspace { host_id: 0, ..lockspace });
        }
    }
    0
}

fn hosts_of(lockspace: Lockspace) {
    match ask(&Request::GetHosts { lockspace }).map(|answer| answer.reply) {
        Ok(Reply::Hosts { result, hosts }) if result.number() >= 0 => hosts.iter().for_each(print::host),
        Ok(reply) if reply.result().number() == -11 => say!("hosts not ready"),
        Ok(reply) => say!("hosts error {}", reply.result().number()),
        Err(failed) => say!("hosts error {failed}"),
    }
}

fn renewal(options: &Options) -> i32 {
    let Some(lockspace) = options.named_lockspace() else { return -1 };
    match stream(&Request::Renewal { lockspace }) {
        Ok(records) => {
            print::renewals(&records);
            0
        }
        Err(failed) => failed,
    }
}

fn log_dump() -> i32 {
    match ask(&Request::LogDump) {
        Ok(answer) => {
            let mut out = std::io::stdout().lock();
            // A reader that has gone has read enough.
            let _ = out.write_all(&answer.payload).and_then(|()| out.write_all(b"\n"));
            answer.result()
        }
        Err(failed) => failed,
    }
}

fn shutdown(options: &Options) -> i32 {
    let number = |letter| options.number(letter).unwrap_or(0);
    say!("shutdown force {} wait {}", number('f'), number('w'));
    let (force, wait) = (options.is_on('f'), options.is_on('w'));
    let result = if wait { result_of(&Request::ShutdownWait { force }) } else { tell(&Request::Shutdown { force }) };
    done("shutdown", result)
}

fn version() -> i32 {
    const OURS: u32 = 0x0308_0500;
    let dotted = |v: u32| format!("{}.{}.{} (0x{v:08x})", v >> 24, v >> 16 & 0xff, v >> 8 & 0xff);
    let (daemon, protocol) = match ask(&Request::Version).map(|answer| answer.reply) {
        Ok(Reply::Version { version }) => (version, "0.1"),
        Ok(_) => (0, "0.0"),
        Err(failed) => {
            say!("daemon version error {failed}");
            (0, "0.0")
        }
    };
    say!("client version {}", dotted(OURS));
    say!("daemon version {}", dotted(daemon));
    say!("client socket protocol 0.1");
    say!("daemon socket protocol {protocol}");
    0
}

fn init(options: &Options) -> i32 {
    say!("init");
    let request = if let Some(lockspace) = options.placed_lockspace() {
        // sanlock's own default, whatever the daemon's is.
        let io_timeout = Some(options.count('o')).filter(|seconds| *seconds != 0).unwrap_or(IO_TIMEOUT);
        Request::WriteLockspace { max_hosts: options.count('m'), io_timeout, lockspace }
    } else {
        let Some(resource) = options.placed_resource() else { return done("init", EINVAL) };
        let flags = if options.text('z').is_some() { WriteResourceFlags::CLEAR } else { WriteResourceFlags::NONE };
        // -m, which the daemon takes for the number of hosts, and -n, which it does not look at (spec A 6).
        Request::WriteResource { flags, num_hosts: options.count('m'), unused: options.count('n'), resource }
    };
    done("init", result_of(&request))
}

/// The sizes that flags say; 0 where they say none.
fn print_sizes(flags: LeaseFlags) {
    let said =
        |sizes: &[(LeaseFlags, u32)]| sizes.iter().find(|(flag, _)| flags.contains(*flag)).map_or(0, |(_, n)| *n);
    let sector = said(&[(LeaseFlags::SECTOR_512, 512), (LeaseFlags::SECTOR_4K, 4096)]);
    let megabytes = said(&[
        (LeaseFlags::ALIGN_1M, 1),
        (LeaseFlags::ALIGN_2M, 2),
        (LeaseFlags::ALIGN_4M, 4),
        (LeaseFlags::ALIGN_8M, 8),
    ]);
    say!("sector_size {sector}\nalign_size {}", megabytes << 20);
}

fn read(options: &Options) -> i32 {
    let read = match (options.placed_lockspace(), options.placed_resource()) {
        (Some(lockspace), _) => read_lockspace(lockspace, options.detail),
        (None, Some(resource)) => read_resource(resource, options),
        (None, None) => Err(EINVAL),
    };
    read.map_or_else(
        |failed| {
            say!("read error {failed}");
            failed
        },
        |()| 0,
    )
}

fn read_lockspace(lockspace: Lockspace, detail: bool) -> Result<(), i32> {
    match ask(&Request::ReadLockspace { lockspace })?.reply {
        Reply::Lockspace { result, io_timeout, lockspace } if result.number() == 0 => {
            say!("s {}", print::plain(&lockspace));
            if detail {
                say!("io_timeout {io_timeout}");
                print_sizes(LeaseFlags::from_bits(lockspace.flags.bits()));
            }
            Ok(())
        }
        reply => Err(reply.result().number()),
    }
}

/// What stands there; with `-h` who owns it, too, which is a request of its own.
fn read_resource(resource: Resource, options: &Options) -> Result<(), i32> {
    let disks = resource.disks.clone();
    let (head, owners) = if options.is_on('h') {
        owners(&ask(&Request::ReadResourceOwners { resource })?)?
    } else {
        match ask(&Request::ReadResource { resource })?.reply {
            Reply::Resource { result, resource } if result.number() == 0 => (resource, Vec::new()),
            reply => return Err(reply.result().number()),
        }
    };
    say!("r {}", String::from_utf8_lossy(&print_resource(&Resource::new(head.clone(), disks))));
    if options.detail {
        print_sizes(head.flags);
    }
    owners.iter().for_each(print::owner);
    Ok(())
}

/// A lease, and the hosts behind it.
fn owners(answer: &Answer) -> Result<(ResourceHead, Vec<Host>), i32> {
    if answer.result() < 0 {
        return Err(answer.result());
    }
    let mut rest = answer.payload.as_slice();
    let head = ResourceHead::split_from(&mut rest).ok_or(NO_ANSWER)?;
    let hosts = std::iter::from_fn(|| Host::split_from(&mut rest)).collect();
    if rest.is_empty() { Ok((head, hosts)) } else { Err(NO_ANSWER) }
}

fn align(options: &Options) -> i32 {
    told("align", &Request::Align { disk: options.lockspace().disk })
}

fn add_lockspace(options: &Options) -> i32 {
    let (flags, lockspace) = (AddLockspaceFlags::NONE, options.lockspace());
    match options.count('o') {
        0 | IO_TIMEOUT => told("add_lockspace", &Request::AddLockspace { flags, io_timeout: 0, lockspace }),
        io_timeout => {
            say!("add_lockspace_timeout {}", io_timeout.cast_signed());
            done("add_lockspace_timeout", result_of(&Request::AddLockspace { flags, io_timeout, lockspace }))
        }
    }
}

/// The resources as an acquire wants them.
fn wanted(options: &Options) -> Vec<Resource> {
    let mut resources = options.resources.clone();
    for head in resources.iter_mut().map(|resource| &mut resource.head) {
        if options.is_on('P') {
            head.flags = head.flags | LeaseFlags::PERSISTENT;
        }
        if options.is_on('n') {
            (head.flags, head.data32) = (head.flags | LeaseFlags::NUM_HOSTS, options.count('n'));
        }
    }
    resources
}

fn acquire_flags(options: &Options) -> AcquireFlags {
    if options.is_on('O') { AcquireFlags::ORPHAN } else { AcquireFlags::NONE }
}

fn not_connected(failed: &ClientError) -> i32 {
    match failed {
        ClientError::NoDaemon { errno, .. }
        | ClientError::NotAllowed { errno, .. }
        | ClientError::Socket { errno, .. } => -(*errno as i32),
        _ => NO_ANSWER,
    }
}

/// A registered process becomes the command, with its leases.
fn command(options: &Options) -> i32 {
    let registered = blocking::Connection::open(&Endpoint::from_environment()).and_then(|c| c.register());
    let mut registered = match registered {
        Ok(registered) => registered,
        Err(failed) => {
            // No failure by the exit status, as with sanlock.
            say!("register\nregister done {}", not_connected(&failed));
            return 0;
        }
    };
    let acquired = registered.acquire(acquire_flags(options), wanted(options), holdfast_protocol::Options::default());
    if let Err(refused) = acquired {
        say!("register\nregister done 3\nacquire fd 3");
        return done("acquire", refused.refusal().map_or(-1, holdfast_protocol::ResultCode::number));
    }
    let Some((program, arguments)) = options.command.split_first() else {
        loop {
            std::thread::park();
        }
    };
    if std::io::stdout().is_terminal() {
        say!("{ACQUIRED}");
    }
    if let Err(failed) = registered.inherit_on_exec() {
        let _ = writeln!(std::io::stderr(), "{failed}");
        return -1;
    }
    let failed = std::process::Command::new(program).args(arguments).exec();
    if !std::io::stdout().is_terminal() {
        say!("{ACQUIRED}");
    }
    let reason = failed.raw_os_error().map_or_else(|| failed.to_string(), |n| Errno::from_raw(n).desc().to_owned());
    let _ = writeln!(std::io::stderr(), "execv failed: {reason}");
    -1
}

fn target(options: &Options) -> Target {
    Target::Pid(options.pid().cast_unsigned())
}

fn acquire(options: &Options) -> i32 {
    say!("acquire pid {}", options.pid());
    let (flags, resources) = (acquire_flags(options), wanted(options));
    let request =
        Request::Acquire { flags, target: target(options), resources, options: holdfast_protocol::Options::default() };
    done("acquire", result_of(&request))
}

fn convert(options: &Options) -> i32 {
    say!("convert pid {}", options.pid());
    let Some(resource) = options.resources.first() else { return done("convert", EINVAL) };
    let (flags, resource) = (AcquireFlags::NONE, resource.head.clone());
    done("convert", result_of(&Request::Convert { flags, target: target(options), resource }))
}

fn release(options: &Options) -> i32 {
    say!("release pid {}", options.pid());
    let mut resources: Vec<ResourceHead> = options.resources.iter().map(|r| r.head.clone()).collect();
    let flag = |letter, flag: ReleaseFlags| if options.is_on(letter) { flag.bits() } else { 0 };
    let flags = ReleaseFlags::from_bits(flag('a', ReleaseFlags::ALL) | flag('O', ReleaseFlags::ORPHAN));
    if resources.is_empty()
        && let Some(lockspace) = options.named_lockspace().filter(|_| options.is_on('O'))
    {
        resources.push(ResourceHead { lockspace_name: lockspace.name, ..ResourceHead::default() });
    }
    done("release", result_of(&Request::Release { flags, target: target(options), resources }))
}

fn inquire(options: &Options) -> i32 {
    say!("inquire pid {}", options.pid());
    let (result, count, state) = match ask(&Request::Inquire { target: target(options) }).map(|a| a.reply) {
        Ok(Reply::Inquire { result, count, state }) => (result.number(), count, state),
        Ok(reply) => (reply.result().number(), 0, Vec::new()),
        Err(failed) => (failed, 0, Vec::new()),
    };
    say!("inquire done {result} res_count {count}");
    if result != 0 {
        return result;
    }
    let text = if count == 0 { "(null)".to_owned() } else { String::from_utf8_lossy(&state).into_owned() };
    say!("\"{text}\"");
    if !options.detail || count == 0 {
        return result;
    }
    say!("");
    match parse_state(&state) {
        Ok(resources) => {
            say!("state_to_args done 0 res_count {}", resources.len());
            resources.iter().for_each(|resource| say!("\"{}\"", print::by_version(resource)));
            say!("\nargs_to_state done 0\n\"{}\"", String::from_utf8_lossy(&print_state(&resources)));
            result
        }
        Err(fault) => {
            let failed = fault.code().number();
            say!("state_to_args done {failed} res_count {count}");
            failed
        }
    }
}

fn request(options: &Options) -> i32 {
    say!("request");
    let Some(resource) = options.resources.first().cloned() else { return done("request", EINVAL) };
    let (flags, force_mode) = (RequestFlags::NONE, options.count('f'));
    done("request", result_of(&Request::AskOwner { flags, force_mode, resource }))
}

fn examine(options: &Options) -> i32 {
    // A lockspace without a place is not asked about, though the name would do.
    let lockspace = Some(options.lockspace()).filter(|lockspace| !lockspace.disk.path.is_empty());
    match (lockspace, options.resources.first()) {
        (Some(lockspace), _) => told("examine", &Request::ExamineLockspace { lockspace }),
        (None, Some(resource)) => told("examine", &Request::ExamineResource { resource: resource.head.clone() }),
        (None, None) => {
            say!("examine");
            done("examine", EINVAL)
        }
    }
}

fn set_event(options: &Options) -> i32 {
    let (host_id, generation) = (options.wide('i'), options.wide('g'));
    let (event, data) = (options.any_base('e'), options.any_base('d'));
    say!("set_event {host_id} {generation} event 0x{event:x} data 0x{data:x}");
    let (flags, lockspace) = (SetEventFlags::NONE, options.named_lockspace().unwrap_or_default());
    let event = HostEvent { host_id, generation, event, data };
    done("set_event", result_of(&Request::SetEvent { flags, lockspace, event }))
}

fn set_config(options: &Options) -> i32 {
    let switch = |letter, on, off| options.text(letter).map(|_| if options.is_on(letter) { on } else { off });
    // Of both the last counts, in this order.
    let config = switch('O', 4, 8).or_else(|| switch('u', 1, 2)).unwrap_or(0);
    let lockspace = options.named_lockspace().unwrap_or_default();
    say!("set_config {} {config}", lockspace.name);
    done("set_config", result_of(&Request::SetConfig { config, lockspace }))
}

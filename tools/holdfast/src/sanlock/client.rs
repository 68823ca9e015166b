//! `sanlock client ACTION` (spec B 3). Each action returns the last result, which decides the exit status.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;

use holdfast_client::{Endpoint, blocking};
use holdfast_protocol::command::{
    AcquireFlags, AddLockspaceFlags, InqLockspaceFlags, LeaseFlags, ReleaseFlags, RemLockspaceFlags, RequestFlags,
    SetEventFlags, WriteResourceFlags,
};
use holdfast_protocol::payload::{HostEvent, Lockspace, Resource, ResourceHead};
use holdfast_protocol::reply::Reply;
use holdfast_protocol::request::{Request, Target};
use holdfast_protocol::state::StateRecord;
use holdfast_protocol::strings::{parse_state, print_resource, print_state};

use super::options::Options;
use super::print;
use super::wire::{ask, result_of, tell};

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
    println!("{action}");
    done(action, result_of(request))
}

fn done(action: &str, result: i32) -> i32 {
    println!("{action} done {result}");
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
    if options.has_lockspace() {
        return hosts(options.lockspace());
    }
    let joined = match lockspaces() {
        Ok(joined) => joined,
        Err(failed) => return failed,
    };
    let mut result = 0;
    for lockspace in joined {
        println!("lockspace {}", lockspace.name);
        result = hosts(lockspace);
    }
    result
}

fn gets(options: &Options) -> i32 {
    let joined = match lockspaces() {
        Ok(joined) => joined,
        Err(failed) => {
            println!("gets error {failed}");
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
        Ok(reply) if reply.result().number() == -11 => println!("hosts not ready"),
        Ok(reply) => println!("hosts error {}", reply.result().number()),
        Err(failed) => println!("hosts error {failed}"),
    }
}

fn renewal(options: &Options) -> i32 {
    if !options.has_lockspace() {
        return -1;
    }
    match stream(&Request::Renewal { lockspace: options.lockspace() }) {
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
    let (force, wait) = (options.is_on('f'), options.is_on('w'));
    println!("shutdown force {} wait {}", u8::from(force), u8::from(wait));
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
            println!("daemon version error {failed}");
            (0, "0.0")
        }
    };
    println!("client version {}", dotted(OURS));
    println!("daemon version {}", dotted(daemon));
    println!("client socket protocol 0.1");
    println!("daemon socket protocol {protocol}");
    0
}

fn init(options: &Options) -> i32 {
    println!("init");
    let request = if options.has_lockspace() {
        let (max_hosts, io_timeout) = (options.count('m'), options.count('o'));
        Request::WriteLockspace { max_hosts, io_timeout, lockspace: options.lockspace() }
    } else {
        let Some(resource) = options.resources.first().cloned() else { return done("init", EINVAL) };
        let flags = if options.text('z').is_some() { WriteResourceFlags::CLEAR } else { WriteResourceFlags::NONE };
        // -m, which the daemon takes for the number of hosts, and -n, which it does not look at (spec A 6).
        Request::WriteResource { flags, num_hosts: options.count('m'), unused: options.count('n'), resource }
    };
    done("init", result_of(&request))
}

fn sizes(flags: LeaseFlags) -> (u32, u32) {
    let sector = if flags.contains(LeaseFlags::SECTOR_4K) { 4096 } else { 512 };
    let aligns = [(LeaseFlags::ALIGN_2M, 2), (LeaseFlags::ALIGN_4M, 4), (LeaseFlags::ALIGN_8M, 8)];
    let align = aligns.into_iter().find(|(flag, _)| flags.contains(*flag)).map_or(1, |(_, m)| m);
    (sector, align << 20)
}

fn print_sizes(flags: LeaseFlags) {
    let (sector, align) = sizes(flags);
    println!("sector_size {sector}\nalign_size {align}");
}

fn read(options: &Options) -> i32 {
    let failed = |result: i32| {
        println!("read error {result}");
        result
    };
    if options.has_lockspace() {
        let asked = options.lockspace();
        return match ask(&Request::ReadLockspace { lockspace: asked.clone() }).map(|answer| answer.reply) {
            Ok(Reply::Lockspace { result, io_timeout, lockspace }) if result.number() == 0 => {
                println!("s {}", print::plain(&Lockspace { disk: asked.disk, ..lockspace.clone() }));
                if options.detail {
                    println!("io_timeout {io_timeout}");
                    print_sizes(LeaseFlags::from_bits(lockspace.flags.bits()));
                }
                0
            }
            Ok(reply) => failed(reply.result().number()),
            Err(result) => failed(result),
        };
    }
    let Some(asked) = options.resources.first().cloned() else { return failed(EINVAL) };
    let head = match ask(&Request::ReadResource { resource: asked.clone() }).map(|answer| answer.reply) {
        Ok(Reply::Resource { result, resource }) if result.number() == 0 => resource,
        Ok(reply) => return failed(reply.result().number()),
        Err(result) => return failed(result),
    };
    let found = Resource::new(ResourceHead { flags: LeaseFlags::NONE, ..head.clone() }, asked.disks);
    println!("r {}", String::from_utf8_lossy(&print_resource(&found)));
    if options.detail {
        print_sizes(head.flags);
    }
    0
}

fn align(options: &Options) -> i32 {
    told("align", &Request::Align { disk: options.lockspace().disk })
}

fn add_lockspace(options: &Options) -> i32 {
    let (flags, lockspace) = (AddLockspaceFlags::NONE, options.lockspace());
    match options.count('o') {
        0 | 10 => told("add_lockspace", &Request::AddLockspace { flags, io_timeout: 0, lockspace }),
        io_timeout => {
            println!("add_lockspace_timeout {io_timeout}");
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
        if options.count('n') > 0 {
            (head.flags, head.data32) = (head.flags | LeaseFlags::NUM_HOSTS, options.count('n'));
        }
    }
    resources
}

fn acquire_flags(options: &Options) -> AcquireFlags {
    if options.is_on('O') { AcquireFlags::ORPHAN } else { AcquireFlags::NONE }
}

/// A registered process becomes the command, with its leases.
fn command(options: &Options) -> i32 {
    let registered = blocking::Connection::open(&Endpoint::from_environment()).and_then(|c| c.register());
    let mut registered = match registered {
        Ok(registered) => registered,
        Err(_) => {
            println!("register\nregister done -2");
            return 0;
        }
    };
    let acquired = registered.acquire(acquire_flags(options), wanted(options), holdfast_protocol::Options::default());
    if let Err(refused) = acquired {
        println!("register\nregister done 3\nacquire fd 3");
        return done("acquire", refused.refusal().map_or(-1, holdfast_protocol::ResultCode::number));
    }
    let Some((program, arguments)) = options.command.split_first() else {
        loop {
            std::thread::park();
        }
    };
    if std::io::stdout().is_terminal() {
        println!("register\nregister done 3\nacquire fd 3\nacquire done 0");
    }
    if let Err(failed) = registered.inherit_on_exec() {
        eprintln!("{failed}");
        return -1;
    }
    let failed = std::process::Command::new(program).args(arguments).exec();
    eprintln!("execv failed: {failed}");
    -1
}

fn target(options: &Options) -> Target {
    Target::Pid(options.pid().cast_unsigned())
}

fn acquire(options: &Options) -> i32 {
    println!("acquire pid {}", options.pid());
    let (flags, resources) = (acquire_flags(options), wanted(options));
    let request =
        Request::Acquire { flags, target: target(options), resources, options: holdfast_protocol::Options::default() };
    done("acquire", result_of(&request))
}

fn convert(options: &Options) -> i32 {
    println!("convert pid {}", options.pid());
    let Some(resource) = options.resources.first() else { return done("convert", EINVAL) };
    let (flags, resource) = (AcquireFlags::NONE, resource.head.clone());
    done("convert", result_of(&Request::Convert { flags, target: target(options), resource }))
}

fn release(options: &Options) -> i32 {
    println!("release pid {}", options.pid());
    let mut resources: Vec<ResourceHead> = options.resources.iter().map(|r| r.head.clone()).collect();
    let flags = match (options.is_on('a'), options.is_on('O')) {
        (true, _) => ReleaseFlags::ALL,
        (false, true) => ReleaseFlags::ORPHAN,
        (false, false) => ReleaseFlags::NONE,
    };
    if options.is_on('a') {
        resources.clear();
    }
    if options.is_on('O') && resources.is_empty() && options.has_lockspace() {
        resources.push(ResourceHead { lockspace_name: options.lockspace().name, ..ResourceHead::default() });
    }
    done("release", result_of(&Request::Release { flags, target: target(options), resources }))
}

fn inquire(options: &Options) -> i32 {
    println!("inquire pid {}", options.pid());
    let (result, count, state) = match ask(&Request::Inquire { target: target(options) }).map(|a| a.reply) {
        Ok(Reply::Inquire { result, count, state }) => (result.number(), count, state),
        Ok(reply) => (reply.result().number(), 0, Vec::new()),
        Err(failed) => (failed, 0, Vec::new()),
    };
    println!("inquire done {result} res_count {count}");
    if result != 0 {
        return result;
    }
    let text = if count == 0 { "(null)".to_owned() } else { String::from_utf8_lossy(&state).into_owned() };
    println!("\"{text}\"");
    if !options.detail || count == 0 {
        return result;
    }
    println!();
    match parse_state(&state) {
        Ok(resources) => {
            println!("state_to_args done 0 res_count {}", resources.len());
            // Each by its version, 0 where it is shared.
            for resource in &resources {
                let head = ResourceHead { flags: LeaseFlags::NONE, ..resource.head.clone() };
                let plain = Resource::new(head, resource.disks.clone());
                println!("\"{}\"", String::from_utf8_lossy(&print_resource(&plain)));
            }
            println!("\nargs_to_state done 0\n\"{}\"", String::from_utf8_lossy(&print_state(&resources)));
        }
        Err(fault) => println!("state_to_args error {}", fault.code().number()),
    }
    result
}

fn request(options: &Options) -> i32 {
    println!("request");
    let Some(resource) = options.resources.first().cloned() else { return done("request", EINVAL) };
    let (flags, force_mode) = (RequestFlags::NONE, options.count('f'));
    done("request", result_of(&Request::AskOwner { flags, force_mode, resource }))
}

fn examine(options: &Options) -> i32 {
    let request = match options.resources.first() {
        Some(resource) => Request::ExamineResource { resource: resource.head.clone() },
        None => {
            let lockspace = options.lockspace();
            // Without a place it is not asked, though the name would do.
            if lockspace.disk.path.is_empty() {
                println!("examine");
                return done("examine", EINVAL);
            }
            Request::ExamineLockspace { lockspace }
        }
    };
    told("examine", &request)
}

fn set_event(options: &Options) -> i32 {
    let count = |letter| options.number(letter).map_or(0, |n| u64::try_from(n).unwrap_or(0));
    let (host_id, generation) = (count('i'), count('g'));
    let (event, data) = (options.any_base('e'), options.any_base('d'));
    println!("set_event {host_id} {generation} event 0x{event:x} data 0x{data:x}");
    let (flags, lockspace) = (SetEventFlags::NONE, options.lockspace());
    let event = HostEvent { host_id, generation, event, data };
    done("set_event", result_of(&Request::SetEvent { flags, lockspace, event }))
}

fn set_config(options: &Options) -> i32 {
    let switch = |letter, on, off| options.text(letter).map(|_| if options.is_on(letter) { on } else { off });
    let config = switch('u', 1, 2).or_else(|| switch('O', 4, 8)).unwrap_or(0);
    let lockspace = options.lockspace();
    println!("set_config {} {config}", lockspace.name);
    done("set_config", result_of(&Request::SetConfig { config, lockspace }))
}

//! Both faces of the client against a small daemon that answers from a script, over a real unix socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use holdfast_client::protocol::{
    self, AcquireFlags, AddLockspaceFlags, Class, Disk, DiskPath, Header, Host, Incoming, InqLockspaceFlags, KillPath,
    KillPathFlags, KillText, Lockspace, LockspaceUse, Message, Name48, Options, ReleaseFlags, RemLockspaceFlags, Reply,
    Request, RequestReader, Resource, ResourceHead, RestrictFlags, ResultCode, StateRecord, StateText, Target,
    WriteResourceFlags,
};
use holdfast_client::{
    ClientError, Confirmation, Endpoint, Hosts, InquireAnswer, LockspacePresence, asynchronous, blocking,
};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// What the daemon does with one request.
enum Act {
    Answer(Vec<u8>),
    Silence,
    Close,
}

type Script = fn(&Message) -> Act;

/// A daemon of one run directory. It answers by its script and tells of every request and every end of a connection.
struct Daemon {
    run_dir: TempDir,
    heard: Receiver<Option<Request>>,
}

impl Daemon {
    fn start(script: Script) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(run_dir.path().join("sanlock.sock")).unwrap();
        let (tell, heard) = channel();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let tell = tell.clone();
                thread::spawn(move || serve(stream, script, &tell));
            }
        });
        Self { run_dir, heard }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.run_dir.path())
    }

    fn open(&self) -> blocking::Connection {
        blocking::Connection::open(&self.endpoint()).unwrap()
    }
}

fn serve(mut stream: UnixStream, script: Script, tell: &Sender<Option<Request>>) {
    let mut reader = RequestReader::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some(incoming) = reader.next() {
            let Incoming::Request(message) = incoming else { panic!("{incoming:?}") };
            let act = script(&message);
            tell.send(Some(message.request)).unwrap_or(());
            match act {
                Act::Answer(bytes) => stream.write_all(&bytes).unwrap(),
                Act::Silence => {}
                Act::Close => return,
            }
            if message.command.class() == Class::MainClose {
                return;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(bytes) => reader.push(&chunk[..bytes]),
        }
    }
    tell.send(None).unwrap_or(());
}

fn name(text: &str) -> Name48 {
    Name48::new(text).unwrap()
}

fn lockspace() -> Lockspace {
    Lockspace::new(name("LS1"), 1, Disk::new(DiskPath::new("/dev/leases").unwrap(), 0))
}

fn resource() -> Resource {
    let head = ResourceHead::named(name("LS1"), name("vm"));
    Resource::new(head, vec![Disk::new(DiskPath::new("/dev/leases").unwrap(), 1 << 20)])
}

fn hosts() -> Vec<Host> {
    vec![Host { host_id: 1, generation: 2, timestamp: 3, io_timeout: 10, flags: 3 }; 2]
}

fn records() -> Vec<StateRecord> {
    vec![
        StateRecord::daemon(name("hostA"), StateText::from_pairs([("our_host_name", "hostA")])),
        StateRecord::lockspace(lockspace(), StateText::from_pairs([("list", "spaces")])),
        StateRecord::resource(7, 2, resource(), StateText::from_pairs([("list", "held")])),
    ]
}

/// Says yes to everything, with something to say.
fn willing(message: &Message) -> Act {
    let result = ResultCode::OK;
    let reply = match &message.request {
        Request::Register | Request::Shutdown { .. } => return Act::Silence,
        Request::Version => Reply::Version { version: 0x0308_0500 },
        Request::Inquire { .. } => Reply::Inquire { result, count: 1, state: b"LS1:vm:/dev/leases:1048576:2".to_vec() },
        Request::GetLockspaces => Reply::Lockspaces { result, lockspaces: vec![lockspace(); 2] },
        Request::GetHosts { .. } => Reply::Hosts { result, hosts: hosts() },
        Request::ReadLockspace { .. } => Reply::Lockspace { result, io_timeout: 10, lockspace: lockspace() },
        Request::ReadResource { .. } => Reply::Resource { result, resource: resource().head },
        Request::ShutdownWait { .. } => Reply::ShutdownDone,
        Request::Explain { .. } => Reply::Json { result, body: b"{\"owner\":1}".to_vec() },
        Request::HoldfastStatus => Reply::Json { result, body: b"{}".to_vec() },
        Request::ConfirmDead { host, .. } => match host.generation {
            1 => Reply::Json { result, body: Vec::new() },
            _ => Reply::Json { result: ResultCode::ESTALE, body: b"it is alive".to_vec() },
        },
        Request::Status { .. } => {
            let mut bytes = Reply::Stream { result }.encode(&message.header);
            records().iter().for_each(|record| record.encode(&mut bytes));
            return Act::Answer(bytes);
        }
        Request::Release { flags: ReleaseFlags::ORPHAN, .. } => Reply::Result(ResultCode::new(3)),
        _ => Reply::Result(result),
    };
    Act::Answer(reply.encode(&message.header))
}

fn silent(_: &Message) -> Act {
    Act::Silence
}

fn deserting(_: &Message) -> Act {
    Act::Close
}

/// Every call, on one face; `$wait` is `.await` or nothing.
macro_rules! every_call {
    ($face:ident, $endpoint:expr, [$($wait:tt)*]) => {{
        let open = || $face::Connection::open($endpoint).unwrap();
        let mut c = open();
        assert_eq!(c.version()$($wait)*, Ok(0x0308_0500));
        assert_eq!(c.add_lockspace(AddLockspaceFlags::ASYNC, 10, lockspace())$($wait)*, Ok(()));
        assert_eq!(c.inq_lockspace(InqLockspaceFlags::WAIT, lockspace())$($wait)*, Ok(LockspacePresence::Joined));
        assert_eq!(c.rem_lockspace(RemLockspaceFlags::UNUSED, lockspace())$($wait)*, Ok(()));
        let pid = Target::Pid(77);
        let options = Options { owner_name: name("vm"), ..Options::default() };
        assert_eq!(c.acquire(pid, AcquireFlags::OWNER_NOWAIT, vec![resource()], options.clone())$($wait)*, Ok(()));
        assert_eq!(c.release(pid, ReleaseFlags::ORPHAN, vec![resource().head])$($wait)*, Ok(3));
        let state = b"LS1:vm:/dev/leases:1048576:2".to_vec();
        assert_eq!(c.inquire(pid)$($wait)*, Ok(InquireAnswer { count: 1, state }));
        assert_eq!(c.convert(pid, AcquireFlags::OWNER_NOWAIT, resource().head)$($wait)*, Ok(()));
        assert_eq!(open().set_config(LockspaceUse::UsedByOrphans, name("LS1"))$($wait)*, Ok(()));
        assert_eq!(c.write_lockspace(10, lockspace())$($wait)*, Ok(()));
        let found = c.read_lockspace(lockspace())$($wait)*.unwrap();
        assert_eq!((found.lockspace, found.io_timeout), (lockspace(), 10));
        assert_eq!(c.write_resource(WriteResourceFlags::CLEAR, 0, resource())$($wait)*, Ok(()));
        assert_eq!(c.read_resource(resource())$($wait)*, Ok(resource().head));
        assert_eq!(c.explain(resource())$($wait)*, Ok(b"{\"owner\":1}".to_vec()));
        let dead = |generation| Host { host_id: 3, generation, timestamp: 1000, ..Host::default() };
        assert_eq!(c.confirm_dead(lockspace(), dead(1))$($wait)*, Ok(Confirmation::Taken));
        let why = "it is alive".to_owned();
        let refused = Confirmation::Refused { code: ResultCode::ESTALE, why };
        assert_eq!(c.confirm_dead(lockspace(), dead(2))$($wait)*, Ok(refused));
        assert_eq!(c.holdfast_status()$($wait)*, Ok(b"{}".to_vec()));
        assert_eq!(c.restrict(RestrictFlags::SIGKILL)$($wait)*, Ok(()));
        assert_eq!(open().get_lockspaces()$($wait)*, Ok(vec![lockspace(); 2]));
        assert_eq!(open().get_hosts(name("LS1"), 0)$($wait)*, Ok(Hosts::Known(hosts())));
        assert_eq!(open().status(0)$($wait)*, Ok(records()));
        assert_eq!(open().shutdown(false, false)$($wait)*, Ok(()));
        assert_eq!(open().shutdown(true, true)$($wait)*, Ok(()));
        let mut r = open().register()$($wait)*.unwrap();
        let killpath = KillPath { path: KillText::new("/bin/true").unwrap(), args: KillText::default() };
        assert_eq!(r.killpath(KillPathFlags::PID, killpath)$($wait)*, Ok(()));
        assert_eq!(r.acquire(AcquireFlags::NONE, vec![resource(); 8], options)$($wait)*, Ok(()));
        assert_eq!(r.release(ReleaseFlags::ALL, vec![resource().head])$($wait)*, Ok(0));
        assert_eq!(r.inquire()$($wait)*.map(|answer| answer.count), Ok(1));
        assert_eq!(r.restrict(RestrictFlags::ALL)$($wait)*, Ok(()));
    }};
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn every_call_says_the_same_on_both_faces() {
    let heard = |use_face: &dyn Fn(&Endpoint)| {
        let daemon = Daemon::start(willing);
        use_face(&daemon.endpoint().with_deadline(Duration::from_secs(20)));
        let requests: Vec<Request> = daemon.heard.try_iter().flatten().collect();
        assert_eq!(requests.len(), 29);
        requests
    };
    let blocking = heard(&|endpoint| every_call!(blocking, endpoint, []));
    let asynchronous = heard(&|endpoint| runtime().block_on(async { every_call!(asynchronous, endpoint, [.await]) }));
    for request in &blocking {
        assert!(asynchronous.contains(request), "{request:?}");
    }
    assert!(
        blocking
            .iter()
            .any(|r| matches!(r, Request::Release { flags: ReleaseFlags::ALL, resources, .. } if resources.is_empty()))
    );
    assert!(
        blocking
            .iter()
            .any(|r| matches!(r, Request::Acquire { target: Target::This, resources, .. } if resources.len() == 8))
    );
    assert!(blocking.iter().any(|r| matches!(r, Request::Acquire { target: Target::Pid(77), .. })));
}

#[test]
fn no_daemon_is_told_in_a_sentence_with_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sanlock.sock");
    let error = blocking::Connection::connect(dir.path()).unwrap_err();
    let expected = format!("no daemon at {} (connect: No such file or directory)", socket.display());
    assert_eq!(error.to_string(), expected);
    drop(UnixListener::bind(&socket).unwrap());
    let error = runtime().block_on(async { asynchronous::Connection::connect(dir.path()).unwrap_err() });
    assert_eq!(error.to_string(), format!("no daemon at {} (connect: Connection refused)", socket.display()));
    let long = "x".repeat(120);
    let error = blocking::Connection::connect(format!("/tmp/{long}")).unwrap_err();
    assert!(matches!(error, ClientError::PathTooLong { found: 138, .. }), "{error}");
}

#[test]
fn a_refusal_names_the_call_and_the_code() {
    let daemon = Daemon::start(|message| {
        let code = if message.command == protocol::Command::InqLockspace { -115 } else { -243 };
        Act::Answer(Reply::Result(ResultCode::new(code)).encode(&message.header))
    });
    let mut connection = daemon.open();
    let error = connection.acquire(Target::This, AcquireFlags::NONE, vec![resource()], Options::default()).unwrap_err();
    assert_eq!(error.refusal(), Some(ResultCode::HELD_BY_LIVE_HOST));
    assert!(error.to_string().starts_with("acquire refused by the daemon at /"), "{error}");
    let presence = connection.inq_lockspace(InqLockspaceFlags::NONE, lockspace());
    assert_eq!(presence, Ok(LockspacePresence::Changing), "the connection is in step after a refusal");
}

#[test]
fn a_failed_read_still_carries_its_structure_and_is_a_refusal() {
    let daemon = Daemon::start(|message| {
        let result = ResultCode::LEADER_MAGIC;
        Act::Answer(Reply::Resource { result, resource: resource().head }.encode(&message.header))
    });
    let mut connection = daemon.open();
    for _ in 0..2 {
        assert_eq!(connection.read_resource(resource()).unwrap_err().refusal(), Some(ResultCode::LEADER_MAGIC));
    }
}

#[test]
fn hosts_that_are_not_known_yet_are_an_answer_and_not_an_error() {
    let daemon = Daemon::start(|message| {
        Act::Answer(Reply::Hosts { result: ResultCode::EAGAIN, hosts: vec![] }.encode(&message.header))
    });
    assert_eq!(daemon.open().get_hosts(name("LS1"), 0), Ok(Hosts::NotYet));
}

#[test]
fn a_silent_daemon_is_given_up_on_at_the_deadline() {
    let daemon = Daemon::start(silent);
    let endpoint = daemon.endpoint().with_deadline(Duration::from_millis(20));
    let error = blocking::Connection::open(&endpoint).unwrap().holdfast_status().unwrap_err();
    assert!(matches!(error, ClientError::Deadline { call: "holdfast_status", .. }), "{error}");
    let error = runtime()
        .block_on(async { asynchronous::Connection::open(&endpoint).unwrap().explain(resource()).await })
        .unwrap_err();
    assert!(matches!(error, ClientError::Deadline { call: "explain", .. }), "{error}");
}

#[test]
fn a_daemon_that_accepts_nobody_is_given_up_on_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join("sanlock.sock")).unwrap();
    let endpoint = Endpoint::new(dir.path()).with_deadline(Duration::from_millis(20));
    let mut waiting = Vec::new();
    let error = loop {
        match blocking::Connection::open(&endpoint) {
            Ok(connection) => waiting.push(connection),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100_000, "the backlog never fills");
    };
    assert!(matches!(error, ClientError::Deadline { call: "connect", .. }), "{error}");
}

#[test]
fn a_daemon_that_goes_away_is_an_error_and_no_signal() {
    let daemon = Daemon::start(deserting);
    let mut connection = daemon.open();
    let error = connection.version().unwrap_err();
    assert!(matches!(error, ClientError::Closed { call: "version", found: 0, expected: 32, .. }), "{error}");
    let error = connection.version().unwrap_err();
    assert!(matches!(error, ClientError::Socket { operation: "send", .. }), "{error}");
    assert!(error.to_string().ends_with("failed: Broken pipe"), "{error}");
}

#[test]
fn an_answer_cut_short_or_to_something_else_is_told_as_such() {
    let cut = Daemon::start(|message| {
        let whole = Reply::Lockspaces { result: ResultCode::OK, lockspaces: vec![lockspace()] }.encode(&message.header);
        Act::Answer(whole[..500].to_vec())
    });
    let error = cut.open().get_lockspaces().unwrap_err();
    assert!(matches!(error, ClientError::Closed { found: 468, expected: 1104, .. }), "{error}");

    let other = Daemon::start(|_| {
        let asked = Header::request(protocol::Command::Acquire);
        Act::Answer(Reply::Result(ResultCode::OK).encode(&asked))
    });
    let error = other.open().version().unwrap_err();
    assert!(error.to_string().ends_with("sent a wrong answer: reply is for command 7, expected 28"), "{error}");

    let broken = Daemon::start(|message| {
        let mut bytes = Reply::Stream { result: ResultCode::OK }.encode(&message.header);
        bytes.extend([1, 0, 0, 0]);
        Act::Answer(bytes)
    });
    let error = broken.open().status(0).unwrap_err();
    assert!(error.to_string().contains("4 bytes of its 80-byte head"), "{error}");
}

/// Which socket a descriptor of a process is, if it is open there.
fn socket_of(pid: u32, fd: i32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()
}

#[test]
fn a_registered_connection_survives_exec_only_when_asked_to_and_then_ends_with_the_program() {
    let daemon = Daemon::start(willing);
    let spawn = || Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let registered = daemon.open().register().unwrap();
    let fd = registered.as_fd().as_raw_fd();
    let ours = socket_of(std::process::id(), fd);
    assert!(ours.is_some());

    let mut without = spawn();
    assert_ne!(socket_of(without.id(), fd), ours, "closed on exec unless asked");
    drop(without.stdin.take());
    without.wait().unwrap();

    registered.inherit_on_exec().unwrap();
    let mut heir = spawn();
    assert_eq!(socket_of(heir.id(), fd), ours);
    drop(OwnedFd::from(registered));
    assert_eq!(daemon.heard.recv().unwrap(), Some(Request::Register));
    assert!(daemon.heard.try_recv().is_err(), "the program still holds the connection");
    drop(heir.stdin.take());
    heir.wait().unwrap();
    assert_eq!(daemon.heard.recv().unwrap(), None, "with the program the connection ends");
}

#[test]
fn an_asynchronous_connection_gives_out_a_blocking_descriptor() {
    let daemon = Daemon::start(willing);
    let registered =
        runtime().block_on(async { asynchronous::Connection::open(&daemon.endpoint())?.register().await }).unwrap();
    let runtime = runtime();
    let _inside = runtime.enter();
    let fd = OwnedFd::try_from(registered).unwrap();
    let mut stream = UnixStream::from(fd);
    stream.write_all(&Request::Version.encode()).unwrap();
    let mut answer = [0; 32];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(Header::decode(&answer).data2, 0x0308_0500);
}

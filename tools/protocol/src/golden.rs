//! The golden vectors V1 to V20 of the protocol specification (A 16), captured between the real library and the real
//! daemon: every one decodes to what it says and encodes to the same bytes.
//!
//! A vector is written as it stands there: hex bytes, spaces for the eye, `[00*k]` for k zero bytes.

use crate::command::*;
use crate::framing::{Incoming, RequestReader};
use crate::header::{HEADER_SIZE, Header};
use crate::payload::*;
use crate::reply::{Reply, ReplyPayload};
use crate::request::{Request, Target};
use crate::state::{StateKind, StateRecord, StateText};
use crate::text::{DiskPath, KillText, Name48};
use crate::{ResultCode, strings};

/// Magic and version, with which every header begins.
const H: &str = "10202804 01000000";
const LS1: &str = "4c5331 [00*45]";
const R1: &str = "5231 [00*46]";
const RES: &str = "2f6465762f73632f726573 [00*1013]";

fn bytes(vector: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for word in vector.split([' ', '|']).filter(|word| !word.is_empty()) {
        if let Some(count) = word.strip_prefix("[00*").and_then(|rest| rest.strip_suffix(']')) {
            out.resize(out.len() + count.parse::<usize>().unwrap(), 0);
            continue;
        }
        assert!(word.len() % 2 == 0, "{word}");
        out.extend((0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()));
    }
    out
}

fn name(text: &str) -> Name48 {
    Name48::new(text).unwrap()
}

fn disk(path: &str, offset: u64) -> Disk {
    Disk::new(DiskPath::new(path).unwrap(), offset)
}

/// Resource `name` of LS1 with these flags, on /dev/sc/res at this offset.
fn on_res(resource: &str, flags: LeaseFlags, offset: u64) -> Resource {
    let head = ResourceHead { flags, ..ResourceHead::named(name("LS1"), name(resource)) };
    Resource::new(head, vec![disk("/dev/sc/res", offset)])
}

/// Both directions of a request.
fn client_sends(vector: &str, request: &Request) {
    let sent = bytes(vector);
    assert_eq!(request.encode(), sent, "encoded");
    assert_eq!(decoded(&sent), *request, "decoded");
}

fn decoded(sent: &[u8]) -> Request {
    let mut reader = RequestReader::new();
    reader.push(sent);
    let Some(Incoming::Request(message)) = reader.next() else { panic!("not a request") };
    assert_eq!((reader.next(), reader.eof()), (None, None));
    message.request
}

/// Both directions of a reply to the request that `vector` begins with.
fn daemon_sends(request: &str, vector: &str, reply: &Reply) {
    let sent = bytes(vector);
    let asked = Header::decode(bytes(request).first_chunk().unwrap());
    assert_eq!(reply.encode(&asked), sent, "encoded");
    let header = Header::decode(sent.first_chunk().unwrap());
    let command = asked.command().unwrap();
    let payload = &sent[HEADER_SIZE..];
    if let ReplyPayload::Exact(size) = ReplyPayload::of(command, &header).unwrap() {
        assert_eq!(size, payload.len());
    }
    assert_eq!(Reply::decode(command, &header, payload).as_ref(), Ok(reply), "decoded");
}

fn result(code: i32) -> Reply {
    Reply::Result(ResultCode::new(code))
}

#[test]
fn v1_version() {
    let ask = format!("{H} 1c000000 00000000 20000000 00000000 00000000 00000000");
    client_sends(&ask, &Request::Version);
    let answer = format!("{H} 1c000000 00000000 20000000 00000000 00000000 00050803");
    daemon_sends(&ask, &answer, &Reply::Version { version: 0x0308_0500 });
}

#[test]
fn v2_add_lockspace_and_v3_inq_lockspace() {
    let payload = format!("{LS1} | 02 [00*7] | 00000000 00000000 | 2f6465762f73632f6c7331 [00*1013] | [00*16]");
    let lockspace = Lockspace::new(name("LS1"), 2, disk("/dev/sc/ls1", 0));
    for (wire, flags) in [("00000000", AddLockspaceFlags::NONE), ("01000000", AddLockspaceFlags::ASYNC)] {
        let ask = format!("{H} 02000000 {wire} 70040000 00000000 02000000 00000000 {payload}");
        client_sends(&ask, &Request::AddLockspace { flags, io_timeout: 2, lockspace: lockspace.clone() });
        for (data, code) in [("00000000", 0), ("8dffffff", -115), ("efffffff", -17)] {
            daemon_sends(&ask, &format!("{H} 02000000 {wire} 20000000 00000000 {data} 00000000"), &result(code));
        }
    }
    let ask = format!("{H} 10000000 00000000 70040000 00000000 00000000 00000000 {payload}");
    client_sends(&ask, &Request::InqLockspace { flags: InqLockspaceFlags::NONE, lockspace });
    let answer = format!("{H} 10000000 00000000 20000000 00000000 8dffffff 00000000");
    daemon_sends(&ask, &answer, &Reply::Result(ResultCode::EINPROGRESS));
}

#[test]
fn v4_register_and_inquire_nothing() {
    client_sends(&format!("{H} 01000000 00000000 20000000 00000000 00000000 00000000"), &Request::Register);
    let ask = format!("{H} 09000000 00000000 20000000 00000000 00000000 ffffffff");
    client_sends(&ask, &Request::Inquire { target: Target::This });
    let answer = format!("{H} 09000000 00000000 20000000 00000000 00000000 00000000");
    daemon_sends(&ask, &answer, &Reply::Inquire { result: ResultCode::OK, count: 0, state: vec![] });
}

#[test]
fn v5_acquire_one() {
    let ask = format!(
        "{H} 07000000 00000000 e8040000 00000000 01000000 ffffffff
        {LS1} | {R1} | [00*8] [00*8] [00*4] [00*4] | 00000000 | 01000000 {RES} | [00*8] [00*8] [00*56]"
    )
    .replace('\n', " ");
    let request = Request::Acquire {
        flags: AcquireFlags::NONE,
        target: Target::This,
        resources: vec![on_res("R1", LeaseFlags::NONE, 0)],
        options: Options::default(),
    };
    client_sends(&ask, &request);
    for (data, code) in [("00000000", 0), ("efffffff", -17)] {
        daemon_sends(&ask, &format!("{H} 07000000 00000000 20000000 00000000 {data} 00000000"), &result(code));
    }
}

#[test]
fn v6_acquire_two_and_v7_inquire_them() {
    let ask = format!(
        "{H} 07000000 00000000 78090000 00000000 02000000 ffffffff \
         {LS1} 5231 [00*74] 01000000 2f6465762f73632f726573 [00*1029] \
         {LS1} 5232 [00*70] 04000000 01000000 {RES} 0000100000000000 [00*8] 6d79766d [00*52]"
    );
    let mut resources = vec![on_res("R1", LeaseFlags::NONE, 0), on_res("R2", LeaseFlags::SHARED, 1 << 20)];
    let request = Request::Acquire {
        flags: AcquireFlags::NONE,
        target: Target::This,
        resources: resources.clone(),
        options: Options { owner_name: name("myvm"), ..Options::default() },
    };
    client_sends(&ask, &request);

    resources[0].head.lver = 2;
    let state = strings::print_state(&resources);
    assert_eq!(state, b"LS1:R1:/dev/sc/res:0:2 LS1:R2:/dev/sc/res:1048576:SH");
    let ask = format!("{H} 09000000 00000000 20000000 00000000 00000000 ffffffff");
    let answer = format!(
        "{H} 09000000 00000000 55000000 00000000 00000000 02000000 \
         4c53313a52313a2f6465762f73632f7265733a303a32204c53313a52323a2f6465762f73632f7265733a313034383537363a534800"
    );
    daemon_sends(&ask, &answer, &Reply::Inquire { result: ResultCode::OK, count: 2, state });

    let by_pid = format!("{H} 09000000 00000000 20000000 00000000 00000000 09280000");
    client_sends(&by_pid, &Request::Inquire { target: Target::Pid(0x2809) });
    let unknown = format!("{H} 09000000 00000000 20000000 00000000 fdffffff 00000000");
    daemon_sends(&by_pid, &unknown, &Reply::Inquire { result: ResultCode::ESRCH, count: 0, state: vec![] });
}

#[test]
fn v8_convert_and_release() {
    let ask = format!("{H} 1b000000 00000000 a0000000 00000000 00000000 ffffffff {LS1} 5232 [00*78]");
    let resource = ResourceHead::named(name("LS1"), name("R2"));
    client_sends(&ask, &Request::Convert { flags: AcquireFlags::NONE, target: Target::This, resource });
    for (data, code) in [("00000000", 0), ("8effffff", -114)] {
        daemon_sends(&ask, &format!("{H} 1b000000 00000000 20000000 00000000 {data} 00000000"), &result(code));
    }

    let ask = format!("{H} 08000000 00000000 a0000000 00000000 01000000 ffffffff {LS1} 5231 [00*74] 01000000");
    let heads = vec![on_res("R1", LeaseFlags::NONE, 0).head];
    client_sends(&ask, &Request::Release { flags: ReleaseFlags::NONE, target: Target::This, resources: heads });
    for (data, code) in [("00000000", 0), ("ffffffff", -1)] {
        daemon_sends(&ask, &format!("{H} 08000000 00000000 20000000 00000000 {data} 00000000"), &result(code));
    }

    let ask = format!("{H} 08000000 01000000 20000000 00000000 00000000 ffffffff");
    client_sends(&ask, &Request::Release { flags: ReleaseFlags::ALL, target: Target::This, resources: vec![] });
    daemon_sends(&ask, &format!("{H} 08000000 01000000 20000000 00000000 00000000 00000000"), &result(0));
}

#[test]
fn v9_status() {
    let ask = format!("{H} 05000000 00000000 20000000 00000000 00000000 00000000");
    client_sends(&ask, &Request::Status { stop_after: 0 });
    daemon_sends(&ask, &ask, &Reply::Stream { result: ResultCode::OK });

    let filler = |len: usize| StateText::from_raw([vec![b'x'; len - 1], vec![0]].concat());
    let text = |len: usize| format!("{}00", "78".repeat(len - 1));
    let mut lockspace = Lockspace::new(name("LS1"), 1, disk("/dev/sc/ls1", 0));
    (lockspace.disk.pad1, lockspace.disk.pad2) = (512, 11);
    let mut resource = on_res("R1", LeaseFlags::NONE, 0);
    (resource.disks[0].pad1, resource.disks[0].pad2) = (512, u32::MAX);
    let records = [
        StateRecord::daemon(name("hostA"), filler(504)),
        StateRecord::client(-1, name("helper"), filler(120)),
        StateRecord::client(11380, name("myvm"), filler(123)),
        StateRecord::lockspace(lockspace, filler(387)),
        StateRecord::resource(11380, 2, resource, filler(89)),
    ];
    let stream = [
        format!("01 [00*23] 686f737441 [00*43] f8010000 00000000 {}", text(504)),
        format!("0200000000000000 ffffffff [00*12] 68656c706572 [00*42] 78000000 00000000 {}", text(120)),
        format!("0200000000000000 742c0000 [00*12] 6d79766d [00*44] 7b000000 00000000 {}", text(123)),
        format!("03 [00*15] 0100000000000000 {LS1} 83010000 00000000 {}", text(387)),
        format!("{LS1} 01 [00*15] 2f6465762f73632f6c7331 [00*1021] 00020000 0b000000"),
        format!("0400000000000000 742c0000 00000000 0200000000000000 {R1} 59000000 00000000 {}", text(89)),
        format!("{LS1} 5231 [00*74] 01000000 2f6465762f73632f726573 [00*1021] 00020000 ffffffff"),
    ];
    let stream = bytes(&stream.join(" "));
    let mut encoded = Vec::new();
    records.iter().for_each(|record| record.encode(&mut encoded));
    assert_eq!(encoded, stream);
    assert_eq!(StateRecord::decode_stream(&stream).as_deref(), Ok(records.as_slice()));
    assert_eq!(records[1].pid(), -1);
}

#[test]
fn v10_host_status_says_length_32_and_sends_1104_more() {
    let ask = format!("{H} 0f000000 00000000 20000000 00000000 00000000 00000000 4c5331 [00*1101]");
    let sent = bytes(&ask);
    let lockspace = Lockspace::new(name("LS1"), 0, Disk::default());
    assert_eq!(decoded(&sent), Request::HostStatus { lockspace });
    for (data, code) in [("00000000", 0), ("e4ffffff", -28)] {
        let answer = format!("{H} 0f000000 00000000 20000000 00000000 {data} 00000000");
        daemon_sends(&ask, &answer, &Reply::Stream { result: ResultCode::new(code) });
    }
    let text = StateText::from_pairs([
        ("last_check", "851"),
        ("last_live", "851"),
        ("last_req", "0"),
        ("owner_id", "1"),
        ("owner_generation", "1"),
        ("timestamp", "846"),
        ("io_timeout", "2"),
        ("owner_name", "hostA"),
    ]);
    assert!(text.pairs().iter().map(|(key, _)| key.as_str()).eq(StateKind::Host.keys().iter().copied()));
    let mut want = bytes("0500000000000000 01000000 00000000 4e03000000000000 [00*48] 72000000 00000000");
    want.extend_from_slice(
        b"last_check=851 last_live=851 last_req=0 owner_id=1 owner_generation=1 timestamp=846 io_timeout=2 owner_name=hostA\0",
    );
    let record = StateRecord::host(1, 846, text);
    let mut out = Vec::new();
    record.encode(&mut out);
    assert_eq!(out, want);
    assert_eq!(StateRecord::decode_stream(&want), Ok(vec![record]));
}

#[test]
fn v11_get_hosts() {
    let ask = format!("{H} 17000000 00000000 70040000 00000000 00000000 00000000 4c5331 [00*1101]");
    client_sends(&ask, &Request::GetHosts { lockspace: Lockspace::new(name("LS1"), 0, Disk::default()) });
    let answer = format!(
        "{H} 17000000 00000000 60000000 00000000 00000000 02000000 \
         0100000000000000 0100000000000000 4e03000000000000 02000000 03000000 \
         0200000000000000 0100000000000000 4f03000000000000 02000000 03000000"
    );
    let host = |host_id, timestamp| Host { host_id, generation: 1, timestamp, io_timeout: 2, flags: 3 };
    let hosts = vec![host(1, 846), host(2, 847)];
    assert!(hosts.iter().all(|host| host.state() == Some(HostState::Live)));
    daemon_sends(&ask, &answer, &Reply::Hosts { result: ResultCode::OK, hosts });
    let early = format!("{H} 17000000 00000000 20000000 00000000 f5ffffff 00000000");
    daemon_sends(&ask, &early, &Reply::Hosts { result: ResultCode::EAGAIN, hosts: vec![] });
}

#[test]
fn v12_request() {
    let ask = format!(
        "{H} 0b000000 01000000 b0040000 00000000 02000000 00000000 {LS1} 5231 [00*74] 01000000 \
         2f6465762f73632f726573 [00*1029]"
    );
    let resource = on_res("R1", LeaseFlags::NONE, 0);
    client_sends(&ask, &Request::AskOwner { flags: RequestFlags::NEXT_LVER, force_mode: 2, resource });
    daemon_sends(&ask, &format!("{H} 0b000000 01000000 20000000 00000000 00000000 00000000"), &result(0));
}

#[test]
fn v13_events() {
    let event = HostEvent { host_id: 1, generation: 1, event: 5, data: 7 };
    for (number, tail, event) in [
        ("1e000000", "[00*32]", HostEvent::default()),
        ("20000000", "0100000000000000 0100000000000000 0500000000000000 0700000000000000", event),
    ] {
        let ask = format!("{H} {number} 00000000 90040000 00000000 00000000 00000000 4c5331 [00*1101] {tail}");
        let lockspace = Lockspace::new(name("LS1"), 0, Disk::default());
        let request = match number {
            "1e000000" => Request::RegEvent { lockspace, event },
            _ => Request::SetEvent { flags: SetEventFlags::NONE, lockspace, event },
        };
        client_sends(&ask, &request);
        for (data, code) in [("00000000", 0), ("f0ffffff", -16)] {
            daemon_sends(&ask, &format!("{H} {number} 00000000 20000000 00000000 {data} 00000000"), &result(code));
        }
    }
    let told = "10202804 01000000 01000000 00000000 50000000 00000000 00000000 00000000 \
                0100000000000000 0100000000000000 0500000000000000 0700000000000000 0200000000000000 0100000000000000";
    assert_eq!(EventCallback { event, from_host_id: 2, from_generation: 1 }.encode(), bytes(told));
    let ask = format!("{H} 1f000000 00000000 70040000 00000000 00000000 00000000 4c5331 [00*1101]");
    assert!(matches!(decoded(&bytes(&ask)), Request::EndEvent { .. }));
    daemon_sends(&ask, &format!("{H} 1f000000 00000000 20000000 00000000 00000000 00000000"), &result(0));
}

#[test]
fn v14_restrict_and_killpath() {
    let ask = format!("{H} 0a000000 02000000 20000000 00000000 00000000 ffffffff");
    client_sends(&ask, &Request::Restrict { flags: RestrictFlags::SIGKILL });
    daemon_sends(&ask, &format!("{H} 0a000000 02000000 20000000 00000000 00000000 00000000"), &result(0));

    let ask = format!(
        "{H} 11000000 01000000 20010000 00000000 00000000 ffffffff 2f6465762f73632f6b702e7368 [00*115] \
         6f6e652074776f [00*121]"
    );
    let killpath = KillPath { path: KillText::new("/dev/sc/kp.sh").unwrap(), args: KillText::new("one two").unwrap() };
    client_sends(&ask, &Request::KillPath { flags: KillPathFlags::PID, killpath });
    daemon_sends(&ask, &format!("{H} 11000000 01000000 20000000 00000000 00000000 00000000"), &result(0));
}

#[test]
fn v15_lvmlockd_acquire_and_value() {
    let ask = format!(
        "{H} 07000000 09000000 e8040000 00000000 01000000 ffffffff {LS1} 5231 [00*70] 08000000 01000000 \
         2f6465762f73632f726573 [00*1029] 6c766d6c6f636b64 [00*48]"
    );
    let request = Request::Acquire {
        flags: AcquireFlags::LVB | AcquireFlags::OWNER_NOWAIT,
        target: Target::This,
        resources: vec![on_res("R1", LeaseFlags::PERSISTENT, 0)],
        options: Options { owner_name: name("lvmlockd"), ..Options::default() },
    };
    client_sends(&ask, &request);

    let ask =
        format!("{H} 19000000 00000000 b0000000 00000000 00000000 00000000 {LS1} {R1} [00*32] {}", "ab".repeat(16));
    let sent = bytes(&ask);
    let mut head = &sent[32..];
    let resource = ResourceHead::split_from(&mut head).unwrap();
    client_sends(&ask, &Request::SetLvb { resource, value: vec![0xab; 16] });
    let ask = format!("{H} 1a000000 00000000 a0000000 00000000 00000000 00000000 {LS1} {R1} [00*32]");
    assert!(matches!(decoded(&bytes(&ask)), Request::GetLvb { length: 0, .. }));
    let answer = format!("{H} 1a000000 00000000 20020000 00000000 00000000 00000000 {} [00*496]", "ab".repeat(16));
    let payload = [vec![0xab; 16], vec![0; 496]].concat();
    daemon_sends(&ask, &answer, &Reply::Other { result: ResultCode::OK, data2: 0, payload });
}

#[test]
fn v16_read_resource_and_v17_read_lockspace() {
    let ask = format!(
        "{H} 15000000 00000000 b0040000 00000000 00000000 00000000 [00*120] 10010000 01000000 \
         2f6465762f73632f726573 [00*1029]"
    );
    let geometry = LeaseFlags::ALIGN_1M | LeaseFlags::SECTOR_512;
    let head = ResourceHead { flags: geometry, ..ResourceHead::default() };
    client_sends(&ask, &Request::ReadResource { resource: Resource::new(head, vec![disk("/dev/sc/res", 0)]) });
    let answer =
        format!("{H} 15000000 00000000 a0000000 00000000 00000000 00000000 {LS1} {R1} 05 [00*23] 10010000 01000000");
    let mut resource = on_res("R1", geometry, 0).head;
    resource.lver = 5;
    daemon_sends(&ask, &answer, &Reply::Resource { result: ResultCode::OK, resource });

    let ask =
        format!("{H} 14000000 00000000 70040000 00000000 00000000 00000000 [00*64] 2f6465762f73632f6c7331 [00*1029]");
    let mut lockspace = Lockspace::new(Name48::EMPTY, 0, disk("/dev/sc/ls1", 0));
    client_sends(&ask, &Request::ReadLockspace { lockspace: lockspace.clone() });
    let answer = format!(
        "{H} 14000000 00000000 70040000 00000000 00000000 02000000 {LS1} 01 [00*7] 10010000 00000000 \
         2f6465762f73632f6c7331 [00*1029]"
    );
    lockspace.name = name("LS1");
    lockspace.host_id = 1;
    lockspace.flags = LockspaceFlags::ALIGN_1M | LockspaceFlags::SECTOR_512;
    daemon_sends(&ask, &answer, &Reply::Lockspace { result: ResultCode::OK, io_timeout: 2, lockspace });
}

#[test]
fn v18_read_resource_owners() {
    let ask = format!("{H} 18000000 00000000 b0040000 00000000 00000000 00000000");
    let body =
        format!("{LS1} 5231 [00*46] 01 [00*7] [00*24] 0100000000000000 0100000000000000 ff02000000000000 [00*8]");
    let answer = format!("{H} 18000000 00000000 c0000000 00000000 00000000 01000000 {body}");
    let payload = bytes(&body);
    let mut rest = payload.as_slice();
    assert_eq!(ResourceHead::split_from(&mut rest).unwrap().lver, 1);
    let owner = Host { host_id: 1, generation: 1, timestamp: 767, io_timeout: 0, flags: 0 };
    assert_eq!(Host::split_from(&mut rest), Some(owner));
    daemon_sends(&ask, &answer, &Reply::Other { result: ResultCode::OK, data2: 1, payload: payload.clone() });
}

#[test]
fn v19_lookup_rindex_announces_96_bytes_too_many() {
    let body = format!("[00*16] {LS1} {RES} 0000100000000000 [00*8] 72657341 [00*60]");
    let ask = format!("{H} 25000000 00000000 f0040000 00000000 00000000 00000000 {body}");
    let index = Rindex { lockspace_name: name("LS1"), disk: disk("/dev/sc/res", 1 << 20), ..Rindex::default() };
    let mut entry = RindexEntry { name: name("resA"), ..RindexEntry::default() };
    let (command, flags, hosts) = (Command::LookupRindex, RindexFlags::NONE, (0, 0));
    assert_eq!(decoded(&bytes(&ask)), Request::RindexEntry { command, flags, hosts, index, entry });
    let answer =
        format!("{H} 25000000 00000000 60000000 00000000 00000000 00000000 72657341 [00*44] 0000300000000000 [00*8]");
    entry.offset = 3 << 20;
    let mut payload = Vec::new();
    entry.encode(&mut payload);
    daemon_sends(&ask, &answer, &Reply::Other { result: ResultCode::OK, data2: 0, payload });
}

#[test]
fn v20_shutdown_wait() {
    let ask = format!("{H} 1d000000 00000000 20000000 00000000 01000000 00000000");
    client_sends(&ask, &Request::ShutdownWait { force: true });
    let answer = format!("{H} 00000000 00000000 20000000 00000000 00000000 00000000");
    daemon_sends(&ask, &answer, &Reply::ShutdownDone);
    let busy = format!("{H} 1d000000 00000000 20000000 00000000 f0ffffff 00000000");
    daemon_sends(&ask, &busy, &result(-16));
}

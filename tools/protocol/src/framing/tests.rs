//! Framing: what each command needs, what is refused, and that the cut of the stream changes nothing.

use super::*;
use crate::command::{AcquireFlags, WriteResourceFlags};
use crate::payload::Resource;
use crate::request::Target;
use crate::testing;
use proptest::prelude::*;

fn all(reader: &mut RequestReader) -> Vec<Incoming> {
    std::iter::from_fn(|| reader.next()).collect()
}

fn read(bytes: &[u8]) -> Vec<Incoming> {
    let mut reader = RequestReader::new();
    reader.push(bytes);
    all(&mut reader)
}

fn raw(command: Command, change: impl FnOnce(&mut Header), payload: &[u8]) -> Vec<u8> {
    let mut header = Header { length: 32 + u32::try_from(payload.len()).unwrap(), ..Header::request(command) };
    change(&mut header);
    [header.encode().as_slice(), payload].concat()
}

fn head(num_disks: u32) -> Vec<u8> {
    let mut out = Vec::new();
    ResourceHead { num_disks, ..ResourceHead::default() }.encode(&mut out);
    out
}

fn version() -> Vec<u8> {
    Request::Version.encode()
}

fn is_version(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Request(Message { request: Request::Version, .. }))
}

fn refusal(incoming: &Incoming) -> &Refusal {
    match incoming {
        Incoming::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Payload bytes of the commands whose size is fixed (A 5).
const FIXED: &[(u32, usize)] = &[
    (1, 0),
    (2, 1104),
    (3, 1104),
    (4, 0),
    (5, 0),
    (6, 0),
    (9, 0),
    (10, 0),
    (12, 1040),
    (13, 1104),
    (14, 128),
    (15, 1104),
    (16, 1104),
    (17, 256),
    (18, 1104),
    (20, 1104),
    (22, 0),
    (23, 1104),
    (26, 128),
    (27, 128),
    (28, 0),
    (29, 0),
    (30, 1136),
    (31, 1104),
    (32, 1136),
    (33, 1104),
    (34, 1104),
    (35, 1104),
    (36, 1168),
    (37, 1168),
    (38, 1168),
    (39, 1168),
    (40, 1104),
    (0x4846_0002, 0),
    (0x4846_0003, 1152),
];

#[test]
fn payload_size_follows_from_the_command_whatever_length_says() {
    for (number, size) in FIXED {
        let command = Command::from_number(*number).unwrap();
        for length in [0, 32, 1264, u32::MAX] {
            let mut bytes = raw(command, |h| h.length = length, &vec![0; *size]);
            bytes.extend(version());
            let got = read(&bytes);
            assert_eq!(got.len(), 2, "{}", command.name());
            assert!(matches!(&got[0], Incoming::Request(m) if m.command == command));
            assert!(is_version(&got[1]), "{}", command.name());
        }
    }
}

#[test]
fn a_payload_cut_short_is_answered_enotconn_with_the_structure_its_reply_has() {
    for (number, size) in FIXED.iter().filter(|(_, size)| *size > 0) {
        let command = Command::from_number(*number).unwrap();
        let mut reader = RequestReader::new();
        reader.push(&raw(command, |_| {}, &vec![7; size - 1]));
        assert_eq!(reader.next(), None);
        let end = reader.eof().unwrap();
        let refused = refusal(&end);
        assert_eq!((refused.code, refused.command), (ResultCode::ENOTCONN, command));
        let tail = match number {
            20 => 1104,
            36..=39 => 64,
            _ => 0,
        };
        let reply = refused.encode();
        assert_eq!(reply.len(), 32 + tail, "{}", command.name());
        assert_eq!(&reply[16..20], u32::try_from(32 + tail).unwrap().to_le_bytes());
        assert_eq!(&reply[24..28], (-107_i32).to_le_bytes());
        assert_eq!(reader.eof(), None, "it is answered once");
    }
    let mut reader = RequestReader::new();
    reader.push(&raw(Command::ReadResource, |_| {}, &head(1)));
    assert_eq!((reader.next(), refusal(&reader.eof().unwrap()).encode().len()), (None, 160));
}

#[test]
fn the_end_of_the_stream_between_requests_or_inside_a_header_is_silent() {
    let mut reader = RequestReader::new();
    assert_eq!(reader.eof(), None);
    reader.push(&version()[..31]);
    assert_eq!((reader.next(), reader.eof()), (None, None));
}

#[test]
fn bad_magic_version_and_command_are_swallowed_and_the_connection_goes_on() {
    let mut bytes = raw(Command::Status, |h| h.magic = 1, &[]);
    bytes.extend(raw(Command::Status, |h| h.version = 0x1_0000, &[]));
    bytes.extend(raw(Command::Status, |h| h.cmd = 99, &[]));
    bytes.extend(raw(Command::Version, |h| h.version = 0x2_0000, &[]));
    let got = read(&bytes);
    let why = |at: usize| match &got[at] {
        Incoming::Ignored { why, .. } => *why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(0), HeaderFault::Magic { found: 1 });
    assert_eq!(why(1), HeaderFault::Version { found: 0x1_0000 });
    assert_eq!(why(2), HeaderFault::UnknownCommand { found: 99 });
    assert!(is_version(&got[3]));
}

#[test]
fn after_restrict_all_every_header_is_ignored() {
    let mut reader = RequestReader::new();
    reader.push(&[version(), version()].concat());
    assert!(is_version(&reader.next().unwrap()));
    reader.restrict_all();
    assert!(matches!(reader.next(), Some(Incoming::Ignored { why: HeaderFault::Restricted, .. })));
    assert_eq!((reader.next(), reader.eof()), (None, None));
}

#[test]
fn more_than_eight_resources_are_e2big_and_the_rest_is_thrown_away() {
    let mut bytes = raw(Command::Acquire, |h| (h.data, h.data2) = (9, u32::MAX), &head(0).repeat(9));
    bytes.extend(version());
    let got = read(&bytes);
    assert_eq!((refusal(&got[0]).code, refusal(&got[0]).unread), (ResultCode::E2BIG, 9 * 128));
    assert!(is_version(&got[1]));
    assert_eq!(got.len(), 2);
}

#[test]
fn no_disks_or_five_are_erange_and_the_rest_is_thrown_away() {
    let commands = [
        Command::Request,
        Command::WriteResource,
        Command::ReadResource,
        Command::ReadResourceOwners,
        Command::Explain,
    ];
    for command in commands {
        for disks in [0, 5, u32::MAX] {
            let payload = [head(disks), vec![1; 5 * 1040]].concat();
            let got = read(&[raw(command, |_| {}, &payload), version()].concat());
            let refused = refusal(&got[0]);
            assert_eq!((refused.code, refused.unread), (ResultCode::ERANGE, 5200), "{}", command.name());
            let carries = matches!(command, Command::ReadResource | Command::ReadResourceOwners);
            assert_eq!(refused.echo, if carries { head(disks) } else { vec![] });
            assert!(is_version(&got[1]));
        }
    }
}

/// A sanlock daemon reads the payload of a command it does not know as headers; an incomplete one stops it.
#[test]
fn our_own_commands_are_whole_headers_to_a_daemon_that_does_not_know_them() {
    for disks in 1..=4 {
        let resource = Resource::new(ResourceHead::default(), vec![Disk::default(); disks]);
        let request = Request::Explain { resource };
        let bytes = request.encode();
        assert_eq!(bytes.len() % HEADER_SIZE, 0);
        let got = read(&[bytes, version()].concat());
        assert!(matches!(&got[0], Incoming::Request(message) if message.request == request));
        assert!(is_version(&got[1]));
    }
    assert_eq!(Request::HoldfastStatus.encode().len(), HEADER_SIZE);
    let host = Host { host_id: 3, generation: 5, timestamp: 1000, ..Host::default() };
    let request = Request::ConfirmDead { lockspace: Lockspace::default(), host };
    let bytes = request.encode();
    assert_eq!(bytes.len() % HEADER_SIZE, 0);
    let got = read(&[bytes, version()].concat());
    assert!(matches!(&got[0], Incoming::Request(message) if message.request == request));
    assert!(is_version(&got[1]));
}

#[test]
fn a_bad_second_resource_of_an_acquire_is_refused_where_it_stands() {
    let payload = [head(1), vec![0; 1040], head(0), vec![0; 56]].concat();
    let got = read(&[raw(Command::Acquire, |h| h.data = 2, &payload), version()].concat());
    assert_eq!((refusal(&got[0]).code, refusal(&got[0]).unread), (ResultCode::ERANGE, 56));
    assert!(is_version(&got[1]));
}

#[test]
fn an_acquire_of_nothing_still_has_its_options() {
    let got = read(&[raw(Command::Acquire, |_| {}, &[0; 56]), version()].concat());
    assert!(
        matches!(&got[0], Incoming::Request(Message { request: Request::Acquire { resources, .. }, .. }) if resources.is_empty())
    );
    assert!(is_version(&got[1]));
}

#[test]
fn release_counts_by_its_flags_as_sanlock_does() {
    for (flags, data, heads) in [(0, 3, 3), (0, 0, 0), (0, 9, 9), (1, 5, 0), (2, 1, 2), (4, 0, 1), (4, 2, 1), (5, 1, 0)]
    {
        let bytes = raw(Command::Release, |h| (h.cmd_flags, h.data) = (flags, data), &head(1).repeat(heads));
        let got = read(&[bytes, version()].concat());
        assert!(
            matches!(&got[0], Incoming::Request(Message { request: Request::Release { resources, .. }, .. }) if resources.len() == heads),
            "{flags} {data}"
        );
        assert!(is_version(&got[1]));
    }
    let got = read(&[raw(Command::Release, |h| h.data = 257, &head(1).repeat(257)), version()].concat());
    assert_eq!(refusal(&got[0]).code, ResultCode::E2BIG);
    assert!(is_version(&got[1]));
}

#[test]
fn only_the_value_of_set_lvb_is_sized_by_length() {
    for value in [0, 1, 16, 4096] {
        let got = read(&[raw(Command::SetLvb, |_| {}, &[head(1), vec![5; value]].concat()), version()].concat());
        assert!(
            matches!(&got[0], Incoming::Request(Message { request: Request::SetLvb { value: found, .. }, .. }) if found.len() == value)
        );
        assert!(is_version(&got[1]));
    }
    let got = read(&[raw(Command::SetLvb, |_| {}, &[head(1), vec![5; 4097]].concat()), version()].concat());
    assert_eq!((refusal(&got[0]).code, refusal(&got[0]).unread), (ResultCode::E2BIG, 128 + 4097));
    assert!(is_version(&got[1]));
    for length in [0, 31, 40, 159, 0x8000_0000, u32::MAX] {
        let short = raw(Command::SetLvb, |h| h.length = length, &head(1));
        let got = read(&[short, version()].concat());
        assert_eq!((refusal(&got[0]).code, refusal(&got[0]).unread), (ResultCode::ENOMEM, 0), "{length}");
        assert!(is_version(&got[1]), "{length}: nothing but the resource was read");
    }
    let cut = raw(Command::SetLvb, |h| h.length = 0, &[0; 127]);
    assert_eq!(read(&cut).len(), 0, "not before its resource is there");
}

#[test]
fn a_length_that_promised_too_much_can_be_given_up_on() {
    let mut reader = RequestReader::new();
    reader.push(&raw(Command::Acquire, |h| (h.data, h.length) = (9, 99_999), &[0; 100]));
    assert_eq!(refusal(&reader.next().unwrap()).unread, 99_967);
    assert_eq!((reader.next(), reader.discarding()), (None, 99_867));
    reader.stop_discarding();
    reader.push(&version());
    assert!(is_version(&reader.next().unwrap()));
}

#[test]
fn the_largest_request_fits_and_the_reader_always_has_room_for_more() {
    let disk = Disk::default();
    let resource = Resource::new(ResourceHead::default(), vec![disk; 4]);
    let request = Request::Acquire {
        flags: AcquireFlags::NONE,
        target: Target::This,
        resources: vec![resource; 8],
        options: Options::default(),
    };
    let bytes = request.encode();
    assert_eq!((bytes.len(), MAX_MESSAGE), (34_392, 34_392));
    const { assert!(MAX_RELEASE * ResourceHead::SIZE + HEADER_SIZE <= MAX_MESSAGE) };
    let mut reader = RequestReader::new();
    reader.push(&bytes[..bytes.len() - 1]);
    assert_eq!(reader.next(), None);
    assert_eq!(reader.room(), MAX_BUFFERED - (MAX_MESSAGE - 1));
    reader.push(&bytes[bytes.len() - 1..]);
    assert!(matches!(reader.next(), Some(Incoming::Request(_))));
    assert_eq!(reader.room(), MAX_BUFFERED);
}

/// Requests of every typed kind, with every field varied.
fn request() -> impl Strategy<Value = Request> {
    let target = || prop_oneof![Just(Target::This), (0..u32::MAX).prop_map(Target::Pid)];
    prop_oneof![
        (any::<u32>(), any::<u32>(), testing::lockspace(), 0..6).prop_map(
            |(bits, data, lockspace, which)| match which {
                0 => Request::AddLockspace {
                    flags: crate::AddLockspaceFlags::from_bits(bits),
                    io_timeout: data,
                    lockspace
                },
                1 => Request::RemLockspace { flags: crate::RemLockspaceFlags::from_bits(bits), lockspace },
                2 => Request::InqLockspace { flags: crate::InqLockspaceFlags::from_bits(bits), lockspace },
                3 => Request::GetHosts { lockspace },
                4 => Request::ReadLockspace { lockspace },
                _ => Request::WriteLockspace { max_hosts: data, io_timeout: bits, lockspace },
            }
        ),
        (
            any::<u32>(),
            target(),
            proptest::collection::vec(testing::resource(), 0..3),
            testing::name(),
            any::<[u32; 2]>()
        )
            .prop_map(|(bits, target, resources, owner_name, [flags, len])| Request::Acquire {
                flags: AcquireFlags::from_bits(bits),
                target,
                resources,
                options: Options { owner_name, flags, len },
            }),
        (any::<u32>(), target(), proptest::collection::vec(testing::head(), 0..4)).prop_map(
            |(bits, target, resources)| {
                Request::Release { flags: ReleaseFlags::from_bits(bits & !7), target, resources }
            }
        ),
        (any::<u32>(), any::<u32>(), any::<u32>(), testing::resource(), 0..3).prop_map(
            |(bits, n, m, resource, which)| match which {
                0 => Request::ReadResource { resource },
                1 => Request::Explain { resource },
                _ => Request::WriteResource {
                    flags: WriteResourceFlags::from_bits(bits),
                    num_hosts: n,
                    unused: m,
                    resource
                },
            }
        ),
        target().prop_map(|target| Request::Inquire { target }),
        (testing::lockspace(), any::<[u64; 3]>()).prop_map(|(lockspace, [host_id, generation, timestamp])| {
            Request::ConfirmDead { lockspace, host: Host { host_id, generation, timestamp, ..Host::default() } }
        }),
        (any::<u32>(), any::<bool>(), 0..8).prop_map(|(word, force, which)| match which {
            0 => Request::Register,
            1 => Request::Restrict { flags: crate::RestrictFlags::from_bits(word) },
            2 => Request::GetLockspaces,
            3 => Request::Status { stop_after: word },
            4 => Request::Version,
            5 => Request::Shutdown { force },
            6 => Request::ShutdownWait { force },
            _ => Request::HoldfastStatus,
        }),
        (any::<u32>(), proptest::collection::vec(any::<u8>(), 256)).prop_map(|(bits, raw)| Request::KillPath {
            flags: crate::KillPathFlags::from_bits(bits),
            killpath: KillPath::decode(raw.as_slice().try_into().unwrap()),
        }),
    ]
}

/// Streams that keep a reader busy: requests, broken headers, refusals, stray bytes.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let known = (prop::sample::select(Command::ALL), any::<[u32; 4]>(), proptest::collection::vec(0..3_u8, 0..300))
        .prop_map(|(command, [flags, length, data, data2], payload)| {
            let change = |h: &mut Header| {
                (h.cmd_flags, h.length, h.data, h.data2) = (flags % 8, length % 500, data % 12, data2);
            };
            raw(command, change, &payload)
        });
    let piece = prop_oneof![
        3 => request().prop_map(|request| request.encode()),
        2 => known,
        1 => proptest::collection::vec(any::<u8>(), 0..100),
    ];
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_request_decodes_to_what_was_encoded(request in request()) {
        let bytes = request.encode();
        let got = read(&bytes);
        prop_assert_eq!(got.len(), 1);
        let Incoming::Request(message) = &got[0] else { panic!("{:?}", got[0]) };
        prop_assert_eq!(&message.request, &request);
        prop_assert_eq!(usize::try_from(message.header.length).unwrap(), bytes.len());
        prop_assert_eq!(message.command, request.command());
    }

    #[test]
    fn the_cut_of_the_stream_changes_nothing(bytes in stream(), cuts in proptest::collection::vec(1..400_usize, 1..20)) {
        let mut whole = RequestReader::new();
        whole.push(&bytes);
        let mut want = all(&mut whole);
        want.extend(whole.eof());

        let mut reader = RequestReader::new();
        let mut got = Vec::new();
        let mut rest = bytes.as_slice();
        for size in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            prop_assert!(reader.room() > 0);
            reader.push(chunk);
            got.extend(all(&mut reader));
            prop_assert!(reader.pending().len() < MAX_MESSAGE);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        got.extend(reader.eof());
        prop_assert_eq!(got, want);
    }
}

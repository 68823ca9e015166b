//! What comes over sockets: requests to the daemon, its replies, the STATUS stream, the answers of a fake-watchdog
//! and of wdmd.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use holdfast_daemon::watchdog::{Choice, Watchdog};
use holdfast_daemon::wdmd;
use holdfast_io::clock::LocalInstant;
use holdfast_io::sys::watchdog::Seconds;
use holdfast_io::timing::FireTimeout;
use holdfast_protocol::framing::{MAX_BUFFERED, MAX_MESSAGE};
use holdfast_protocol::reply::MAX_REPLY;
use holdfast_protocol::{
    Command, HEADER_SIZE, Header, Incoming, Refusal, Reply, ReplyPayload, Request, RequestReader, RestrictFlags,
    StateRecord,
};

use super::{Input, one_line};

/// One connection's bytes, in one piece and in pieces of other sizes: what comes of them is the same. Input: a seed for
/// the sizes, then the stream.
pub fn requests(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.u32();
    let stream = input.rest();
    let whole = read(stream, || usize::MAX);
    let mut state = u64::from(seed);
    let cut = read(stream, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Mostly small pieces, some of several requests.
        let bits = usize::try_from(state >> 40).unwrap_or(0);
        1 + if bits & 7 == 0 { bits % 9000 } else { bits % 67 }
    });
    assert_eq!(whole, cut, "how a stream is cut changes nothing");
    for incoming in &whole {
        match incoming {
            Incoming::Request(message) => said_again(message.command, &message.request),
            Incoming::Ignored { why, .. } => one_line(why),
            Incoming::Refused(refusal) => refused(refusal),
        }
    }
}

/// What a connection's stream brings, read as the daemon reads it: no more than there is room for at a time.
fn read(stream: &[u8], mut piece: impl FnMut() -> usize) -> Vec<Incoming> {
    let (mut reader, mut rest, mut all) = (RequestReader::new(), Input::new(stream), Vec::new());
    loop {
        while let Some(incoming) = reader.next() {
            if let Incoming::Request(message) = &incoming
                && let Request::Restrict { flags } = message.request
                && flags.contains(RestrictFlags::ALL)
            {
                reader.restrict_all();
            }
            all.push(incoming);
        }
        let held = MAX_BUFFERED - reader.room();
        assert!(held < MAX_MESSAGE, "{held} bytes held, and no request among them");
        if rest.is_empty() {
            break;
        }
        reader.push(rest.take(piece().min(reader.room())));
    }
    all.extend(reader.eof());
    assert_eq!(reader.next(), None, "nothing after the end");
    all
}

fn said_again(command: Command, request: &Request) {
    assert_eq!(request.command(), command);
    let bytes = request.encode();
    let mut reader = RequestReader::new();
    reader.push(&bytes);
    match reader.next() {
        Some(Incoming::Request(again)) => assert_eq!((again.command, &again.request), (command, request)),
        other => unreachable!("{request:?} came back as {other:?}"),
    }
    assert_eq!(reader.next(), None, "an exact length");
}

fn refused(refusal: &Refusal) {
    let bytes = refusal.encode();
    let Some(first) = bytes.first_chunk() else { unreachable!("a refusal has a header") };
    let header = Header::decode(first);
    assert_eq!((header.cmd, header.seq), (refusal.header.cmd, refusal.header.seq));
    assert_eq!(header.result(), refusal.code);
    assert_eq!(bytes.len(), HEADER_SIZE + refusal.echo.len());
    assert!(bytes.len() <= MAX_MESSAGE);
}

/// A reply as the client reads it: header, then as many bytes as it announces. Input: which command was asked, control
/// (1 the right magic and command, 2 a length that fits), header, payload.
pub fn replies(data: &[u8]) {
    let mut input = Input::new(data);
    let command = Command::ALL[usize::from(input.byte()) % Command::ALL.len()];
    let control = input.byte();
    let mut header = Header::decode(&input.array());
    let payload = input.rest();
    if control & 1 != 0 {
        (header.magic, header.cmd) = (Header::request(command).magic, command.number());
    }
    if control & 2 != 0 {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        header.length = len.saturating_add(32);
        header.data = if command == Command::LogDump { len } else { header.data };
    }
    let payload = match ReplyPayload::of(command, &header) {
        Err(error) => return one_line(&error),
        Ok(ReplyPayload::UntilEof) => &[],
        Ok(ReplyPayload::Exact(len)) => {
            assert!(len <= MAX_REPLY, "bounded before anything is allocated");
            // The stream ends early: an I/O error of the client, nothing to decode.
            let Some(payload) = payload.get(..len) else { return };
            payload
        }
    };
    match Reply::decode(command, &header, payload) {
        Err(error) => one_line(&error),
        Ok(reply) => {
            let request = Header { cmd: command.number(), ..header };
            let bytes = reply.encode(&request);
            let Some((first, rest)) = bytes.split_first_chunk() else { unreachable!("a reply has a header") };
            assert_eq!(Reply::decode(command, &Header::decode(first), rest), Ok(reply));
        }
    }
}

/// The record stream of STATUS.
pub fn state_stream(data: &[u8]) {
    match StateRecord::decode_stream(data) {
        Err(error) => one_line(&error),
        Ok(records) => {
            let mut bytes = Vec::new();
            records.iter().for_each(|record| record.encode(&mut bytes));
            assert!(bytes == data, "every byte of a stream is in its records");
            for record in &records {
                let pairs = record.text.pairs();
                let room: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
                // A byte that is no text becomes a replacement character of three.
                assert!(room <= 3 * record.text.raw().len());
            }
        }
    }
}

/// A fake-watchdog that answers with arbitrary bytes and then falls silent. Input: the sealed fire timeout, four
/// operations, the answers.
pub fn watchdog_answers(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(fire) = FireTimeout::new(2 + u64::from(input.byte()) % 59) else { return };
    let operations: [u8; 4] = input.array();
    let answers = input.rest();
    let Some(dir) = super::scratch() else { return };
    let path = dir.path().join("watchdog");
    let Ok(listener) = UnixListener::bind(&path) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Ok((mut stream, _)) = listener.accept() else { return };
            // The client may have gone before it has read everything: as a real peer, we do not mind.
            let _ = stream.write_all(answers).and_then(|()| stream.shutdown(Shutdown::Write));
            let _ = stream.read_to_end(&mut Vec::new());
        });
        watched(&Choice::Fake(path), fire, operations);
    });
}

/// A wdmd that answers with arbitrary bytes and then hangs up. Input: four operations, how many bytes more than a message it says
/// when it is first asked, the answers.
pub fn wdmd_answers(data: &[u8]) {
    let mut input = Input::new(data);
    let operations: [u8; 4] = input.array();
    let first = usize::from(input.byte()) + wdmd::LEN;
    let answers = input.rest();
    let (first, second) = answers.split_at(first.min(answers.len()));
    let Some(dir) = super::scratch() else { return };
    let path = dir.path().join("wdmd.sock");
    let Ok(listener) = UnixListener::bind(&path) else { return };
    std::thread::scope(|scope| {
        // It reads nothing, and closes nothing before the end: a daemon may leave a connection open.
        let server = scope.spawn(|| {
            [first, second].map(|answers| {
                let (mut stream, _) = listener.accept().ok()?;
                let _ = stream.write_all(answers).and_then(|()| stream.shutdown(Shutdown::Write));
                Some(stream)
            })
        });
        match Choice::Wdmd(path.clone()).open(FireTimeout::SANLOCK, "x") {
            Err(error) => one_line(&error),
            Ok(watchdog) => used(watchdog, operations),
        }
        // Where it was asked once only, the server waits for the second time.
        for _ in 0..2 {
            let _ = UnixStream::connect(&path);
        }
        let _ = server.join();
    });
}

fn watched(choice: &Choice, fire: FireTimeout, operations: [u8; 4]) {
    let watchdog = match choice.open(fire, "") {
        Err(error) => return one_line(&error),
        Ok(watchdog) => watchdog,
    };
    let half = Seconds(u32::from(fire.seconds()) / 2);
    assert!(watchdog.timeout().is_some_and(|t| t <= half), "D3: at most half, as read back");
    used(watchdog, operations);
}

fn used(mut watchdog: Box<dyn Watchdog>, operations: [u8; 4]) {
    let mut over = false;
    for operation in operations {
        let end = match operation % 3 {
            0 => watchdog.pet(LocalInstant::NEVER),
            1 => watchdog.disarm(),
            _ => watchdog.fire_at_once().map(drop),
        };
        assert!(!over || end.is_err(), "a watchdog that was stopped or is to fire takes nothing more");
        over |= operation % 3 != 0;
        if let Err(error) = &end {
            one_line(error);
        }
        one_line(&watchdog.describe());
    }
}

//! One request and its answer: sanlock's command line prints results as the numbers they are, failures to reach the daemon
//! among them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use holdfast_client::Endpoint;
use holdfast_protocol::header::{HEADER_SIZE, Header};
use holdfast_protocol::reply::{Reply, ReplyPayload};
use holdfast_protocol::request::Request;

/// What was answered: a result, and what came with it.
pub(super) struct Answer {
    /// As it is decoded.
    pub(super) reply: Reply,
    /// The bytes after the header.
    pub(super) payload: Vec<u8>,
}

impl Answer {
    pub(super) fn result(&self) -> i32 {
        self.reply.result().number()
    }
}

/// A short or wrong answer.
const NO_ANSWER: i32 = -1;

fn negative(error: &std::io::Error) -> i32 {
    error.raw_os_error().map_or(NO_ANSWER, |errno| -errno)
}

/// Asks on a connection of its own; else the number that sanlock's library returns.
pub(super) fn ask(request: &Request) -> Result<Answer, i32> {
    let mut stream = UnixStream::connect(Endpoint::from_environment().socket()).map_err(|e| negative(&e))?;
    stream.write_all(&request.encode()).map_err(|e| negative(&e))?;
    let mut head = [0; HEADER_SIZE];
    stream.read_exact(&mut head).map_err(|_| NO_ANSWER)?;
    let (header, command) = (Header::decode(&head), request.command());
    let mut payload = Vec::new();
    match ReplyPayload::of(command, &header).map_err(|_| NO_ANSWER)? {
        ReplyPayload::Exact(size) => {
            payload.resize(size, 0);
            stream.read_exact(&mut payload).map_err(|_| NO_ANSWER)?;
        }
        ReplyPayload::UntilEof => {
            stream.read_to_end(&mut payload).map_err(|_| NO_ANSWER)?;
        }
    }
    let reply = Reply::decode(command, &header, &payload).map_err(|_| NO_ANSWER)?;
    Ok(Answer { reply, payload })
}

/// The result alone.
pub(super) fn result_of(request: &Request) -> i32 {
    ask(request).map_or_else(|failed| failed, |answer| answer.result())
}

/// Tells the daemon something that it does not answer: it just closes the connection.
pub(super) fn tell(request: &Request) -> i32 {
    let told = UnixStream::connect(Endpoint::from_environment().socket()).and_then(|mut stream| {
        stream.write_all(&request.encode())?;
        stream.read_to_end(&mut Vec::new())
    });
    told.map_or_else(|e| negative(&e), |_| 0)
}

//! KILLPATH: the program that a client wants to be run instead of being ended at first (spec A 7.4). libvirt has a guest
//! suspended by it, lvmlockd has a volume group's devices cut off.
//!
//! It is run once when a lockspace fails in which the client holds something, and the client has until the end of its grace to give
//! everything back. Then it is ended like any other: a program that hangs, or is not there, changes nothing about that.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use holdfast_io::sys::rights::Rights;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::KillPathFlags;
use holdfast_protocol::payload::KillPath;
use holdfast_protocol::request::Target;

use super::Supervisor;
use super::event::ReplyTo;

/// Words of a program, its own path among them (spec A 7.4).
const MOST_WORDS: usize = 8;

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The last of them is the client's pid.
    ends_with_pid: bool,
    /// By whose rights it is run: those of whoever has named it, whoever has the lease by then.
    pub by: Rights,
}

impl Program {
    /// From a client's two fields: arguments are words between blanks, `\ ` and `\\` stand for a blank and a backslash, and those
    /// beyond the eighth word are dropped. `None`: no path.
    fn read(killpath: &KillPath, pid: Option<i32>, by: Rights) -> Option<Self> {
        let path = OsString::from_vec(killpath.path.as_bytes().to_vec());
        if path.is_empty() {
            return None;
        }
        let mut arguments = words(killpath.args.as_bytes());
        let ends_with_pid = pid.is_some() && arguments.len() < MOST_WORDS - 1;
        arguments.extend(pid.map(|pid| OsString::from(pid.to_string())));
        arguments.truncate(MOST_WORDS - 1);
        Some(Program { path, arguments, ends_with_pid, by })
    }

    /// As it is run where another host asks for a lease: without the pid (spec A 6, REQUEST).
    pub(super) fn without_pid(&self) -> Self {
        let arguments = self.arguments[..self.arguments.len() - usize::from(self.ends_with_pid)].to_vec();
        Program { path: self.path.clone(), arguments, ends_with_pid: false, by: self.by.clone() }
    }
}

fn words(text: &[u8]) -> Vec<OsString> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let (mut inside, mut bytes) = (false, text.iter());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'\\' => bytes.next(),
            b' ' | b'\t' | b'\n' => {
                inside = false;
                continue;
            }
            other => Some(other),
        };
        if !std::mem::replace(&mut inside, true) {
            words.push(Vec::new());
        }
        if let (Some(word), Some(byte)) = (words.last_mut(), byte) {
            word.push(*byte);
        }
    }
    words.into_iter().map(OsString::from_vec).collect()
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// Only a client itself says what is to be run in its place; sanlock leaves anybody else without an answer.
    pub(super) fn killpath(&mut self, to: ReplyTo, flags: KillPathFlags, killpath: &KillPath) {
        let target = match self.admit(to, Target::This) {
            Ok(target) if to.header.data2 == u32::MAX => target,
            Ok(_) => return self.reply(to, ResultCode::EBUSY),
            Err(code) => return self.reply(to, code),
        };
        if let Some(client) = self.clients.get_mut(&target) {
            let pid = flags.contains(KillPathFlags::PID).then_some(client.pid);
            client.killpath_pid |= pid.is_some();
            client.killpath = Program::read(killpath, pid, client.rights.clone());
        }
        self.reply(to, ResultCode::OK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_protocol::text::KillText;

    fn read(path: &str, args: &str, pid: Option<i32>) -> Option<(String, Vec<String>)> {
        let text = |text: &str| KillText::new(text).unwrap();
        let program = Program::read(&KillPath { path: text(path), args: text(args) }, pid, Rights::Ours)?;
        let plain = |text: OsString| text.into_string().unwrap();
        Some((plain(program.path), program.arguments.into_iter().map(plain).collect()))
    }

    #[test]
    fn arguments_are_words_with_escapes_and_the_pid_comes_last() {
        let told = read("/bin/x", r"  one two\ words  back\\slash ", Some(42)).unwrap();
        assert_eq!(told, ("/bin/x".into(), vec!["one".into(), "two words".into(), r"back\slash".into(), "42".into()]));
        assert_eq!(read("/bin/x", "", None).unwrap().1, [] as [String; 0]);
        assert_eq!(read("", "one", None), None);
        assert_eq!(read("/bin/x", "1 2 3 4 5 6 7 8 9", None).unwrap().1.len(), 7);
        assert_eq!(read("/bin/x", r"end\", None).unwrap().1, ["end"]);
    }
}

//! The process that stays with COMMAND: passes signals on, lends it the terminal, reports its end.
//!
//! Everything it reacts to comes as a signal that it has blocked and takes one by one, SIGCHLD included, so there is
//! neither a handler nor a race between a signal and a wait.

use std::io::{IsTerminal as _, stdin, stdout};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::{ExecError, call};

/// To COMMAND's whole group.
const TO_GROUP: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];
/// To COMMAND alone: what does not handle them is ended by them.
const TO_COMMAND: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

/// The signals that are taken one by one.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them, before there is a child that they are for.
    pub fn block() -> Result<Self, ExecError> {
        let mut set: SigSet = TO_GROUP.into_iter().chain(TO_COMMAND).collect();
        set.add(Signal::SIGCHLD);
        // Lending the terminal while another group has it would stop us.
        let mut blocked = set;
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block().map_err(call("sigprocmask"))?;
        Ok(Self(set))
    }

    fn next(&self) -> Result<Signal, ExecError> {
        loop {
            match self.0.wait() {
                Err(Errno::EINTR) => {}
                other => return other.map_err(call("sigwait")),
            }
        }
    }
}

/// The terminal on standard input, if there is one.
struct Terminal {
    own: Pid,
    inner: Pid,
}

impl Terminal {
    /// From our group to COMMAND's.
    fn lend(&self) -> bool {
        hand_over(self.own, self.inner)
    }

    /// From COMMAND's group to ours.
    fn take_back(&self) -> bool {
        hand_over(self.inner, self.own)
    }

    fn is_ours(&self) -> bool {
        tcgetpgrp(stdin()).is_ok_and(|owner| owner == self.own)
    }
}

/// Only from whom it is expected to belong to: nothing is taken from a shell that has it.
fn hand_over(from: Pid, to: Pid) -> bool {
    tcgetpgrp(stdin()).is_ok_and(|owner| owner == from) && tcsetpgrp(stdin(), to).is_ok()
}

/// Stays with `inner` until its end; the exit status.
pub fn accompany(inner: Pid, signals: &Signals) -> Result<u8, ExecError> {
    let terminal = Terminal { own: getpgrp(), inner };
    // With its output elsewhere (a pipe into a pager, say) somebody else may be reading from the terminal.
    if stdin().is_terminal() && stdout().is_terminal() {
        terminal.lend();
    }
    let status = loop {
        match signals.next()? {
            Signal::SIGCHLD => {
                if let Some(status) = look(inner, &terminal)? {
                    break status;
                }
            }
            // A group or process that is gone is seen by its SIGCHLD.
            Signal::SIGCONT => {
                terminal.lend();
                let _ = killpg(inner, Signal::SIGCONT);
            }
            signal if TO_COMMAND.contains(&signal) => drop(kill(inner, signal)),
            signal => drop(killpg(inner, signal)),
        }
    };
    terminal.take_back();
    Ok(status)
}

/// What has become of COMMAND: its exit status once it has ended.
fn look(inner: Pid, terminal: &Terminal) -> Result<Option<u8>, ExecError> {
    loop {
        match waitpid(inner, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(Some(128 | u8::try_from(signal as i32).unwrap_or(0x7f)));
            }
            Ok(WaitStatus::Stopped(_, signal)) => stopped(inner, signal, terminal),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(ExecError::Call { operation: "waitpid", source }),
        }
    }
}

/// COMMAND stopped. For the want of the terminal: it gets it. From the keyboard: we stop with it, as one job of the
/// shell. By anyone else, SIGSTOP: that is between the two.
fn stopped(inner: Pid, signal: Signal, terminal: &Terminal) {
    let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
    if wants_terminal && terminal.lend() {
        let _ = killpg(inner, Signal::SIGCONT);
        return;
    }
    let job = wants_terminal || signal == Signal::SIGTSTP;
    if job && (terminal.take_back() || terminal.is_ours() || wants_terminal) {
        // SIGCONT, which the shell sends to go on, is blocked and stays pending: it is passed on after this line.
        let _ = raise(Signal::SIGSTOP);
    }
}

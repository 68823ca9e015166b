//! Whoever inherited the connection of a client that is being ended, and is ended with it.
//!
//! Only a look through all of /proc tells who has a socket open. It takes as long as there are processes, and hangs where one of
//! them does. So the ladder signals a client by its pidfd at once, and its heirs are looked for by a thread of their own: one
//! look for all connections that were named before it began; those named meanwhile are gathered for the next.
//!
//! Heirs are therefore signalled a moment later than their client. That is safe: nothing counts as gone before its connection
//! is at its end (`supervisor/clients.rs`), the ladder names a client again every second until then, and meanwhile its lockspace
//! is not left. A look that hangs ends nobody, and holds up nobody: where an heir outlives the client the watchdog, unpetted, ends
//! the host. A signal that comes late hits only who has the connection open by then: no other socket has its inode.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

/// A client whose heirs are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// It was signalled itself.
    pub pid: i32,
    /// How they are.
    pub signal: Signal,
}

/// Clients by the inodes of their ends of their connections.
pub type Connections = BTreeMap<u64, Named>;

/// Looks for heirs, one look after the other.
pub struct Heirs(Arc<Shared>);

struct Shared {
    asked: Mutex<Asked>,
    end: Box<dyn Fn(&Connections) + Send + Sync>,
}

#[derive(Default)]
struct Asked {
    /// Whom the next look is for.
    next: Connections,
    /// A thread looks.
    looking: bool,
}

impl Heirs {
    /// `end` looks for the heirs of all of these and signals them.
    #[must_use]
    pub fn new(end: impl Fn(&Connections) + Send + Sync + 'static) -> Self {
        Heirs(Arc::new(Shared { asked: Mutex::default(), end: Box::new(end) }))
    }

    /// Ends the heirs of a connection. Returns at once.
    pub fn end(&self, inode: u64, named: Named) {
        let mut asked = self.0.asked();
        let wanted = asked.next.entry(inode).or_insert(named);
        if named.signal == Signal::SIGKILL {
            *wanted = named;
        }
        if asked.looking {
            return;
        }
        let shared = Arc::clone(&self.0);
        match std::thread::Builder::new().name("heirs".into()).spawn(move || shared.look()) {
            Ok(_) => asked.looking = true,
            // They stay named, and the ladder's next step tries again.
            Err(error) => tracing::error!(%error, "no thread to look for who inherited a client's connection"),
        }
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let _over = Over(self);
        while let Some(named) = self.next() {
            (self.end)(&named);
        }
    }

    /// Whom a look is for. `None`: nobody, and the thread that asks is at its end, decided under one lock with that.
    fn next(&self) -> Option<Connections> {
        let mut asked = self.asked();
        asked.looking = !asked.next.is_empty();
        asked.looking.then(|| std::mem::take(&mut asked.next))
    }
}

/// A look that panics must not be the last one.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.asked().looking = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;

    const AT_MOST: Duration = Duration::from_secs(60);

    /// Looks that hang until they are let go, and whom each was for.
    fn hanging() -> (Heirs, Receiver<Connections>, Sender<()>) {
        let (tell, told) = channel();
        let (let_go, held) = channel::<()>();
        let (tell, held) = (Mutex::new(tell), Mutex::new(held));
        let heirs = Heirs::new(move |named| {
            tell.lock().unwrap().send(named.clone()).unwrap();
            held.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(AT_MOST).expect("let go");
        });
        (heirs, told, let_go)
    }

    fn term(pid: i32) -> Named {
        Named { pid, signal: Signal::SIGTERM }
    }

    #[test]
    fn who_is_named_while_a_look_hangs_is_gathered_into_one_look_that_follows() {
        let (heirs, looks, let_go) = hanging();
        heirs.end(1, term(101));
        assert_eq!(looks.recv_timeout(AT_MOST).unwrap(), Connections::from([(1, term(101))]));
        let kill = Named { pid: 102, signal: Signal::SIGKILL };
        heirs.end(2, term(102));
        heirs.end(2, kill);
        heirs.end(2, term(102));
        heirs.end(3, term(103));
        assert!(looks.try_recv().is_err(), "one look at a time");
        let_go.send(()).unwrap();
        assert_eq!(looks.recv_timeout(AT_MOST).unwrap(), Connections::from([(2, kill), (3, term(103))]));
        let_go.send(()).unwrap();
        // Whether the thread has come to its end meanwhile or not, nobody is forgotten.
        heirs.end(4, term(104));
        assert_eq!(looks.recv_timeout(AT_MOST).unwrap(), Connections::from([(4, term(104))]));
        let_go.send(()).unwrap();
    }

    #[test]
    fn a_look_that_panics_is_not_the_last() {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let heirs = Heirs::new(move |named| {
            tell.lock().unwrap().send(named.len()).unwrap();
            assert!(!named.contains_key(&1), "on purpose");
        });
        heirs.end(1, term(101));
        told.recv_timeout(AT_MOST).unwrap();
        while heirs.0.asked().looking {
            std::thread::yield_now();
        }
        heirs.end(2, term(102));
        assert_eq!(told.recv_timeout(AT_MOST).unwrap(), 1);
    }
}

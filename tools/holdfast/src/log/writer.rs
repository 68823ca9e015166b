//! Standard error, written by a thread of its own: a journal that hangs, or a pipe that nobody reads, holds up that thread and
//! nothing else.
//!
//! Lines wait in a queue of bounded size. Where it is full they are lost, and counted, in an order of their own: the queue's
//! second half is closed to what clients can cause at will, its last quarter to all but warnings and errors. So however
//! long it hangs and whoever floods it, there is room for what the ladder and the watchdog have to say.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use holdfast_daemon::log_ring::AT_WILL;
use tracing::{Level, Metadata};

/// Lines that wait at most.
const MOST_LINES: usize = 4096;
/// Bytes of a line; what is longer is cut.
const MOST_BYTES: usize = 4096;
/// Between two looks at what was left out, while nothing is logged.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last lines may take at the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much of the queue a line may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Clients cause it at will.
    AtWill,
    /// What happens.
    Usual,
    /// Warnings and errors.
    Grave,
}

impl Weight {
    /// Of a line from this place.
    pub fn of(place: &Metadata<'_>) -> Self {
        match *place.level() {
            _ if place.target() == AT_WILL => Weight::AtWill,
            Level::ERROR | Level::WARN => Weight::Grave,
            _ => Weight::Usual,
        }
    }

    const fn room(self) -> usize {
        match self {
            Weight::AtWill => MOST_LINES / 2,
            Weight::Usual => MOST_LINES / 4 * 3,
            Weight::Grave => MOST_LINES,
        }
    }
}

enum Out {
    Line(Vec<u8>),
    /// All before it is written: this is told.
    End(SyncSender<()>),
}

/// Where lines are left to be written. Never waits. Cloned, it is the same.
#[derive(Clone)]
pub struct Queue {
    out: SyncSender<Out>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

impl Queue {
    /// Starts the thread that writes. Whenever there is room it has `sum_up` log what was left out: it is told the number
    /// of lines lost, and whether this is the end.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        to: impl Write + Send + 'static,
        sum_up: impl Fn(u64, bool) + Send + 'static,
    ) -> std::io::Result<(Self, Flush)> {
        // One more: the end always fits.
        let (out, lines) = sync_channel(MOST_LINES + 1);
        let counts = Arc::new(Counts::default());
        let theirs = Arc::clone(&counts);
        let work = move || write_all(to, &lines, &theirs, &sum_up);
        std::thread::Builder::new().name("log".into()).stack_size(256 * 1024).spawn(work)?;
        Ok((Queue { out: out.clone(), counts }, Flush(out)))
    }

    /// Leaves a line, with its end, to be written.
    pub fn add(&self, mut line: Vec<u8>, weight: Weight) {
        if line.len() > MOST_BYTES {
            line.truncate(MOST_BYTES);
            line.extend_from_slice(b" ...\n");
        }
        let before = self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= weight.room() || self.out.try_send(Out::Line(line)).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(mut to: impl Write, lines: &Receiver<Out>, counts: &Counts, sum_up: &impl Fn(u64, bool)) {
    let mut put = |line: Vec<u8>| {
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        // There is nobody to tell that the log cannot be written.
        let _ = to.write_all(&line);
    };
    loop {
        match lines.recv_timeout(PAUSE) {
            Ok(Out::Line(line)) => put(line),
            Ok(Out::End(done)) => {
                sum_up(counts.lost.swap(0, Ordering::Relaxed), true);
                lines.try_iter().for_each(|last| match last {
                    Out::Line(line) => put(line),
                    Out::End(_) => {}
                });
                let _ = done.try_send(());
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if counts.waiting.load(Ordering::Relaxed) < Weight::AtWill.room() {
            sum_up(counts.lost.swap(0, Ordering::Relaxed), false);
        }
    }
}

/// Dropped, it waits until what was logged is written, if that is soon.
pub struct Flush(SyncSender<Out>);

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, told) = sync_channel(1);
        if self.0.try_send(Out::End(done)).is_ok() {
            // Or it hangs, and the process ends without its last words.
            let _ = told.recv_timeout(LAST_WORDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Takes nothing until it is told to; then everything.
    struct Pipe {
        opens: Receiver<()>,
        open: bool,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if !self.open {
                self.opens.recv().unwrap();
                self.open = true;
            }
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Pipe, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (open, opens) = channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        (Pipe { opens, open: false, taken: Arc::clone(&taken) }, open, taken)
    }

    #[test]
    fn while_nobody_reads_the_log_a_flood_takes_no_room_from_what_is_grave_and_is_counted() {
        let (pipe, open, taken) = pipe();
        let lost = Arc::<AtomicU64>::default();
        let count = Arc::clone(&lost);
        let sum_up = move |n, _| {
            count.fetch_add(n, Ordering::SeqCst);
        };
        let (queue, flush) = Queue::start(pipe, sum_up).unwrap();
        for _ in 0..10_000 {
            queue.add(b"flood\n".to_vec(), Weight::AtWill);
            queue.add(b"usual\n".to_vec(), Weight::Usual);
        }
        for n in 0..MOST_LINES / 4 {
            queue.add(format!("kill {n}\n").into_bytes(), Weight::Grave);
        }
        open.send(()).unwrap();
        drop(flush);
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let kills = text.lines().filter(|line| line.starts_with("kill"));
        assert!(kills.eq((0..MOST_LINES / 4).map(|n| format!("kill {n}"))), "every one, and in order");
        let written = text.lines().count();
        assert!((MOST_LINES..=MOST_LINES + 1).contains(&written), "{written}");
        let logged = 20_000 + MOST_LINES / 4;
        assert_eq!(lost.load(Ordering::SeqCst), (logged - written) as u64);
    }

    #[test]
    fn the_end_waits_for_the_last_line_but_not_for_a_pipe_that_hangs() {
        let (pipe, open, taken) = pipe();
        let (queue, flush) = Queue::start(pipe, |_, _| ()).unwrap();
        queue.add(b"last words\n".to_vec(), Weight::Usual);
        open.send(()).unwrap();
        drop(flush);
        assert_eq!(*taken.lock().unwrap(), b"last words\n");

        let (pipe, _open, taken) = self::pipe();
        let (queue, flush) = Queue::start(pipe, |_, _| ()).unwrap();
        queue.add(b"last words\n".to_vec(), Weight::Grave);
        drop(flush);
        assert!(taken.lock().unwrap().is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (pipe, open, taken) = pipe();
        let (queue, flush) = Queue::start(pipe, |_, _| ()).unwrap();
        queue.add(vec![b'x'; 1 << 20], Weight::Usual);
        open.send(()).unwrap();
        drop(flush);
        let taken = taken.lock().unwrap();
        assert!(taken.len() == MOST_BYTES + 5 && taken.ends_with(b"x ...\n"), "{}", taken.len());
    }
}

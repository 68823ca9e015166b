//! Reading whatever can be read: a stretch in one I/O, and where that fails in halves, down to the sectors that do not
//! come.
//!
//! A dead path would cost a deadline per sector, so after a few reads without an answer the rest of the stretch is left
//! alone and said to be so. Unreadable bytes are zeros in the result and listed as holes.

use std::ops::Range;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::disk::{IoErrorKind, ReadDisk};

/// How long one read may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Reads without an answer after which a stretch is given up.
const PATIENCE: u32 = 2;

/// Bytes that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where, in bytes from the start of the device.
    pub range: Range<u64>,
    /// Why, on one line.
    pub reason: String,
}

/// What came of reading a stretch.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// The bytes; zeros where they could not be read.
    pub bytes: Vec<u8>,
    /// What could not be read, in rising order.
    pub holes: Vec<Hole>,
}

impl Pieces {
    /// Why the byte at device offset `at` is missing.
    #[must_use]
    pub fn hole_at(&self, at: u64) -> Option<&Hole> {
        self.holes.iter().find(|hole| hole.range.contains(&at))
    }

    /// Whether every byte was read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.holes.is_empty()
    }
}

/// A device to be looked at, and how: its reads are multiples of `unit` bytes.
pub struct Reader<'a, D, C> {
    disk: &'a D,
    clock: &'a C,
    unit: usize,
}

impl<'a, D: ReadDisk, C: Clock> Reader<'a, D, C> {
    /// `unit` is the device's own sector size in bytes.
    pub const fn new(disk: &'a D, clock: &'a C, unit: usize) -> Self {
        Reader { disk, clock, unit }
    }

    /// Reads `len` bytes at `at`, both multiples of the unit, as far as they can be read.
    pub async fn read(&self, at: u64, len: usize) -> Pieces {
        let mut pieces = Pieces { bytes: vec![0; len], holes: Vec::new() };
        let mut patience = PATIENCE;
        // A stack of stretches yet to be read, the next on top.
        let mut todo = Vec::new();
        todo.push(0..len);
        while let Some(part) = todo.pop() {
            let start = at.saturating_add(part.start as u64);
            let end = at.saturating_add(part.end as u64);
            if patience == 0 {
                pieces.lost(start..end, "not read: the reads before it got no answer");
                continue;
            }
            let error = match self.disk.read(start, part.len(), self.clock.now().after(DEADLINE)).await {
                Ok(buf) => {
                    pieces.bytes[part].copy_from_slice(&buf);
                    continue;
                }
                Err(error) => error,
            };
            if matches!(error.kind, IoErrorKind::OutcomeUnknown | IoErrorKind::NotIssued) {
                patience -= 1;
            }
            let half = part.len() / 2 / self.unit * self.unit;
            if half == 0 {
                pieces.lost(start..end, &error.kind.to_string());
            } else {
                todo.push(part.start + half..part.end);
                todo.push(part.start..part.start + half);
            }
        }
        pieces
    }
}

impl Pieces {
    fn lost(&mut self, range: Range<u64>, reason: &str) {
        if let Some(last) = self.holes.last_mut().filter(|h| h.range.end == range.start && h.reason == reason) {
            last.range.end = range.end;
            return;
        }
        self.holes.push(Hole { range, reason: reason.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_io::clock::LocalInstant;
    use holdfast_io::disk::{IoError, Op};
    use holdfast_io::sys::aligned::AlignedBuf;
    use std::cell::Cell;
    use std::sync::Arc;

    struct Still;
    impl Clock for Still {
        fn now(&self) -> LocalInstant {
            LocalInstant::from_nanos(1)
        }
        fn suspended(&self) -> Duration {
            Duration::ZERO
        }

        async fn sleep_until(&self, _: LocalInstant) {}
    }

    /// A disk of ones with bad sectors of 512 bytes, or without any answer.
    struct Worn {
        path: Arc<str>,
        bad: Vec<u64>,
        kind: IoErrorKind,
        reads: Cell<u32>,
    }

    impl Worn {
        fn new(bad: &[u64], kind: IoErrorKind) -> Self {
            Worn { path: Arc::from("worn"), bad: bad.to_vec(), kind, reads: Cell::new(0) }
        }
    }

    impl ReadDisk for Worn {
        fn path(&self) -> &Arc<str> {
            &self.path
        }
        async fn read(&self, at: u64, len: usize, _: LocalInstant) -> Result<AlignedBuf, IoError> {
            self.reads.set(self.reads.get() + 1);
            if self.bad.iter().any(|s| (at..at + len as u64).contains(&(s * 512))) {
                return Err(IoError { path: self.path.clone(), op: Op::Read, offset: at, len, kind: self.kind });
            }
            Ok(AlignedBuf::from_slice(&vec![1; len]))
        }
    }

    const EIO: IoErrorKind = IoErrorKind::Failed(nix::errno::Errno::EIO);

    #[test]
    fn one_bad_sector_costs_its_own_bytes_and_a_few_reads() {
        let disk = Worn::new(&[700], EIO);
        let got = pollster::block_on(Reader::new(&disk, &Still, 512).read(0, 1 << 20));
        assert_eq!(got.holes.len(), 1);
        assert_eq!(got.holes[0].range, 700 * 512..701 * 512);
        assert!(got.holes[0].reason.contains("I/O error"), "{}", got.holes[0].reason);
        assert_eq!(got.bytes.iter().filter(|b| **b == 0).count(), 512);
        assert!(disk.reads.get() < 30, "{} reads", disk.reads.get());
    }

    #[test]
    fn neighbouring_bad_sectors_are_one_hole() {
        let disk = Worn::new(&[3, 4, 5, 9], EIO);
        let got = pollster::block_on(Reader::new(&disk, &Still, 512).read(512, 16 * 512));
        let ranges: Vec<_> = got.holes.iter().map(|h| h.range.clone()).collect();
        assert_eq!(ranges, [3 * 512..6 * 512, 9 * 512..10 * 512]);
        assert_eq!(got.hole_at(4 * 512).map(|h| h.range.start), Some(3 * 512));
    }

    #[test]
    fn a_device_that_does_not_answer_is_not_asked_for_every_sector() {
        let all: Vec<u64> = (0..2048).collect();
        let disk = Worn::new(&all, IoErrorKind::OutcomeUnknown);
        let got = pollster::block_on(Reader::new(&disk, &Still, 512).read(0, 1 << 20));
        assert_eq!(disk.reads.get(), PATIENCE);
        assert_eq!(got.holes.iter().map(|h| h.range.end - h.range.start).sum::<u64>(), 1 << 20);
    }
}

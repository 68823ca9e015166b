//! The shared file, and what it proves.
//!
//! Every guarded program appends records of [`LEN`] bytes, one `write` with `O_APPEND` each, so that the file system
//! puts them into one order, which is the order in which the writes took effect. A record is a line of text:
//!
//! ```text
//! host   lver        seq  CLOCK_BOOTTIME in ns, read right before the write
//!    1      1          0        123456789012345
//! ```
//!
//! A *term* is all that one host wrote under one lver. S1 holds for the file if terms are disjoint, in the file's order
//! and on the clock alike: the first record of a term stands after the last record of the term before, and is younger.
//! All hosts of a demonstration share one kernel, hence one clock; nothing else in the project compares clocks of
//! hosts.
//!
//! Errors: [`DamagedFile`]: bytes that are no record, or a program's records not complete and in order.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_io::clock::LocalInstant;

/// Bytes of a record, its newline included.
pub const LEN: usize = 48;

/// One write of a guarded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The writer's host_id.
    pub host: u64,
    /// The version of the lease it wrote under.
    pub lver: u64,
    /// Counts from 0 in each term.
    pub seq: u64,
    /// When the write was about to be made.
    pub at: LocalInstant,
}

/// The file is not what guarded programs write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamagedFile {
    /// Bytes that are no record.
    #[error("record {record} at byte {offset} of the shared file: expected {LEN} bytes of 4 numbers, found {found:?}")]
    NoRecord {
        /// Counted from 0.
        record: usize,
        /// Where it begins.
        offset: usize,
        /// What stands there.
        found: String,
    },
    /// A record is missing, twice there, or older than the one before.
    #[error("record {record} of the shared file: host{host} wrote seq {found} where {expected} was next, or went back")]
    OutOfOrder {
        /// Counted from 0.
        record: usize,
        /// Whose.
        host: u64,
        /// The number that should stand there.
        expected: u64,
        /// The number that does.
        found: u64,
    },
}

impl Record {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        format!("{:>4} {:>6} {:>10} {:>24}\n", self.host, self.lver, self.seq, self.at.as_nanos()).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let mut numbers = text.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let record = Record { host: next()?, lver: next()?, seq: next()?, at: LocalInstant::from_nanos(next()?) };
        // Encoding it again must give the same bytes: nothing is left over, nothing is guessed.
        (record.encode() == bytes).then_some(record)
    }
}

/// What one host wrote under one lver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its host_id.
    pub host: u64,
    /// Its lver.
    pub lver: u64,
    /// Index of its first record in the file.
    pub first_index: usize,
    /// Index of its last.
    pub last_index: usize,
    /// Instant of its first record.
    pub first: LocalInstant,
    /// Instant of its last.
    pub last: LocalInstant,
    /// How many.
    pub count: u64,
}

/// Two terms that were not one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The one that wrote first.
    pub earlier: Term,
    /// The one that began before `earlier` was over.
    pub later: Term,
    /// Records of `earlier` that stand behind the first record of `later`.
    pub late_records: u64,
}

/// The file, read and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// In the order of their first records.
    pub terms: Vec<Term>,
    /// None: no two hosts wrote at the same time.
    pub overlaps: Vec<Overlap>,
    /// Every record, in the file's order.
    pub records: Vec<Record>,
}

impl Proof {
    /// From the last record of each term to the first of the next, where that is not negative.
    pub fn gaps(&self) -> impl Iterator<Item = (Term, Term, Duration)> + '_ {
        self.terms.iter().zip(self.terms.iter().skip(1)).map(|(a, b)| (*a, *b, b.first.since(a.last)))
    }
}

/// Reads the whole file. A file that ends within a record is damaged: each record is one write.
///
/// # Errors
/// [`DamagedFile`].
pub fn check(bytes: &[u8]) -> Result<Proof, DamagedFile> {
    let mut records = Vec::new();
    let mut terms: BTreeMap<(u64, u64), Term> = BTreeMap::new();
    for (index, line) in bytes.chunks(LEN).enumerate() {
        let found = || String::from_utf8_lossy(line).into_owned();
        let record = Record::decode(line).ok_or_else(|| DamagedFile::NoRecord {
            record: index,
            offset: index * LEN,
            found: found(),
        })?;
        take(&mut terms, index, record)?;
        records.push(record);
    }
    let mut terms: Vec<Term> = terms.into_values().collect();
    terms.sort_by_key(|term| term.first_index);
    let overlaps = overlaps(&terms, &records);
    Ok(Proof { terms, overlaps, records })
}

fn take(terms: &mut BTreeMap<(u64, u64), Term>, index: usize, record: Record) -> Result<(), DamagedFile> {
    let Record { host, lver, seq, at } = record;
    let fresh = Term { host, lver, first_index: index, last_index: index, first: at, last: at, count: 0 };
    let term = terms.entry((host, lver)).or_insert(fresh);
    if seq != term.count || at < term.last {
        return Err(DamagedFile::OutOfOrder { record: index, host, expected: term.count, found: seq });
    }
    (term.last_index, term.last, term.count) = (index, at, term.count + 1);
    Ok(())
}

fn overlaps(terms: &[Term], records: &[Record]) -> Vec<Overlap> {
    let mut found = Vec::new();
    for (n, earlier) in terms.iter().enumerate() {
        for later in terms.iter().skip(n + 1) {
            if later.first_index > earlier.last_index && later.first > earlier.last {
                continue;
            }
            let behind = records.iter().skip(later.first_index);
            let late = behind.filter(|r| (r.host, r.lver) == (earlier.host, earlier.lver)).count();
            let late_records = u64::try_from(late).unwrap_or(u64::MAX);
            found.push(Overlap { earlier: *earlier, later: *later, late_records });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: &[(u64, u64, u64, u64)]) -> Vec<u8> {
        let record = |&(host, lver, seq, at)| Record { host, lver, seq, at: LocalInstant::from_nanos(at) }.encode();
        records.iter().flat_map(record).collect()
    }

    #[test]
    fn a_record_has_its_fixed_length_and_comes_back_the_same() {
        let largest = Record { host: 2000, lver: 999_999, seq: 9_999_999_999, at: LocalInstant::NEVER };
        assert_eq!(largest.encode().len(), LEN);
        assert_eq!(Record::decode(&largest.encode()), Some(largest));
    }

    #[test]
    fn terms_one_after_the_other_are_a_proof_with_their_gaps() {
        let proof = check(&file(&[(1, 1, 0, 10), (1, 1, 1, 20), (2, 2, 0, 50), (1, 3, 0, 51)])).unwrap();
        assert!(proof.overlaps.is_empty());
        let gaps: Vec<u128> = proof.gaps().map(|(_, _, gap)| gap.as_nanos()).collect();
        assert_eq!(gaps, [30, 1]);
    }

    #[test]
    fn a_write_behind_the_next_owners_first_is_found() {
        let proof = check(&file(&[(1, 1, 0, 10), (2, 2, 0, 20), (1, 1, 1, 30), (2, 2, 1, 40), (1, 1, 2, 50)])).unwrap();
        let [overlap] = proof.overlaps[..] else { panic!("{:?}", proof.overlaps) };
        assert_eq!((overlap.earlier.host, overlap.later.host, overlap.late_records), (1, 2, 2));
    }

    #[test]
    fn a_first_write_that_was_begun_before_the_last_of_the_other_is_found_whatever_the_order_in_the_file() {
        let proof = check(&file(&[(1, 1, 0, 10), (1, 1, 1, 30), (2, 2, 0, 29)])).unwrap();
        assert_eq!(proof.overlaps.len(), 1);
        assert_eq!(proof.overlaps[0].late_records, 0);
    }

    #[test]
    fn a_lost_a_doubled_and_a_torn_record_are_no_proof() {
        let lost = check(&file(&[(1, 1, 0, 10), (1, 1, 2, 20)])).unwrap_err();
        assert_eq!(lost, DamagedFile::OutOfOrder { record: 1, host: 1, expected: 1, found: 2 });
        assert!(check(&file(&[(1, 1, 0, 10), (1, 1, 0, 10)])).is_err());
        let mut torn = file(&[(1, 1, 0, 10), (1, 1, 1, 20)]);
        torn.pop();
        assert!(matches!(check(&torn), Err(DamagedFile::NoRecord { record: 1, offset: LEN, .. })));
    }
}

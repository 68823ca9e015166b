//! Carries a plan out.

use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::disk::{Disk, IoError, ReadDisk};

use super::plan::Write;

/// How long one I/O of a whole area may take (spec D 1.5).
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Issues the writes one after the other.
///
/// Each is over, and on the medium, before the next begins; after one that failed or has an unknown outcome nothing
/// more is written. The first makes sector 0 zeros and the last alone makes it valid, so a crash, a hang or a late
/// landing of any write before the last leaves no area that either program accepts; the last is one sector, hence there
/// or not.
///
/// # Errors
/// The first write that did not succeed. Unless it was the last, sector 0 is not valid.
pub async fn in_order<D: Disk, C: Clock>(disk: &D, clock: &C, writes: &[Write]) -> Result<(), IoError> {
    for write in writes {
        disk.write(write.offset, write.data.clone(), clock.now().after(DEADLINE)).await?;
    }
    Ok(())
}

/// The device offset of the first byte of the area that is not what the writes left there.
///
/// # Errors
/// It cannot be read.
pub async fn read_back<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    offset: u64,
    len: usize,
    writes: &[Write],
) -> Result<Option<u64>, IoError> {
    let mut expected = vec![0; len];
    for write in writes {
        let at = usize::try_from(write.offset - offset).unwrap_or(usize::MAX);
        expected[at..at + write.data.len()].copy_from_slice(&write.data);
    }
    let found = disk.read(offset, len, clock.now().after(DEADLINE)).await?;
    Ok(found.iter().zip(&expected).position(|(a, b)| a != b).map(|at| offset + at as u64))
}

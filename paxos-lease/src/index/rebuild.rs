//! Listing anew what is there: an index is restored from the leases in its resources' areas (spec D 5).
//!
//! Every lease of this lockspace is listed once. Where several have one name, those that were ever used (lver above 0), or
//! are listed already, are listed; the others are left from creates that were cut off, never were anybody's, and give way. sanlock
//! lists whatever has the magic of a lease.
//!
//! I/O: R 4096 bytes, R entries, R one sector of each resource's area up to the end of the device; R and W each sector of
//! entries that differs. Nothing is written before everything was read.

use std::collections::BTreeSet;

use holdfast_io::bytes::{array_at, put};
use holdfast_io::clock::Clock;
use holdfast_io::disk::{Disk, ReadDisk};
use holdfast_io::ids::{Lver, ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::stop::Stop;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::SectorIndex;
use tracing::{info, warn};

use super::codec::{ENTRY_LEN, Entry};
use super::error::IndexError;
use super::read::{Index, Reader};
use super::seize::is_end;

/// What a rebuild has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Resources that are listed now.
    pub listed: usize,
    /// Entries that were otherwise before.
    pub changed: usize,
}

/// What stands in a resource's area, as far as a list is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// No lease of this lockspace.
    Nothing,
    /// A lease.
    Lease { name: ResourceName, lver: Lver },
    /// A lease whose record is damaged: nobody knows whose it is.
    Damaged { name: ResourceName },
}

/// What the first sector of an area says.
fn seen(sector: &[u8], space: SpaceName) -> Seen {
    let bytes: [u8; leader::LEN] = array_at(sector, 0);
    let record = LeaderRecord::parse(&bytes);
    if record.kind() != Some(LeaderKind::Paxos) {
        return Seen::Nothing;
    }
    match LeaderRecord::decode(&bytes, LeaderKind::Paxos, &Expected::default()) {
        Ok(Decoded::Record(r)) if r.space_name == space => Seen::Lease { name: r.resource_name, lver: r.lver },
        Err(_) => Seen::Damaged { name: record.resource_name },
        Ok(_) => Seen::Nothing,
    }
}

/// The names to be listed, place by place; no name: a free place. `listed`: the names in the index as it is.
fn names(listed: &[ResourceName], areas: &[Seen]) -> Vec<ResourceName> {
    let name_of = |(place, area): (usize, &Seen)| match *area {
        Seen::Nothing => ResourceName::empty(),
        Seen::Lease { name, .. } => name,
        // What the list said of it is worth more.
        Seen::Damaged { name } => listed.get(place).copied().filter(|n| !n.is_empty()).unwrap_or(name),
    };
    let named: Vec<ResourceName> = areas.iter().enumerate().map(name_of).collect();
    let stays = |place: usize| {
        let unused = matches!(areas[place], Seen::Lease { lver: Lver(0), .. });
        !unused || listed.get(place) == Some(&named[place])
    };
    let mut taken: BTreeSet<ResourceName> = (0..named.len()).filter(|p| stays(*p)).map(|p| named[p]).collect();
    let kept = named
        .iter()
        .enumerate()
        .map(|(place, name)| if stays(place) || taken.insert(*name) { *name } else { ResourceName::empty() });
    kept.collect()
}

/// Lists what is there. The caller holds the index.
///
/// # Errors
/// [`IndexError`]. An area that cannot be read is one: it may have a lease in it.
pub async fn rebuild<D: Disk, C: Clock>(reader: &Reader<'_, D, C>, stop: &Stop) -> Result<Rebuilt, IndexError> {
    let index = reader.read().await?;
    let areas = scan(reader, &index, stop).await?;
    let listed: Vec<ResourceName> = index.slots.all().map(|slot| index.entry(slot).name).collect();
    let names = names(&listed, &areas);
    let entries = index.slots.all().zip(names.iter().copied().chain(std::iter::repeat(ResourceName::empty())));
    let entries = entries.map(|(slot, name)| match name.is_empty() {
        true => Entry::FREE,
        false => Entry::of(name, index.slots.area(slot)),
    });
    let entries: Vec<Entry> = entries.collect();
    let mut unique = BTreeSet::new();
    for name in names.iter().filter(|n| !n.is_empty() && !unique.insert(**n)) {
        warn!(%name, "listed more than once: several leases that were used have this name");
    }
    let changed = write(reader, &index, &entries).await?;
    let rebuilt = Rebuilt { listed: entries.iter().filter(|e| !e.is_free()).count(), changed };
    info!(?rebuilt, "index rebuilt");
    Ok(rebuilt)
}

/// Looks at every resource's area up to the end of the device.
async fn scan<D: ReadDisk, C: Clock>(
    reader: &Reader<'_, D, C>,
    index: &Index,
    stop: &Stop,
) -> Result<Vec<Seen>, IndexError> {
    let mut areas = Vec::new();
    for slot in index.slots.all() {
        if stop.is_set() {
            return Err(IndexError::Stopped);
        }
        let (at, len) = (index.slots.area(slot).0, index.header.geometry.sector().bytes());
        match reader.disk.read(at, len, reader.deadline()).await {
            Ok(sector) => areas.push(seen(&sector, reader.index.space)),
            Err(e) if is_end(&e) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(areas)
}

/// Writes the sectors of entries that differ; how many entries that are. Crash in between: those written are right, the others
/// as they were, and the areas, from which all of it follows, are untouched.
async fn write<D: Disk, C: Clock>(
    reader: &Reader<'_, D, C>,
    index: &Index,
    entries: &[Entry],
) -> Result<usize, IndexError> {
    let size = index.header.geometry.sector();
    let mut changed = 0;
    for (number, new) in (1..).zip(entries.chunks(size.bytes() / ENTRY_LEN)) {
        let place = reader.index.at.sector(SectorIndex(number), size);
        let before = reader.disk.read(place, size.bytes(), reader.deadline()).await?;
        // What stands behind the last place goes, as in sanlock.
        let mut bytes = AlignedBuf::zeroed(size.bytes());
        for (at, new) in (0..).step_by(ENTRY_LEN).zip(new) {
            changed += usize::from(Entry::parse(&array_at(&before, at)) != *new);
            put(&mut bytes, at, &new.encode());
        }
        if bytes[..] != before[..] {
            reader.disk.write(place, bytes, reader.deadline()).await?;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ResourceName {
        if text.is_empty() { ResourceName::empty() } else { ResourceName::new(text.as_bytes()).unwrap() }
    }

    fn rebuilt(listed: [&str; 4], areas: [Seen; 4]) -> Vec<String> {
        let listed = listed.map(name);
        names(&listed, &areas).iter().map(ToString::to_string).collect()
    }

    fn lease(text: &str, lver: u64) -> Seen {
        Seen::Lease { name: name(text), lver: Lver(lver) }
    }

    #[test]
    fn every_lease_is_listed_and_nothing_else() {
        let areas = [lease("a", 0), Seen::Nothing, lease("b", 7), lease("c", 0)];
        assert_eq!(rebuilt(["", "gone", "wrong", ""], areas), ["a", "", "b", "c"]);
    }

    #[test]
    fn what_a_cut_off_create_left_gives_way_to_the_lease_of_its_name() {
        let nothing = Seen::Nothing;
        assert_eq!(rebuilt(["", "", "", ""], [lease("a", 0), lease("a", 3), nothing, nothing]), ["", "a", "", ""]);
        assert_eq!(rebuilt(["", "a", "", ""], [lease("a", 0), lease("a", 0), nothing, nothing]), ["", "a", "", ""]);
        assert_eq!(rebuilt(["", "", "", ""], [lease("a", 0), lease("a", 0), nothing, nothing]), ["a", "", "", ""]);
        // Both were used: neither may be lost.
        assert_eq!(rebuilt(["", "", "", ""], [lease("a", 2), lease("a", 3), nothing, nothing]), ["a", "a", "", ""]);
    }

    #[test]
    fn a_damaged_lease_stays_listed_as_it_was() {
        let damaged = Seen::Damaged { name: name("?") };
        assert_eq!(rebuilt(["a", "", "", ""], [damaged, damaged, lease("?", 0), Seen::Nothing]), ["a", "?", "", ""]);
    }
}

//! One resource's area on one disk: every sector read here is verified before anybody looks at it, every sector written
//! is sealed.
//!
//! Units: whole sectors. Errors: [`AreaError`], with path and offset.

use holdfast_io::bytes::{array_at, put};
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::{Disk, IoErrorKind};
use holdfast_io::identity::Machine;
use holdfast_io::ids::{HostId, HostTerm, Lver, ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderError, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::{IoTimeout, Timing};
use holdfast_io::units::{Geometry, LeaseOffset, SectorIndex};

use crate::choose::newest_lver;
use crate::copies::{Place, ValueRemarks, is_of_another_lockspace, is_passed_over, pass_over};
use crate::damage::{Damage, made_anew};
use crate::dblock::{Dblock, DblockError, HostSector, Inp, ModeBlock};
use crate::error::AreaError;
use crate::layout::{FIRST_DBLOCK, LEADER, REQUEST, dblock_of, uuid_sector};
use crate::request::{Address, Addressee, RequestError, RequestRecord};

/// Where a lease is, and which one is expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAt {
    /// Where its area begins.
    pub at: LeaseOffset,
    /// Its lockspace.
    pub space: SpaceName,
    /// Its name.
    pub resource: ResourceName,
    /// The shape it probably has; the leader record decides.
    pub geometry_hint: Geometry,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me {
    /// Our host_id and generation.
    pub term: HostTerm,
    /// Our machine, for the seal.
    pub machine: Machine,
    /// Our watchdog's promise, for the seal.
    pub fire: SealedFire,
    /// How long one I/O may take.
    pub io_timeout: IoTimeout,
}

impl Me {
    /// The seal of sector `sector` of area `area`, written at `now`.
    #[must_use]
    pub const fn seal(&self, area: AreaUuid, sector: SectorIndex, now: LocalInstant) -> Seal {
        let Machine { machine, boot } = self.machine;
        Seal { fire: self.fire, machine, boot, area, millis: now.disk_millis(), sector }
    }
}

/// What one read of a whole area showed. Its sectors were read one by one, in no particular order: only what is final
/// once true may be concluded from two of them.
pub(crate) struct Snapshot {
    pub(crate) leader: LeaderRecord,
    /// Host i + 1 at index i; the hosts whose dblocks matter, see [`Snapshot::of`].
    pub(crate) hosts: Vec<HostSector>,
    /// As it stands there, whatever it says: it decides nothing about the lease.
    pub(crate) request: RequestRecord,
}

/// A lease area whose geometry and UUID are known.
pub(crate) struct Area<'a, D, C> {
    pub(crate) disk: &'a D,
    pub(crate) clock: &'a C,
    pub(crate) lease: &'a LeaseAt,
    pub(crate) me: &'a Me,
    pub(crate) geometry: Geometry,
    pub(crate) uuid: AreaUuid,
    /// Sectors that were damaged when the area was opened. Read as they were then they count as never written; whoever goes on from
    /// that has made sure that they can say nothing (acquire/obscured.rs). Damaged in another way they are an error, like all others.
    pub(crate) unread: Vec<Damage>,
}

/// How often the area may turn out to have another shape than it had at the last read: once for a wrong hint, once
/// for a format that happened in between.
const RESHAPES: u32 = 2;

impl<'a, D: Disk, C: Clock> Area<'a, D, C> {
    /// Reads the whole area and verifies what matters in it. One read where the hint is right. Hosts' sectors that are damaged are in
    /// [`Area::unread`].
    pub(crate) async fn open(
        disk: &'a D,
        clock: &'a C,
        lease: &'a LeaseAt,
        me: &'a Me,
    ) -> Result<(Self, Snapshot), AreaError> {
        let mut area =
            Area { disk, clock, lease, me, geometry: lease.geometry_hint, uuid: AreaUuid::NONE, unread: Vec::new() };
        let mut reshapes = 0;
        loop {
            let (bytes, found) = match area.read(LEADER, area.geometry.area_len()).await {
                Ok(bytes) => {
                    let found = area.shape(&bytes)?;
                    (Some(bytes), found)
                }
                // The device may end before an area of the hinted length does: ask the leader how long it is.
                Err(AreaError::Io(e)) if matches!(e.kind, IoErrorKind::Short { .. }) => {
                    let found = area.shape(&area.read(LEADER, 4096).await?)?;
                    if found == area.geometry {
                        return Err(e.into());
                    }
                    (None, found)
                }
                Err(e) => return Err(e),
            };
            if let Some(bytes) = bytes.filter(|_| found == area.geometry) {
                area.uuid = area.read_uuid(&bytes)?;
                let snapshot = area.snapshot(&bytes)?;
                return Ok((area, snapshot));
            }
            if reshapes == RESHAPES {
                return Err(AreaError::Shape {
                    path: disk.path().clone(),
                    offset: lease.at.0,
                    found,
                    expected: area.geometry,
                });
            }
            reshapes += 1;
            area.geometry = found;
        }
    }

    pub(crate) fn deadline(&self) -> LocalInstant {
        self.clock.now().after(Timing::new(self.me.io_timeout, self.me.fire.judged()).io_deadline())
    }

    /// The device offset of a sector.
    pub(crate) fn offset(&self, sector: SectorIndex) -> u64 {
        self.lease.at.sector(sector, self.geometry.sector())
    }

    pub(crate) async fn read(&self, from: SectorIndex, len: usize) -> Result<AlignedBuf, AreaError> {
        Ok(self.disk.read(self.offset(from), len, self.deadline()).await?)
    }

    pub(crate) async fn write(&self, at: SectorIndex, sector: AlignedBuf) -> Result<(), AreaError> {
        assert_eq!(sector.len(), self.geometry.sector().bytes(), "one sector, which is atomic");
        Ok(self.disk.write(self.offset(at), sector, self.deadline()).await?)
    }

    /// The geometry that a verified leader record names.
    fn shape(&self, bytes: &[u8]) -> Result<Geometry, AreaError> {
        let leader = self.decode_leader(bytes)?;
        leader.geometry().ok_or_else(|| {
            self.leader_error(LeaderError::Field {
                field: "sector_size",
                found: u64::from(leader.sector_size),
                expected: "512 or 4096 with a matching area length",
            })
        })
    }

    fn leader_error(&self, source: LeaderError) -> AreaError {
        AreaError::Leader { path: self.disk.path().clone(), offset: self.lease.at.0, source: Box::new(source) }
    }

    /// The leader record in the first bytes of `bytes`, without its seal.
    fn decode_leader(&self, bytes: &[u8]) -> Result<LeaderRecord, AreaError> {
        let expected = Expected {
            space: Some(self.lease.space),
            resource: Some(self.lease.resource),
            // On several disks every host's sector is read, whatever num_hosts an older record says.
            host_id: Some(self.me.term.host_id).filter(|_| self.disk.copies() == 1),
        };
        let (path, offset) = (self.disk.path().clone(), self.lease.at.0);
        let record: [u8; leader::LEN] = holdfast_io::bytes::array_at(bytes, 0);
        match LeaderRecord::decode(&record, LeaderKind::Paxos, &expected).map_err(|e| self.leader_error(e))? {
            Decoded::Blank => Err(AreaError::Blank { path, offset }),
            Decoded::Cleared(_) => Err(AreaError::Cleared { path, offset }),
            Decoded::Record(record) => self.room_for_us(record),
        }
    }

    /// Whether there is a sector for us at all: a lease of smaller sectors or areas may have fewer than its lockspace.
    fn room_for_us(&self, leader: LeaderRecord) -> Result<LeaderRecord, AreaError> {
        let (found, expected) = (leader.max_hosts, self.me.term.host_id);
        if expected.get() > found {
            return Err(self.leader_error(LeaderError::NumHosts { found, expected }));
        }
        Ok(leader)
    }

    /// The leader record of sector 0, its seal included.
    fn verify_leader(&self, sector: &[u8]) -> Result<LeaderRecord, AreaError> {
        let leader = self.decode_leader(sector)?;
        let (path, offset) = (self.disk.path().clone(), self.lease.at.0);
        let found = self.shape(sector)?;
        if found != self.geometry {
            return Err(AreaError::Shape { path, offset, found, expected: self.geometry });
        }
        // Ballot numbers are unique only if every host divides by the same max_hosts.
        if leader.max_hosts != u64::from(self.geometry.max_hosts()) {
            return Err(self.leader_error(LeaderError::Field {
                field: "max_hosts",
                found: leader.max_hosts,
                expected: "the hosts that fit the area",
            }));
        }
        let sector = &sector[..self.geometry.sector().bytes()];
        match seal::read(sector, SealedKind::Plain, LEADER) {
            Ok(Some(Seal { area: found, .. })) if found != self.uuid => {
                Err(AreaError::OtherArea { path, offset, found, expected: self.uuid })
            }
            Ok(_) => Ok(leader),
            Err(source) => Err(AreaError::Seal { record: "leader record", path, offset, source }),
        }
    }

    fn read_uuid(&self, area: &[u8]) -> Result<AreaUuid, AreaError> {
        let (at, size) = (uuid_sector(self.geometry), self.geometry.sector());
        let sector = &area[at.at(size)..at.at(size) + size.bytes()];
        match seal::read(sector, SealedKind::Plain, at) {
            // Whoever took a part of its disks for all of them could have a majority that meets no other.
            Ok(seal) if self.is_part(seal.and_then(|_| Place::of_sealed(sector))) => Err(AreaError::Copies {
                path: self.disk.path().clone(),
                offset: self.offset(at),
                found: seal.and_then(|_| Place::of_sealed(sector)),
                expected: self.disk.copies(),
            }),
            Ok(seal) => Ok(seal.map_or(AreaUuid::NONE, |s| s.area)),
            Err(source) => Err(AreaError::Seal {
                record: "area UUID",
                path: self.disk.path().clone(),
                offset: self.offset(at),
                source,
            }),
        }
    }

    /// Whether an area in this place is of a lease with another number of copies.
    fn is_part(&self, place: Option<Place>) -> bool {
        place.map_or(1, |place| usize::from(place.copies)) != self.disk.copies()
    }

    /// Which dblocks matter: those of hosts 1 to num_hosts - if this leader record's num_hosts can be relied on. Where
    /// another host wrote the record for its owner, or where a later lver has begun (a late write landed over a newer
    /// record), other hosts may be at work under another num_hosts; then all that fit are read. Two ballots of one lver
    /// must see each other (I5).
    ///
    /// Where one of them is damaged nobody knows what it hides, so that all are read as well.
    fn snapshot(&mut self, area: &[u8]) -> Result<Snapshot, AreaError> {
        let leader = self.verify_leader(area)?;
        let all = self.geometry.max_hosts();
        let used = u32::try_from(leader.num_hosts).unwrap_or(all).min(all);
        let size = self.geometry.sector();
        let dblocks = &area[FIRST_DBLOCK.at(size)..];
        // By its owner's own hand, and in the owner's own term: what a later generation publishes for an earlier one others pass over
        // without waiting for it, and it may land late. On several disks the owner's own can be an older one, too: it hung on its way.
        let by_its_owner = leader.write_id == leader.owner_id && leader.write_generation == leader.owner_generation.0;
        let reliable = by_its_owner && self.disk.copies() == 1;
        let mut hosts = self.decode_hosts(dblocks, if reliable { used } else { all });
        if hosts.as_ref().map_or(true, |hosts| newest_lver(hosts) > leader.lver.next()) {
            self.unread = self.damaged(dblocks);
            hosts = self.decode_hosts(dblocks, all);
        }
        let hosts = hosts?;
        let request = RequestRecord::parse(&array_at(area, REQUEST.at(size)));
        Ok(Snapshot { leader, hosts, request })
    }

    /// The damaged ones of the host sectors in `bytes`. Of several disks none are: what is damaged there is so on a majority.
    fn damaged(&self, bytes: &[u8]) -> Vec<Damage> {
        if self.disk.copies() > 1 {
            return Vec::new();
        }
        let sectors = bytes.chunks_exact(self.geometry.sector().bytes());
        let hosts = (0..self.geometry.max_hosts()).map_while(HostId::from_slot);
        let damage = |(host_id, sector): (HostId, &[u8])| {
            let source = self.verify_host(host_id, sector).err().filter(DblockError::is_damage)?;
            Some(Damage { host_id, bytes: AlignedBuf::from_slice(sector), source })
        };
        hosts.zip(sectors).filter_map(damage).collect()
    }

    /// The first `count` host sectors in `bytes`. Any damage but what is [`Area::unread`] is an error: a skipped block may be a live shared
    /// holder's, or carry the committed value.
    fn decode_hosts(&self, bytes: &[u8], count: u32) -> Result<Vec<HostSector>, AreaError> {
        let sectors = bytes.chunks_exact(self.geometry.sector().bytes());
        let hosts = (0..count).map_while(HostId::from_slot);
        hosts.zip(sectors).map(|(host, sector)| self.decode_host(host, sector)).collect()
    }

    fn decode_host(&self, host_id: HostId, sector: &[u8]) -> Result<HostSector, AreaError> {
        match self.verify_host(host_id, sector) {
            Err(_) if self.unread.iter().any(|d| d.host_id == host_id && *d.bytes == *sector) => {
                Ok(HostSector::default())
            }
            Err(source) => Err(self.dblock_error(host_id, source)),
            Ok(found) => Ok(found),
        }
    }

    fn verify_host(&self, host_id: HostId, sector: &[u8]) -> Result<HostSector, DblockError> {
        match HostSector::decode(sector, dblock_of(host_id))? {
            Decoded::Record(found) | Decoded::Cleared(found) => found.check_area(self.uuid).map(|()| found),
            Decoded::Blank => Ok(HostSector::default()),
        }
    }

    /// What is wrong with a host's sector, and where that is.
    pub(crate) fn dblock_error(&self, host_id: HostId, source: DblockError) -> AreaError {
        let offset = self.offset(dblock_of(host_id));
        AreaError::Dblock { path: self.disk.path().clone(), offset, host_id, source }
    }

    /// Reads and verifies the leader record.
    pub(crate) async fn read_leader(&self) -> Result<LeaderRecord, AreaError> {
        self.verify_leader(&self.read(LEADER, self.geometry.sector().bytes()).await?)
    }

    /// Reads and verifies the request record, and to whom it is addressed.
    pub(crate) async fn read_request(&self) -> Result<(RequestRecord, Address), AreaError> {
        let sector = self.read(REQUEST, self.geometry.sector().bytes()).await?;
        let (path, offset) = (self.disk.path().clone(), self.offset(REQUEST));
        let (record, seal) = match RequestRecord::decode(&sector) {
            Ok((Decoded::Record(record) | Decoded::Cleared(record), seal)) => (record, seal),
            Ok((Decoded::Blank, _)) => {
                let source = RequestError::Magic { found: 0 };
                return Err(AreaError::Request { path, offset, source });
            }
            Err(source) => return Err(AreaError::Request { path, offset, source }),
        };
        let address = match seal {
            None => Address::Unsealed,
            Some(seal) if seal.area != self.uuid => Address::Nobody,
            Some(_) => Addressee::read(&sector).map_or(Address::Nobody, Address::To),
        };
        Ok((record, address))
    }

    /// Writes the request record: a message, which decides nothing wherever and whenever it lands (ask.rs).
    pub(crate) async fn write_request(
        &self,
        record: &RequestRecord,
        addressee: Option<&Addressee>,
    ) -> Result<(), AreaError> {
        let mut sector = AlignedBuf::zeroed(self.geometry.sector().bytes());
        put(&mut sector, 0, &record.encode());
        if let Some(addressee) = addressee {
            addressee.put_into(&mut sector);
        }
        seal::write(&mut sector, SealedKind::Plain, &self.me.seal(self.uuid, REQUEST, self.clock.now()));
        self.write(REQUEST, sector).await
    }

    /// Reads and verifies one host's sector.
    pub(crate) async fn read_host(&self, host: HostId) -> Result<HostSector, AreaError> {
        self.decode_host(host, &self.read(dblock_of(host), self.geometry.sector().bytes()).await?)
    }

    /// Reads and verifies the sectors of hosts 1 to `count` in one read.
    pub(crate) async fn read_hosts(&self, count: u32) -> Result<Vec<HostSector>, AreaError> {
        let len = SectorIndex(count).at(self.geometry.sector());
        self.decode_hosts(&self.read(FIRST_DBLOCK, len).await?, count)
    }

    /// Writes a leader record. The caller argues why this one may be written now.
    pub(crate) async fn write_leader(&self, leader: &LeaderRecord) -> Result<(), AreaError> {
        let mut sector = AlignedBuf::zeroed(self.geometry.sector().bytes());
        put(&mut sector, 0, &leader.encode());
        seal::write(&mut sector, SealedKind::Plain, &self.me.seal(self.uuid, LEADER, self.clock.now()));
        self.write(LEADER, sector).await
    }

    /// Writes our own dblock and mode block: the only sector of the area that is ours alone (I1).
    pub(crate) async fn write_own(&self, dblock: &Dblock, mode: &ModeBlock) -> Result<(), AreaError> {
        self.write_host(self.me.term.host_id, dblock, mode).await
    }

    /// Writes our own sector as an exclusive owner on several disks, with the hosts whose claims it has passed over.
    pub(crate) async fn write_own_over(&self, dblock: &Dblock, over: &[HostTerm]) -> Result<(), AreaError> {
        let (at, size) = (dblock_of(self.me.term.host_id), self.geometry.sector());
        let seal = self.me.seal(self.uuid, at, self.clock.now());
        let mut sector = HostSector { dblock: *dblock, mode: ModeBlock::NONE, seal: None }.sector(size, &seal);
        pass_over(&mut sector, dblock.lver, over.iter().map(|of| of.host_id));
        seal::write(&mut sector, SealedKind::Dblock, &seal);
        self.write(at, sector).await
    }

    /// Whether any host's sector says that it has passed over the claim that we have had since `since`.
    pub(crate) async fn is_passed_over(&self, since: Lver) -> Result<bool, AreaError> {
        let us = self.me.term.host_id;
        let over = |sector: &[u8], found: &HostSector| found.seal.is_some() && is_passed_over(sector, us, since);
        Ok(self.of_every_host(over).await?.into_iter().any(|over| over))
    }

    /// What every host says of the value of the lease, on several disks.
    pub(crate) async fn value_remarks(&self) -> Result<Vec<ValueRemarks>, AreaError> {
        let of = |sector: &[u8], found: &HostSector| {
            found.seal.map_or_else(ValueRemarks::default, |_| ValueRemarks::of_sealed(sector))
        };
        self.of_every_host(of).await
    }

    /// Something of the verified sector of each host that fits the area.
    async fn of_every_host<T>(&self, what: impl Fn(&[u8], &HostSector) -> T) -> Result<Vec<T>, AreaError> {
        let (count, size) = (self.geometry.max_hosts(), self.geometry.sector());
        let bytes = self.read(FIRST_DBLOCK, SectorIndex(count).at(size)).await?;
        let found = self.decode_hosts(&bytes, count)?;
        Ok(bytes.chunks_exact(size.bytes()).zip(&found).map(|(sector, found)| what(sector, found)).collect())
    }

    /// Whether a host's sector is of before the lockspace was made anew, by its stamp and that of our own sector, which we have written.
    pub(crate) async fn is_of_another_lockspace(&self, host: HostId) -> Result<bool, AreaError> {
        let mut sealed = Vec::new();
        for host in [host, self.me.term.host_id] {
            let sector = self.read(dblock_of(host), self.geometry.sector().bytes()).await?;
            if self.decode_host(host, &sector)?.seal.is_some() {
                sealed.push(sector);
            }
        }
        Ok(matches!(sealed.as_slice(), [theirs, ours] if is_of_another_lockspace(theirs, ours)))
    }

    /// Clears another host's mode block, and nothing else of it. Only under I1's exception, see shared.rs.
    pub(crate) async fn clear_mode(&self, host: HostId, dblock: &Dblock) -> Result<(), AreaError> {
        self.write_host(host, dblock, &ModeBlock::NONE).await
    }

    /// Whether a damaged sector is still as it was read.
    pub(crate) async fn is_still(&self, damage: &Damage) -> Result<bool, AreaError> {
        let sector = self.read(dblock_of(damage.host_id), self.geometry.sector().bytes()).await?;
        Ok(*sector == *damage.bytes)
    }

    /// Makes the lost sector of another host anew. Only under I1's exception, see acquire/obscured.rs.
    pub(crate) async fn make_anew(&self, host: HostId, held: Lver) -> Result<(), AreaError> {
        let (dblock, mode) = made_anew(host, self.geometry.max_hosts(), held);
        self.write_host(host, &dblock, &mode).await
    }

    async fn write_host(&self, host: HostId, dblock: &Dblock, mode: &ModeBlock) -> Result<(), AreaError> {
        assert!(dblock.bal <= dblock.mbal, "I3");
        assert_eq!(dblock.bal.is_some(), dblock.inp.owner_id != 0, "I3: bal and inp are set together");
        let at = dblock_of(host);
        let whole = HostSector { dblock: *dblock, mode: *mode, seal: None };
        let seal = self.me.seal(self.uuid, at, self.clock.now());
        self.write(at, whole.sector(self.geometry.sector(), &seal)).await
    }

    /// Ourselves as owner, from now on.
    pub(crate) fn fresh_inp(&self) -> Inp {
        Inp::new(self.me.term, self.clock.now().disk_seconds())
    }
}

/// Whether a write that ended with `error` may be on the medium, now or later.
pub(crate) const fn may_have_landed(error: &AreaError) -> bool {
    match error {
        AreaError::Io(e) => e.may_have_landed(),
        _ => false,
    }
}

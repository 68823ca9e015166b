//! Looks at an area: what was read, and between which two instants.
//!
//! Every judgement about another host rests on when a look began and ended (D1): a change that it shows had happened by
//! its end, and nothing changed before its start that it does not show. Whole areas are read in one I/O, which is
//! atomic for each sector only; that is enough, since each sector is judged by itself.

use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::{IoError, ReadDisk};
use holdfast_io::ids::HostId;
use holdfast_io::seal::{AreaUuid, SealError};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::Geometry;

use crate::error::{DeltaError, SectorError};
use crate::layout::{DeltaArea, tail_index, tail_uuid};
use crate::sector::{DeltaSector, index_of};

/// One host's sector as it was read, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectorView {
    /// Whose sector.
    pub host_id: HostId,
    /// All of its bytes.
    pub bytes: AlignedBuf,
    /// Before the read was issued.
    pub read_started: LocalInstant,
    /// After it came back.
    pub read_ended: LocalInstant,
}

impl SectorView {
    /// The verified content.
    ///
    /// # Errors
    /// See [`DeltaArea::decode`].
    pub fn decode(&self, area: &DeltaArea) -> Result<DeltaSector, SectorError> {
        area.decode(self.host_id, &self.bytes)
    }
}

/// A whole area as it was read, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaView {
    geometry: Geometry,
    bytes: AlignedBuf,
    /// Before the read was issued.
    pub read_started: LocalInstant,
    /// After it came back.
    pub read_ended: LocalInstant,
}

impl AreaView {
    /// A view of bytes that were read elsewhere.
    ///
    /// # Panics
    /// If they are not one area of this geometry long.
    #[must_use]
    pub fn new(geometry: Geometry, bytes: AlignedBuf, read_started: LocalInstant, read_ended: LocalInstant) -> Self {
        assert!(bytes.len() == geometry.area_len(), "an area view is a whole area");
        AreaView { geometry, bytes, read_started, read_ended }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A host's sector. The host must fit the area.
    #[must_use]
    pub fn sector(&self, host: HostId) -> &[u8] {
        let size = self.geometry.sector();
        let from = index_of(host).at(size);
        &self.bytes[from..from + size.bytes()]
    }

    /// The UUID in the tail.
    ///
    /// # Errors
    /// Its seal is damaged.
    pub fn uuid(&self) -> Result<AreaUuid, SealError> {
        let size = self.geometry.sector();
        let from = tail_index(self.geometry).at(size);
        tail_uuid(&self.bytes[from..from + size.bytes()], self.geometry)
    }
}

/// Reads one host's sector afresh. I/O: one sector.
///
/// # Errors
/// The host does not fit the area, or the read failed.
pub async fn read_host<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    area: &DeltaArea,
    host_id: HostId,
    deadline: LocalInstant,
) -> Result<SectorView, DeltaError> {
    area.must_have_room_for(host_id, disk.path())?;
    Ok(read_sector(disk, clock, area, host_id, deadline).await?)
}

/// [`read_host`] for a host that is known to fit.
pub(crate) async fn read_sector<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    area: &DeltaArea,
    host_id: HostId,
    deadline: LocalInstant,
) -> Result<SectorView, IoError> {
    let read_started = clock.now();
    let bytes = disk.read(area.offset_of(host_id), area.geometry.sector().bytes(), deadline).await?;
    Ok(SectorView { host_id, bytes, read_started, read_ended: clock.now() })
}

/// Reads the whole area. I/O: one area.
///
/// # Errors
/// The read failed.
pub async fn read_area<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    area: &DeltaArea,
    deadline: LocalInstant,
) -> Result<AreaView, IoError> {
    let read_started = clock.now();
    let bytes = disk.read(area.at.0, area.geometry.area_len(), deadline).await?;
    Ok(AreaView::new(area.geometry, bytes, read_started, clock.now()))
}

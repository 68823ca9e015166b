//! The writes that format one area, on their device. The lease crates say what to write and in which order; see
//! `format` there for why a crash between any two of them leaves nothing that either program accepts.

use holdfast_io::identity::Machine;
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::LeaseOffset;
use paxos_lease::format::{FormatError, Writer};
use paxos_lease::index::format::plan_area;
use paxos_lease::index::slots::DEFAULT_RESOURCES;
use paxos_lease::index::{Header, IndexAt};
use serde::Serialize;

use super::target::{Kind, Shape, Target};

/// One write.
#[derive(Debug, Serialize)]
pub struct Write {
    /// Where on the device.
    pub offset: u64,
    /// How many bytes.
    pub bytes: usize,
    /// What for.
    pub what: &'static str,
    /// The bytes.
    #[serde(skip)]
    pub data: AlignedBuf,
}

/// Who formats.
#[derive(Clone, Copy, Debug)]
pub struct Formatter {
    /// This machine.
    pub machine: Machine,
}

/// The writes for a target, in order, sealed with a new UUID.
///
/// # Errors
/// More hosts were asked for than fit.
pub fn plan(target: &Target, shape: &Shape, formatter: Formatter, uuid: AreaUuid) -> Result<Vec<Write>, FormatError> {
    let machine = formatter.machine;
    // An offline tool has no watchdog; the seal of a free sector promises nothing to anybody.
    let fire = SealedFire::NoWatchdog;
    let at = |in_area: u64| target.offset.saturating_add(in_area);
    match &target.kind {
        Kind::Lockspace { name } => {
            use delta_lease::format::{FormatSeal, FormatStep, plan};
            let seal = FormatSeal { uuid, machine, fire };
            let writes = plan(target.geometry, *name, shape.io_timeout, Some(&seal));
            let what = |step| match step {
                FormatStep::Invalidate => "blank sector 0",
                FormatStep::Body => "the sectors of all other hosts, and the area's UUID",
                FormatStep::Commit => "the sector of host 1, which commits",
            };
            let write = |w: delta_lease::format::FormatWrite| (at(w.offset_in_area), w.bytes, what(w.what));
            Ok(writes.into_iter().map(write).map(Write::from).collect())
        }
        Kind::Resource { space, name } => {
            use paxos_lease::format::{NewLease, plan};
            let (space, resource, num_hosts) = (*space, *name, shape.hosts);
            let lease = NewLease { geometry: target.geometry, space, resource, num_hosts, uuid, place: None };
            let writes = plan(&lease, &Writer { machine, fire })?;
            Ok(writes.into_iter().map(|w| Write::from((at(w.offset_in_area), w.bytes, w.what))).collect())
        }
        Kind::Index { space, resources } => {
            let writes = plan_area(&header(target, *space, resources, uuid), &Writer { machine, fire }, resources);
            Ok(writes.into_iter().map(|w| Write::from((at(w.offset_in_area), w.bytes, w.what))).collect())
        }
    }
}

/// The header of an index: sanlock's number of places, or more where there are more resources.
#[must_use]
pub fn header(target: &Target, space: SpaceName, resources: &[ResourceName], uuid: AreaUuid) -> Header {
    let places = u32::try_from(resources.len()).unwrap_or(u32::MAX).max(DEFAULT_RESOURCES);
    let index = IndexAt { at: LeaseOffset(target.offset), space };
    Header::new(index, target.geometry, places, uuid)
}

impl From<(u64, AlignedBuf, &'static str)> for Write {
    fn from((offset, data, what): (u64, AlignedBuf, &'static str)) -> Self {
        Write { offset, bytes: data.len(), what, data }
    }
}

//! A device that `sanlock direct` reads or writes, without a daemon. Nobody keeps others from it: it is the caller who
//! knows that no host works on what is written, as with sanlock.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_daemon::codes;
use holdfast_io::clock::{BootClock, Clock as _};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::{Disk as _, ReadDisk as _};
use holdfast_io::identity::Machine;
use holdfast_io::seal::SealedFire;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::{Access, BlockFile, OpenError, ThreadsEngine};
use holdfast_io::units::{AlignSize, Geometry, SectorSize};
use holdfast_protocol::command::LockspaceFlags;
use paxos_lease::format::Writer;

pub(super) const EINVAL: i32 = -22;
pub(super) const EPERM: i32 = -1;
/// Where the largest file ends.
const FAR_END: u64 = i64::MAX.cast_unsigned();

/// How long one I/O may take (spec D 1.5).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// An open device.
pub(super) struct Offline {
    pub(super) clock: BootClock,
    pub(super) file: Arc<BlockFile>,
    pub(super) disk: Device<ThreadsEngine, BootClock>,
}

impl Offline {
    /// Opens one, or says which number `no_device` makes of it.
    pub(super) fn open(path: &str, no_device: impl Fn(&OpenError) -> i32) -> Result<Self, i32> {
        Self::open_for(path, Access::ReadWrite, no_device)
    }

    /// The same, and nothing is written.
    pub(super) fn open_to_read(path: &str, no_device: impl Fn(&OpenError) -> i32) -> Result<Self, i32> {
        Self::open_for(path, Access::ReadOnly, no_device)
    }

    fn open_for(path: &str, access: Access, no_device: impl Fn(&OpenError) -> i32) -> Result<Self, i32> {
        let errno = |e: &io::Error| -e.raw_os_error().unwrap_or(nix::libc::EIO);
        let clock = BootClock::new().map_err(|e| errno(&e))?;
        let file = Arc::new(BlockFile::open(Path::new(path), access).map_err(|e| no_device(&e))?);
        // No lease of a lockspace is held here, so D2 limits nothing.
        let disk =
            Device::new(ThreadsEngine::new(Arc::clone(&file), 1, "direct-io"), clock.clone(), WriteLimit::none());
        Ok(Offline { clock, file, disk })
    }

    /// The sizes that options give, or those that fit the device.
    pub(super) fn geometry(&self, flags: u32) -> Result<Geometry, i32> {
        let asked = LockspaceFlags::from_bits(flags);
        let sector = match (asked.contains(LockspaceFlags::SECTOR_512), asked.contains(LockspaceFlags::SECTOR_4K)) {
            (true, _) => Some(SectorSize::B512),
            (false, true) => Some(SectorSize::B4096),
            (false, false) => None,
        };
        match (sector, AlignSize::from_flags(flags)) {
            (None, None) => Ok(Geometry::default_for(self.file.sector())),
            (Some(sector), Some(align)) => Geometry::new(sector, align).map_err(|_| EPERM),
            _ => Err(EPERM),
        }
    }

    /// Whether an area with such sectors can begin at this byte.
    pub(super) fn fits(&self, geometry: Geometry, offset: u64) -> bool {
        let sector = geometry.sector().bytes() as u64;
        let ends = offset.checked_add(geometry.align().bytes()).is_some_and(|end| end <= FAR_END);
        offset.is_multiple_of(sector) && geometry.sector() >= self.file.sector() && ends
    }

    /// A sector of the device.
    pub(super) fn read_sector(&self, at: u64) -> Result<AlignedBuf, i32> {
        let len = self.file.sector().bytes();
        if !at.is_multiple_of(len as u64) || at.checked_add(len as u64).is_none_or(|end| end > FAR_END) {
            return Err(EINVAL);
        }
        let by = self.clock.now().after(PATIENCE);
        pollster::block_on(self.disk.read(at, len, by)).map_err(|e| codes::of_io(&e).number())
    }

    /// Each write on the medium before the next begins. A crash in between leaves what no program takes for an area.
    pub(super) fn write_all(&self, area: u64, writes: impl IntoIterator<Item = (u64, AlignedBuf)>) -> Result<(), i32> {
        for (at, bytes) in writes {
            let (at, by) = (area.saturating_add(at), self.clock.now().after(PATIENCE));
            pollster::block_on(self.disk.write(at, bytes, by)).map_err(|e| codes::of_io(&e).number())?;
        }
        Ok(())
    }
}

/// Who formats: a tool that joins nothing has no watchdog.
pub(super) fn writer() -> Result<Writer, i32> {
    let machine = Machine::of_this_host().map_err(|_| EINVAL)?;
    Ok(Writer { machine, fire: SealedFire::NoWatchdog })
}

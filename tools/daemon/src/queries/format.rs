//! Formatting on behalf of clients: which bytes must not be touched, and formattings that are not over.
//!
//! A format is refused where it would reach into a lockspace or a lease that this daemon uses, whatever path it goes by:
//! nodes and byte ranges are compared, not names. A formatting write that outlived its deadline may land at any time
//! (I6 orders the writes of one [`Device`] alone), so the bytes it is for take no other format of this daemon until the
//! kernel has reported its end. Spec A 6.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use delta_lease::DeltaArea;
use holdfast_io::clock::Clock;
use holdfast_io::device::{Device, Engine};
use holdfast_io::disk::Disk;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::NodeId;
use holdfast_io::units::AlignSize;
use holdfast_protocol::codes::ResultCode;
use tokio::task::spawn_local;

use super::{Refused, refuse_io};
use crate::linux::Linux;
use crate::platform::{LeaseFile, Platform};
use crate::resource::SpaceShared;
use crate::supervisor::event::Place;

/// How long a formatting write may take: it is long and nobody's lease depends on it (spec D 1.5).
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A stretch of an open device or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    node: NodeId,
    start: u64,
    end: u64,
}

impl Bytes {
    /// `len` bytes from `start` on.
    #[must_use]
    pub const fn of(node: NodeId, start: u64, len: u64) -> Self {
        Bytes { node, start, end: start.saturating_add(len) }
    }

    fn of_area(node: NodeId, area: &DeltaArea) -> Self {
        Self::of(node, area.at.0, area.geometry.align().bytes())
    }

    /// Whether any byte is in both.
    #[must_use]
    pub fn touches(&self, other: &Bytes) -> bool {
        self.node == other.node && self.start < other.end && other.start < self.end
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.start, self.end)
    }
}

/// A lockspace of this daemon, as far as its join has come.
pub enum InUse<P: Platform = Linux> {
    /// Its device is not open yet.
    Opening(Place),
    /// Its area was found.
    Found {
        /// Its device.
        node: NodeId,
        /// Its area.
        area: DeltaArea,
    },
    /// Joined. Weak: a format that takes long keeps no fence of a lockspace that was left meanwhile.
    Joined(Weak<SpaceShared<P>>),
}

impl<P: Platform> InUse<P> {
    /// Where a lockspace is said to be whose device is not open yet.
    #[must_use]
    pub fn opening(&self) -> Option<&Place> {
        match self {
            InUse::Opening(place) => Some(place),
            InUse::Found { .. } | InUse::Joined(_) => None,
        }
    }

    /// Where such a one may be, whose sizes are not known: the largest count.
    #[must_use]
    pub fn may_be_at(node: NodeId, place: &Place) -> (Bytes, String) {
        let what = format!("the lockspace at {place}, which is being joined");
        (Bytes::of(node, place.offset, AlignSize::M8.bytes()), what)
    }

    /// What of it a format of `new` would hit, right now.
    #[must_use]
    pub fn in_the_way_of(&self, new: &Bytes) -> Option<String> {
        let (node, area, shared) = match self {
            InUse::Opening(_) => return None,
            InUse::Found { node, area } => (*node, *area, None),
            InUse::Joined(shared) => {
                let shared = shared.upgrade()?;
                (shared.file.node(), shared.area, Some(shared))
            }
        };
        let own = Bytes::of_area(node, &area);
        if own.touches(new) {
            return Some(format!("lockspace {} (bytes {own}), which is joined here", area.space));
        }
        let leases = shared?.leased_areas().into_iter().map(|(node, at, len)| Bytes::of(node, at, len));
        let lease = leases.into_iter().find(|lease| lease.touches(new))?;
        Some(format!("a lease of lockspace {} that is in use here (bytes {lease})", area.space))
    }
}

/// The formattings of this daemon that are not over.
#[derive(Clone, Default)]
pub struct Formats(Rc<RefCell<Open>>);

#[derive(Default)]
struct Open {
    last: u64,
    bytes: BTreeMap<u64, Bytes>,
}

impl Formats {
    /// One that touches these bytes.
    #[must_use]
    pub fn touching(&self, area: &Bytes) -> Option<Bytes> {
        self.0.borrow().bytes.values().find(|other| other.touches(area)).copied()
    }

    /// Reserves an area for a format.
    ///
    /// # Errors
    /// The bytes of an older format that is not over and touches it.
    pub fn begin(&self, area: Bytes) -> Result<Formatting, Bytes> {
        if let Some(other) = self.touching(&area) {
            return Err(other);
        }
        let mut open = self.0.borrow_mut();
        open.last += 1;
        let id = open.last;
        open.bytes.insert(id, area);
        Ok(Formatting { of: self.clone(), id, area })
    }
}

/// A format that is not over. Dropped - by all who have it - it is.
pub struct Formatting {
    of: Formats,
    id: u64,
    area: Bytes,
}

impl Drop for Formatting {
    fn drop(&mut self) {
        self.of.0.borrow_mut().bytes.remove(&self.id);
    }
}

/// The writes of a formatting, each on the medium before the next begins (a crash in between leaves what neither
/// program accepts: sector 0 is blank until the last write). After one that failed nothing more is written; while that
/// one may still land, the area stays reserved and the device open.
///
/// # Errors
/// The first write that did not succeed.
pub async fn carry_out<E: Engine + 'static, C: Clock + 'static>(
    disk: Device<E, C>,
    clock: &C,
    formatting: Rc<Formatting>,
    writes: Vec<(u64, AlignedBuf)>,
    patience: Duration,
) -> Result<(), Refused> {
    let start = formatting.area.start;
    for (at, bytes) in writes {
        let at = start.checked_add(at).ok_or((ResultCode::EINVAL, format!("offset {start} is too large")))?;
        if let Err(e) = disk.write(at, bytes, clock.now().after(patience)).await {
            if disk.writes_in_flight() > 0 {
                spawn_local(async move {
                    disk.reaped().await;
                    drop(formatting);
                });
            }
            return Err(refuse_io(e));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use delta_lease::format::plan as plan_lockspace;
    use holdfast_io::clock::{BootClock, LocalInstant};
    use holdfast_io::device::WriteLimit;
    use holdfast_io::identity::Machine;
    use holdfast_io::ids::{Generation, HostId, HostTerm, ResourceName, SpaceName};
    use holdfast_io::mem::HeldEngine;
    use holdfast_io::seal::{AreaUuid, SealedFire};
    use holdfast_io::stop::Stop;
    use holdfast_io::sys::linux::BlockFile;
    use holdfast_io::sys::rights::{Credentials, Rights};
    use holdfast_io::timing::IoTimeout;
    use holdfast_io::units::{Geometry, LeaseOffset, SectorSize};
    use holdfast_protocol::command::WriteResourceFlags;
    use holdfast_protocol::payload::{Disk as WireDisk, Lockspace, Resource, ResourceHead};
    use holdfast_protocol::request::Request;
    use holdfast_protocol::text::{DiskPath, Name48};
    use paxos_lease::Me;
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::path::PathBuf;
    use tokio::task::LocalSet;

    use crate::log_ring::LogRing;
    use crate::note::{Note, Notes};
    use crate::queries::{Answer, Context, answer};
    use crate::resource;
    use crate::supervisor::event::{AcquireEnd, Event, LeaseKey, LeaseRequest, TaskId};
    use crate::watchdog::Choice;

    const MIB: u64 = 1 << 20;

    fn local<T>(run: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, run)
    }

    fn place(path: PathBuf, offset: u64) -> Place {
        Place { path, offset, by: Rights::Ours }
    }

    fn node(ino: u64) -> NodeId {
        NodeId::file(1, ino)
    }

    #[test]
    fn stretches_touch_where_a_byte_of_one_node_is_in_both() {
        let held = Bytes::of(node(1), MIB, MIB);
        let touched = |ino, start, len| held.touches(&Bytes::of(node(ino), start, len));
        assert!(touched(1, MIB, MIB) && touched(1, 5120, MIB) && touched(1, 0, 8 * MIB) && touched(1, MIB + 512, 512));
        assert!(!touched(1, 0, MIB) && !touched(1, 2 * MIB, MIB) && !touched(2, MIB, MIB));
        assert!(Bytes::of(node(1), u64::MAX - 1, MIB).touches(&Bytes::of(node(1), u64::MAX - 2, 512)));
    }

    #[test]
    fn an_area_whose_formatting_write_may_still_land_takes_no_other_format() {
        local(async {
            let (clock, formats) = (BootClock::new().unwrap(), Formats::default());
            let engine = Arc::new(HeldEngine::new(4096));
            let disk = Device::new(Arc::clone(&engine), clock.clone(), WriteLimit::none());
            let area = Bytes::of(node(1), 0, 4096);
            let formatting = formats.begin(area).unwrap();
            let writes = vec![(0, AlignedBuf::from_slice(&[7; 512])), (512, AlignedBuf::from_slice(&[7; 512]))];
            let ended = carry_out(disk, &clock, Rc::new(formatting), writes, Duration::from_millis(20)).await;
            assert_eq!(ended.unwrap_err().0, ResultCode::IO_TIMEOUT);
            tokio::task::yield_now().await;
            assert_eq!(formats.begin(Bytes::of(node(1), 512, 512)).err(), Some(area));
            assert!(formats.begin(Bytes::of(node(1), 4096, 512)).is_ok(), "its neighbour is free");

            engine.release_all();
            while formats.begin(area).is_err() {
                tokio::task::yield_now().await;
            }
            assert_eq!((engine.byte(0), engine.byte(512)), (7, 0), "late, and nothing after it");
        });
    }

    #[test]
    fn an_area_is_free_again_once_its_format_has_succeeded() {
        local(async {
            let (clock, formats) = (BootClock::new().unwrap(), Formats::default());
            let engine = HeldEngine::new(4096);
            engine.pass_through();
            let disk = Device::new(engine, clock.clone(), WriteLimit::none());
            let area = Bytes::of(node(1), 0, 4096);
            let formatting = formats.begin(area).unwrap();
            assert!(formats.begin(area).is_err(), "one format at a time");
            carry_out(disk, &clock, Rc::new(formatting), vec![(0, AlignedBuf::zeroed(512))], DEADLINE).await.unwrap();
            assert!(formats.begin(area).is_ok());
        });
    }

    /// A file with lockspace LS at 0 and resource LS:r at 1M, and one more name for it.
    struct Rig {
        _dir: tempfile::TempDir,
        link: PathBuf,
        context: Context,
        shared: Rc<SpaceShared>,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (path, link) = (dir.path().join("disk"), dir.path().join("link"));
            let file = std::fs::File::create(&path).unwrap();
            file.set_len(8 * MIB).unwrap();
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let geometry = Geometry::default_for(SectorSize::B512);
            let linux = Linux::new(Choice::None, dir.path().to_owned()).unwrap();
            let (clock, nodes, engines) = (linux.clock().clone(), linux.shared_nodes(), linux.shared_engines());
            let machine = Machine::from_ids("m", "", "b");
            for write in plan_lockspace(geometry, space(), IoTimeout::DEFAULT, None) {
                file.write_all_at(&write.bytes, write.offset_in_area).unwrap();
            }
            let uuid = AreaUuid::random();
            let lease = paxos_lease::format::NewLease {
                geometry,
                space: space(),
                resource: name(),
                num_hosts: None,
                uuid,
                place: None,
            };
            let writer = paxos_lease::format::Writer { machine, fire: SealedFire::NoWatchdog };
            for write in paxos_lease::format::plan(&lease, &writer).unwrap() {
                file.write_all_at(&write.bytes, MIB + write.offset_in_area).unwrap();
            }
            let opened: Arc<BlockFile> = nodes.open(&path, &Rights::Ours).unwrap();
            let area = DeltaArea { at: LeaseOffset(0), geometry, space: space(), uuid: AreaUuid::NONE };
            let term = HostTerm { host_id: HostId::new(1).unwrap(), generation: Generation(1) };
            let me = Me { term, machine, fire: SealedFire::NoWatchdog, io_timeout: IoTimeout::DEFAULT };
            let shared = Rc::new(SpaceShared::new(area, opened, me, &linux));
            shared.limit.set(LocalInstant::NEVER);
            let used = Rc::new(vec![InUse::Joined(Rc::downgrade(&shared))]);
            let context = Context {
                clock,
                nodes,
                engines,
                patience: crate::queries::PATIENCE,
                machine,
                space: None,
                used,
                formats: Formats::default(),
                log: LogRing::default(),
                asking: crate::queries::Asking { pid: 1, uid: 0, rights: Rights::Ours },
            };
            Rig { _dir: dir, link, context, shared }
        }

        fn disk(&self, offset: u64) -> WireDisk {
            WireDisk::new(DiskPath::new(self.link.to_str().unwrap()).unwrap(), offset)
        }

        async fn write_lockspace(&self, offset: u64) -> Answer {
            let lockspace = Lockspace::new(Name48::new("NEW").unwrap(), 0, self.disk(offset));
            let request = Request::WriteLockspace { max_hosts: 0, io_timeout: 0, lockspace };
            answer(self.context.clone(), request).await
        }

        async fn write_resource(&self, offset: u64) -> Answer {
            self.write_resource_on(vec![self.disk(offset)]).await
        }

        /// Another disk.
        fn another(&self, name: &str) -> (PathBuf, WireDisk) {
            let path = self.link.with_file_name(name);
            std::fs::File::create(&path).unwrap().set_len(8 * MIB).unwrap();
            (path.clone(), WireDisk::new(DiskPath::new(path.to_str().unwrap()).unwrap(), MIB))
        }

        async fn write_resource_on(&self, disks: Vec<WireDisk>) -> Answer {
            self.write_resource_with(WriteResourceFlags::NONE, disks).await
        }

        async fn write_resource_with(&self, flags: WriteResourceFlags, disks: Vec<WireDisk>) -> Answer {
            let head = ResourceHead::named(Name48::new("LS").unwrap(), Name48::new("new").unwrap());
            let resource = Resource::new(head, disks);
            let request = Request::WriteResource { flags, num_hosts: 0, unused: 0, resource };
            answer(self.context.clone(), request).await
        }

        /// Acquires LS:r as the daemon does.
        async fn acquire(&self) -> paxos_lease::Held {
            let (notes, mut inbox) = Notes::channel();
            let shared = Rc::clone(&self.shared);
            let request = LeaseRequest {
                key: key(),
                places: vec![place(self.link.clone(), MIB)],
                expected_lver: None,
                num_hosts: None,
                nowait: true,
                mode: paxos_lease::Mode::Exclusive,
                value: false,
                persistent: false,
                orphans: crate::supervisor::event::Orphans::Refused,
            };
            let place = request.places[0].clone();
            let opened = resource::Opened { place, file: Ok(Arc::clone(&shared.file)) };
            resource::prepare(&shared, vec![opened], &request).await.result.unwrap();
            resource::run_acquire(shared, TaskId(1), request, Stop::new(), notes).await;
            let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
            match *event {
                Event::Acquired { end: AcquireEnd::Ours { held, .. }, .. } => held,
                _ => panic!("not acquired"),
            }
        }

        async fn release(&self, held: paxos_lease::Held) {
            let (notes, _inbox) = Notes::channel();
            let release = resource::Release { key: key(), held, rename: None, value: None };
            resource::run_release(Rc::clone(&self.shared), TaskId(2), release, notes).await;
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(&self.link).unwrap()
        }
    }

    fn key() -> LeaseKey {
        LeaseKey { space: space(), resource: name() }
    }

    fn assert_busy(answer: &Answer, said: &str) {
        assert_eq!(answer.code, ResultCode::EBUSY, "{:?}", answer.why);
        assert!(answer.why.as_ref().unwrap().contains(said), "{:?}", answer.why);
    }

    fn space() -> SpaceName {
        SpaceName::new(b"LS").unwrap()
    }

    fn name() -> ResourceName {
        ResourceName::new(b"r").unwrap()
    }
    #[test]
    fn a_joined_area_is_formatted_under_no_name_and_from_no_offset() {
        local(async {
            let rig = Rig::new();
            let before = rig.bytes();
            for offset in [0, 512, 5120, MIB - 512] {
                assert_busy(&rig.write_resource(offset).await, "lockspace LS (bytes 0 to 1048576)");
                assert_busy(&rig.write_lockspace(offset).await, "joined here");
            }
            assert!(rig.bytes() == before, "nothing was written");
            assert_eq!(rig.write_resource(2 * MIB).await.code, ResultCode::OK);
        });
    }

    #[test]
    fn a_lockspace_that_is_only_being_joined_is_not_formatted_either() {
        local(async {
            let mut rig = Rig::new();
            rig.context.used = Rc::new(vec![InUse::Opening(place(rig.link.with_file_name("disk"), 0))]);
            assert_busy(&rig.write_resource(512).await, "being joined");
            let node = rig.shared.file.node();
            rig.context.used = Rc::new(vec![InUse::Found { node, area: rig.shared.area }]);
            assert_busy(&rig.write_lockspace(512).await, "lockspace LS");
            assert_eq!(rig.write_lockspace(MIB).await.code, ResultCode::OK);
        });
    }

    #[test]
    fn a_client_formats_only_what_it_may_write_itself_and_nothing_that_is_being_joined_where_it_cannot_look() {
        if !nix::unistd::geteuid().is_root() {
            // There are no rights to be kept back then.
            return;
        }
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        local(async {
            let mut rig = Rig::new();
            let (dir, path) = (rig.link.parent().unwrap().to_owned(), rig.link.with_file_name("disk"));
            mode(&dir, 0o711);
            mode(&path, 0o600);
            let nobody = Credentials { uid: 65534, gid: 65534, groups: Vec::new() };
            rig.context.asking.rights = Rights::Of(Arc::new(nobody));
            let before = rig.bytes();
            assert_eq!(rig.write_lockspace(2 * MIB).await.code, ResultCode::ENODEV);
            let refused = rig.write_resource(2 * MIB).await;
            assert_eq!(refused.code, ResultCode::new(-nix::libc::EACCES));
            assert!(refused.why.unwrap().contains("by the rights of user 65534"));
            assert!(rig.bytes() == before);

            mode(&path, 0o666);
            let hidden = dir.join("hidden");
            std::fs::create_dir(&hidden).unwrap();
            mode(&hidden, 0o700);
            std::fs::hard_link(&path, hidden.join("disk")).unwrap();
            rig.context.used = Rc::new(vec![InUse::Opening(place(hidden.join("disk"), 0))]);
            assert_busy(&rig.write_resource(512).await, "being joined");
            rig.context.used = Rc::default();
            assert_eq!(rig.write_lockspace(2 * MIB).await.code, ResultCode::OK);
        });
    }

    #[test]
    fn a_held_lease_is_formatted_only_once_it_was_given_back() {
        local(async {
            let rig = Rig::new();
            let held = rig.acquire().await;
            let before = rig.bytes();
            for offset in [MIB, MIB + 512, 2 * MIB - 512] {
                assert_busy(&rig.write_resource(offset).await, "a lease of lockspace LS that is in use here");
                assert_busy(&rig.write_lockspace(offset).await, "bytes 1048576 to 2097152");
            }
            assert!(rig.bytes() == before, "nothing was written");
            rig.release(held).await;
            assert_eq!(rig.shared.leased_areas(), []);
            assert_eq!(rig.write_resource(MIB).await.code, ResultCode::OK);
        });
    }

    #[test]
    fn a_device_that_hangs_in_open_is_answered_for_in_time() {
        local(async {
            let mut rig = Rig::new();
            rig.context.patience = Duration::from_millis(50);
            let ((second, other), (third, another)) = (rig.another("second"), rig.another("third"));
            let all = vec![rig.disk(4 * MIB), other, another];
            assert_eq!(rig.write_resource_on(all.clone()).await.code, ResultCode::OK);
            let resource = |disks| {
                Resource::new(ResourceHead::named(Name48::new("LS").unwrap(), Name48::new("new").unwrap()), disks)
            };
            let hangs = rig.context.nodes.hanging(&second).await;
            for request in [
                Request::ReadResource { resource: resource(vec![all[1].clone()]) },
                Request::ReadResourceOwners { resource: resource(vec![all[1].clone()]) },
                Request::Explain { resource: resource(vec![all[1].clone()]) },
                Request::Align { disk: all[1].clone() },
                Request::ReadLockspace { lockspace: Lockspace::new(Name48::new("LS").unwrap(), 1, all[1].clone()) },
            ] {
                let late = answer(rig.context.clone(), request).await;
                assert_eq!(late.code, ResultCode::IO_TIMEOUT, "{:?}", late.why);
            }
            // Of three a majority is enough.
            let explained = answer(rig.context.clone(), Request::Explain { resource: resource(all.clone()) }).await;
            assert_eq!(explained.code, ResultCode::OK, "{:?}", explained.why);
            let _hangs_too = rig.context.nodes.hanging(&third).await;
            let late = answer(rig.context.clone(), Request::ReadResource { resource: resource(all.clone()) }).await;
            assert_ne!(late.code, ResultCode::OK);
            drop(hangs);
            let read = answer(rig.context.clone(), Request::ReadResource { resource: resource(all) }).await;
            assert_eq!(read.code, ResultCode::OK, "{:?}", read.why);
        });
    }

    #[test]
    fn nothing_is_formatted_while_a_lockspace_that_is_joined_hangs_in_open() {
        local(async {
            let mut rig = Rig::new();
            rig.context.patience = Duration::from_millis(50);
            let (path, _) = rig.another("dead");
            rig.context.used = Rc::new(vec![InUse::Opening(place(path.clone(), 0))]);
            let hangs = rig.context.nodes.hanging(&path).await;
            assert_eq!(rig.write_lockspace(2 * MIB).await.code, ResultCode::EAGAIN);
            drop(hangs);
            assert_eq!(rig.write_lockspace(2 * MIB).await.code, ResultCode::OK);
        });
    }

    #[test]
    fn queries_of_one_device_share_an_engine() {
        local(async {
            let rig = Rig::new();
            let (_, first) = rig.context.open(rig.link.clone()).await.unwrap();
            let (_, second) = rig.context.open(rig.link.with_file_name("disk")).await.unwrap();
            assert!(Arc::ptr_eq(first.engine(), second.engine()));
        });
    }

    #[test]
    fn a_format_is_told_to_try_again_while_an_older_one_is_not_over() {
        local(async {
            let rig = Rig::new();
            let area = Bytes::of(rig.shared.file.node(), 2 * MIB, MIB);
            let older = rig.context.formats.begin(area).unwrap();
            let refused = rig.write_lockspace(3 * MIB - 512).await;
            assert_eq!(refused.code, ResultCode::EAGAIN);
            assert!(refused.why.unwrap().contains("bytes 2097152 to 3145728"));
            drop(older);
            assert_eq!(rig.write_lockspace(3 * MIB - 512).await.code, ResultCode::OK);
        });
    }

    /// Else two of three would be left, a majority, beside a lease of its own.
    #[test]
    fn a_copy_of_a_lease_on_several_disks_is_not_formatted_alone() {
        local(async {
            let rig = Rig::new();
            let others: Vec<(PathBuf, WireDisk)> = ["first", "second", "third"].map(|name| rig.another(name)).into();
            let disks = |which: &[usize]| which.iter().map(|n| others[*n].1.clone()).collect::<Vec<_>>();
            let content = || others.iter().map(|(path, _)| std::fs::read(path).unwrap()).collect::<Vec<_>>();
            assert_eq!(rig.write_resource_on(disks(&[0, 1, 2])).await.code, ResultCode::OK);
            let before = content();
            for flags in [WriteResourceFlags::NONE, WriteResourceFlags::CLEAR] {
                for alone in 0..3 {
                    assert_busy(&rig.write_resource_with(flags, disks(&[alone])).await, "of a lease on several disks");
                }
                let beside = vec![others[0].1.clone(), rig.disk(2 * MIB)];
                assert_busy(&rig.write_resource_with(flags, beside).await, "copy 1 of 3");
            }
            assert!(content() == before, "nothing was written");
            // Its leader record is damaged; the other two are well.
            let damaged = std::fs::OpenOptions::new().write(true).open(&others[0].0).unwrap();
            damaged.write_all_at(&[7; 8], MIB + 40).unwrap();
            assert_busy(&rig.write_resource_on(disks(&[0])).await, "copy 1 of 3");
            assert_eq!(rig.write_resource_on(disks(&[0, 2])).await.code, ResultCode::OK);
            assert_busy(&rig.write_resource_on(disks(&[1])).await, "holdfast init --force");
            // Of four, three are a majority.
            let three = [disks(&[0, 2]), vec![rig.another("fourth").1]].concat();
            let four = [three.clone(), vec![rig.disk(2 * MIB)]].concat();
            assert_eq!(rig.write_resource_on(four).await.code, ResultCode::OK);
            assert_busy(&rig.write_resource_on(disks(&[0, 2])).await, "3 in all");
            assert_eq!(rig.write_resource_with(WriteResourceFlags::CLEAR, three).await.code, ResultCode::OK);
            assert_eq!(rig.write_resource_on(disks(&[2])).await.code, ResultCode::OK, "it is none any more");
        });
    }

    #[test]
    fn of_several_disks_none_is_formatted_unless_all_can_be() {
        local(async {
            let rig = Rig::new();
            let held = rig.acquire().await;
            let ((path, first), (_, third)) = (rig.another("first"), rig.another("third"));
            let untouched = || std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0);
            // The second has a lease that is held; then another format, that is not over.
            let all = || vec![first.clone(), rig.disk(MIB), third.clone()];
            assert_busy(&rig.write_resource_on(all()).await, "a lease of lockspace LS that is in use here");
            assert!(untouched());
            rig.release(held).await;
            let older = rig.context.formats.begin(Bytes::of(rig.shared.file.node(), MIB, MIB)).unwrap();
            assert_eq!(rig.write_resource_on(all()).await.code, ResultCode::EAGAIN);
            assert!(untouched());
            drop(older);
            let twice = vec![first.clone(), rig.disk(4 * MIB), rig.disk(6 * MIB)];
            assert_eq!(rig.write_resource_on(twice).await.code, ResultCode::EINVAL, "two copies on one device");
            assert!(untouched());
            assert_eq!(rig.write_resource_on(all()).await.code, ResultCode::OK);
            assert!(!untouched());
        });
    }
}

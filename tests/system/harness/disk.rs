//! Lease areas: plain files, and devices whose writes can be held back.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use holdfast_io::clock::BootClock;
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::ReadDisk as _;
use holdfast_io::leader::{LEN, LeaderRecord};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::{Access, BlockFile, ThreadsEngine};
use tempfile::TempDir;

use super::{AT_MOST, LocalInstant, boot_now, must_be_root, run};

/// The lockspace of all tests.
pub const SPACE: &str = "SYSTEM";
/// Resources, in this order on every area.
pub const RESOURCES: [&str; 2] = ["one", "two"];
const MIB: u64 = 1 << 20;
const AREA_LEN: usize = 8 << 20;

/// A place for a lockspace at offset 0 and the resources one area further each. Sectors of 512 bytes.
#[derive(Clone, Debug)]
pub struct Area {
    /// What daemons are told.
    pub path: PathBuf,
    /// What is looked at: the same bytes, without the layers in which a write can be held back.
    pub backing: PathBuf,
}

/// A sector as it is on disk now.
#[derive(Clone, PartialEq, Eq)]
pub struct Sector {
    /// All of it.
    pub bytes: AlignedBuf,
    /// Its leader record, unless it is a dblock.
    pub record: LeaderRecord,
}

impl Area {
    /// A blank file, fully allocated.
    pub fn file(directory: &Path, name: &str) -> Area {
        let path = directory.join(name);
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&vec![0; AREA_LEN]).unwrap();
        file.sync_all().unwrap();
        Area { backing: path.clone(), path }
    }

    /// Where a resource lies.
    pub fn offset_of(resource: &str) -> u64 {
        let index = RESOURCES.iter().position(|r| *r == resource).unwrap();
        (index as u64 + 1) * MIB
    }

    /// A host's delta sector.
    pub fn delta(&self, host_id: u64) -> Sector {
        self.read((host_id - 1) * 512)
    }

    /// A host's dblock of a resource.
    pub fn dblock(&self, resource: &str, host_id: u64) -> Sector {
        self.read(Self::offset_of(resource) + (host_id + 1) * 512)
    }

    /// The generation of a host_id.
    pub fn generation(&self, host_id: u64) -> u64 {
        self.delta(host_id).record.owner_generation.0
    }

    fn read(&self, at: u64) -> Sector {
        let clock = BootClock::new().unwrap();
        let file = Arc::new(BlockFile::open(&self.backing, Access::ReadOnly).unwrap());
        let disk = Device::new(ThreadsEngine::new(file, 1, "look"), clock, WriteLimit::none());
        let bytes = pollster::block_on(disk.read(at, 512, boot_now().after(AT_MOST))).unwrap();
        let record = LeaderRecord::parse(bytes[..LEN].try_into().unwrap());
        Sector { bytes, record }
    }
}

/// A loop device on a file on an ext4 of its own. While that is frozen, writes to the device are held back in the
/// kernel: they have been issued, they are in flight, nobody can take them back, and they land when it is thawed.
pub struct FreezableDisk {
    /// The area on the device.
    pub area: Area,
    /// The file system.
    pub mount: PathBuf,
    _cleaner: Cleaner,
    _directory: TempDir,
}

/// A loop device on a file, with sectors of a given size.
pub struct LoopDevice {
    /// Its path.
    pub path: PathBuf,
    _cleaner: Cleaner,
    _directory: TempDir,
}

/// A shell that cleans up when its input ends: at our drop, and also if the test is killed.
struct Cleaner(Child);

/// As long as this lives, nothing is written.
pub struct Frozen<'a>(&'a FreezableDisk);

impl FreezableDisk {
    /// A fresh device.
    pub fn new() -> FreezableDisk {
        must_be_root();
        let directory = tempfile::tempdir().unwrap();
        let text = |p: &Path| p.to_str().unwrap().to_owned();
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        fs::create_dir(&mount).unwrap();
        fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", &text(&image)]);
        let outer = run("losetup", &["-f", "--show", &text(&image)]);
        run("mount", &["-o", "noatime", &outer, &text(&mount)]);
        let mut area = Area::file(&mount, "leases");
        let inner = run("losetup", &["-f", "--show", "--direct-io=on", &text(&area.backing)]);
        area.path = PathBuf::from(&inner);
        let script = format!(
            "fsfreeze -u {m}; losetup -d {inner}; \
             for i in 1 2 3 4 5 6 7 8 9 10; do umount {m} && break; sleep 0.5; done; losetup -d {outer}",
            m = text(&mount)
        );
        FreezableDisk { area, mount, _cleaner: Cleaner::start(&script), _directory: directory }
    }

    /// From now on writes are held back. Those under way are waited for.
    pub fn freeze(&self) -> (Frozen<'_>, LocalInstant) {
        run("fsfreeze", &["-f", self.mount.to_str().unwrap()]);
        (Frozen(self), boot_now())
    }
}

impl Frozen<'_> {
    /// Lets what was held back land.
    pub fn thaw(self) {}
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _thawed = Command::new("fsfreeze").arg("-u").arg(&self.0.mount).status();
    }
}

impl LoopDevice {
    /// A blank one of 32 MiB.
    pub fn new(sector: u32) -> LoopDevice {
        must_be_root();
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let sector = sector.to_string();
        let arguments = ["-f", "--show", "--direct-io=on", "--sector-size", &sector, image.to_str().unwrap()];
        let path = run("losetup", &arguments);
        LoopDevice { _cleaner: Cleaner::start(&format!("losetup -d {path}")), path: path.into(), _directory: directory }
    }
}

impl Cleaner {
    fn start(script: &str) -> Cleaner {
        let script = format!("trap '' INT TERM HUP; cat >/dev/null; {script}");
        let shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
        Cleaner(shell.unwrap())
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _cleaned = self.0.wait();
    }
}

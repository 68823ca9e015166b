//! An area: whether it can be opened and read, how fast, and what it lies on.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_daemon::config::Config;
use holdfast_io::clock::{BootClock, Clock};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::ReadDisk;
use holdfast_io::sys::linux::{Access, BlockFile, FileKind, ThreadsEngine};
use holdfast_io::timing::{IoTimeout, Timing};
use holdfast_protocol::arguments::parse_lockspace;

use super::finding::Finding;
use super::machine::Machine;
use super::{device, lockspace, mount};
use crate::client_cmd::time;

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// The lockspace and the host_id that this host will have in it, if it is to join.
    pub joins: Option<(String, u64)>,
    /// The device or file.
    pub path: String,
    /// Where on it.
    pub offset: u64,
}

impl FromStr for Area {
    type Err = String;

    /// With a colon it is a lockspace. A path that has one is given as a lockspace, or with `\:`, which is a path still.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.replace("\\:", "").contains(':') {
            return Ok(Area { joins: None, path: text.replace("\\:", ":"), offset: 0 });
        }
        let lockspace = parse_lockspace(text).map_err(|e| e.to_string())?;
        Ok(Area {
            joins: Some((lockspace.name.to_string(), lockspace.host_id)),
            path: lockspace.disk.path.to_string(),
            offset: lockspace.disk.offset,
        })
    }
}

/// Looks at it, and at what it lies on.
pub fn look(machine: &Machine, config: &Config, area: &Area) -> Vec<Finding> {
    let path = &area.path;
    let file = match BlockFile::open(Path::new(path), Access::ReadOnly) {
        Ok(file) => Arc::new(file),
        Err(error) => return vec![Finding::fail(path, error.to_string(), "without it nothing can be joined")],
    };
    let mut findings = match file.kind() {
        FileKind::Block => device::look(machine, config, path, file.node().device.unwrap_or(0)),
        FileKind::LocalFile | FileKind::RemoteFile => {
            mount::look(machine, config, path, file.kind() == FileKind::RemoteFile)
        }
    };
    findings.push(match BootClock::new() {
        Ok(clock) => pollster::block_on(latency(&clock, &file, config.io_timeout, area)),
        Err(error) => Finding::fail(path, format!("no timer: {error}"), "try again"),
    });
    findings.extend(lockspace::look(config, area));
    findings
}

/// Reads of one sector, all over the area, and of all of it, as renewals do.
const SECTORS: u64 = 200;
const WHOLE: u64 = 20;
/// What a renewal reads at once.
const STRETCH: u64 = 1 << 20;

/// How fast it answers. Writes are not tried: their share of a renewal is small on a device that reads fast, and nothing is changed here.
async fn latency(clock: &BootClock, file: &Arc<BlockFile>, io_timeout: IoTimeout, area: &Area) -> Finding {
    let what = format!("{} latency", area.path);
    let disk = Device::new(ThreadsEngine::new(Arc::clone(file), 1, "preflight-io"), clock.clone(), WriteLimit::none());
    let sector = file.sector().bytes();
    let stretch = STRETCH.min(file.len().saturating_sub(area.offset)) / sector as u64 * sector as u64;
    if stretch == 0 {
        return Finding::fail(
            what,
            format!("it ends at {}, before offset {}", file.len(), area.offset),
            "make it longer",
        );
    }
    let deadline = Timing::new(io_timeout, holdfast_io::timing::FireTimeout::SANLOCK).io_deadline();
    // Enough is enough, on a device that takes seconds for each.
    let end = clock.now().after(deadline * 2);
    let mut took = Vec::new();
    let places = (0..SECTORS).map(|n| (area.offset + n * 4099 * sector as u64 % stretch, sector));
    let all = (0..WHOLE).map(|_| (area.offset, usize::try_from(stretch).unwrap_or(sector)));
    for (at, length) in places.chain(all) {
        let began = clock.now();
        if let Err(error) = disk.read(at, length, began.after(deadline)).await {
            return Finding::fail(
                what,
                format!("a read failed: {error}"),
                "look at the path, the device, and the kernel's log",
            );
        }
        took.push(clock.now().since(began));
        if clock.now() >= end {
            break;
        }
    }
    judge(what, took, deadline)
}

/// The slowest read counts: a renewal has four attempts, and each reads the area and writes a sector.
fn judge(what: String, mut took: Vec<Duration>, deadline: Duration) -> Finding {
    took.sort_unstable();
    let (Some(slowest), Some(median)) = (took.last(), took.get(took.len() / 2)) else {
        return Finding::fail(what, "nothing was read", "try again");
    };
    let share = |d: &Duration| 100.0 * d.as_secs_f64() / deadline.as_secs_f64();
    let exactly = |d: &Duration| match d.as_millis() {
        0..100 => format!("{:.1} ms", d.as_secs_f64() * 1000.0),
        ms => time(u64::try_from(ms).unwrap_or(u64::MAX)),
    };
    let found = format!(
        "{} reads, median {}, slowest {}: {:.2} % and {:.2} % of the io_timeout of {} s",
        took.len(),
        exactly(median),
        exactly(slowest),
        share(median),
        share(slowest),
        deadline.as_secs()
    );
    let advice =
        "find out what makes it wait, or raise io_timeout on every host: a renewal that takes longer than it fails";
    match share(slowest) {
        50.0.. => Finding::fail(what, found, advice),
        10.0..50.0 => Finding::warn(what, found, advice),
        _ => Finding::ok(what, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::*;

    #[test]
    fn an_area_is_a_lockspace_to_join_or_a_path() {
        let joins = Area { joins: Some(("LS".into(), 3)), path: "/dev/sd:a".into(), offset: 1 << 20 };
        assert_eq!("LS:3:/dev/sd\\:a:1M".parse(), Ok(joins));
        assert_eq!("/dev/sda".parse(), Ok(Area { joins: None, path: "/dev/sda".into(), offset: 0 }));
        assert_eq!("/dev/sd\\:a".parse(), Ok(Area { joins: None, path: "/dev/sd:a".into(), offset: 0 }));
        assert!("LS:x:/dev/sda".parse::<Area>().is_err());
    }

    #[test]
    fn the_slowest_read_is_what_counts() {
        let of = |slowest: u64| {
            let mut took = vec![Duration::from_millis(2); 99];
            took.push(Duration::from_millis(slowest));
            judge("disk".into(), took, Duration::from_secs(10))
        };
        assert_eq!((of(900).grade, of(1500).grade, of(6000).grade), (Grade::Ok, Grade::Warn, Grade::Fail));
        let line = of(1500).to_string();
        assert!(
            line.contains("100 reads, median 2.0 ms, slowest 1.5 s: 0.02 % and 15.00 % of the io_timeout of 10 s"),
            "{line}"
        );
    }

    #[test]
    fn a_file_is_read_and_one_that_is_too_short_is_a_failure() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let area = |offset| Area { joins: None, path: file.path().display().to_string(), offset };
        let open = Arc::new(BlockFile::open(file.path(), Access::ReadOnly).unwrap());
        let read =
            |offset| pollster::block_on(latency(&BootClock::new().unwrap(), &open, IoTimeout::DEFAULT, &area(offset)));
        assert!(read(0).to_string().contains("220 reads, median "), "{}", read(0));
        let short = read(1 << 20);
        assert_eq!(short.grade, Grade::Fail);
        assert!(short.to_string().contains("it ends at 1048576, before offset 1048576"), "{short}");
    }
}

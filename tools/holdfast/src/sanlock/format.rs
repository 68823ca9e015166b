//! `sanlock direct init` (spec B 4): an area is formatted, whatever stood there, without a daemon. `holdfast init` looks first.

use holdfast_daemon::codes;
use holdfast_io::clock::Clock as _;
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::AreaUuid;
use holdfast_io::sys::linux::OpenError;
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::Geometry;
use holdfast_protocol::payload::{Lockspace, Resource};
use paxos_lease::copies::Place;
use paxos_lease::format::{NewLease, Writer};

use super::offline::{EINVAL, Offline, writer};
use super::options::Options;

const ENODEV: i32 = -19;

/// Runs it, and says what came of it.
pub(super) fn run(options: &Options) -> i32 {
    let formatted = match (options.placed_lockspace(), options.placed_resource()) {
        (Some(asked), _) => lockspace(options, &asked),
        (None, Some(asked)) => lease(options, &asked),
        (None, None) => Err(if options.resources.is_empty() { EINVAL } else { ENODEV }),
    };
    let result = formatted.err().unwrap_or(0);
    say!("init done {result}");
    result
}

fn lockspace(options: &Options, asked: &Lockspace) -> Result<(), i32> {
    let Lockspace { name, disk, flags, .. } = asked;
    let device = Offline::open(&disk.path.to_string(), |_| ENODEV)?;
    let geometry = shape(&device, flags.bits(), disk.offset)?;
    let name = SpaceName::new(name.as_bytes()).map_err(|_| EINVAL)?;
    let io_timeout = match options.number('o') {
        Some(seconds) if seconds > 0 => IoTimeout::new(u64::from(seconds.unsigned_abs())).ok_or(EINVAL)?,
        _ => IoTimeout::DEFAULT,
    };
    let Writer { machine, fire } = writer()?;
    let seal = delta_lease::format::FormatSeal { uuid: AreaUuid::random(), machine, fire };
    let writes = delta_lease::format::plan(geometry, name, io_timeout, Some(&seal));
    device.write_all(disk.offset, writes.into_iter().map(|w| (w.offset_in_area, w.bytes)))
}

/// On several disks, a copy on each: all of them are open before the first is written.
fn lease(options: &Options, asked: &Resource) -> Result<(), i32> {
    let flags = asked.head.flags.bits();
    let open = |disk: &holdfast_protocol::payload::Disk| {
        let device = Offline::open(&disk.path.to_string(), |e: &OpenError| codes::of_open(e).number())?;
        Ok((shape(&device, flags, disk.offset)?, device, disk.offset))
    };
    let devices = asked.disks.iter().map(open).collect::<Result<Vec<_>, i32>>()?;
    let geometry = devices.first().map(|(geometry, ..)| *geometry).ok_or(ENODEV)?;
    if devices.iter().any(|(other, ..)| *other != geometry) {
        return Err(EINVAL);
    }
    let space = SpaceName::new(asked.head.lockspace_name.as_bytes()).map_err(|_| EINVAL)?;
    let resource = ResourceName::new(asked.head.name.as_bytes()).map_err(|_| EINVAL)?;
    let num_hosts = Some(options.count('n')).filter(|n| (1..=geometry.max_hosts()).contains(n));
    let (uuid, writer) = (AreaUuid::random(), writer()?);
    let copies = u8::try_from(devices.len()).map_err(|_| EINVAL)?;
    for ((_, device, offset), copy) in devices.iter().zip(1..) {
        let place = (copies > 1).then_some(Place { copy, copies });
        let lease = NewLease { geometry, space, resource, num_hosts, uuid, place };
        let writes = match options.text('z').is_some() {
            true => paxos_lease::format::clear(&lease, &writer, device.clock.now()),
            false => paxos_lease::format::plan(&lease, &writer),
        };
        let writes = writes.map_err(|_| EINVAL)?;
        device.write_all(*offset, writes.into_iter().map(|w| (w.offset_in_area, w.bytes)))?;
    }
    Ok(())
}

/// The shape of an area that can begin there.
fn shape(device: &Offline, flags: u32, offset: u64) -> Result<Geometry, i32> {
    let geometry = device.geometry(flags)?;
    if device.fits(geometry, offset) { Ok(geometry) } else { Err(EINVAL) }
}

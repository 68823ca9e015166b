//! A lockspace's area as plain data: every host's delta sector, and everything in it that is wrong.

use delta_lease::bitmap::HostBitmap;
use delta_lease::sector::{Belongs, DeltaSector, index_of};
use holdfast_io::ids::{HostId, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, SealedKind};
use holdfast_io::units::SectorIndex;

use super::area::View;
use super::report::{Damage, Event, Host, Leader, Lockspace, SealReport};

/// Sector 0 is written last by every program that formats.
pub const NOT_COMMITTED: &str = "blank: the sector that commits a format was never written, or was wiped";

/// The lockspace in an area.
pub fn read(view: &View, damage: &mut Vec<Damage>) -> Lockspace {
    let space = name_of(view);
    let mut hosts = Vec::new();
    let mut never_used = 0;
    let belongs = Belongs { space, geometry: Some(view.geometry), uuid: view.uuid() };
    for host in (0..view.geometry.max_hosts()).filter_map(HostId::from_slot) {
        let host = self::host(view, host, &belongs, damage);
        if host.damaged || host.record.owner_id != 0 || host.record.owner_generation != 0 {
            hosts.push(host);
        } else {
            never_used += 1;
        }
    }
    // What never made it on the medium at all is one stretch of damage, not two thousand hosts.
    merge_blank(&mut hosts, &mut never_used);
    view.check_tail(damage);
    Lockspace { lockspace: space.map_or_else(String::new, |s| s.to_string()), hosts, never_used }
}

/// The name that most trustworthy sectors agree on: that of the first whose record can be verified, else of the first
/// that has any.
fn name_of(view: &View) -> Option<SpaceName> {
    let records = || (0..view.geometry.max_hosts()).map(|slot| view.record(SectorIndex(slot)));
    let whole = |b: &[u8; leader::LEN]| LeaderRecord::decode(b, LeaderKind::Delta, &Expected::default());
    let verified = records().find_map(|b| match whole(&b) {
        Ok(Decoded::Record(record)) => Some(record.space_name),
        _ => None,
    });
    verified.or_else(|| records().map(|b| LeaderRecord::parse(&b).space_name).find(|name| !name.is_empty()))
}

fn host(view: &View, host: HostId, belongs: &Belongs, damage: &mut Vec<Damage>) -> Host {
    let index = index_of(host);
    let sector = view.sector(index);
    let bytes = view.record(index);
    let record = LeaderRecord::parse(&bytes);
    let (checksum, _) = LeaderRecord::checksums(&bytes);
    let wrong = view.unreadable(index).or_else(|| match DeltaSector::decode(sector, host, belongs) {
        Ok(Decoded::Record(_)) => None,
        Ok(_) if host.slot() == 0 => Some(NOT_COMMITTED.into()),
        Ok(_) => Some("blank, expected the record of a host".into()),
        Err(error) => Some(error.to_string()),
    });
    if let Some(reason) = &wrong {
        damage.push(view.damage(index, format!("delta sector of host {host}"), reason.clone()));
    }
    let state = match (record.is_free(), record.owner_id) {
        (false, _) => "held",
        (true, 0) => "never used",
        (true, _) => "free",
    };
    let event = (record.write_generation != 0).then_some(Event {
        generation: record.write_id,
        event: record.write_generation,
        data: record.write_timestamp,
    });
    Host {
        host_id: host.slot() + 1,
        state,
        name: record.host_name().to_string(),
        record: Leader::of(&record, checksum),
        event,
        notifies: notifies(sector),
        seal: seal::read(sector, SealedKind::Plain, index).ok().flatten().map(SealReport::from),
        damaged: wrong.is_some(),
    }
}

/// Blank sectors have no fields worth a row: they are counted with the unused ones and listed as damage.
fn merge_blank(hosts: &mut Vec<Host>, never_used: &mut u32) {
    let before = hosts.len();
    hosts.retain(|h| !(h.damaged && h.record.magic == 0 && h.record.owner_id == 0 && h.name.is_empty()));
    *never_used += u32::try_from(before - hosts.len()).unwrap_or(u32::MAX);
}

fn notifies(sector: &[u8]) -> Vec<u32> {
    let bitmap = HostBitmap::of_sector(sector);
    let hosts = (0..holdfast_io::ids::MAX_HOSTS).filter_map(HostId::from_slot);
    hosts.filter(|host| bitmap.contains(*host)).map(|host| host.slot() + 1).collect()
}

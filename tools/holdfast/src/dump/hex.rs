//! The annotated hex view: every field of every sector in use, with its bytes, value and meaning; bytes that belong to
//! no field are shown as they are.

use std::fmt;

use holdfast_io::bytes::{array_at, is_zero, u32_at};
use holdfast_io::units::SectorIndex;

use super::fields::{DBLOCK, DELTA, Field, INDEX_HEADER, LEADER, REQUEST, SEAL, Show};
use super::report::{Area, Content, Report};

const LINE: usize = 16;

/// Writes every sector in use.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl fmt::Write, report: &Report) -> fmt::Result {
    for area in &report.areas {
        let mut model: Option<(u32, &[u8])> = None;
        let mut repeated = 0;
        for number in 0..area.geometry.sectors() {
            let bytes = sector(area, number);
            if is_zero(bytes) && number != 0 {
                continue;
            }
            // A lockspace repeats one sector for every host that never joined.
            if model.is_some_and(|(_, same)| same == bytes) {
                repeated += 1;
                continue;
            }
            closing(out, model, repeated)?;
            (model, repeated) = (Some((number, bytes)), 0);
            let (name, fields) = kind(area, number);
            let at = area.offset + SectorIndex(number).at(area.geometry.sector()) as u64;
            writeln!(out, "\nat {at} (0x{at:x})  sector {number}: {name}")?;
            annotate(out, bytes, &fields)?;
        }
        closing(out, model, repeated)?;
    }
    for lost in report.all_damage().filter(|d| d.hex.is_none()) {
        writeln!(out, "\nat {} (0x{:x})  {} bytes: {}", lost.offset, lost.offset, lost.length, lost.reason)?;
    }
    Ok(())
}

fn closing(out: &mut impl fmt::Write, model: Option<(u32, &[u8])>, repeated: u32) -> fmt::Result {
    match (model, repeated) {
        (Some((number, _)), n) if n > 0 => writeln!(out, "\n{n} more sectors hold the same bytes as sector {number}"),
        _ => Ok(()),
    }
}

fn sector(area: &Area, number: u32) -> &[u8] {
    let size = area.geometry.sector();
    &area.raw[SectorIndex(number).at(size)..][..size.bytes()]
}

/// What a sector is for, and its fields.
fn kind(area: &Area, number: u32) -> (String, Vec<Field>) {
    let hosts = area.max_hosts;
    let sealed = |fields: &[Field]| {
        let seal = u32_at(sector(area, number), 200) != 0;
        [fields, if seal { SEAL } else { &[] }].concat()
    };
    match &area.content {
        Content::Lockspace(l) if number < hosts => {
            (format!("lockspace {}, delta sector of host {}", l.lockspace, number + 1), sealed(DELTA))
        }
        Content::Resource(r) => match number {
            0 => (format!("resource {}:{}, leader", r.lockspace, r.resource), sealed(LEADER)),
            1 => (format!("resource {}:{}, request record", r.lockspace, r.resource), sealed(REQUEST)),
            n if n < hosts + 2 => {
                (format!("resource {}:{}, dblock of host {}", r.lockspace, r.resource, n - 1), sealed(DBLOCK))
            }
            2002 => (format!("resource {}:{}, value block", r.lockspace, r.resource), Vec::new()),
            _ => ("tail".into(), sealed(&[])),
        },
        Content::Index(i) => match number {
            0 => (format!("resource index of {}, header", i.lockspace), INDEX_HEADER.to_vec()),
            _ => (format!("resource index of {}, entries", i.lockspace), Vec::new()),
        },
        Content::Lockspace(_) => ("tail".into(), sealed(&[])),
    }
}

fn annotate(out: &mut impl fmt::Write, bytes: &[u8], fields: &[Field]) -> fmt::Result {
    let mut at = 0;
    for field in fields {
        loose(out, bytes, at, field.at)?;
        let raw = &bytes[field.at..field.at + field.len];
        let (value, meaning) = (value(raw, field.show), field.meaning);
        writeln!(out, "  {:03x} {:<24} {:<18} {value:<20} {meaning}", field.at, short(raw), field.name)?;
        at = field.at + field.len;
    }
    loose(out, bytes, at, bytes.len())
}

/// Bytes of no field, as far as they are not zero.
fn loose(out: &mut impl fmt::Write, bytes: &[u8], from: usize, to: usize) -> fmt::Result {
    let mut at = from;
    while at < to {
        let end = (at / LINE * LINE + LINE).min(to);
        if !is_zero(&bytes[at..end]) {
            let text: String = bytes[at..end].iter().map(|b| printable(*b)).collect();
            writeln!(out, "  {at:03x} {:<43} |{text}|", spaced(&bytes[at..end]))?;
        }
        at = end;
    }
    Ok(())
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' }
}

fn spaced(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// The bytes of a field, the first seven of a long one.
fn short(bytes: &[u8]) -> String {
    if bytes.len() <= 8 { spaced(bytes) } else { format!("{} ..", spaced(&bytes[..7])) }
}

fn value(bytes: &[u8], show: Show) -> String {
    let number = bytes.iter().take(8).rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    match show {
        Show::Number => number.to_string(),
        Show::Hex => format!("0x{number:0width$x}", width = bytes.len() * 2),
        Show::Version => format!("{}.{}", number >> 16, number & 0xFFFF),
        Show::Text => {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            format!("{:?}", bytes[..end].escape_ascii().to_string())
        }
        Show::Uuid => uuid::Uuid::from_bytes(array_at(bytes, 0)).to_string(),
        Show::Bits => {
            let set: u32 = bytes.iter().map(|b| b.count_ones()).sum();
            let first = (0..bytes.len() * 8).filter(|n| bytes[n / 8] & (1 << (n % 8)) != 0).take(8);
            let first: Vec<String> = first.map(|n| (n + 1).to_string()).collect();
            match set {
                0 => "none".into(),
                1..=8 => first.join(" "),
                more => format!("{} .. ({more})", first.join(" ")),
            }
        }
    }
}

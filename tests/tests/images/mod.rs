//! The golden images: lease areas that the real sanlock programs wrote, in the text form that golden/sectors.py
//! describes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_io::ids::SpaceName;
use holdfast_io::units::{AlignSize, Geometry, SectorIndex, SectorSize};

/// One lease area, all of it.
pub struct Image {
    /// The file's name without its ending.
    pub name: String,
    /// `delta`, `paxos` or `rindex`.
    pub kind: String,
    /// Its shape.
    pub geometry: Geometry,
    /// Where it began on its device.
    pub area_offset: u64,
    /// Its bytes.
    pub raw: Vec<u8>,
}

impl Image {
    /// The bytes of a sector.
    pub fn sector(&self, index: u32) -> &[u8] {
        let size = self.geometry.sector();
        &self.raw[SectorIndex(index).at(size)..][..size.bytes()]
    }

    /// Whether it is a resource that was cleared.
    pub fn is_cleared(&self) -> bool {
        self.name.contains("-cleared")
    }

    /// The name of the lockspace in its first sector.
    pub fn space(&self) -> SpaceName {
        SpaceName::from_field(&self.raw[56..104].try_into().unwrap())
    }
}

/// Where they are, whichever member of the workspace asks.
pub fn folder() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|d| d.join("tests/golden/images"));
    above.into_iter().find(|folder| folder.is_dir()).expect("tests/golden/images")
}

/// Every image, in the order of their names.
pub fn all() -> Vec<Image> {
    let files = fs::read_dir(folder()).expect("tests/golden/images");
    let mut paths: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "sectors"));
    paths.sort();
    assert!(paths.len() >= 145, "{} images in {}", paths.len(), folder().display());
    paths.iter().map(|p| read(p.file_stem().unwrap().to_str().unwrap())).collect()
}

/// Every image of a kind.
pub fn of_kind(kind: &str) -> Vec<Image> {
    let mut images = all();
    images.retain(|i| i.kind == kind);
    images
}

/// One image.
pub fn read(name: &str) -> Image {
    let text = fs::read_to_string(folder().join(format!("{name}.sectors"))).unwrap();
    parse(name, &text)
}

fn parse(name: &str, text: &str) -> Image {
    let field = |wanted: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(wanted)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: no {wanted}")).to_owned()
    };
    let number = |wanted: &str| field(wanted).parse::<u64>().unwrap();
    let sector = SectorSize::from_bytes(number("sector_size")).unwrap();
    let align = AlignSize::from_bytes(number("align_size")).unwrap();
    let geometry = Geometry::new(sector, align).unwrap();
    let mut raw = vec![0; geometry.area_len()];
    let mut base = 0;
    for line in text.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some(at) = first.strip_prefix('@') {
            base = usize::from_str_radix(at, 16).unwrap();
        } else if first.len() == 3 && rest.len() == 64 {
            let at = base + usize::from_str_radix(first, 16).unwrap();
            for (n, byte) in raw[at..at + 32].iter_mut().enumerate() {
                *byte = u8::from_str_radix(&rest[n * 2..n * 2 + 2], 16).unwrap();
            }
        }
    }
    if text.lines().any(|l| l.starts_with("repeat ")) {
        let words: Vec<usize> = field("repeat").split(' ').map(|w| w.parse().unwrap()).collect();
        let size = sector.bytes();
        let model = raw[words[2] * size..][..size].to_vec();
        raw[words[0] * size..(words[1] + 1) * size].chunks_mut(size).for_each(|s| s.copy_from_slice(&model));
    }
    let (kind, area_offset) = (field("kind"), number("area_offset"));
    Image { name: name.into(), kind, geometry, area_offset, raw }
}

//! `holdfast dump` as its users meet it: what it shows of whole, damaged and missing areas, and its exit status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Output};

use holdfast_io::bytes::{array_at, put_u32};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp, ResourceName};
use holdfast_io::leader::LeaderRecord;
use paxos_lease::dblock::{Dblock, Inp};
use paxos_lease::number::Ballot;

struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

const LS: u64 = 0;
const RES: u64 = 1 << 20;

impl Disk {
    /// A lockspace, and a resource behind it.
    fn formatted() -> Self {
        let disk = Self::empty(4 << 20);
        assert!(holdfast(&["init", "lockspace", "LS", &disk.name()]).status.success());
        assert!(holdfast(&["init", "resource", "LS", &format!("{}:1M", disk.name()), "vm"]).status.success());
        disk
    }

    fn empty(len: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::File::create(&path).unwrap().set_len(len).unwrap();
        Disk { _dir: dir, path }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        fs::OpenOptions::new().write(true).open(&self.path).unwrap().write_all_at(bytes, at).unwrap();
    }

    /// Rewrites the leader record at `at` as sanlock would, without a seal.
    fn record(&self, at: u64, change: impl Fn(LeaderRecord) -> LeaderRecord) {
        let was = LeaderRecord::parse(&array_at(&self.bytes(), usize::try_from(at).unwrap()));
        let mut sector = vec![0; 512];
        sector[..200].copy_from_slice(&change(was).encode());
        self.put(at, &sector);
    }

    fn join(&self, host: u64, generation: u64, timestamp: u64) {
        self.record(LS + (host - 1) * 512, |r| LeaderRecord {
            owner_id: host,
            owner_generation: Generation(generation),
            timestamp: RemoteTimestamp(timestamp),
            resource_name: ResourceName::new(format!("host{host}").as_bytes()).unwrap(),
            ..r
        });
    }

    fn own(&self, host: u64, generation: u64, writer: u64) {
        self.record(RES, |r| LeaderRecord {
            owner_id: host,
            owner_generation: Generation(generation),
            lver: Lver(5),
            timestamp: RemoteTimestamp(1030),
            write_id: writer,
            ..r
        });
    }

    fn dblock(&self, host: u64, bal: u64, lver: u64, flags: u32) {
        let term = HostTerm { host_id: HostId::new(host).unwrap(), generation: Generation(2) };
        let inp = if bal == 0 { Inp::default() } else { Inp::new(term, 1030) };
        let (mbal, bal) = (Ballot::new(8001), Ballot::new(bal));
        self.put(RES + (host + 1) * 512, &Dblock { mbal, bal, inp, lver: Lver(lver), flags }.encode());
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&holdfast(&["dump", "--json", &self.name()]).stdout).unwrap()
    }

    fn text(&self, status: i32) -> String {
        let output = holdfast(&["dump", &self.name()]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{text}");
        text
    }
}

fn holdfast(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast")).args(args).output().unwrap()
}

fn assert_shows(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn whole_areas_are_shown_and_the_status_is_0() {
    let disk = Disk::formatted();
    disk.join(1, 2, 1021);
    disk.own(1, 2, 1);
    disk.dblock(1, 8001, 5, 0);
    let text = disk.text(0);
    assert_shows(&text, &["Lockspace LS at 0", "1  held   host1", "1999 more host ids", "vm        HELD   1 (host1)"]);
    assert_shows(&text, &["cannot tell whether the holder still lives"]);
    let long = String::from_utf8(holdfast(&["dump", "--long", &disk.name()]).stdout).unwrap();
    assert_shows(
        &long,
        &["decided ballot of host 1 for version 5: mbal 8001", "formatted on machine", "written by sanlock"],
    );
}

#[test]
fn a_dump_changes_nothing() {
    let disk = Disk::formatted();
    let before = (disk.bytes(), fs::metadata(&disk.path).unwrap().mtime_nsec());
    for view in [&["dump"][..], &["dump", "--long"], &["dump", "--json"], &["dump", "--hex"]] {
        assert!(holdfast(&[view, &[&disk.name()]].concat()).status.success());
    }
    assert!((disk.bytes(), fs::metadata(&disk.path).unwrap().mtime_nsec()) == before);
}

#[test]
fn damage_is_listed_with_offset_reason_and_bytes_and_the_rest_is_shown() {
    let disk = Disk::formatted();
    disk.join(1, 2, 1021);
    disk.own(1, 2, 1);
    disk.put(LS + 512 + 160, &[1]);
    disk.put(RES + 1024, &[0xAB; 56]);
    let text = disk.text(1);
    assert_shows(&text, &["DAMAGED: 2 places", "at 512 (0x200), 512 bytes, delta sector of host 2: checksum 0x"]);
    assert_shows(&text, &["at 1049600 (0x100400), 512 bytes, dblock of host 1: dblock checksum 0xabababab"]);
    assert_shows(&text, &["ab ab ab ab", "1  held   host1", "vm        HELD", "1 damaged sector(s) show no host"]);
    let damage = &disk.json()["areas"][0]["damage"][0];
    assert_eq!((&damage["offset"], &damage["length"]), (&512.into(), &512.into()));
    assert!(damage["hex"].as_str().unwrap().starts_with("10202112"));
}

#[test]
fn a_flipped_bit_that_only_the_seal_covers_is_damage() {
    let disk = Disk::formatted();
    disk.put(LS + 256, &[4]);
    assert_shows(&disk.text(1), &["delta sector of host 1: sector CRC 0x"]);
}

#[test]
fn areas_without_their_first_sector_are_found() {
    let disk = Disk::formatted();
    disk.join(2, 3, 77);
    disk.put(LS, &[0; 512]);
    disk.put(RES, &[0; 512]);
    let text = disk.text(1);
    assert_shows(
        &text,
        &["Lockspace LS at 0", "2  held   host2", "delta sector of host 1: blank", "leader: blank", "DAMAGED"],
    );
}

#[test]
fn what_a_holder_is_worth_is_told_by_its_lockspace() {
    let disk = Disk::formatted();
    disk.own(1, 2, 1);
    let term = |disk: &Disk| disk.json()["areas"][1]["owner"]["term"].as_str().unwrap().to_owned();
    assert_eq!(term(&disk), "unknown");
    disk.join(1, 2, 50);
    assert_eq!(term(&disk), "current");
    disk.join(1, 2, 0);
    assert_eq!(term(&disk), "left");
    assert_shows(&disk.text(0), &["leftover: host 1 has left the lockspace"]);
    disk.join(1, 3, 60);
    assert_eq!(term(&disk), "outdated");
    assert_shows(&disk.text(0), &["leftover: host 1 has joined anew since generation 2"]);
}

#[test]
fn ballots_in_progress_and_given_back_leases_are_explained() {
    let disk = Disk::formatted();
    disk.own(1, 2, 2);
    disk.dblock(1, 8001, 5, 1);
    disk.dblock(2, 8001, 6, 0);
    disk.dblock(3, 0, 6, 0);
    let text = disk.text(0);
    assert_shows(&text, &["given back", "its owner gave it back; host 2 wrote the leader after that"]);
    assert_shows(&text, &["ballot IN PROGRESS, phase 2 of host 2 for version 6", "phase 1 of host 3 for version 6"]);
    assert_eq!(disk.json()["areas"][1]["state"], "released");
}

#[test]
fn nothing_found_and_nothing_to_open_are_status_2() {
    assert_shows(&Disk::empty(3 << 20).text(2), &["No lease area found"]);
    assert_shows(&Disk::empty(0).text(2), &["No lease area found"]);
    for (place, said) in
        [("/nonexistent/disk", "cannot open /nonexistent/disk"), ("/tmp", "/tmp"), ("disk:1Q", "is not a size")]
    {
        let output = holdfast(&["dump", place]);
        assert_eq!(output.status.code(), Some(2), "{place}");
        assert_shows(&String::from_utf8(output.stderr).unwrap(), &[said]);
    }
    let disk = Disk::formatted();
    for (offset, said) in [("100", "is not a multiple"), ("1G", "is behind the end")] {
        let output = holdfast(&["dump", &format!("{}:{offset}", disk.name())]);
        assert_eq!(output.status.code(), Some(2));
        assert_shows(&String::from_utf8(output.stderr).unwrap(), &[said]);
    }
}

#[test]
fn a_stretch_limits_the_search_and_a_device_that_ends_early_is_damage() {
    let disk = Disk::formatted();
    let only = holdfast(&["dump", "--json", &format!("{}:1M:1M", disk.name())]);
    let report: serde_json::Value = serde_json::from_slice(&only.stdout).unwrap();
    assert_eq!(report["areas"].as_array().unwrap().len(), 1);
    fs::OpenOptions::new().write(true).open(&disk.path).unwrap().set_len((1 << 20) + 4096).unwrap();
    assert_shows(&disk.text(1), &["cannot be read: the device ends at 1052672", "vm        free"]);
}

#[test]
fn the_search_over_a_large_empty_device_ends_and_says_so() {
    let disk = Disk::formatted();
    fs::OpenOptions::new().write(true).open(&disk.path).unwrap().set_len(1 << 40).unwrap();
    let text = disk.text(0);
    assert_shows(&text, &["Stopped looking at 1026M", "the device ends at 1T"]);
    assert_eq!(disk.json()["more"], true);
}

#[test]
fn the_hex_view_names_every_field_and_shows_bytes_of_none() {
    let disk = Disk::formatted();
    disk.join(1, 2, 1021);
    let mut strange = disk.bytes()[..512].to_vec();
    put_u32(&mut strange, 200, 0);
    strange[300] = 1;
    disk.put(LS, &strange);
    disk.put(RES + 1024 + 100, b"heap");
    let text = String::from_utf8(holdfast(&["dump", "--hex", &disk.name()]).stdout).unwrap();
    assert_shows(
        &text,
        &["owner_generation   2", "timestamp          1021", "seal.crc", "|....heap", "resource LS:vm, leader"],
    );
    assert_shows(&text, &["sector 0: lockspace LS, delta sector of host 1", "seal.area"]);
}

#[test]
fn the_json_has_the_fields_that_the_format_document_names() {
    let disk = Disk::formatted();
    disk.join(1, 2, 1021);
    disk.own(1, 2, 1);
    disk.dblock(1, 8001, 5, 0);
    let report = disk.json();
    let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&report), "areas bytes device device_sector_size format from more path to unreadable");
    let area = "area_uuid damage formatted_by kind length max_hosts offset sector_size";
    let sorted = |extra: &str| {
        let mut words: Vec<_> = area.split(' ').chain(extra.split(' ')).collect();
        words.sort_unstable();
        words.join(" ")
    };
    assert_eq!(keys(&report["areas"][0]), sorted("lockspace hosts never_used"));
    let resource = "damaged dblocks lockspace lver owner record request resource seal shared state value_block";
    assert_eq!(keys(&report["areas"][1]), sorted(resource));
    let host = &report["areas"][0]["hosts"][0];
    assert_eq!(keys(host), "damaged event host_id name notifies record seal state");
    let dblock = "bal checksum damaged flags host_id inp inp2 inp3 lver mbal released seal state";
    assert_eq!(keys(&report["areas"][1]["dblocks"][0]), dblock);
    assert_eq!(keys(&report["areas"][1]["owner"]), "generation host_id name since term");
}

#[test]
fn a_length_that_is_no_whole_number_of_sectors_is_refused() {
    let disk = Disk::formatted();
    let output = holdfast(&["dump", &format!("{}:0:3", disk.name())]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("length 3 is no whole number of the device's sectors of 512 bytes"), "{said}");
    assert!(output.stdout.is_empty());
    assert!(holdfast(&["dump", &format!("{}:0:1M", disk.name())]).status.success());
}

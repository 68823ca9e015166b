//! `holdfast init` as its users meet it: what it makes, what it refuses, and that a refusal writes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use delta_lease::bitmap::HostBitmap;
use delta_lease::sector::DeltaSector;
use holdfast_io::bytes::array_at;
use holdfast_io::ids::{Generation, Lver, RemoteTimestamp, ResourceName};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::units::SectorSize;

struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    fn new(len: u64) -> Self {
        let disk = Self::missing();
        File::create(&disk.path).unwrap().set_len(len).unwrap();
        disk
    }

    fn missing() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        Disk { _dir: dir, path }
    }

    fn at(&self, offset: &str) -> String {
        format!("{}:{offset}", self.path.display())
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        fs::OpenOptions::new().write(true).open(&self.path).unwrap().write_all_at(bytes, at).unwrap();
    }
}

fn holdfast(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast")).args(args).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let output = holdfast(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must not succeed; its exit status and what it said.
fn refused(args: &[&str]) -> (i32, String) {
    let output = holdfast(args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Asserts a refusal that leaves every byte as it was.
fn refused_untouched(disk: &Disk, args: &[&str], status: i32, expected: &[&str]) {
    let before = disk.bytes();
    let (code, said) = refused(args);
    assert_eq!(code, status, "{args:?}: {said}");
    for part in expected {
        assert!(said.contains(part), "{args:?}: {part:?} is not in: {said}");
    }
    assert!(disk.bytes() == before, "{args:?} wrote");
}

/// Host 1's sector with a host in it, as sanlock writes it.
fn joined(disk: &Disk, io_timeout: u16, timestamp: u64) -> Vec<u8> {
    let record = LeaderRecord {
        owner_id: 1,
        owner_generation: Generation(1),
        resource_name: ResourceName::new(b"hostA").unwrap(),
        timestamp: RemoteTimestamp(timestamp),
        io_timeout,
        ..LeaderRecord::parse(&array_at(&disk.bytes(), 0))
    };
    DeltaSector { leader: record, bitmap: HostBitmap::EMPTY, seal: None }.encode(SectorSize::B512).to_vec()
}

fn hold(disk: &Disk, area: u64) {
    let at = usize::try_from(area).unwrap();
    let record = LeaderRecord {
        owner_id: 7,
        owner_generation: Generation(3),
        lver: Lver(5),
        timestamp: RemoteTimestamp(1000),
        write_id: 7,
        ..LeaderRecord::parse(&array_at(&disk.bytes(), at))
    };
    let mut sector = vec![0; 512];
    sector[..200].copy_from_slice(&record.encode());
    disk.put(area, &sector);
}

#[test]
fn a_lockspace_and_many_resources_are_formatted_side_by_side() {
    let disk = Disk::new(4 << 20);
    ok(&["init", "lockspace", "LS", &disk.at("0"), "--io-timeout", "5"]);
    ok(&["init", "resource", "LS", &disk.at("1M"), "a", "b", "c", "--max-hosts", "16"]);
    let found: serde_json::Value = serde_json::from_str(&ok(&["dump", "--json", &disk.at("0")])).unwrap();
    let areas = found["areas"].as_array().unwrap();
    let names: Vec<_> =
        areas[1..].iter().map(|a| (a["resource"].as_str().unwrap(), a["offset"].as_u64().unwrap())).collect();
    assert_eq!(names, [("a", 1 << 20), ("b", 2 << 20), ("c", 3 << 20)]);
    assert_eq!(areas[0]["lockspace"], "LS");
    assert_eq!(areas[1]["record"]["num_hosts"], 16);
    assert_eq!(u16::from_le_bytes(disk.bytes()[174..176].try_into().unwrap()), 5);
    assert_ne!(areas[0]["area_uuid"], areas[1]["area_uuid"]);
}

#[test]
fn sanlocks_own_strings_are_understood() {
    let disk = Disk::new(3 << 20);
    let (s, a, b) =
        (format!("LS:0:{}", disk.at("0")), format!("LS:a:{}", disk.at("1M")), format!("LS:b:{}", disk.at("4096s")));
    let said = ok(&["init", "-s", &s, "-r", &a, "-r", &b]);
    assert_eq!(said.lines().count(), 3, "{said}");
    refused_untouched(&disk, &["init", "-s", &format!("LS:1:{}", disk.at("0"))], 2, &["names host id 1", "write 0"]);
    refused_untouched(&disk, &["init"], 2, &["Usage"]);
}

#[test]
fn every_geometry_can_be_chosen_and_no_other() {
    for (sector, align) in [("512", "1M"), ("4096", "1M"), ("4096", "2M"), ("4096", "4M"), ("4096", "8M")] {
        let disk = Disk::new(16 << 20);
        ok(&["init", "lockspace", "LS", &disk.at("0"), "--sector", sector, "--align", align]);
        ok(&["init", "resource", "LS", &disk.at(align), "r", "--sector", sector, "--align", align]);
        assert_eq!(holdfast(&["dump", &disk.at("0")]).status.code(), Some(0), "{sector}/{align}");
    }
    let disk = Disk::new(8 << 20);
    refused_untouched(
        &disk,
        &["init", "lockspace", "LS", &disk.at("0"), "--align", "8M"],
        2,
        &["512", "8M", "4096/8M"],
    );
    refused_untouched(
        &disk,
        &["init", "lockspace", "LS", &disk.at("0"), "--sector", "1024"],
        2,
        &["expected 512 or 4096"],
    );
    refused_untouched(&disk, &["init", "resource", "LS", &disk.at("0"), "r", "-n", "2001"], 2, &["2001", "1 to 2000"]);
    refused_untouched(&disk, &["init", "lockspace", "LS", &disk.at("0"), "-o", "256"], 2, &["1 to 255"]);
}

#[test]
fn places_that_cannot_be_are_named_with_what_was_expected() {
    let disk = Disk::new(2 << 20);
    let path = disk.path.display().to_string();
    refused_untouched(
        &disk,
        &["init", "lockspace", "LS", &disk.at("1000000")],
        2,
        &[&path, "1000000", "0 and 1048576"],
    );
    refused_untouched(&disk, &["init", "lockspace", "LS", &disk.at("2M")], 2, &[&path, "3145728", "ends at 2097152"]);
    let both = [format!("LS:a:{}", disk.at("0")), format!("LS:b:{}", disk.at("0"))];
    refused_untouched(&disk, &["init", "-r", &both[0], "-r", &both[1]], 2, &["LS:a", "LS:b", "overlap"]);
    let (code, said) = refused(&["init", "lockspace", "LS", "/dev/no-such-device"]);
    assert!(code == 2 && said.contains("no such device"), "{said}");
    let (code, said) = refused(&["init", "lockspace", "LS", "/nonexistent/file"]);
    assert!(code == 2 && said.contains("truncate -s 1M /nonexistent/file"), "{said}");
}

#[test]
fn create_makes_the_file_and_makes_it_longer_but_loses_nothing() {
    let disk = Disk::missing();
    ok(&["init", "lockspace", "LS", &disk.at("0"), "--create", "--dry-run"]);
    assert!(!disk.path.exists(), "a dry run creates nothing");
    ok(&["init", "lockspace", "LS", &disk.at("0"), "--create"]);
    let before = disk.bytes();
    ok(&["init", "resource", "LS", &disk.at("2M"), "r", "--create"]);
    let after = disk.bytes();
    assert_eq!(after.len(), 3 << 20);
    assert!(after[..1 << 20] == before[..]);
}

#[test]
fn what_is_not_blank_is_refused_by_name_and_overwritten_by_force() {
    let disk = Disk::new(2 << 20);
    ok(&["init", "lockspace", "LS", &disk.at("0")]);
    ok(&["init", "resource", "LS", &disk.at("1M"), "r"]);
    refused_untouched(&disk, &["init", "lockspace", "N", &disk.at("0")], 1, &["lockspace LS: no host has joined"]);
    refused_untouched(&disk, &["init", "resource", "N", &disk.at("1M"), "x"], 1, &["resource LS:r, version 0: free"]);
    refused_untouched(&disk, &["init", "resource", "N", &disk.at("0"), "x", "--dry-run"], 1, &["lockspace LS"]);
    ok(&["init", "resource", "N", &disk.at("1M"), "x", "--force"]);
    let noise = Disk::new(1 << 20);
    noise.put(5000, b"something");
    refused_untouched(
        &noise,
        &["init", "lockspace", "N", &noise.at("0")],
        1,
        &["9 non-zero bytes", "first at offset 5000"],
    );
    ok(&["init", "lockspace", "N", &noise.at("0"), "--force"]);
    assert_eq!(noise.bytes()[5000..5009], [0; 9]);
}

#[test]
fn a_held_resource_is_refused_and_force_says_whom_it_takes_it_from() {
    let disk = Disk::new(2 << 20);
    ok(&["init", "resource", "LS", &disk.at("1M"), "vm"]);
    hold(&disk, 1 << 20);
    let held = "resource LS:vm, version 5: held by host 7 generation 3";
    refused_untouched(&disk, &["init", "resource", "LS", &disk.at("1M"), "vm"], 1, &[held, "(it is held)"]);
    let output = holdfast(&["init", "resource", "LS", &disk.at("1M"), "vm", "--force"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(&format!("TAKING on {}", disk.path.display())), "{said}");
    assert!(said.contains(held), "{said}");
}

#[test]
fn a_lockspace_whose_host_lives_is_refused_even_with_force() {
    let disk = Disk::new(1 << 20);
    ok(&["init", "lockspace", "LS", &disk.at("0")]);
    disk.put(0, &joined(&disk, 1, 100));
    let (stop, stopped) = mpsc::channel::<()>();
    let host = &disk;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut timestamp = 100;
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                timestamp += 1;
                host.put(0, &joined(host, 1, timestamp));
            }
        });
        let (code, said) = refused(&["init", "lockspace", "NEW", &disk.at("0"), "--force"]);
        stop.send(()).unwrap();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("host 1 (hostA) wrote its sector"), "{said}");
    });
    assert_eq!(disk.bytes()[56..58], *b"LS");
}

#[test]
fn a_silent_lockspace_is_watched_for_two_renewal_periods_and_then_overwritten() {
    let disk = Disk::new(1 << 20);
    ok(&["init", "lockspace", "LS", &disk.at("0")]);
    disk.put(0, &joined(&disk, 1, 100));
    let before = holdfast_io::clock::boot_now();
    ok(&["init", "lockspace", "NEW", &disk.at("0"), "--force"]);
    let watched = holdfast_io::clock::boot_now().since(before);
    assert!(watched >= Duration::from_secs(7), "{watched:?}");
    assert_eq!(disk.bytes()[56..59], *b"NEW");
}

#[test]
fn an_area_that_reaches_into_the_target_is_found() {
    let disk = Disk::new(16 << 20);
    ok(&["init", "resource", "LS", &disk.at("0"), "large", "--sector", "4096", "--align", "8M"]);
    // Between its dblocks all is zero: only its beginning tells.
    refused_untouched(&disk, &["init", "resource", "LS", &disk.at("4M"), "x"], 1, &["resource LS:large", "at 0"]);
    ok(&["init", "resource", "LS", &disk.at("8M"), "x"]);
}

fn swap_signature(disk: &Disk, at: u64) {
    disk.put(at + 4086, b"SWAPSPACE2");
    disk.put(at + 1024, &[1, 0, 0, 0, 0xFF, 0, 0, 0]);
}

#[test]
fn a_foreign_signature_anywhere_on_the_device_is_refused() {
    let disk = Disk::new(4 << 20);
    swap_signature(&disk, 0);
    refused_untouched(&disk, &["init", "lockspace", "LS", &disk.at("2M")], 1, &["swap signature"]);
    ok(&["init", "lockspace", "LS", &disk.at("2M"), "--force"]);
}

#[test]
fn without_blkid_nothing_is_taken_for_blank() {
    let disk = Disk::new(1 << 20);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(args).env("HOLDFAST_BLKID", "/nonexistent/blkid").output().unwrap()
    };
    let output = run(&["init", "lockspace", "LS", &disk.at("0")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("util-linux"), "{said}");
    assert!(disk.bytes().iter().all(|b| *b == 0));
    assert!(run(&["init", "lockspace", "LS", &disk.at("0"), "--force"]).status.success());
}

#[test]
fn a_dry_run_prints_the_writes_in_order_and_does_none() {
    let disk = Disk::new(1 << 20);
    let text = ok(&["init", "lockspace", "LS", &disk.at("0"), "--dry-run", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let writes: Vec<_> = report["areas"][0]["writes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| (w["offset"].as_u64().unwrap(), w["bytes"].as_u64().unwrap()))
        .collect();
    assert_eq!(writes, [(0, 512), (512, (1 << 20) - 512), (0, 512)]);
    assert_eq!((&report["done"], &report["dry_run"]), (&false.into(), &true.into()));
    assert!(disk.bytes().iter().all(|b| *b == 0));
}

#[test]
fn a_refusal_is_json_too() {
    let disk = Disk::new(1 << 20);
    ok(&["init", "lockspace", "LS", &disk.at("0")]);
    let output = holdfast(&["init", "lockspace", "LS", &disk.at("0"), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["found"][0]["kind"], "lockspace");
    assert!(report["refused"].as_str().unwrap().contains("--force"));
}

#[test]
fn nothing_outside_the_area_is_written() {
    let disk = Disk::new(4 << 20);
    disk.put(0, &vec![0xA5; 1 << 20]);
    disk.put(3 << 20, &vec![0x5A; 1 << 20]);
    ok(&["init", "resource", "LS", &disk.at("1M"), "a", "b"]);
    let bytes = disk.bytes();
    assert!(bytes[..1 << 20].iter().all(|b| *b == 0xA5) && bytes[3 << 20..].iter().all(|b| *b == 0x5A));
    assert!(Path::new(&disk.path).exists());
}

#[test]
fn a_reader_that_has_gone_changes_nothing() {
    for json in [&["--json"][..], &[]] {
        let disk = Disk::new(1 << 20);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let target = disk.at("0");
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["init", "lockspace", "LS", &target]).args(json).stdout(writer);
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
        assert!(ok(&["dump", &target]).contains("LS"), "it was formatted all the same");
    }
}

#[test]
fn a_number_of_hosts_is_refused_where_only_lockspaces_are_made() {
    let disk = Disk::new(2 << 20);
    let (space, resource) = (format!("LS:0:{}", disk.at("0")), format!("LS:r:{}", disk.at("1M")));
    let said = ["--max-hosts 3 is for resources"];
    refused_untouched(&disk, &["init", "-s", &space, "-n", "3"], 2, &said);
    refused_untouched(&disk, &["init", "lockspace", "LS", &disk.at("0"), "--max-hosts", "3"], 2, &said);
    ok(&["init", "-s", &space, "-r", &resource, "-n", "3"]);
}

#[test]
fn a_volume_is_a_lockspace_an_index_and_the_leases_that_it_lists() {
    let disk = Disk::new(8 << 20);
    let at = disk.path.to_str().unwrap();
    let said = ok(&["init", "volume", at, "--lockspace", "LS", "--resources", "3"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[0].starts_with(&format!("formatted lockspace LS at 0 of {at}: 1M long")), "{said}");
    assert!(lines[1].starts_with(&format!("formatted index LS at 1048576 of {at}: 1M long")), "{said}");
    assert!(lines[1].contains(", 4096 places,"), "{said}");
    assert!(lines[2].starts_with("formatted resource LS:rindex_lease at 2097152"), "{said}");
    assert!(lines[5].starts_with("formatted resource LS:r3 at 5242880"), "{said}");
    let dump: serde_json::Value = serde_json::from_str(&ok(&["dump", "--json", at])).unwrap();
    let areas = dump["areas"].as_array().unwrap();
    assert_eq!(
        areas.iter().map(|a| a["kind"].as_str().unwrap()).collect::<Vec<_>>()[..3],
        ["lockspace", "index", "resource"]
    );
    assert!(areas.iter().all(|a| a["damage"].as_array().unwrap().is_empty() && a["area_uuid"].is_string()), "{dump}");
    let entries = areas[1]["entries"].as_array().unwrap();
    let entries: Vec<_> =
        entries.iter().map(|e| (e["name"].as_str().unwrap(), e["res_offset"].as_u64().unwrap())).collect();
    assert_eq!(entries, [("r1", 3 << 20), ("r2", 4 << 20), ("r3", 5 << 20)]);
    refused_untouched(&disk, &["init", "volume", at, "--lockspace", "LS"], 1, &["resource index of LS with 3 entries"]);
}

#[test]
fn the_resources_of_a_volume_have_names_of_their_own_and_room() {
    let disk = Disk::new(5 << 20);
    let at = disk.path.to_str().unwrap();
    let volume = |more: &[&'static str]| [&["init", "volume", at, "--lockspace", "LS"], more].concat();
    refused_untouched(&disk, &volume(&["a", "b", "c"]), 2, &["resource LS:c would take bytes 5242880"]);
    refused_untouched(&disk, &volume(&["a", "a"]), 2, &["resource a twice"]);
    refused_untouched(&disk, &volume(&["rindex_lease"]), 2, &["resource rindex_lease twice"]);
    refused_untouched(&disk, &volume(&["a", "--resources", "2"]), 2, &["cannot be used with"]);
    ok(&volume(&["a", "b"]));
}

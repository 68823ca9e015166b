//! `sanlock direct dump` and `read_leader`, as the executable does them under that name: what the real program said of each golden
//! image is what ours says. And whoever does not read it stops nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

#[path = "../tests/images/mod.rs"]
mod images;

/// What our executable prints for these words of sanlock's command line.
fn says(words: &[String]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_holdfast")).arg0("sanlock").args(words).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn every_golden_image_is_told_as_the_real_program_tells_it() {
    let folder = images::folder();
    let directory = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for image in images::all() {
        let area = directory.path().join("area");
        let mut file = fs::File::create(&area).unwrap();
        file.seek(SeekFrom::Start(image.area_offset)).unwrap();
        file.write_all(&image.raw).unwrap();
        let told = fs::read_to_string(folder.join(format!("{}.dump.txt", image.name))).unwrap();
        for said in told.split("$ sanlock ").skip(1) {
            let (line, wanted) = said.split_once('\n').unwrap();
            let words: Vec<String> = line.split(' ').map(|word| word.replace("AREA", area.to_str().unwrap())).collect();
            assert_eq!(says(&words), wanted, "{}: {line}", image.name);
            compared += 1;
        }
    }
    assert!(compared >= 275, "{compared}");
}

#[test]
fn an_output_that_takes_nothing_changes_no_result() {
    let directory = tempfile::tempdir().unwrap();
    let area = directory.path().join("area");
    fs::File::create(&area).unwrap().set_len(1 << 20).unwrap();
    let place = area.to_str().unwrap();
    let status = |words: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let program = env!("CARGO_BIN_EXE_holdfast");
        Command::new(program).arg0("sanlock").args(words).stdout(full).status().unwrap().code()
    };
    let resource = format!("LS:R:{place}:0");
    assert_eq!(status(&["direct", "init", "-r", &resource]), Some(0));
    assert_eq!(status(&["direct", "dump", place]), Some(0));
    assert_eq!(status(&["direct", "read_leader", "-r", &resource]), Some(0));
    assert_eq!((status(&["help"]), status(&["no_such_action"])), (Some(0), Some(1)));
}

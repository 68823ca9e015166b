//! What the documents name exists: a test that was renamed leaves no reference to nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files below a directory with one of these endings, build products left out.
fn files(below: &Path, endings: &[&str], into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files(&path, endings, into);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            into.push(path);
        }
    }
}

/// Whether a word in backticks can only be the name of a test: what else has a name has a shorter one.
fn is_test_name(word: &str) -> bool {
    let letters = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    letters && word.matches('_').count() >= 4
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut documents = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    files(&root().join("docs"), &[".md"], &mut documents);
    let mut named = BTreeSet::new();
    for document in &documents {
        let mut fenced = false;
        for line in fs::read_to_string(document).unwrap().lines() {
            fenced ^= line.starts_with("```");
            let words = line.split('`').skip(1).step_by(2);
            named.extend(words.filter(|word| !fenced && is_test_name(word)).map(str::to_owned));
        }
    }
    assert!(named.len() > 50, "the documents name tests: {}", named.len());

    let mut sources = Vec::new();
    files(&root(), &[".rs", ".py"], &mut sources);
    let text: String = sources.iter().map(|source| fs::read_to_string(source).unwrap()).collect();
    let is_there = |name: &&String| text.contains(&format!("fn {name}(")) || text.contains(&format!("def {name}("));
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

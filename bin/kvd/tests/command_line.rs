//! The command line as its readers see it.
//!
//! (That this package has a test of its binary also makes `cargo test --workspace` build the binary, once, with the
//! features that everything else is built with; the integration tests in `tests/` use that one.)
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::collections::BTreeSet;
use std::process::Command;

fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kvd")).arg("--help").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The first word with dashes in every line that `select` keeps.
fn flags(text: &str, select: impl Fn(&str) -> bool) -> BTreeSet<&str> {
    let not_in_a_flag = |c: char| !(c.is_ascii_lowercase() || c == '-');
    text.lines()
        .filter(|line| select(line))
        .filter_map(|line| line.split(not_in_a_flag).find(|word| word.starts_with("--")))
        .collect()
}

#[test]
fn the_readme_lists_every_flag_and_no_other() {
    let readme = include_str!("../../../README.md");
    let documented = flags(readme, |line| line.starts_with("| `--"));
    let help = help();
    let mut real = flags(&help, |line| {
        let line = line.trim_start();
        line.starts_with("--") || line.starts_with("-h, --") || line.starts_with("-V, --")
    });
    assert!(real.remove("--help") && real.remove("--version"), "{real:?}");
    assert_eq!(documented, real, "left: README.md, right: kvd --help");
}

#[test]
fn every_flag_has_its_variable() {
    let help = help();
    for flag in flags(&help, |line| line.trim_start().starts_with("--")) {
        let variable = flag.trim_start_matches('-').to_ascii_uppercase().replace('-', "_");
        assert!(help.contains(&format!("[env: KVD_{variable}=")), "{flag} has no variable in --help");
    }
}

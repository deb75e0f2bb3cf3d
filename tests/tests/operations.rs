//! docs/operations.md does what it says: its commands run as one script, in order, on ports of our own.
//!
//! A line that ends in `# => TEXT` must print TEXT. Every number of five digits is a port, and is replaced by one that is
//! reserved for the test.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kvd_tests::ports::Port;
use kvd_tests::{kvctl, kvd};
use rustix::process::{Pid, Signal, kill_process};

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// Longest run of the whole script.
const PATIENCE: Duration = Duration::from_secs(240);

/// The lines of the document's `sh` blocks.
fn commands(document: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in document.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => lines.push(line),
            _ => {}
        }
    }
    lines
}

/// The script: each line as it is, or as a check of what it prints.
fn script(lines: &[&str]) -> String {
    let mut script = String::from("set -euo pipefail\nexport HOME=$PWD\n");
    script.push_str("trap 'for f in *.pid; do kill -9 \"$(cat \"$f\" 2>/dev/null)\" 2>/dev/null || true; done' EXIT\ntrap 'exit 1' TERM\n");
    for line in lines {
        match line.split_once("# => ") {
            Some((command, wanted)) => {
                let command = command.trim_end();
                writeln!(script, "out=$({command})").unwrap();
                writeln!(
                    script,
                    "[ \"$out\" = '{wanted}' ] || {{ echo \"WRONG: {command}: $out\"; exit 1; }}"
                )
                .unwrap();
            }
            None => writeln!(script, "{line}").unwrap(),
        }
    }
    script
}

/// Every number of exactly five digits is replaced by a port of our own.
fn with_own_ports(text: &str) -> (String, Vec<Port>) {
    let mut ports: BTreeMap<&str, Port> = BTreeMap::new();
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[begin..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - begin);
        let number = &rest[begin..begin + digits];
        replaced.push_str(&rest[..begin]);
        match number.len() {
            5 => {
                let port = ports.entry(number).or_insert_with(Port::reserve);
                write!(replaced, "{}", port.number()).unwrap();
            }
            _ => replaced.push_str(number),
        }
        rest = &rest[begin + digits..];
    }
    replaced.push_str(rest);
    (replaced, ports.into_values().collect())
}

#[test]
fn the_commands_of_the_document_work_in_their_order() {
    let lines = commands(DOCUMENT);
    assert!(lines.len() > 40 && DOCUMENT.matches("# => ").count() >= 5, "the document has lost its commands");
    let (text, _ports) = with_own_ports(&script(&lines));
    let directory = tempfile::TempDir::with_prefix("kvd-operations-").unwrap();
    let output = directory.path().join("output");
    let file = File::create(&output).unwrap();
    // Both are beside each other only by chance.
    let path = [kvd(), kvctl()].map(|binary| binary.parent().unwrap().to_str().unwrap().to_owned()).join(":");
    let mut child = Command::new("bash")
        .args(["-c", &text])
        .current_dir(directory.path())
        .env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()))
        // Elections in half a second, as in the other tests.
        .envs([("KVD_TICK_MS", "50"), ("KVD_ELECTION_TICKS", "10")])
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            // Its trap ends what it started.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = std::fs::read_to_string(&output).unwrap_or_default();
    if !status.is_some_and(|status| status.success()) {
        for id in 1..=5 {
            let log = std::fs::read_to_string(directory.path().join(format!("{id}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- member {id}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        panic!("ended with {status:?} after {:?}:\n{said}\n--- the script\n{text}", begun.elapsed());
    }
    for part in ["nothing was changed", "dropped: member 2 at", "done: member 1 is cluster"] {
        assert!(said.contains(part), "{part:?} was not said:\n{said}");
    }
}

#[test]
fn a_line_that_prints_something_else_fails() {
    let status = |line: &str| {
        let text = script(&[line]);
        Command::new("bash")
            .args(["-c", &text])
            .current_dir("/")
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(status("echo hello   # => hello"));
    assert!(!status("echo hullo   # => hello"));
    assert!(!status("false"));
}

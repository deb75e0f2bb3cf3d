//! Every seed and every regression, and mutations of them, through every target: the part of fuzzing that needs no
//! libFuzzer.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kvd_fuzz::seeds::seeds;
use kvd_fuzz::{MAX_INPUT, TARGETS, Target};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// Mutated inputs for each target. `tests/fuzz/run` tries more in a second.
const MUTATIONS: u32 = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs of a target in `corpus` or `regressions`, by path.
fn inputs(kind: &str, target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(dir) = fs::read_dir(root().join(kind).join(target)) else { return BTreeMap::new() };
    dir.map(|file| file.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs an input, and says which one it was if it fails.
fn run(target: &Target, name: &dyn std::fmt::Display, input: &[u8]) {
    let ran = std::panic::catch_unwind(|| target.run(input));
    assert!(ran.is_ok(), "{} fails on {name}: {input:02x?}", target.name);
}

#[test]
fn the_seeds_are_what_the_code_writes() {
    let stale = "KVD_BLESS=1 cargo test -p kvd-fuzz writes the seeds; has a format changed?";
    for (target, name, bytes) in seeds() {
        assert!(Target::named(target).is_some() && bytes.len() <= MAX_INPUT, "{target}/{name}");
        let path = root().join("corpus").join(target).join(name);
        if std::env::var_os("KVD_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let committed = fs::read(&path).unwrap_or_default();
        assert!(committed == bytes, "{}: {stale}", path.display());
    }
}

#[test]
fn every_target_has_a_seed_and_every_directory_a_target() {
    for target in TARGETS {
        assert!(!inputs("corpus", target.name).is_empty(), "{} has no seed", target.name);
    }
    for kind in ["corpus", "regressions"] {
        for dir in fs::read_dir(root().join(kind)).into_iter().flatten() {
            let name = dir.unwrap().file_name().into_string().unwrap();
            assert!(Target::named(&name).is_some(), "{kind}/{name} is no target");
        }
    }
}

#[test]
fn seeds_and_regressions_find_no_bug() {
    for target in TARGETS {
        for kind in ["corpus", "regressions"] {
            for (path, input) in inputs(kind, target.name) {
                run(target, &path.display(), &input);
            }
        }
        run(target, &"nothing", &[]);
    }
}

#[test]
fn no_prefix_of_a_seed_finds_a_bug() {
    for target in TARGETS {
        for (path, input) in inputs("corpus", target.name) {
            for len in (0..input.len()).step_by(1 + input.len() / 64) {
                run(target, &format_args!("{} cut to {len}", path.display()), &input[..len]);
            }
        }
    }
}

/// A change of one place.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// Copies a stretch to another place, over what is there.
    Copy(Index, Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), any::<u8>()).prop_map(|(at, len)| Change::Remove(at, len)),
        (at(), at(), any::<u8>()).prop_map(|(from, to, len)| Change::Copy(from, to, len)),
    ]
}

fn mutate(input: &mut Vec<u8>, change: &Change) {
    if input.is_empty() {
        return;
    }
    let place = |at: &Index| at.index(input.len());
    match change {
        Change::Set(at, byte) => {
            let at = place(at);
            input[at] = *byte;
        }
        Change::Flip(at, bit) => {
            let at = place(at);
            input[at] ^= 1 << bit;
        }
        Change::Insert(at, bytes) => {
            let at = place(at);
            drop(input.splice(at..at, bytes.iter().copied()));
        }
        Change::Remove(at, len) => {
            let from = place(at);
            let to = input.len().min(from + usize::from(*len));
            drop(input.drain(from..to));
        }
        Change::Copy(from, to, len) => {
            let (from, to) = (place(from), place(to));
            let len = usize::from(*len).min(input.len() - from).min(input.len() - to);
            input.copy_within(from..from + len, to);
        }
    }
}

#[test]
fn mutations_of_the_seeds_find_no_bug() {
    for target in TARGETS {
        let seeds: Vec<Vec<u8>> = inputs("corpus", target.name).into_values().collect();
        let config =
            ProptestConfig { cases: MUTATIONS, failure_persistence: None, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let strategy = (any::<Index>(), prop::collection::vec(change(), 1..6));
        let found = TestRunner::new_with_rng(config, rng).run(&strategy, |(seed, changes)| {
            let mut input = seed.get(&seeds).clone();
            for change in &changes {
                mutate(&mut input, change);
            }
            target.run(&input);
            Ok(())
        });
        assert!(found.is_ok(), "{}: {}", target.name, found.unwrap_err());
    }
}

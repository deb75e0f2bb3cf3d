//! The simulator repeats itself, finds nothing, and would find something.

use kvd_sim::{Mutation, Settings, simulate};

#[test]
fn a_seed_does_the_same_things_twice() {
    for seed in 0..20 {
        let once = simulate(seed, &Settings::default());
        let twice = simulate(seed, &Settings::default());
        assert_eq!((once.hash, once.lines), (twice.hash, twice.lines), "seed {seed}");
        assert_eq!(once.counts, twice.counts);
    }
}

#[test]
fn different_seeds_do_different_things() {
    let hash = |seed| simulate(seed, &Settings::default()).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn some_seeds_hold_and_their_faults_happen() {
    for seed in 0..30 {
        let outcome = simulate(seed, &Settings::default());
        assert_eq!(outcome.failure, None, "cargo run --release -p kvd-sim -- --seed {seed}");
        assert_eq!(outcome.missed, [], "seed {seed}");
        assert!(outcome.counts.get("writes acknowledged").is_some_and(|n| *n > 0), "seed {seed}");
    }
}

/// Plants each bug and counts the seeds until it is caught.
#[test]
fn planted_bugs_are_caught() {
    let missed: Vec<_> = Mutation::ALL.into_iter().filter(|mutation| caught(*mutation).is_none()).collect();
    assert_eq!(missed, [], "not caught within {SEEDS} seeds");
}

const SEEDS: u64 = 300;

fn caught(mutation: Mutation) -> Option<u64> {
    let settings = Settings { mutation: Some(mutation), ..Settings::default() };
    let seed = (0..SEEDS).find(|seed| simulate(*seed, &settings).failure.is_some())?;
    println!("{mutation}: seed {seed}");
    Some(seed)
}

//! The simulator repeats itself, finds nothing, and would find something.

use kvd_sim::{Settings, simulate};

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
fn a_plan_that_was_written_down_replays_its_seed() {
    for seed in 0..5 {
        let once = simulate(seed, &Settings::default());
        let other = simulate(seed + 100, &Settings::default()).plan;
        let plan = other.parse(&once.plan.to_string()).unwrap();
        let again = simulate(seed, &Settings { plan: Some(plan), ..Settings::default() });
        assert_eq!(once.hash, again.hash, "seed {seed}");
    }
}

#[test]
fn different_seeds_do_different_things() {
    let hash = |seed| simulate(seed, &Settings::default()).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn some_seeds_hold_and_serve() {
    for seed in 0..30 {
        let outcome = simulate(seed, &Settings::default());
        assert_eq!(outcome.failure, None, "cargo run --release -p kvd-sim -- --seed {seed}");
        assert!(outcome.counts.get("writes acknowledged").is_some_and(|n| *n > 0), "seed {seed}");
    }
}

#[cfg(feature = "mutations")]
mod planted {
    use kvd_sim::gate::{self, property};
    use kvd_sim::minimise::minimise;
    use kvd_sim::{Bug, Settings, simulate};

    #[test]
    fn a_planted_bug_is_caught_and_leaves_nothing_behind() {
        let caught = gate::plant(Bug::PromiseBeforeSync, 50, 1);
        let (seed, _) = caught.by.as_ref().expect("it breaks promises");
        assert_eq!(caught.property(), "durability");
        assert_eq!(simulate(*seed, &Settings::default()).failure, None);
    }

    #[test]
    fn a_run_that_fails_is_made_smaller_and_fails_alike() {
        let settings = Settings { bug: Some(Bug::SnapshotNewerThanIndex), ..Settings::default() };
        let caught = gate::plant(Bug::SnapshotNewerThanIndex, 50, 1);
        let (seed, failure) = caught.by.as_ref().expect("snapshots are compared");
        let outcome = simulate(*seed, &settings);
        let smaller = minimise(*seed, &settings, &outcome);
        assert_eq!(property(&smaller.failure), property(failure));
        assert!(smaller.plan.faults.len() < outcome.plan.faults.len(), "{}", smaller.plan);
        let replayed = simulate(*seed, &Settings { plan: Some(smaller.plan), ..settings });
        assert_eq!(replayed.failure, Some(smaller.failure));
    }
}

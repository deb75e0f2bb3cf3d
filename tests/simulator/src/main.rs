//! The command line: one seed with its trace, or many with a summary.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use kvd_sim::{Fault, Level, Mutation, Outcome, Settings, simulate};

/// Simulates clusters of kvd, deterministically: the same seed does the same things in the same order.
#[derive(Debug, Parser)]
struct Args {
    /// Replay this seed and print what happens.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Run these seeds, A to B without B.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Threads for --seeds.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Plant a bug; the exit code is then still that of a failure if it is caught.
    #[arg(long, value_name = "NAME", value_parser = mutation)]
    mutation: Option<Mutation>,
    /// Print every message and every write, too.
    #[arg(short, long)]
    verbose: bool,
    /// Print only the result of a seed.
    #[arg(short, long)]
    quiet: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("like 0..500")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("no seeds in it".into()) } else { Ok(range) }
}

fn mutation(name: &str) -> Result<Mutation, String> {
    Mutation::named(name).ok_or_else(|| {
        let all: Vec<String> = Mutation::ALL.iter().map(ToString::to_string).collect();
        format!("there are: {}", all.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    match (args.seed, &args.seeds) {
        (Some(seed), _) => one(seed, &args),
        (None, Some(seeds)) => many(seeds.clone(), &args),
        (None, None) => ExitCode::FAILURE,
    }
}

fn one(seed: u64, args: &Args) -> ExitCode {
    let print = match (args.quiet, args.verbose) {
        (true, _) => Level::Quiet,
        (_, true) => Level::Detail,
        _ => Level::Story,
    };
    let outcome = simulate(seed, &Settings { print, mutation: args.mutation });
    println!("trace hash {:016x}, {} lines", outcome.hash, outcome.lines);
    print_counts(&outcome.counts, &outcome.faults);
    if !outcome.missed.is_empty() {
        println!("faults of the plan that did not happen: {:?}", outcome.missed);
    }
    match outcome.failure {
        Some(failure) => {
            println!("FAILED: {failure}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

#[derive(Default)]
struct Sum {
    counts: BTreeMap<&'static str, u64>,
    faults: BTreeMap<Fault, u64>,
    failed: BTreeMap<u64, String>,
    missed: BTreeMap<u64, Vec<Fault>>,
    hash: u64,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        for (what, n) in outcome.counts {
            *self.counts.entry(what).or_default() += n;
        }
        for (fault, n) in outcome.faults {
            *self.faults.entry(fault).or_default() += n;
        }
        if !outcome.missed.is_empty() && outcome.failure.is_none() {
            self.missed.insert(seed, outcome.missed);
        }
        if let Some(failure) = outcome.failure {
            self.failed.insert(seed, failure);
        }
        // The order in which threads finish does not matter.
        self.hash ^= outcome.hash;
    }
}

fn many(seeds: Range<u64>, args: &Args) -> ExitCode {
    let settings = Settings { print: Level::Quiet, mutation: args.mutation };
    let (sum, next, begun) = (Mutex::new(Sum::default()), AtomicU64::new(seeds.start), Instant::now());
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = simulate(seed, &settings);
                    if let Some(failure) = &outcome.failure {
                        println!("seed {seed}: {failure}\n  {}", command(seed, args.mutation));
                    }
                    sum.lock().unwrap_or_else(|e| e.into_inner()).add(seed, outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
    let n = seeds.end - seeds.start;
    print_counts(&sum.counts, &sum.faults);
    for (seed, missed) in &sum.missed {
        println!("seed {seed}: faults of its plan that did not happen: {missed:?}");
    }
    println!(
        "{n} seeds in {:.1} s: {} failed, {} in which a fault did not happen; hash {:016x}",
        begun.elapsed().as_secs_f64(),
        sum.failed.len(),
        sum.missed.len(),
        sum.hash
    );
    if let Some((seed, failure)) = sum.failed.first_key_value() {
        println!("FAILED, first: {failure}\n  {}", command(*seed, args.mutation));
    }
    if sum.failed.is_empty() && sum.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command(seed: u64, mutation: Option<Mutation>) -> String {
    let mutation = mutation.map(|m| format!(" --mutation {m}")).unwrap_or_default();
    format!("cargo run --release -p kvd-sim -- --seed {seed}{mutation}")
}

fn print_counts(counts: &BTreeMap<&'static str, u64>, faults: &BTreeMap<Fault, u64>) {
    for (what, n) in counts {
        println!("{n:>10} {what}");
    }
    let faults: Vec<String> = faults.iter().map(|(fault, n)| format!("{fault} {n}")).collect();
    println!("faults: {}", faults.join(", "));
}

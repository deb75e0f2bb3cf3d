//! The command line: one seed with its trace, many with a summary, or the mutation gate.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use kvd_sim::minimise::minimise;
use kvd_sim::{Bug, Level, Plan, Rng, Settings, Sum, gate, run, simulate};

/// Simulates clusters of kvd, deterministically: the same seed does the same things in the same order.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Replay this seed and print what happens.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Run these seeds, A to B without B.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Threads for --seeds.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Plant a bug; it takes a build with `--features mutations`. If it is caught, the exit code is that of a failure.
    #[arg(long, value_name = "NAME", value_parser = bug)]
    mutation: Option<Bug>,
    /// Change the plan of the seed, as in "members=3 duration_ms=9000 faults=Kill,Isolate".
    #[arg(long)]
    plan: Option<String>,
    /// Make the first seed that fails smaller, and print the command that replays the smallest run.
    #[arg(long)]
    minimise: bool,
    /// Print every message and every write, too.
    #[arg(short, long)]
    verbose: bool,
    /// Print only the result of a seed.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plants each bug there is, and fails if one is not caught.
    Gate {
        /// Within so many seeds.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// Threads.
        #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
        jobs: u64,
        /// Only these bugs.
        #[arg(long, value_name = "NAME", value_parser = bug)]
        only: Vec<Bug>,
    },
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("like 0..500")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("no seeds in it".into()) } else { Ok(range) }
}

fn bug(name: &str) -> Result<Bug, String> {
    if !kvd_mutation::COMPILED {
        return Err("bugs are planted in a build with `--features mutations` only".into());
    }
    Bug::named(name).ok_or_else(|| {
        let all: Vec<String> = Bug::ALL.iter().map(ToString::to_string).collect();
        format!("there are: {}", all.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.seed.is_none() {
        // A panic of the code under test is a result; it is told with the others.
        kvd_sim::keep_panics_quiet();
    }
    match (&args.command, args.seed, &args.seeds) {
        (Some(Command::Gate { seeds, jobs, only }), ..) => open_gate(*seeds, *jobs, only),
        (None, Some(seed), _) => one(seed, &args),
        (None, None, Some(seeds)) => many(seeds.clone(), &args),
        (None, None, None) => ExitCode::FAILURE,
    }
}

fn settings(seed: u64, args: &Args, print: Level) -> Result<Settings, String> {
    let plan = args.plan.as_ref().map(|text| Plan::draw(&mut Rng::new(seed)).parse(text)).transpose()?;
    Ok(Settings { print, bug: args.mutation, plan })
}

fn one(seed: u64, args: &Args) -> ExitCode {
    let print = match (args.quiet, args.verbose) {
        (true, _) => Level::Quiet,
        (_, true) => Level::Detail,
        _ => Level::Story,
    };
    let settings = match settings(seed, args, print) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("kvd-sim: --plan: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = simulate(seed, &settings);
    println!("trace hash {:016x}, {} lines", outcome.hash, outcome.lines);
    for (what, n) in &outcome.counts {
        println!("{n:>10} {what}");
    }
    let faults: Vec<String> = outcome.faults.iter().map(|(fault, n)| format!("{fault} {n}")).collect();
    println!("faults: {}", faults.join(", "));
    if !outcome.missed.is_empty() {
        println!("faults of the plan that did not happen: {:?}", outcome.missed);
    }
    let Some(failure) = &outcome.failure else { return ExitCode::SUCCESS };
    println!("FAILED: {failure}");
    if args.minimise {
        shrink(seed, &Settings { print: Level::Quiet, ..settings }, &outcome);
    }
    ExitCode::FAILURE
}

fn shrink(seed: u64, settings: &Settings, outcome: &kvd_sim::Outcome) {
    let smaller = minimise(seed, settings, outcome);
    println!("smallest of {} runs: {}", smaller.runs, smaller.failure);
    println!("  {}", command(seed, settings.bug, Some(&smaller.plan)));
}

fn many(seeds: Range<u64>, args: &Args) -> ExitCode {
    let settings = match settings(seeds.start, args, Level::Quiet) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("kvd-sim: --plan: {error}");
            return ExitCode::FAILURE;
        }
    };
    let begun = Instant::now();
    let sum = run(seeds, args.jobs, &settings, false, |seed, outcome| {
        let failure = outcome.failure.as_deref().unwrap_or_default();
        println!("FAILED seed {seed}: {failure}\n  {}", command(seed, args.mutation, settings.plan.as_ref()));
    });
    print_sum(&sum);
    let verdict = sum.verdict();
    if let (Err(failure), true) = (&verdict, sum.failed.is_empty()) {
        println!("FAILED: {failure}");
    }
    if let Some(seed) = sum.failed.keys().next().filter(|_| args.minimise) {
        shrink(*seed, &settings, &simulate(*seed, &settings));
    }
    // The figures come last: the summary of a night's run is made of this line.
    let count = |what| sum.counts.get(what).copied().unwrap_or(0);
    println!(
        "{} seeds in {:.1} s, {} failed: {} faults, {} entries committed, {} writes acknowledged, {} virtual seconds; \
         hash {:016x}",
        sum.seeds,
        begun.elapsed().as_secs_f64(),
        sum.failed.len(),
        sum.faults.values().map(|(_, _, times)| times).sum::<u64>(),
        count("entries committed"),
        count("writes acknowledged"),
        count("virtual seconds"),
        sum.hash
    );
    if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_sum(sum: &Sum) {
    for (what, n) in &sum.counts {
        println!("{n:>10} {what}");
    }
    println!("  happened  in seeds  of plans  fault");
    for (fault, (planned, seeds, times)) in &sum.faults {
        println!("{times:>10} {seeds:>9} {planned:>9}  {fault}");
    }
}

fn command(seed: u64, bug: Option<Bug>, plan: Option<&Plan>) -> String {
    let simulator = simulator(bug.is_some());
    let bug = bug.map(|bug| format!(" --mutation {bug}")).unwrap_or_default();
    let plan = plan.map(|plan| format!(" --plan '{plan}'")).unwrap_or_default();
    format!("{simulator} --seed {seed}{bug}{plan}")
}

/// How the simulator is run.
fn simulator(planted: bool) -> String {
    let features = if planted { " --features mutations" } else { "" };
    format!("cargo run --release -p kvd-sim{features} --")
}

fn open_gate(seeds: u64, jobs: u64, only: &[Bug]) -> ExitCode {
    if !kvd_mutation::COMPILED {
        eprintln!("kvd-sim: bugs are planted in a build with `--features mutations` only");
        return ExitCode::FAILURE;
    }
    let bugs = if only.is_empty() { Bug::ALL } else { only };
    let mut survivors = Vec::new();
    println!("{:<26} {:>5} {:>6}  caught by", "planted bug", "seed", "s");
    for bug in bugs {
        let caught = gate::plant(*bug, seeds, jobs);
        match &caught.by {
            Some((seed, _)) => println!("{bug:<26} {seed:>5} {:>6.1}  {}", caught.seconds, caught.property()),
            None => {
                println!("{bug:<26} {:>5} {:>6.1}  SURVIVED {seeds} seeds", "-", caught.seconds);
                println!("FAILED: {bug} is not caught\n  {} gate --only {bug}", simulator(true));
                survivors.push(bug.to_string());
            }
        }
    }
    println!("{} bugs planted, {} not caught within {seeds} seeds", bugs.len(), survivors.len());
    if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The command line: one run, many, or what CI runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use kvd_chaos::clients::Plant;
use kvd_chaos::faults::Kind;
use kvd_chaos::run::{Settings, Verdict, run};
use kvd_chaos::{ci, failpoints};

/// Does real faults to clusters of real kvd processes, and checks what their clients were told.
///
/// The schedule of faults comes from the seed; what the processes make of it does not repeat. Ends with 0 if every run
/// passed. What failed is kept, with the command that checks its history again.
#[derive(Debug, Parser)]
#[command(name = "kvd-chaos")]
struct Args {
    /// The choices of the first run; each further run takes the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of faults in a run
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many runs
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Go on with runs until so many faults have happened
    #[arg(long)]
    total_faults: Option<u64>,
    /// Members of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    members: u64,
    /// Which faults; all of them if none is given
    #[arg(long, value_delimiter = ',', value_enum)]
    faults: Vec<Kind>,
    /// Plant a bug; a run that catches it fails as any other
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// Instead: end members at each failpoint, in their first start and under load
    #[arg(long)]
    failpoints: bool,
    /// Instead: what CI runs, in a few minutes
    #[arg(long, conflicts_with = "failpoints")]
    ci: bool,
    /// Where to keep what failed [default: chaos/ beside the profile's directory]
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let kinds = if args.faults.is_empty() { Kind::all().to_vec() } else { args.faults.clone() };
    let keep = args.keep.clone().unwrap_or_else(beside);
    if args.ci {
        return if ci::everything(args.seed, &keep, print) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if args.failpoints {
        return failpoints(args.seed, &keep);
    }
    let (mut failed, mut shown, mut runs) = (0, 0, 0);
    while runs < args.runs || args.total_faults.is_some_and(|total| shown < total) {
        let settings = Settings {
            seed: args.seed + runs,
            seconds: args.seconds,
            members: args.members,
            kinds: kinds.clone(),
            plant: args.plant,
            keep: keep.clone(),
        };
        let verdict = run(&settings);
        print(&settings, &verdict);
        shown += verdict.shown();
        failed += u64::from(!verdict.passed());
        runs += 1;
    }
    println!("{runs} runs, {shown} faults happened, {failed} runs failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failpoints(seed: u64, keep: &Path) -> ExitCode {
    let visited = failpoints::visit(seed, keep);
    println!("{visited}");
    if visited.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// TARGET/chaos, for TARGET/PROFILE/kvd-chaos.
fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent()
        .and_then(|profile| profile.parent())
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join("chaos")
}

fn print(settings: &Settings, verdict: &Verdict) {
    let [ok, refused, nothing, unknown] = verdict.outcomes;
    println!(
        "seed {}: {} members, {ok} operations ok, {refused} refused, {nothing} not done, {unknown} unknown",
        settings.seed, settings.members
    );
    for (kind, happened) in &verdict.faults {
        println!("  {kind:<14} {:>3} of {:<3} {}", happened.shown, happened.begun, happened.evidence);
    }
    for (kind, why) in &verdict.skipped {
        println!("  {kind:<14} skipped: {why}");
    }
    if let Some(report) = &verdict.report {
        println!("  {}", report.to_string().replace('\n', "\n  "));
    }
    for failure in &verdict.failures {
        println!("  FAILED: {failure}");
    }
    if let Some(history) = &verdict.history {
        println!("  kept: {}", history.display());
        println!("  check again: cargo run -p kvd-linearizability -- {}", history.display());
        let names: Vec<String> = settings.kinds.iter().map(ToString::to_string).collect();
        println!(
            "  run again: cargo run -p kvd-chaos -- --seed {} --seconds {} --members {} --faults {}",
            settings.seed,
            settings.seconds,
            settings.members,
            names.join(",")
        );
    }
}

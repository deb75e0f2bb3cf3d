//! Checks a history file again.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kvd_linearizability::{History, Limits, check};

/// Checks whether what the clients in a history file were told can be true.
///
/// Ends with 0 if it can, 1 if it cannot, 2 if the file is no history, 3 if a limit was reached first.
#[derive(Debug, Parser)]
#[command(name = "kvd-linearizability")]
struct Args {
    /// The file; its format is described in tests/linearizability/src/history.rs
    file: PathBuf,
    /// Seconds for each key
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Configurations that are visited for each key, about 200 bytes of memory each
    #[arg(long, default_value_t = 20_000_000)]
    steps: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let opened = File::open(&args.file).map_err(Into::into);
    let history = match opened.and_then(|file| History::parse(BufReader::new(file))) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("{}: {error}", args.file.display());
            return ExitCode::from(2);
        }
    };
    let limits = Limits { steps: args.steps, time: Duration::from_secs(args.seconds) };
    let report = check(&history, &limits);
    println!("{report}");
    ExitCode::from(report.exit_code())
}

//! `cargo xtask`: chores that are longer than a line of shell.
//!
//! `cargo xtask nightly` runs the long forms of the tests, those that CI has a part of, one behind the other, and writes
//! `target/nightly/summary.md`: what ran, from which seed, how long, what it counted, what failed, and the commands. The
//! output of each is beside it. Nothing here needs a network.

mod nightly;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the project.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Run the long forms of the tests, and write target/nightly/summary.md.
    Nightly {
        /// Only these.
        #[arg(value_name = "NAME", value_parser = nightly::named)]
        names: Vec<&'static nightly::Long>,
        /// Draws what is drawn. By default the number of days since 1970, so that each night draws something else.
        #[arg(long)]
        seed: Option<u64>,
        /// List them.
        #[arg(long)]
        list: bool,
    },
}

fn main() -> ExitCode {
    let Chore::Nightly { names, seed, list } = Args::parse().chore;
    if list {
        nightly::list();
        return ExitCode::SUCCESS;
    }
    match nightly::run(&names, seed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask nightly: {error}");
            ExitCode::FAILURE
        }
    }
}

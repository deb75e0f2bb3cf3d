//! kvd's hot paths, one at a time, for callgrind to count.
//!
//! ```text
//! tests/instructions/run              every path under callgrind, against the baseline
//! kvd-instructions                    the names of the paths
//! kvd-instructions PATH               runs one
//! ```
//!
//! Times on shared machines are noise, instructions are not: the same binary executes nearly the same number of them
//! each time. So nothing here depends on time, and everything runs on one thread, on a disk in memory. Each path
//! prepares what it needs, warms up, and does its work within [`count_this`], whose inclusive instructions are what
//! is counted. Kernel time is not: system calls cost more than they count here.

use std::process::ExitCode;

mod member;
mod paths;

/// Runs `work`. Callgrind counts from where this function is entered to where it is left, by its name: it must not be
/// inlined, and not be entered twice at a time.
#[inline(never)]
fn count_this<T>(work: impl FnOnce() -> T) -> T {
    // Not a tail call, for then the function would be left before its work begins.
    std::hint::black_box(work())
}

fn main() -> ExitCode {
    let Some(wanted) = std::env::args().nth(1) else {
        for (name, operations, _) in paths::ALL {
            println!("{name} {operations}");
        }
        return ExitCode::SUCCESS;
    };
    match paths::ALL.iter().find(|(name, ..)| *name == wanted) {
        Some((_, _, path)) => {
            path();
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("kvd-instructions: no path {wanted}; without an argument it lists them");
            ExitCode::from(2)
        }
    }
}

//! What happened: lines for a reader, and a hash over all of them.
//!
//! The hash covers every line, printed or not, so two runs with the same hash did the same things in the same order.

use std::fmt::{self, Write as _};

/// How much of a trace is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing.
    #[default]
    Quiet,
    /// What a reader wants to know: faults, leaders, starts and stops, snapshots, client operations.
    Story,
    /// Every message and every write, too.
    Detail,
}

/// Time since the simulation began, in microseconds.
pub type Micros = u64;

/// A trace.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    print: Level,
    line: String,
}

impl Trace {
    /// An empty trace that prints its lines up to that level.
    pub fn new(print: Level) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, print, line: String::new() }
    }

    /// The hash over all lines so far (FNV-1a, 64 bit).
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The number of lines so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Adds a line. `who` is a member's id, or 0 for the world.
    pub fn add(&mut self, level: Level, now: Micros, who: u64, what: fmt::Arguments<'_>) {
        self.line.clear();
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        let _ = match who {
            0 => write!(self.line, "{seconds:3}.{micros:06}    {what}"),
            _ => write!(self.line, "{seconds:3}.{micros:06} {who}  {what}"),
        };
        for byte in self.line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if level <= self.print && self.print != Level::Quiet {
            println!("{}", self.line);
        }
    }
}

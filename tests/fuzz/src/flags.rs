//! Command lines of `kvd` and `kvctl`: arguments separated by line feeds.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use clap::Parser as _;
use kvd::config::{Cli, Settings};

/// Arguments: clap's own time for many of them is of no interest.
const MOST: usize = 16;

pub(crate) fn run(input: &[u8]) {
    let arguments = input.split(|byte| *byte == b'\n').take(MOST);
    let line = |program: &str| {
        let arguments = arguments.clone().map(|bytes| OsString::from_vec(bytes.to_vec()));
        std::iter::once(OsString::from(program)).chain(arguments).collect::<Vec<_>>()
    };
    if let Ok(cli) = Cli::try_parse_from(line("kvd"))
        && let Ok(settings) = Settings::try_from(cli.flags)
    {
        let own = settings.flags.id as usize;
        assert!((1..=settings.cluster.len()).contains(&own), "a member has a URL in --cluster");
    }
    let _ = kvctl::Cli::try_parse_from(line("kvctl"));
}

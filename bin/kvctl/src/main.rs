//! `kvctl`, a thin shell around the library of the same name.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match kvctl::run(kvctl::Cli::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.exit_code() == 0 => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = format!("kvctl: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                message.push_str(&format!(": {source}"));
                cause = source.source();
            }
            eprintln!("{message}");
            ExitCode::from(error.exit_code())
        }
    }
}

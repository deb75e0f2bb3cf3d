//! A durable, linearizable, replicated key-value store over HTTP.

use std::process::ExitCode;

use clap::Parser as _;
use kvd::{compose, config, recover};
use tracing_subscriber::EnvFilter;

pub(crate) fn main() -> ExitCode {
    let config::Cli { flags, command } = config::Cli::parse();
    let filter = match EnvFilter::try_new(&flags.log) {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("--log {:?}: {error}", flags.log)),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    if let Some(config::Command::Recover(flags)) = command {
        return match recover::run(&flags, &mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        };
    }
    let settings = match config::Settings::try_from(flags) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(compose::run(settings)) {
        Ok(ended) => {
            eprintln!("kvd: {ended}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("kvd: {why}");
    ExitCode::FAILURE
}

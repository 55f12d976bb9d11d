//! The process: settings, log, limits, runtime, and one exit code for each way to end.

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use srs_proxy::{
    app::App,
    config::{
        Config,
        cli::{self, Request},
        load,
    },
    logging, net,
    shutdown::{Outcome, Shutdown, Signals},
};
use tracing::{error, warn};

/// The command was used wrongly (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let flags = match cli::read(env::args_os()) {
        Ok(Request::Run(flags)) => flags,
        Ok(Request::Print(text)) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&error),
    };
    let loaded = match load::from_process(&flags) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    if let Err(error) = logging::init(&loaded.config.log) {
        return refuse(&error);
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    net::raise_file_limit(&loaded.config);
    match run(loaded.config) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            error!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(error: &dyn Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "srs-proxy: {error}");
    ExitCode::from(BAD_CONFIGURATION)
}

fn run(config: Config) -> Result<Outcome, Box<dyn std::error::Error>> {
    // Sessions have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::new(config.drain.clone());
        tokio::spawn(Signals::register()?.govern(shutdown.clone()));
        Ok(App::build(config).await?.run(shutdown).await)
    });
    // What is left at the force timeout is not waited for.
    runtime.shutdown_background();
    outcome
}

//! The process: settings, log, limits, runtime, and one exit code for each way to end.

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use srs_proxy::{
    app::App,
    cluster_status::Status,
    config::{
        Config,
        cli::{self, Request},
        load,
        status_target::StatusOptions,
    },
    logging, net,
    shutdown::{Outcome, Shutdown, Signals},
};
use tracing::{error, warn};

/// The command was used wrongly (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;
/// Who was to be asked does not answer (`EX_UNAVAILABLE` of sysexits.h).
const UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let flags = match cli::read(env::args_os()) {
        Ok(Request::Run(flags)) => flags,
        Ok(Request::Print(text)) => {
            print(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Request::ClusterStatus(options)) => return cluster_status(options),
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

fn cluster_status(options: StatusOptions) -> ExitCode {
    let target = match options.resolve() {
        Ok(target) => target,
        Err(error) => return refuse(&error),
    };
    match Status::fetch(&target) {
        Ok(status) => {
            print(&if target.json { status.to_json() } else { status.to_table() });
            if status.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(UNAVAILABLE)
        }
    }
}

/// Whoever closed the pipe has read enough.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn complain(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "srs-proxy: {error}");
}

fn refuse(error: &dyn Display) -> ExitCode {
    complain(error);
    ExitCode::from(BAD_CONFIGURATION)
}

fn run(config: Config) -> Result<Outcome, Box<dyn std::error::Error>> {
    // Sessions have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::new(config.drain.clone());
        tokio::spawn(Signals::register()?.handle_signals(shutdown.clone()));
        Ok(App::build(config).await?.run(shutdown).await)
    });
    // What is left at the force timeout is not waited for.
    runtime.shutdown_background();
    outcome
}

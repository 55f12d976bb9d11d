//! The command line: one flag for each setting, and the commands that ask a node.

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    Secret,
    env_file::{render, wrap},
    keys::{self, Spec},
    status_target::{DEFAULT_TIMEOUT, StatusOptions},
    value,
};

/// Where a line of help is broken.
const WIDTH: usize = 90;
const PRINT_ENV: &str = "print-env";
const API: &str = "api";
const TOKEN: &str = "token";
const JSON: &str = "json";
const TIMEOUT: &str = "timeout";

const ABOUT: &str = "\
A proxy for media origin clusters: publish and play through any node. Without a command it serves.

Every setting is a flag, an environment variable, or a line of the file .env in the working
directory, and counts in this order.";

const EXIT_CODES: &str = "\
Signals and exit codes:
  The first SIGTERM or SIGINT lets sessions end, within PROXY_GRACE_QUIT_TIMEOUT and
  PROXY_FORCE_QUIT_TIMEOUT; the second ends the process at once.
    0        ended when told to
    1        could not start, failed, or sessions were left at the force timeout
    64       a bad setting or flag; nothing was opened
    130, 143 ended at once by a second SIGINT, SIGTERM";

const STATUS_ABOUT: &str = "\
Asks a node what it sees of the cluster, and prints a table: its members, then totals.";

const STATUS_EXIT_CODES: &str = "\
Exit codes:
    0   the node serves and is ready, and all nodes see the same serving nodes
    1   the node is not ready (it joins, drains, or cannot place streams), or the nodes do not see
        the same serving nodes yet; the table says which
    64  a bad setting or flag
    69  no status: nobody answered in time, the token was refused, or it is another program";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To run, with these settings, by their names.
    Run(BTreeMap<String, String>),
    /// To print a text and end.
    Print(String),
    /// To ask a node what it sees of the cluster.
    ClusterStatus(StatusOptions),
}

/// Reads the command line, the program's own name first. The error is one line.
pub fn read(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Request, String> {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Request::Print(e.to_string()));
        }
        Err(e) => return Err(one_line(&e)),
    };
    if let Some(status) = matches.subcommand_matches("cluster").and_then(|cluster| cluster.subcommand_matches("status"))
    {
        return options(status).map(Request::ClusterStatus);
    }
    if matches.get_flag(PRINT_ENV) {
        return Ok(Request::Print(render()));
    }
    Ok(Request::Run(keys::ALL.iter().filter_map(|key| given(&matches, key)).collect()))
}

fn options(matches: &ArgMatches) -> Result<StatusOptions, String> {
    let text = |name| matches.get_one::<String>(name);
    Ok(StatusOptions {
        api: text(API).cloned(),
        token: text(TOKEN).map(Secret::new),
        json: matches.get_flag(JSON),
        timeout: text(TIMEOUT).map_or(Ok(DEFAULT_TIMEOUT), |text| timeout(text))?,
    })
}

fn timeout(text: &str) -> Result<Duration, String> {
    (value::DURATION.parse)(text.trim()).ok_or_else(|| format!("--{TIMEOUT}: expected {}", value::DURATION.allowed))
}

fn given(matches: &ArgMatches, key: &Spec) -> Option<(String, String)> {
    let value = matches.get_one::<String>(key.name)?;
    Some((key.name.to_owned(), value.clone()))
}

fn command() -> Command {
    Command::new("srs-proxy")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(EXIT_CODES)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .next_line_help(true)
        .subcommand(cluster())
        .args(keys::ALL.iter().map(|key| setting(key)))
        .next_help_heading("Other")
        .arg(
            Arg::new(PRINT_ENV)
                .long(PRINT_ENV)
                .action(ArgAction::SetTrue)
                .help("Print every setting with its default, as deploy/srs-proxy.env has them"),
        )
        .arg(help())
        .arg(Arg::new("version").short('V').long("version").action(ArgAction::Version).help("Print the version"))
}

fn help() -> Arg {
    Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print this help")
}

fn cluster() -> Command {
    Command::new("cluster")
        .about("Look at the cluster: cluster status prints its members as a table")
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .arg(help())
        .subcommand(status())
}

fn status() -> Command {
    let option = |name: &'static str, value: &'static str, help: String| {
        Arg::new(name).long(name).value_name(value).help(wrap(&help, WIDTH).join("\n"))
    };
    Command::new("status")
        .about(STATUS_ABOUT)
        .after_help(STATUS_EXIT_CODES)
        .disable_help_flag(true)
        .next_line_help(true)
        .arg(option(
            API,
            "URL",
            "The system API of the node, http://HOST:PORT; only http is spoken. Default: where PROXY_SYSTEM_API \
             of the environment or of .env has it, on this machine."
                .into(),
        ))
        .arg(option(
            TOKEN,
            "TOKEN",
            "The bearer token to show. Default: PROXY_HTTP_API_AUTH_TOKEN of the environment or of .env, which \
             other users of the machine cannot read in the list of processes."
                .into(),
        ))
        .arg(option(
            TIMEOUT,
            "DURATION",
            format!("How long to wait for the answer. Default: {}.", humantime::format_duration(DEFAULT_TIMEOUT)),
        ))
        .arg(Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print the answer as it came, as JSON"))
        .arg(help())
}

fn setting(key: &Spec) -> Arg {
    let default = if key.default.is_empty() { "empty" } else { key.default };
    let help = [
        wrap(key.help, WIDTH),
        wrap(&format!("Allowed: {}.", key.allowed), WIDTH),
        vec![format!("[{}, default {default}]", key.name)],
    ];
    Arg::new(key.name).long(key.flag()).value_name("VALUE").help(help.concat().join("\n")).help_heading(key.group)
}

/// What clap says of a bad command line, without the usage, and without values: one that stands in
/// the wrong place might be a secret.
fn one_line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = flag.split([' ', '=']).next().filter(|flag| flag.starts_with("--"));
    match (error.kind(), flag) {
        (ErrorKind::UnknownArgument, Some(flag)) => match text(ContextKind::SuggestedArg) {
            Some(near) => format!("{flag} is no flag; did you mean {near}?"),
            None => format!("{flag} is no flag; --help lists the flags"),
        },
        (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, None) => {
            "a value without a flag; settings are given as --flag VALUE".into()
        }
        (ErrorKind::MissingSubcommand, _) => "cluster needs a command: cluster status".into(),
        (ErrorKind::InvalidUtf8, _) => "an argument is not UTF-8".into(),
        (ErrorKind::ArgumentConflict, Some(flag)) => format!("{flag} is given twice"),
        (ErrorKind::ArgumentConflict, None) => "settings are not for commands, which have options of their own".into(),
        (ErrorKind::InvalidValue, Some(flag)) => format!("{flag} needs a value"),
        (kind, _) => format!("{kind}; --help lists the flags"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn read_all(args: &[&str]) -> Result<Request, String> {
        read([&["srs-proxy"], args].concat())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_flag() {
        for key in keys::ALL {
            let flag = format!("--{}", key.flag());
            let expected = BTreeMap::from([(key.name.to_owned(), "a b".to_owned())]);
            assert_eq!(read_all(&[&flag, "a b"]), Ok(Request::Run(expected.clone())));
            assert_eq!(read_all(&[&format!("{flag}=a b")]), Ok(Request::Run(expected)));
        }
        assert_eq!(read_all(&[]), Ok(Request::Run(BTreeMap::new())));
    }

    #[test]
    fn help_names_every_flag_variable_default_and_rule() {
        let Ok(Request::Print(help)) = read_all(&["--help"]) else { panic!("no help") };
        let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for key in keys::ALL {
            assert!(flat.contains(&format!("--{} <VALUE>", key.flag())), "{}", key.name);
            assert!(flat.contains(&format!("[{}, default ", key.name)), "{}", key.name);
            assert!(flat.contains(key.help) && flat.contains(key.allowed) && flat.contains(key.group), "{}", key.name);
        }
        assert_eq!(read_all(&["-h"]), Ok(Request::Print(help)));
    }

    #[test]
    fn the_status_of_the_cluster_is_asked_for_with_or_without_options() {
        let options = |args: &[&str]| match read_all(&[&["cluster", "status"], args].concat()) {
            Ok(Request::ClusterStatus(options)) => options,
            other => panic!("{other:?}"),
        };
        let default = StatusOptions { api: None, token: None, json: false, timeout: Duration::from_secs(5) };
        assert_eq!(options(&[]), default);
        let all = options(&["--api", "http://a:1", "--token=s3cret", "--json", "--timeout", "500ms"]);
        let token = Some(Secret::new("s3cret"));
        let expected =
            StatusOptions { api: Some("http://a:1".into()), token, json: true, timeout: Duration::from_millis(500) };
        assert_eq!(all, expected);
        assert!(!format!("{all:?}").contains("s3cret"));
    }

    #[test]
    fn help_of_the_status_says_what_its_exit_codes_mean_and_help_of_all_names_it() {
        let Ok(Request::Print(help)) = read_all(&["cluster", "status", "--help"]) else { panic!("no help") };
        for part in ["--api <URL>", "--token <TOKEN>", "--timeout <DURATION>", "--json", "only http", "69  no status"] {
            assert!(help.contains(part), "{part}: {help}");
        }
        let Ok(Request::Print(help)) = read_all(&["--help"]) else { panic!("no help") };
        assert!(help.contains("cluster status"), "{help}");
        assert!(matches!(read_all(&["cluster", "--help"]), Ok(Request::Print(help)) if help.contains("status")));
    }

    #[test]
    fn the_version_is_the_crates_version() {
        let version = format!("srs-proxy {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(read_all(&["--version"]), Ok(Request::Print(version)));
    }

    #[test]
    fn a_bad_command_line_is_told_in_one_line_without_values() {
        for (args, told) in [
            (&["--rtmp-servr", "1"][..], "--rtmp-servr is no flag; did you mean --rtmp-server?"),
            (&["--rtmp-servr=s3cret"], "--rtmp-servr is no flag; did you mean --rtmp-server?"),
            (&["--colour"], "--colour is no flag; --help lists the flags"),
            (&["s3cret"], "a value without a flag; settings are given as --flag VALUE"),
            (&["-x"], "a value without a flag; settings are given as --flag VALUE"),
            (&["--rtmp-server"], "--rtmp-server needs a value"),
            (&["--rtmp-server", "1", "--rtmp-server", "2"], "--rtmp-server is given twice"),
            (&["cluster"], "cluster needs a command: cluster status"),
            (&["cluster", "s3cret"], "a value without a flag; settings are given as --flag VALUE"),
            (&["cluster", "status", "s3cret"], "a value without a flag; settings are given as --flag VALUE"),
            (&["cluster", "status", "--tokn=s3cret"], "--tokn is no flag; did you mean --token?"),
            (&["cluster", "status", "--token"], "--token needs a value"),
            (&["cluster", "status", "--token=s3cret", "--token=s3cret"], "--token is given twice"),
            (
                &["cluster", "status", "--timeout", "5"],
                "--timeout: expected a duration from 1ms to 24h, such as 500ms, 20s, 1.5s or 1m30s",
            ),
            (
                &["--rtmp-server", "1", "cluster", "status"],
                "settings are not for commands, which have options of their own",
            ),
            (&["--print-env=s3cret"], "unexpected value for an argument found; --help lists the flags"),
        ] {
            assert_eq!(read_all(args), Err(told.into()), "{args:?}");
        }
        let bad = OsString::from_vec(b"--rtmp-server=\xff".to_vec());
        assert_eq!(read([OsString::from("srs-proxy"), bad]), Err("an argument is not UTF-8".into()));
    }
}

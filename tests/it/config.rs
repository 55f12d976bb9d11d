//! Settings of the real binary: where they come from, which are refused, and what is told of them.

use srs_proxy::config::{env_file, keys};
use srs_proxy_test_support::binary::{Start, binary, on_free_ports};

/// Runs what must be refused and gives the one line that says why.
#[track_caller]
fn refusal(start: Start) -> String {
    let ended = start.run();
    assert_eq!(ended.status.code(), Some(64), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    ended.stderr.strip_prefix("srs-proxy: ").unwrap_or_default().to_owned()
}

#[test]
fn a_bad_value_ends_the_start_with_64_and_one_line() {
    for (name, value, told) in [
        ("PROXY_RTMP_SERVER", "rtmp", "PROXY_RTMP_SERVER=\"rtmp\" (environment): expected PORT"),
        ("PROXY_RTMP_SERVER", "70000", "PROXY_RTMP_SERVER=\"70000\" (environment): expected PORT"),
        ("PROXY_SYSTEM_API", "::1", "PROXY_SYSTEM_API=\"::1\" (environment): expected PORT"),
        ("PROXY_HTTP_SERVER", "1\n2", "PROXY_HTTP_SERVER=\"1\\n2\" (environment): expected PORT"),
        ("PROXY_ORIGIN_SERVER_TTL", "300", "PROXY_ORIGIN_SERVER_TTL=\"300\" (environment): expected a duration"),
        ("PROXY_RTMP_IDLE_TIMEOUT", "25h", "PROXY_RTMP_IDLE_TIMEOUT=\"25h\" (environment): expected a duration"),
        (
            "PROXY_LOAD_BALANCER_TYPE",
            "etcd",
            "PROXY_LOAD_BALANCER_TYPE=\"etcd\" (environment): expected memory, redis or mesh",
        ),
        ("PROXY_RTMP_MAX_CONNECTIONS", "0", "PROXY_RTMP_MAX_CONNECTIONS=\"0\" (environment): expected a whole number"),
        ("PROXY_DEFAULT_BACKEND_RTMP", "x", "PROXY_DEFAULT_BACKEND_RTMP=\"x\" (environment): expected PORT, PROTO://"),
        (
            "PROXY_DEFAULT_BACKEND_ENABLED",
            "yes",
            "PROXY_DEFAULT_BACKEND_ENABLED=\"yes\" (environment): expected on or off",
        ),
        ("PROXY_LOG_LEVEL", "loud", "PROXY_LOG_LEVEL=\"loud\" (environment): expected off, error"),
        ("PROXY_LOG_FORMAT", "xml", "PROXY_LOG_FORMAT=\"xml\" (environment): expected text or json"),
        ("PROXY_GRACE_QUIT_TIMEOUT", "1m", "PROXY_FORCE_QUIT_TIMEOUT=30s is shorter than PROXY_GRACE_QUIT_TIMEOUT=1m"),
        ("PROXY_HTTP_API_AUTH_ENABLED", "on", "PROXY_HTTP_API_AUTH_TYPE is empty while PROXY_HTTP_API_AUTH_ENABLED=on"),
        ("PROXY_HTTP_API_AUTH_TYPE", "basic", "PROXY_HTTP_API_AUTH_TYPE=\"basic\" (environment): expected bearer"),
    ] {
        let line = refusal(binary().env(name, value));
        assert!(line.starts_with(told), "{name}={value}: {line}");
    }
}

#[test]
fn a_bad_flag_ends_the_start_with_64_and_one_line() {
    for (args, told) in [
        (&["--rtmp-servr", "1935"][..], "--rtmp-servr is no flag; did you mean --rtmp-server?"),
        (&["1935"], "a value without a flag; settings are given as --flag VALUE"),
        (&["--rtmp-server", "x"], "PROXY_RTMP_SERVER=\"x\" (flag): expected PORT"),
        (&["--rtmp-server", ""], "PROXY_RTMP_SERVER=\"\" (flag): expected PORT"),
    ] {
        let line = refusal(args.iter().fold(binary(), |start, arg| start.arg(arg)));
        assert!(line.starts_with(told), "{args:?}: {line}");
    }
}

#[test]
fn a_secret_is_printed_neither_when_it_is_refused_nor_when_it_is_taken() {
    let name = "PROXY_HTTP_API_AUTH_TOKEN";
    let line = refusal(binary().env(name, "s3cret\t\u{e9}"));
    assert!(line.starts_with("PROXY_HTTP_API_AUTH_TOKEN=*** (environment): expected"), "{line}");
    assert!(!line.contains("s3cret"), "{line}");
    for arg in ["--http-api-auth-tokn=s3cret", "s3cret"] {
        let line = refusal(binary().arg(arg));
        assert!(!line.contains("s3cret"), "{line}");
    }

    let taken = on_free_ports().env("PROXY_HTTP_API_AUTH_ENABLED", "on").env("PROXY_HTTP_API_AUTH_TYPE", "bearer");
    let mut proxy = taken.env(name, "s3cret").env("PROXY_LOG_LEVEL", "trace").start();
    proxy.listening();
    proxy.signal("TERM");
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(!proxy.said().concat().contains("s3cret"), "{:#?}", proxy.said());
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_env_file() {
    let dotenv = || binary().dotenv("PROXY_RTMP_SERVER=dotenv\r\n");
    assert!(refusal(dotenv()).starts_with("PROXY_RTMP_SERVER=\"dotenv\" (.env)"));
    let env = || dotenv().env("PROXY_RTMP_SERVER", "environment");
    assert!(refusal(env()).starts_with("PROXY_RTMP_SERVER=\"environment\" (environment)"));
    assert!(refusal(env().arg("--rtmp-server=flag")).starts_with("PROXY_RTMP_SERVER=\"flag\" (flag)"));
    assert!(refusal(dotenv().env("PROXY_RTMP_SERVER", "")).starts_with("PROXY_RTMP_SERVER=\"dotenv\" (.env)"));
}

#[test]
fn an_env_file_that_is_not_text_ends_the_start_with_64() {
    let start = binary();
    std::fs::write(start.dir().join(".env"), [0xff, b'=', 0xfe]).unwrap();
    assert!(refusal(start).starts_with(".env: "));
}

#[test]
fn an_unknown_name_is_warned_about_with_the_nearest_known_one() {
    let start = on_free_ports().env("PROXY_RTMP_SERVR", "1").env("PROXY_REDIS_HOST", "x").env("GO_PPROF", "");
    let mut proxy = start.dotenv("PROXY_VHOST=a.com\nOTHER=1\n").start();
    assert!(proxy.event("PROXY_RTMP_SERVR is no setting")["message"].as_str().unwrap().ends_with("PROXY_RTMP_SERVER?"));
    let warned = proxy.event("PROXY_VHOST is no setting");
    assert!(warned["message"].as_str().unwrap().ends_with("did you mean PROXY_VHOSTS?"));
    assert_eq!(warned["level"], "WARN");
    proxy.listening();
    assert_eq!(proxy.said().iter().filter(|line| line.contains("is no setting")).count(), 2);
}

#[test]
fn help_version_and_the_env_file_are_printed_and_nothing_is_started() {
    let print = |arg: &str| {
        let ended = binary().env("PROXY_RTMP_SERVER", "bad").arg(arg).run();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{arg}");
        ended.stdout
    };
    assert!(print("--help").contains("[PROXY_RTMP_SERVER, default 11935]"));
    assert_eq!(print("--version"), format!("srs-proxy {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(print("--print-env"), env_file::render());
}

#[test]
fn the_shipped_env_file_equals_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/srs-proxy.env");
    let shipped = std::fs::read_to_string(path).unwrap();
    let settings: Vec<_> = shipped.lines().filter_map(|line| line.strip_prefix("#PROXY_")?.split_once('=')).collect();
    let table: Vec<_> = keys::ALL.iter().map(|key| (key.name.strip_prefix("PROXY_").unwrap(), key.default)).collect();
    let mend = "deploy/srs-proxy.env is out of date; make it anew: cargo run -- --print-env > deploy/srs-proxy.env";
    assert_eq!(settings, table, "{mend}");
    assert!(shipped == env_file::render(), "{mend}");
}

#[test]
fn the_shipped_env_file_with_every_line_taken_in_is_accepted() {
    let shipped = env_file::render().replace("\n#PROXY_", "\nPROXY_");
    let ports = "PROXY_RTMP_SERVER=0\nPROXY_HTTP_SERVER=0\nPROXY_HTTP_API=0\nPROXY_SYSTEM_API=0\n\
        PROXY_WEBRTC_SERVER=0\nPROXY_SRT_SERVER=0\nPROXY_LOG_FORMAT=json\n";
    let mut proxy = binary().dotenv(&format!("{ports}{shipped}")).start();
    proxy.listening();
}

#[test]
fn the_reference_lists_every_setting_with_its_default() {
    let reference = include_str!("../../docs/reference/configuration.md");
    for key in keys::ALL {
        let default = if key.default.is_empty() { "(empty)".to_owned() } else { format!("`{}`", key.default) };
        let row = format!("| `{}` | {default} | {} |", key.name, key.help);
        assert!(reference.contains(&row), "docs/reference/configuration.md lacks this line, or has another:\n{row}");
    }
}

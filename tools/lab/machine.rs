//! What the figures were measured on.

use std::{fs, path::Path, process::Command};

use crate::{
    options::{Options, Scenario},
    process::with_sbin,
};

/// The machine, in a line.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({model}), Linux {}", kernel.trim())
}

/// The versions of what was measured, in a line.
pub fn versions(options: &Options) -> String {
    let uses = |is: fn(Scenario) -> bool| options.scenarios.iter().copied().any(is);
    let mut others = Vec::new();
    if uses(|scenario| !scenario.is_http() && !scenario.is_udp()) {
        others.push(options.origin.map_or_else(
            || format!("{} with its RTMP module", first_line(Path::new("nginx"), "-v")),
            |address| format!("the origin at {address}"),
        ));
    }
    if uses(|scenario| scenario == Scenario::Flv) {
        others.push(options.http_origin.map_or_else(
            || "an origin of its own for FLV".to_owned(),
            |address| format!("the origin of FLV at {address}"),
        ));
    }
    if uses(|scenario| scenario == Scenario::Segments) {
        let wrk = first_line(Path::new("wrk"), "-v");
        let wrk = wrk.split(" [").next().unwrap_or_default();
        others.push(format!("{} for segments, {wrk}", first_line(Path::new("nginx"), "-v")));
    }
    if uses(Scenario::is_udp) {
        let nginx = first_line(Path::new("nginx"), "-v");
        others.push(format!("{nginx} for datagrams, an origin of its own for WebRTC and SRT"));
    }
    if uses(|scenario| !scenario.is_udp()) {
        let haproxy = first_line(Path::new("haproxy"), "-v");
        others.insert(0, haproxy.split(" - ").next().unwrap_or_default().to_owned());
    }
    format!("{} ({}), {}", first_line(&options.proxy, "--version"), options.proxy.display(), others.join(", "))
}

/// What a program says of its version, on either output.
fn first_line(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).env("PATH", with_sbin()).output();
    let text = output.map_or_else(
        |error| format!("{} ({error})", program.display()),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    );
    text.lines().next().unwrap_or_default().to_owned()
}

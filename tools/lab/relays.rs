//! What is put in front of an origin.

use std::{env, fs, net::SocketAddr, path::Path, process::Command};

use crate::{
    BARE_RELAY, Result,
    options::{Kind, Options, Scenario},
    process::{Pinned, Process, Server, free_address, nginx, pinned, with_sbin},
};

/// Starts what a scenario measures in front of `origin`.
pub async fn start(
    kind: Kind,
    scenario: Scenario,
    origin: SocketAddr,
    options: &Options,
    directory: &Path,
) -> Result<Server> {
    let address = free_address()?;
    let one_core = scenario == Scenario::Segments;
    let threads = if one_core { 1 } else { threads() };
    let program = |name: &Path| if one_core { pinned(Pinned::Relay, name) } else { Ok(Command::new(name)) };
    let mut command = match kind {
        Kind::Proxy => proxy(program(&options.proxy)?, scenario, options, address, origin, threads)?,
        Kind::Haproxy | Kind::Splice | Kind::HaproxyHttp => {
            let config = directory.join("haproxy.cfg");
            fs::write(&config, haproxy_config(kind, address, origin, options, threads))?;
            let mut command = program(Path::new("haproxy"))?;
            command.arg("-db").arg("-f").arg(&config).env("PATH", with_sbin());
            command
        }
        Kind::Nginx => nginx(directory, &stream_config(address, origin, options, threads), Command::new("nginx"))?,
        Kind::Bare => {
            let mut command = program(&env::current_exe()?)?;
            command.args([BARE_RELAY, &address.to_string(), &origin.to_string()]);
            command
        }
        Kind::Direct => return Ok(Server { process: None, address: origin }),
    };
    let mut process = Process::spawn(&mut command, directory, kind.name())?;
    process.wait_for(address).await?;
    Ok(Server { process: Some(process), address })
}

fn proxy(
    mut command: Command,
    scenario: Scenario,
    options: &Options,
    address: SocketAddr,
    origin: SocketAddr,
    threads: usize,
) -> Result<Command> {
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PROXY_")) {
        command.env_remove(name);
    }
    let none = || "127.0.0.1:0".to_owned();
    let (mut api, mut webrtc, mut srt) = (none(), none(), none());
    match scenario {
        Scenario::Webrtc => (api, webrtc) = (address.to_string(), address.to_string()),
        // Where it listens for TCP as well tells that it is there.
        Scenario::Srt => (api, srt) = (address.to_string(), address.to_string()),
        _ => {}
    }
    let is_rtmp = !scenario.is_http() && !scenario.is_udp();
    let (rtmp, http) = if scenario.is_http() {
        (none(), address.to_string())
    } else if is_rtmp {
        (address.to_string(), none())
    } else {
        (none(), none())
    };
    let connections = options.connections().to_string();
    command
        .env("PROXY_RTMP_SERVER", rtmp)
        .env("PROXY_HTTP_SERVER", http)
        .env("PROXY_HTTP_API", api)
        .env("PROXY_WEBRTC_SERVER", webrtc)
        .env("PROXY_SRT_SERVER", srt)
        .env("PROXY_SYSTEM_API", free_address()?.to_string())
        .env("PROXY_DEFAULT_BACKEND_ENABLED", "on")
        .env("PROXY_DEFAULT_BACKEND_IP", origin.ip().to_string())
        .env("PROXY_DEFAULT_BACKEND_RTMP", origin.port().to_string());
    if scenario.is_http() {
        command.env("PROXY_DEFAULT_BACKEND_HTTP", origin.port().to_string());
    }
    for protocol in ["API", "RTC", "SRT"].iter().filter(|_| scenario.is_udp()) {
        command.env(format!("PROXY_DEFAULT_BACKEND_{protocol}"), origin.port().to_string());
    }
    for server in ["WEBRTC", "SRT"] {
        for limit in ["MAX_SESSIONS", "MAX_SESSIONS_PER_IP"] {
            command.env(format!("PROXY_{server}_{limit}"), &connections);
        }
    }
    // All clients come from one address here.
    for server in ["RTMP", "HTTP"] {
        for limit in ["MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_IP"] {
            command.env(format!("PROXY_{server}_{limit}"), &connections);
        }
    }
    command.env("PROXY_WORKER_THREADS", threads.to_string());
    Ok(command)
}

/// The threads that every relay may use: those that tokio takes by default.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Each worker has a socket of its own, between which the kernel chooses by the client's address. The
/// server of TCP only tells that nginx is there.
fn stream_config(address: SocketAddr, origin: SocketAddr, options: &Options, threads: usize) -> String {
    let connections = 4 * options.connections();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes {threads};
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
stream {{
    access_log off;
    server {{
        listen {address};
        return up;
    }}
    server {{
        listen {address} udp reuseport;
        proxy_pass {origin};
        proxy_timeout 60s;
    }}
}}
"
    )
}

fn haproxy_config(kind: Kind, address: SocketAddr, origin: SocketAddr, options: &Options, threads: usize) -> String {
    let connections = options.connections();
    let mode = if kind == Kind::HaproxyHttp { "http" } else { "tcp" };
    let splice = if kind == Kind::Splice { "option splice-auto" } else { "" };
    format!(
        "global
    nbthread {threads}
    maxconn {connections}
    maxpipes {connections}
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    {splice}
listen streams
    bind {address}
    server origin {origin}
"
    )
}

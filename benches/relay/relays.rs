//! The origin, and what is put in front of it.

use std::{env, fs, net::SocketAddr, path::Path, process::Command};

use clap::builder::PossibleValue;

use crate::{
    BARE_RELAY, Result,
    options::Options,
    process::{Process, free_address},
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This crate.
    Proxy,
    /// HAProxy in TCP mode.
    Haproxy,
    /// The same, with bytes spliced in the kernel.
    Splice,
    /// A relay of bytes.
    Bare,
}

impl Kind {
    /// What it is called in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Proxy => "srs-proxy",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::Splice => "HAProxy with splice",
            Self::Bare => "bare byte relay",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Haproxy => "haproxy",
            Self::Splice => "splice",
            Self::Bare => "bare",
        }
    }
}

impl clap::ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Proxy, Self::Haproxy, Self::Splice, Self::Bare]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(self.name().into())
    }
}

/// A server that listens.
pub struct Server {
    /// Its process, if it was started here.
    pub process: Option<Process>,
    /// Where it takes RTMP.
    pub address: SocketAddr,
}

/// Starts the origin, or finds the one that runs.
pub async fn origin(options: &Options, directory: &Path) -> Result<Server> {
    if let Some(address) = options.origin {
        return Ok(Server { process: None, address });
    }
    let address = free_address()?;
    let config = directory.join("nginx.conf");
    fs::write(&config, nginx_config(address))?;
    // The prefix keeps whatever nginx wants to create inside the directory.
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(&config).env("PATH", with_sbin());
    let mut process = Process::spawn(&mut command, directory, "nginx")?;
    process.wait_for(address).await.map_err(|error| format!("nginx: {error}"))?;
    Ok(Server { process: Some(process), address })
}

/// Starts a relay in front of `origin`.
pub async fn start(kind: Kind, origin: SocketAddr, options: &Options, directory: &Path) -> Result<Server> {
    let address = free_address()?;
    let mut command = match kind {
        Kind::Proxy => proxy(options, address, origin)?,
        Kind::Haproxy | Kind::Splice => {
            let config = directory.join("haproxy.cfg");
            fs::write(&config, haproxy_config(address, origin, options, kind == Kind::Splice))?;
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(&config).env("PATH", with_sbin());
            command
        }
        Kind::Bare => {
            let mut command = Command::new(env::current_exe()?);
            command.args([BARE_RELAY, &address.to_string(), &origin.to_string()]);
            command
        }
    };
    let mut process = Process::spawn(&mut command, directory, kind.name())?;
    process.wait_for(address).await?;
    Ok(Server { process: Some(process), address })
}

fn proxy(options: &Options, address: SocketAddr, origin: SocketAddr) -> Result<Command> {
    let mut command = Command::new(&options.proxy);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PROXY_")) {
        command.env_remove(name);
    }
    // All players come from one address here.
    command
        .env("PROXY_RTMP_SERVER", address.to_string())
        .env("PROXY_HTTP_SERVER", "127.0.0.1:0")
        .env("PROXY_HTTP_API", "127.0.0.1:0")
        .env("PROXY_SYSTEM_API", free_address()?.to_string())
        .env("PROXY_HTTP_API", "127.0.0.1:0")
        .env("PROXY_DEFAULT_BACKEND_ENABLED", "on")
        .env("PROXY_DEFAULT_BACKEND_IP", origin.ip().to_string())
        .env("PROXY_DEFAULT_BACKEND_RTMP", origin.port().to_string())
        .env("PROXY_RTMP_MAX_CONNECTIONS", options.connections().to_string())
        .env("PROXY_RTMP_MAX_CONNECTIONS_PER_IP", options.connections().to_string())
        .env("PROXY_WORKER_THREADS", threads().to_string());
    Ok(command)
}

/// The threads that every relay may use: those that tokio takes by default.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn haproxy_config(address: SocketAddr, origin: SocketAddr, options: &Options, splice: bool) -> String {
    let threads = threads();
    let connections = options.connections();
    let splice = if splice { "option splice-auto" } else { "" };
    format!(
        "global
    nbthread {threads}
    maxconn {connections}
    maxpipes {connections}
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    {splice}
listen rtmp
    bind {address}
    server origin {origin}
"
    )
}

fn nginx_config(address: SocketAddr) -> String {
    // One process that does not detach, so that it ends with us. Pings would go unanswered.
    format!(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
rtmp {{
    access_log off;
    server {{
        listen {address};
        chunk_size 4096;
        ping 1h;
        application live {{ live on; }}
    }}
}}
"
    )
}

/// Debian keeps servers out of a user's path.
pub fn with_sbin() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", env::var("PATH").unwrap_or_default())
}

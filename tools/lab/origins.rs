//! The origins: servers that have the streams.

use std::{env, net::SocketAddr, path::Path, process::Command};

use crate::{
    FLV_ORIGIN, Result, UDP_ORIGIN,
    options::{Options, Scenario},
    process::{Pinned, Process, Server, free_address, nginx, pinned},
    segments,
};

/// Starts the origin of a scenario, or finds the one that runs.
pub async fn origin(scenario: Scenario, options: &Options, directory: &Path) -> Result<Server> {
    let running = match scenario {
        Scenario::Flv => options.http_origin,
        Scenario::Segments | Scenario::Webrtc | Scenario::Srt => None,
        _ => options.origin,
    };
    if let Some(address) = running {
        return Ok(Server { process: None, address });
    }
    let address = free_address()?;
    let (mut command, name) = match scenario {
        Scenario::Flv => {
            let mut command = Command::new(env::current_exe()?);
            command.args([FLV_ORIGIN, &address.to_string(), &options.kbps.to_string()]);
            (command, "flv-origin")
        }
        Scenario::Webrtc | Scenario::Srt => {
            let protocol = if scenario == Scenario::Webrtc { "webrtc" } else { "srt" };
            let mut command = Command::new(env::current_exe()?);
            command.args([UDP_ORIGIN, protocol, &address.to_string(), &options.udp_kbps.to_string()]);
            (command, "udp-origin")
        }
        Scenario::Segments => {
            segments::write_files(&directory.join("www"))?;
            (nginx(directory, &files_config(address), pinned(Pinned::Load, "nginx")?)?, "nginx")
        }
        _ => (nginx(directory, &rtmp_config(address), Command::new("nginx"))?, "nginx"),
    };
    let mut process = Process::spawn(&mut command, directory, name)?;
    process.wait_for(address).await.map_err(|error| format!("{name}: {error}"))?;
    Ok(Server { process: Some(process), address })
}

/// One process that does not detach, so that it ends with us.
const ONE_PROCESS: &str = "daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 8192; }
";

fn rtmp_config(address: SocketAddr) -> String {
    // Pings would go unanswered.
    format!(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
{ONE_PROCESS}
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

fn files_config(address: SocketAddr) -> String {
    format!(
        "{ONE_PROCESS}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}
    server {{
        listen {address};
        root www;
    }}
}}
"
    )
}

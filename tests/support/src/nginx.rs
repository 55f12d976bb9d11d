//! nginx-rtmp as origin.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    hook::Hook,
    http,
    ports::free_port,
    process::Process,
    wait::{LIMIT, wait_for},
};

/// Where Debian's package puts the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running origin with the applications `live`, `live/nested`, `strict` (a player of a stream
/// that nobody publishes is refused), `no-publish` and, with a hook, `hooked`.
///
/// Two more are served by HTTP: streams of `web` as `/web/STREAM.m3u8` and `/web/STREAM.mpd` with
/// their segments beside them, and what was recorded of them so far as `/web/STREAM.flv`; streams of
/// `nested` as `/nested/STREAM/index.m3u8` and `/nested/STREAM/index.mpd`.
pub struct Nginx {
    dir: TempDir,
    process: Process,
    rtmp: SocketAddr,
    http: SocketAddr,
    server_id: String,
    /// How often it was started: each start has a service id of its own, as with SRS.
    run: u32,
}

/// One stream as the origin's statistics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub app: String,
    pub name: String,
    /// Publishers and players.
    pub clients: usize,
    pub published: bool,
}

impl Nginx {
    /// Starts an origin and waits until it listens.
    pub fn start() -> Self {
        Self::start_with(None, Ipv4Addr::LOCALHOST)
    }

    /// Starts an origin that listens on another address of this machine or namespace.
    pub fn start_on(address: Ipv4Addr) -> Self {
        Self::start_with(None, address)
    }

    /// Starts an origin whose application `hooked` asks the hook about publishers and players.
    pub fn start_with_hook(hook: &Hook) -> Self {
        Self::start_with(Some(hook.address()), Ipv4Addr::LOCALHOST)
    }

    fn start_with(hook: Option<SocketAddr>, address: Ipv4Addr) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let server_id = format!("vid-{}-{number}", std::process::id());
        // A port can be taken between the choice and nginx's bind.
        for _ in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let [rtmp, http] = [free_port(), free_port()].map(|free| SocketAddr::from((address, free.port())));
            let www = dir.path().join("www");
            for app in ["web", "nested"] {
                fs::create_dir_all(www.join(app)).unwrap();
            }
            let configuration = configuration(www.to_str().unwrap(), rtmp, http, hook);
            fs::write(dir.path().join("nginx.conf"), configuration).unwrap();
            let process = run(&dir);
            let mut origin = Self { dir, process, rtmp, http, server_id: server_id.clone(), run: 1 };
            if origin.listens() {
                return origin;
            }
        }
        panic!("nginx found no free port");
    }

    /// The address of its RTMP server.
    pub fn rtmp(&self) -> SocketAddr {
        self.rtmp
    }

    /// The address of its HTTP server.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The URL by which a client reaches it directly.
    pub fn url(&self, path: &str) -> String {
        format!("rtmp://{}/{path}", self.rtmp)
    }

    /// The heartbeat that SRS would send in its place.
    pub fn heartbeat(&self) -> String {
        let (ip, port) = (self.rtmp.ip(), self.http.port());
        let rtmp = heartbeat(&self.server_id, &format!("run-{}", self.run), self.process.id(), self.rtmp);
        format!(r#"{},"http":["http://{ip}:{port}"]}}"#, rtmp.trim_end_matches('}'))
    }

    /// The id by which the proxy knows this run of the origin.
    pub fn id(&self) -> String {
        format!("{}-run-{}-{}", self.server_id, self.run, self.process.id())
    }

    /// Kills it at once, as `kill -9` or a power cut does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it: the system still accepts connections, but nothing answers them.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again, after [`Self::kill`], where it was.
    pub fn restart(&mut self) {
        self.run += 1;
        let mut tries = 0;
        wait_for("nginx listens again", LIMIT, || {
            tries += 1;
            self.process = run(&self.dir);
            self.listens()
        });
    }

    /// The streams that it knows.
    pub fn streams(&self) -> Vec<Stream> {
        let page = http::get(self.http, "/stat").expect("nginx statistics").body;
        page.split("<application>")
            .skip(1)
            .flat_map(|part| {
                let app = element(part, "name").unwrap_or_default();
                part.split("<stream>").skip(1).map(move |part| {
                    let part = part.split("</stream>").next().unwrap_or_default();
                    Stream {
                        app: app.clone(),
                        name: element(part, "name").unwrap_or_default(),
                        clients: part.matches("<client>").count(),
                        published: part
                            .split("</client>")
                            .any(|client| client.contains("<publishing/>") && client.contains("<client>")),
                    }
                })
            })
            .collect()
    }

    /// One stream, if somebody publishes or plays it.
    pub fn stream(&self, app: &str, name: &str) -> Option<Stream> {
        self.streams().into_iter().find(|s| s.app == app && s.name == name && s.clients > 0)
    }

    /// Whether somebody publishes the stream here.
    pub fn is_published(&self, app: &str, name: &str) -> bool {
        self.stream(app, name).is_some_and(|s| s.published)
    }

    /// Waits until somebody publishes the stream here.
    pub fn wait_until_published(&self, app: &str, name: &str) {
        wait_for(&format!("the origin has {app}/{name}"), LIMIT, || self.is_published(app, name));
    }

    /// Waits until somebody plays the stream here, published or not.
    pub fn wait_until_played(&self, app: &str, name: &str) {
        wait_for(&format!("the origin has a player of {app}/{name}"), LIMIT, || {
            self.stream(app, name).is_some_and(|s| s.clients > usize::from(s.published))
        });
    }

    /// Waits until it listens; false if it ended, as it does if a port is taken.
    fn listens(&mut self) -> bool {
        let mut listens = false;
        wait_for("nginx listens or ends", LIMIT, || {
            listens = [self.rtmp, self.http].iter().all(|a| TcpStream::connect(a).is_ok());
            let ended = self.process.try_exit().is_some();
            if ended {
                let said = self.process.stderr();
                assert!(said.contains("Address already in use"), "nginx failed; is libnginx-mod-rtmp there?\n{said}");
                listens = false;
            }
            ended || listens
        });
        listens
    }
}

/// The body by which an origin registers.
pub fn heartbeat(server: &str, service: &str, pid: u32, rtmp: SocketAddr) -> String {
    let (ip, port) = (rtmp.ip(), rtmp.port());
    format!(r#"{{"ip":"{ip}","server":"{server}","service":"{service}","pid":"{pid}","rtmp":["{port}"]}}"#)
}

fn run(dir: &TempDir) -> Process {
    let mut command = Command::new("nginx");
    // Users other than root need not have sbin in their PATH, where Debian puts nginx.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin"));
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(dir.path());
    Process::spawn("nginx", &command)
}

fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.to_owned())
}

/// One process does everything, so that a signal hits all of the origin.
fn configuration(www: &str, rtmp: SocketAddr, http: SocketAddr, hook: Option<SocketAddr>) -> String {
    let hooked = hook.map_or_else(String::new, |hook| {
        format!("application hooked {{ live on; on_publish http://{hook}/publish; on_play http://{hook}/play; }}")
    });
    format!(
        "load_module {MODULE};
daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 2048; }}
rtmp {{
  access_log off;
  server {{
    listen {rtmp};
    application live {{ live on; }}
    application web {{
      live on;
      hls on; hls_path {www}/web; hls_fragment 1s; hls_playlist_length 8s; hls_cleanup off;
      dash on; dash_path {www}/web; dash_fragment 1s; dash_playlist_length 8s; dash_cleanup off;
      record all; record_path {www}/web; record_suffix .flv;
    }}
    application nested {{
      live on;
      hls on; hls_path {www}/nested; hls_nested on; hls_fragment 1s; hls_playlist_length 8s; hls_cleanup off;
      dash on; dash_path {www}/nested; dash_nested on; dash_fragment 1s; dash_playlist_length 8s; dash_cleanup off;
    }}
    application live/nested {{ live on; }}
    application strict {{ live on; idle_streams off; }}
    application no-publish {{ live on; deny publish all; }}
    {hooked}
  }}
}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {http};
    root {www};
    types {{
      application/vnd.apple.mpegurl m3u8;
      application/dash+xml mpd;
      video/mp2t ts;
      video/mp4 m4v mp4;
      audio/mp4 m4a;
      video/x-flv flv;
    }}
    location = /stat {{ rtmp_stat all; }}
    location / {{ add_header X-Origin {http} always; }}
  }}
}}
"
    )
}

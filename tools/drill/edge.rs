//! One node with an origin of WebRTC and one of SRT, and what the node holds.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    Result, api,
    fleet::{Fleet, Kind, Place, free_address},
    udp::{
        origin::{Origin, Protocol},
        player::{Counter, srt, webrtc},
    },
};

/// Of WebRTC and of SRT.
const SESSIONS: &str = "20000";
/// How long a player may wait for its stream.
const FIRST_MEDIA: Duration = Duration::from_secs(5);
/// How long it may take until the files of a session are closed.
const FILES: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
/// The stream id of the players of SRT.
pub const STREAM_ID: &str = "#!::r=live/s,m=request";

/// A node that runs.
pub struct Edge {
    /// Where offers are answered.
    pub signalling: SocketAddr,
    /// Where it takes media of WebRTC.
    pub webrtc: SocketAddr,
    /// Where it takes SRT.
    pub srt: SocketAddr,
    fleet: Fleet,
    /// They run as long as the node.
    _origins: [Origin; 2],
}

/// What a node holds at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Holding {
    /// Resident memory in bytes.
    pub memory: u64,
    /// Open files, sockets among them.
    pub files: usize,
}

impl Edge {
    /// Starts a node whose sessions end after `idle`, before origins of streams of `kbps`.
    pub async fn start(binary: PathBuf, idle: Duration, kbps: u64) -> Result<Self> {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let (rtc, srt) = (Origin::start(Protocol::Webrtc, any, kbps)?, Origin::start(Protocol::Srt, any, kbps)?);
        let [signalling, webrtc, srt_server] = [(); 3].map(|()| free_address(Ipv4Addr::LOCALHOST));
        let idle = format!("{}s", idle.as_secs());
        let port = |origin: &Origin| origin.address.port().to_string();
        let mut fleet = Fleet::new(
            binary,
            Kind::Memory,
            &[
                ("PROXY_HTTP_API", &signalling.to_string()),
                ("PROXY_WEBRTC_SERVER", &webrtc.to_string()),
                ("PROXY_WEBRTC_IDLE_TIMEOUT", &idle),
                ("PROXY_WEBRTC_MAX_SESSIONS", SESSIONS),
                ("PROXY_WEBRTC_MAX_SESSIONS_PER_IP", SESSIONS),
                ("PROXY_SRT_SERVER", &srt_server.to_string()),
                ("PROXY_SRT_IDLE_TIMEOUT", &idle),
                ("PROXY_SRT_MAX_SESSIONS", SESSIONS),
                ("PROXY_SRT_MAX_SESSIONS_PER_IP", SESSIONS),
                ("PROXY_DEFAULT_BACKEND_ENABLED", "on"),
                ("PROXY_DEFAULT_BACKEND_API", &port(&rtc)),
                ("PROXY_DEFAULT_BACKEND_RTC", &port(&rtc)),
                ("PROXY_DEFAULT_BACKEND_SRT", &port(&srt)),
            ],
        )?;
        let node = fleet.add(Place::loopback(), &[]);
        fleet.start(node);
        fleet.ready(node).await?;
        Ok(Self { signalling, webrtc, srt: srt_server, fleet, _origins: [rtc, srt] })
    }

    /// Joins a stream by WebRTC.
    pub async fn play_webrtc(&self) -> Result<webrtc::Player> {
        let session = webrtc::Session::play(self.signalling, "s").await?;
        webrtc::Player::join(session, self.webrtc).await
    }

    /// Joins a stream by SRT.
    pub async fn play_srt(&self) -> Result<srt::Player> {
        srt::Player::call(self.srt, STREAM_ID).await
    }

    /// How many sessions there are.
    pub async fn sessions(&self) -> Result<usize> {
        api::count(self.fleet.nodes[0].place.api, "sessions").await
    }

    /// Waits until there are no more than `count` sessions, and says how long that took.
    pub async fn wait_for_sessions(&self, count: usize, limit: Duration) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let left = self.sessions().await?;
            if left <= count {
                return Ok(started.elapsed());
            }
            if started.elapsed() > limit {
                return Err(format!("{left} sessions are left after {} s", limit.as_secs()).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a while until the node has no more than `count` files open. A session that is not listed
    /// any more still has some for a moment.
    pub async fn wait_for_files(&self, count: usize) -> Result<()> {
        let started = Instant::now();
        while self.holding()?.files > count && started.elapsed() < FILES {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What the node holds now.
    pub fn holding(&self) -> Result<Holding> {
        let process = self.fleet.nodes[0].process.as_ref().ok_or("the node does not run")?;
        let proc = format!("/proc/{}", process.id());
        let status = fs::read_to_string(format!("{proc}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no memory in /proc")?;
        let memory = line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
        Ok(Holding { memory, files: fs::read_dir(format!("{proc}/fd"))?.count() })
    }

    /// Whether the node still takes clients.
    pub async fn is_alive(&self) -> bool {
        api::is_ready(self.fleet.nodes[0].place.api).await
    }
}

/// Lets a player play until its first packet is there.
pub async fn first_media(run: impl Future<Output = Result<()>>, counter: &Counter) -> Result<()> {
    let came = async {
        while counter.media() == 0 {
            sleep(LOOK).await;
        }
    };
    let came = async {
        tokio::select! {
            () = came => Ok(()),
            ended = run => ended,
        }
    };
    timeout(FIRST_MEDIA, came).await.map_err(|_| "no media for a player in time")?
}

/// Bytes for people.
pub fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

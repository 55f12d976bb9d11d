//! HLS over HTTP: how many requests a second a relay on one core serves, and what they cost it.

use std::{
    fmt::Write,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    Result,
    process::{Pinned, Process, pinned},
};

/// The stream's directory, below the root of the server.
const STREAM: &str = "live/bench";
/// The segments that there are, their size in bytes, and how many of them the playlist names.
const SEGMENTS: usize = 200;
const SEGMENT_SIZE: usize = 100_000;
const LISTED: usize = 6;
/// A playlist is fetched once for so many requests.
const PLAYLIST_EVERY: usize = LISTED + 1;
const CONNECTIONS: usize = 64;
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than it should wrk may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What wrk found, and what it cost.
#[derive(Debug, Clone, Copy)]
pub struct Segments {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that failed: of a connection, of reading, of writing, by time, by status.
    pub errors: u64,
    /// Bytes that were received.
    pub bytes: u64,
    /// How long it took.
    pub time: Duration,
    /// The 99th percentile of the time of a request.
    pub p99: Duration,
    /// CPU time of the relay, if there was one.
    pub cpu: Option<Duration>,
}

impl Segments {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64()
    }

    /// CPU seconds per 10^9 bytes.
    pub fn seconds_per_gb(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu.as_secs_f64() / (self.bytes as f64 / 1e9))
    }

    /// CPU seconds per 1,000 requests.
    pub fn seconds_per_thousand(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu.as_secs_f64() / (self.requests as f64 / 1e3))
    }
}

/// Writes the stream's files below `root`.
pub fn write_files(root: &Path) -> Result<()> {
    let directory = root.join(STREAM);
    fs::create_dir_all(&directory)?;
    let mut playlist = String::from("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:2\n");
    for n in 0..SEGMENTS {
        fs::write(directory.join(format!("bench-{n}.ts")), vec![0x47; SEGMENT_SIZE])?;
        if n < LISTED {
            writeln!(playlist, "#EXTINF:2.000,\nbench-{n}.ts")?;
        }
    }
    Ok(fs::write(directory.join("index.m3u8"), playlist)?)
}

/// Fetches segments and playlists through `relay` for the time of `window`, as fast as they come.
pub async fn measure(
    relay: SocketAddr,
    process: Option<&Process>,
    window: Duration,
    directory: &Path,
) -> Result<Segments> {
    let script = directory.join("segments.lua");
    fs::write(&script, lua_script(&query(relay).await?))?;
    let mut wrk = pinned(Pinned::Load, "wrk")?;
    wrk.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", window.as_secs())])
        .arg("-s")
        .arg(&script)
        .arg(format!("http://{relay}"))
        .stdin(Stdio::null())
        .stderr(File::create(directory.join("wrk.log"))?);
    let mut wrk = tokio::process::Command::from(wrk);
    wrk.kill_on_drop(true);

    let cpu = process.map(Process::cpu).transpose()?;
    let output = timeout(window + PATIENCE, wrk.output()).await.map_err(|_| "wrk does not end")??;
    let after = process.map(Process::cpu).transpose()?;
    let output = String::from_utf8_lossy(&output.stdout);
    let line = output.lines().find_map(|line| line.strip_prefix("found "));
    let numbers: Vec<u64> =
        line.ok_or("wrk has not told what it found")?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, errors, bytes, micros, p99] = numbers[..] else { return Err("wrk told something else".into()) };
    Ok(Segments {
        requests,
        errors,
        bytes,
        time: Duration::from_micros(micros),
        p99: Duration::from_micros(p99),
        cpu: after.zip(cpu).map(|(after, before)| after.saturating_sub(before)),
    })
}

/// The query that segments have in the playlist as `relay` serves it, with its question mark.
async fn query(relay: SocketAddr) -> Result<String> {
    let fetch = async {
        let mut stream = TcpStream::connect(relay).await?;
        let request = format!("GET /{STREAM}/index.m3u8 HTTP/1.1\r\nHost: {relay}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(FETCH_TIMEOUT, fetch).await.map_err(|_| "the playlist does not come")??;
    let uris: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("bench-0.ts")).collect();
    match uris[..] {
        [query] => Ok(query.to_owned()),
        _ => Err(format!("no playlist: {}", answer.lines().next().unwrap_or_default()).into()),
    }
}

/// wrk counts an answer of 400 and above as an error.
fn lua_script(query: &str) -> String {
    format!(
        r#"local requests, segment, asked = {{}}, 0, 0
function init(args)
    playlist = wrk.format("GET", "/{STREAM}/index.m3u8")
    for n = 0, {last} do
        requests[n] = wrk.format("GET", "/{STREAM}/bench-" .. n .. ".ts{query}")
    end
end
function request()
    asked = asked + 1
    if asked % {PLAYLIST_EVERY} == 0 then return playlist end
    segment = (segment + 1) % {SEGMENTS}
    return requests[segment]
end
function done(summary, latency)
    local e = summary.errors
    local errors = e.connect + e.read + e.write + e.status + e.timeout
    print(string.format("found %d %d %d %d %d", summary.requests, errors, summary.bytes, summary.duration,
        latency:percentile(99)))
end
"#,
        last = SEGMENTS - 1,
    )
}

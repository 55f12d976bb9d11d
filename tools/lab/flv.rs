//! HTTP-FLV: an origin that sends as SRS does, and a player.

use std::{
    cell::RefCell,
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until, timeout},
};

use crate::{Result, media::Media};

/// How much of a stream SRS puts together before it sends, by default.
const TOGETHER: Duration = Duration::from_millis(350);
/// FLV's header, for audio and video, and the size of the tag before the first, which there is none of.
const FLV_HEADER: &[u8] = &[b'F', b'L', b'V', 1, 5, 0, 0, 0, 9, 0, 0, 0, 0];
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Type: video/x-flv\r\n\
    Server: benchmark\r\nTransfer-Encoding: chunked\r\n\r\n";
const MAX_HEADER: usize = 16 * 1024;
const SETUP_TIMEOUT: Duration = Duration::from_secs(15);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read at once while nobody looks at the bytes.
const READ_SIZE: usize = 256 * 1024;

thread_local! {
    static SINK: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// The path of a stream.
pub fn path(name: &str) -> String {
    format!("/live/{name}.flv")
}

/// Serves one stream under every name until it is killed. The arguments are the address to listen on
/// and the stream's rate in kbit/s.
pub fn run_origin(args: &[String]) -> Result<()> {
    let [listen, kbps] = args else { return Err("usage: flv-origin LISTEN KBPS".into()) };
    let (listen, media): (SocketAddr, _) = (listen.parse()?, Arc::new(Media::ordinary(kbps.parse()?)));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            let media = Arc::clone(&media);
            tokio::spawn(async move {
                // A player that goes away is none of the origin's troubles.
                let _ = serve(client, &media).await;
            });
        }
    })
}

async fn serve(mut client: TcpStream, media: &Media) -> Result<()> {
    client.set_nodelay(true)?;
    let (head, _) = timeout(SETUP_TIMEOUT, read_head(&mut client)).await??;
    if !head.starts_with("GET /live/") {
        let refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return Ok(client.write_all(refusal).await?);
    }
    let mut body = FLV_HEADER.to_vec();
    media.flv_prologue(&mut body);
    client.write_all(ANSWER).await?;

    let start = Instant::now();
    let mut send_at = Duration::ZERO;
    for due in media.frames(0) {
        if due.at > send_at {
            send_chunk(&mut client, &mut body).await?;
            send_at += TOGETHER;
            // What a player sends now can only be its end.
            tokio::select! {
                () = sleep_until(start + send_at) => {}
                _ = client.read_u8() => return Ok(()),
            }
        }
        due.encode_flv(&mut body);
    }
    Ok(())
}

async fn send_chunk(client: &mut TcpStream, body: &mut Vec<u8>) -> Result<()> {
    let mut chunk = Vec::with_capacity(body.len() + 16);
    write!(chunk, "{:X}\r\n", body.len())?;
    chunk.append(body);
    chunk.extend_from_slice(b"\r\n");
    timeout(WRITE_TIMEOUT, client.write_all(&chunk)).await??;
    Ok(())
}

/// A player whose stream has begun.
pub struct Player(TcpStream);

impl Player {
    /// Plays `name`. Ends when the header of the answer and the first byte behind it have come.
    pub async fn play(server: SocketAddr, name: &str) -> Result<Self> {
        let play = async {
            let mut stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            let request = format!("GET {} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: bench\r\n\r\n", path(name));
            stream.write_all(request.as_bytes()).await?;
            let (head, behind) = read_head(&mut stream).await?;
            if !head.starts_with("HTTP/1.1 200 ") {
                return Err(format!("the server says {}", head.lines().next().unwrap_or_default()).into());
            }
            if behind == 0 {
                stream.readable().await?;
            }
            Ok(Self(stream))
        };
        timeout(SETUP_TIMEOUT, play).await.map_err(|_| "no media for a player in time")?
    }

    /// Takes what comes, and adds its length to `bytes`. Ends only with an error.
    pub async fn drain(self, bytes: &AtomicU64) -> Result<()> {
        loop {
            self.0.readable().await?;
            match SINK.with_borrow_mut(|sink| self.0.try_read(sink)) {
                Ok(0) => return Err("a player's connection ended".into()),
                Ok(n) => drop(bytes.fetch_add(n as u64, Ordering::Relaxed)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The header of a message, and how many bytes came behind it.
async fn read_head(stream: &mut TcpStream) -> Result<(String, usize)> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err("the connection ended in a header".into());
        }
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            return Ok((head, read.len() - end - 4));
        }
        if read.len() > MAX_HEADER {
            return Err("a header without end".into());
        }
    }
}

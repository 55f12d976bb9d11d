//! An RTMP client that publishes or plays, and is light beside what it measures.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use srs_proxy::codec::rtmp::{
    amf0::Value,
    chunk::{Action, Inspect, Interest, MAX_WHOLE, Scanner},
    command::Command,
    edits::Edits,
    handshake::{self, S0S1S2},
    message::{self, DEFAULT_CHUNK_SIZE, Header, kind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{Result, media::Media};

/// The application, and how long anything may take.
const APP: &str = "live";
const SETUP_TIMEOUT: Duration = Duration::from_secs(15);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a publisher sends in: OBS does the same.
const PUBLISH_CHUNK_SIZE: u32 = 4096;
/// What is read at once while nobody looks at the bytes.
const READ_SIZE: usize = 256 * 1024;

thread_local! {
    static SINK: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// A connection up to the point where media flows.
struct Client {
    stream: TcpStream,
    scanner: Scanner,
    received: Vec<u8>,
    edits: Edits,
    inbox: Inbox,
    out: Vec<u8>,
    /// Bytes that came behind the handshake.
    total: u64,
}

/// What the server said.
#[derive(Default)]
struct Inbox {
    commands: VecDeque<Command>,
    /// The window of the server, in bytes.
    window: Option<u32>,
    media: bool,
}

impl Inspect for Inbox {
    fn interest(&self, header: &Header) -> Interest {
        match header.kind {
            kind::AUDIO | kind::VIDEO => Interest::Tap,
            _ if header.length as usize <= MAX_WHOLE => Interest::Whole,
            _ => Interest::Pass,
        }
    }

    fn tap(&mut self, _: &Header, _: usize, _: &[u8]) -> bool {
        self.media = true;
        false
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        if header.is_command() {
            self.commands.extend(Command::parse(header.kind, payload));
        } else if header.kind == kind::WINDOW_ACK_SIZE {
            self.window = payload.first_chunk().map(|value| u32::from_be_bytes(*value));
        }
        Action::Pass
    }
}

impl Client {
    /// Connects, shakes hands, and creates a stream. Gives its id.
    async fn open(server: SocketAddr, opening: &[(&str, &[Value])]) -> Result<(Self, u32)> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u32;
        stream.write_all(&handshake::hello(now, |bytes| rand::fill(bytes))[..]).await?;
        stream.set_quickack(true)?;
        let mut answer = Box::new([0; S0S1S2]);
        stream.read_exact(&mut answer[..]).await?;

        let mut client = Self {
            stream,
            scanner: Scanner::transparent(),
            received: Vec::with_capacity(16 * 1024),
            edits: Edits::default(),
            inbox: Inbox::default(),
            out: handshake::acknowledge(&answer)?.to_vec(),
            total: 0,
        };
        let url = format!("rtmp://{server}/{APP}");
        let object = Value::object([
            ("app", Value::string(APP)),
            ("type", Value::string("nonprivate")),
            ("flashVer", Value::string("FMLE/3.0 (compatible; srs-proxy)")),
            ("tcUrl", Value::string(url)),
        ]);
        client.call("connect", 1.0, &[object]);
        client.flush().await?;
        client.result(1.0).await?;

        let mut transaction = 1.0;
        for (name, arguments) in opening {
            transaction += 1.0;
            client.call(name, transaction, &[&[Value::Null], *arguments].concat());
        }
        transaction += 1.0;
        client.call("createStream", transaction, &[Value::Null]);
        client.flush().await?;
        let result = client.result(transaction).await?;
        let id = result.values.get(1).and_then(Value::as_number).ok_or("createStream gave no stream id")?;
        #[expect(clippy::cast_sign_loss, reason = "a negative id is the server's mistake and will fail later")]
        Ok((client, id as u32))
    }

    fn call(&mut self, name: &str, transaction: f64, values: &[Value]) {
        self.send(Header::command(), name, transaction, values);
    }

    fn send(&mut self, header: Header, name: &str, transaction: f64, values: &[Value]) {
        let mut payload = Vec::new();
        Value::string(name).encode(&mut payload);
        Value::Number(transaction).encode(&mut payload);
        values.iter().for_each(|value| value.encode(&mut payload));
        header.encode_message(&payload, DEFAULT_CHUNK_SIZE, &mut self.out);
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).await?;
        // The kernel forgets this when it thinks that the two sides talk in turn.
        self.stream.set_quickack(true)?;
        self.out.clear();
        Ok(())
    }

    /// Reads and scans once.
    async fn receive(&mut self) -> Result<()> {
        let n = self.stream.read_buf(&mut self.received).await?;
        self.stream.set_quickack(true)?;
        if n == 0 {
            return Err("the server closed the connection".into());
        }
        self.total += n as u64;
        let scan = self.scanner.scan(&mut self.received, &mut self.edits, &mut self.inbox)?;
        self.edits.clear();
        self.received.drain(..scan.consumed);
        Ok(())
    }

    async fn next_command(&mut self) -> Result<Command> {
        loop {
            if let Some(command) = self.inbox.commands.pop_front() {
                return Ok(command);
            }
            self.receive().await?;
        }
    }

    /// The answer to a call.
    async fn result(&mut self, transaction: f64) -> Result<Command> {
        loop {
            let command = self.next_command().await?;
            // Transaction ids are small whole numbers.
            if (command.transaction - transaction).abs() < 0.5 {
                match command.name.as_str() {
                    "_result" => return Ok(command),
                    "_error" => return Err(refusal(&command).into()),
                    _ => {}
                }
            }
        }
    }

    /// Acknowledges what came, when it is time to (5.4.3).
    async fn acknowledge(&mut self, at: &mut u64) -> Result<()> {
        let window = u64::from(self.inbox.window.unwrap_or(u32::MAX));
        if self.total - *at >= window / 2 {
            *at = self.total;
            let mut out = Vec::new();
            message::acknowledgement(self.total as u32, DEFAULT_CHUNK_SIZE, &mut out);
            timeout(WRITE_TIMEOUT, self.stream.write_all(&out)).await??;
        }
        Ok(())
    }
}

fn refusal(command: &Command) -> String {
    let code = command.info_text("code").unwrap_or_default();
    let description = command.info_text("description").unwrap_or_default();
    format!("the server says {code}: {description}")
}

/// A player that has its first media.
pub struct Player(Client);

impl Player {
    /// Plays `name`. Ends when the first byte of audio or video has come.
    pub async fn play(server: SocketAddr, name: &str) -> Result<Self> {
        timeout(SETUP_TIMEOUT, Self::play_unbounded(server, name)).await.map_err(|_| "no media for a player in time")?
    }

    async fn play_unbounded(server: SocketAddr, name: &str) -> Result<Self> {
        let (mut client, id) = Client::open(server, &[]).await?;
        let values = [Value::Null, Value::string(name), Value::Number(-2000.0)];
        client.send(Header::status(id), "play", 0.0, &values);
        client.flush().await?;
        while !client.inbox.media {
            client.receive().await?;
            while let Some(command) = client.inbox.commands.pop_front() {
                if command.info_text("level").as_deref() == Some("error") {
                    return Err(refusal(&command).into());
                }
            }
        }
        Ok(Self(client))
    }

    /// Takes what comes, and adds its length to `bytes`. Ends only with an error.
    pub async fn drain(self, bytes: &AtomicU64) -> Result<()> {
        let Self(mut client) = self;
        let mut acknowledged = 0;
        loop {
            client.stream.readable().await?;
            match SINK.with_borrow_mut(|sink| client.stream.try_read(sink)) {
                Ok(0) => return Err("a player's connection ended".into()),
                Ok(n) => {
                    bytes.fetch_add(n as u64, Ordering::Relaxed);
                    client.total += n as u64;
                    client.acknowledge(&mut acknowledged).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A publisher that may begin.
pub struct Publisher {
    client: Client,
    stream_id: u32,
}

impl Publisher {
    /// Publishes `name`. Ends when the server has agreed.
    pub async fn publish(server: SocketAddr, name: &str) -> Result<Self> {
        timeout(SETUP_TIMEOUT, Self::publish_unbounded(server, name))
            .await
            .map_err(|_| "no answer to a publisher in time")?
    }

    async fn publish_unbounded(server: SocketAddr, name: &str) -> Result<Self> {
        let key = [Value::string(name)];
        let (mut client, stream_id) = Client::open(server, &[("releaseStream", &key), ("FCPublish", &key)]).await?;
        let values = [Value::Null, Value::string(name), Value::string(APP)];
        client.send(Header::status(stream_id), "publish", 5.0, &values);
        client.flush().await?;
        loop {
            let command = client.next_command().await?;
            if command.name != "onStatus" {
                continue;
            }
            if command.info_text("code").as_deref() == Some("NetStream.Publish.Start") {
                return Ok(Self { client, stream_id });
            }
            if command.info_text("level").as_deref() == Some("error") {
                return Err(refusal(&command).into());
            }
        }
    }

    /// Sends `media` in real time from `start` on, and adds what is sent to `bytes`. Ends only with an
    /// error.
    pub async fn run(self, media: &Media, start: Instant, bytes: &AtomicU64) -> Result<()> {
        let Self { mut client, stream_id } = self;
        let mut out = Vec::new();
        message::set_chunk_size(PUBLISH_CHUNK_SIZE, &mut out);
        for (header, payload) in media.prologue(stream_id) {
            header.encode_message(&payload, PUBLISH_CHUNK_SIZE, &mut out);
        }
        for due in media.frames(stream_id) {
            // Acknowledgements come meanwhile, and must not fill the socket.
            loop {
                tokio::select! {
                    () = sleep_until(start + due.at) => break,
                    ready = client.stream.readable() => {
                        ready?;
                        discard(&client.stream)?;
                    }
                }
            }
            due.encode(PUBLISH_CHUNK_SIZE, &mut out);
            timeout(WRITE_TIMEOUT, client.stream.write_all(&out)).await.map_err(|_| "a publisher is stuck")??;
            bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
            out.clear();
        }
        Ok(())
    }
}

fn discard(stream: &TcpStream) -> Result<()> {
    match SINK.with_borrow_mut(|sink| stream.try_read(sink)) {
        Ok(0) => Err("a publisher's connection ended".into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}

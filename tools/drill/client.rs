//! Publishers and players, from the first byte to the moment at which media flows, and after it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use srs_proxy::codec::rtmp::{amf0::Value, message::kind};
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    Result,
    peer::{Message, Peer},
};

/// The application of every stream here.
pub const APP: &str = "live";
/// How long a client waits for an answer, and for its first media.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// An FLV video tag header: an AVC sequence header, and a picture.
const SEQUENCE_HEADER: [u8; 5] = [0x17, 0, 0, 0, 0];
const PICTURE: [u8; 5] = [0x27, 1, 0, 0, 0];

/// The name by which nodes know `name`.
pub fn key(name: &str) -> String {
    format!("__defaultVhost__/{APP}/{name}")
}

/// Why a client has no stream.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// It was told so.
    #[error("refused with {code}: {description}")]
    Refused {
        /// The status.
        code: String,
        /// The reason, for people.
        description: String,
    },
    /// It was not told anything that it could understand.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// Whether the client was told clearly.
    pub fn is_clear(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// The status, if there was one.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Broken(_) => "",
        }
    }
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

async fn in_time<T>(what: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(Failure::Broken(format!("{what}: nothing for {PATIENCE:?}"))))
}

/// A client that has created its message stream.
pub struct Client {
    peer: Peer,
    stream_id: u32,
}

impl Client {
    /// Connects, up to createStream.
    pub async fn open(server: SocketAddr) -> Result<Self, Failure> {
        in_time("connect", async { Self::connect(server).await.map_err(broken) }).await
    }

    async fn connect(server: SocketAddr) -> Result<Self> {
        let mut peer = Peer::client(TcpStream::connect(server).await?).await?;
        let object = Value::object([
            ("app", Value::string(APP)),
            ("flashVer", Value::string("FMLE/3.0 (compatible; srs-proxy)")),
            ("tcUrl", Value::string(format!("rtmp://{server}/{APP}"))),
        ]);
        peer.command(0, "connect", 1.0, &[object]);
        peer.flush().await?;
        peer.expect(&["_result"]).await?;
        peer.command(0, "createStream", 2.0, &[Value::Null]);
        peer.flush().await?;
        loop {
            let (_, command) = peer.expect(&["_result"]).await?;
            if command.transaction == 2.0 {
                let id = command.values.get(1).and_then(Value::as_number).ok_or("createStream gave no stream id")?;
                #[expect(clippy::cast_sign_loss, reason = "a negative id is the server's mistake and fails later")]
                return Ok(Self { peer, stream_id: id as u32 });
            }
        }
    }

    /// Publishes, up to the server's consent.
    pub async fn publish(&mut self, name: &str) -> Result<(), Failure> {
        let values = [Value::Null, Value::string(name), Value::string(APP)];
        self.ask("publish", &values, "NetStream.Publish.Start").await
    }

    /// Plays, up to the server's consent.
    pub async fn play(&mut self, name: &str) -> Result<(), Failure> {
        self.ask("play", &[Value::Null, Value::string(name), Value::Number(-2000.0)], "NetStream.Play.Start").await
    }

    async fn ask(&mut self, what: &str, values: &[Value], consent: &str) -> Result<(), Failure> {
        in_time(what, async {
            self.peer.command(self.stream_id, what, 3.0, values);
            self.peer.flush().await.map_err(broken)?;
            loop {
                let (_, command) = self.peer.expect(&["onStatus"]).await.map_err(broken)?;
                let code = command.info_text("code").unwrap_or_default();
                if code == consent {
                    return Ok(());
                }
                if command.info_text("level").as_deref() == Some("error") {
                    let description = command.info_text("description").unwrap_or_default();
                    return Err(Failure::Refused { code, description });
                }
            }
        })
        .await
    }

    /// Sends one frame of the stream.
    pub async fn send(&mut self, name: &str, number: u32) -> Result<(), Failure> {
        let tag = if number == 0 { SEQUENCE_HEADER } else { PICTURE };
        let payload = [&tag[..], &number.to_be_bytes(), name.as_bytes()].concat();
        self.peer.media(self.stream_id, kind::VIDEO, number, &payload);
        self.peer.flush().await.map_err(broken)
    }

    /// The number of the next frame; an error if it is not one of the stream `name`.
    pub async fn frame(&mut self, name: &str) -> Result<u32, Failure> {
        in_time("media", self.frame_or_end(name)).await
    }

    async fn frame_or_end(&mut self, name: &str) -> Result<u32, Failure> {
        loop {
            match self.peer.next().await.map_err(broken)? {
                Message::Media(_, payload) => {
                    let (_, rest) = payload.split_first_chunk::<5>().ok_or_else(|| broken("a short frame"))?;
                    let (number, stream) = rest.split_first_chunk().ok_or_else(|| broken("a short frame"))?;
                    if stream != name.as_bytes() {
                        return Err(broken("media of another stream"));
                    }
                    return Ok(u32::from_be_bytes(*number));
                }
                Message::Command(_, command) => {
                    if command.name == "onStatus" && command.info_text("level").as_deref() == Some("error") {
                        let text = |key| command.info_text(key).unwrap_or_default();
                        return Err(Failure::Refused { code: text("code"), description: text("description") });
                    }
                }
            }
        }
    }
}

/// A client that publishes `name` and has sent its first frame.
pub async fn publisher(server: SocketAddr, name: &str) -> Result<Client, Failure> {
    let mut client = Client::open(server).await?;
    client.publish(name).await?;
    client.send(name, 0).await?;
    Ok(client)
}

/// A client that plays `name` and has got media of it.
pub async fn player(server: SocketAddr, name: &str) -> Result<Client, Failure> {
    let mut client = Client::open(server).await?;
    client.play(name).await?;
    client.frame(name).await?;
    Ok(client)
}

/// What a session does by itself.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Sends a frame so often.
    Publisher(Duration),
    /// Takes frames, which must follow each other.
    Player,
}

/// A session that goes on by itself until this is dropped.
pub struct Held {
    /// The stream.
    pub name: String,
    progress: Arc<Progress>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Progress {
    frames: AtomicU64,
    /// Frames that did not follow the one before.
    gaps: AtomicU64,
    ended: Mutex<Option<Failure>>,
}

impl Held {
    /// Lets a session go on.
    pub fn new(client: Client, name: &str, role: Role) -> Self {
        let progress = Arc::new(Progress::default());
        let task = tokio::spawn({
            let (progress, name) = (Arc::clone(&progress), name.to_owned());
            async move {
                let why = match role {
                    Role::Publisher(period) => go_on_sending(client, &name, period, &progress).await,
                    Role::Player => go_on_receiving(client, &name, &progress).await,
                };
                *progress.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
        });
        Self { name: name.to_owned(), progress, task }
    }

    /// What it was told at its end, if it has ended.
    pub fn end(&self) -> Option<Failure> {
        self.progress.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.progress.frames.load(Ordering::Relaxed)
    }

    /// Whether it goes on and has missed nothing.
    pub fn is_undisturbed(&self) -> bool {
        self.end().is_none() && self.progress.gaps.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn go_on_sending(mut client: Client, name: &str, period: Duration, progress: &Progress) -> Failure {
    let mut due = interval(period);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        tokio::select! {
            _ = due.tick() => if let Err(why) = client.send(name, number).await { return why },
            ended = client.frame_or_end(name) => return ended.err().unwrap_or_else(|| broken("media for a publisher")),
        }
        progress.frames.fetch_add(1, Ordering::Relaxed);
    }
    broken("all numbers are used up")
}

async fn go_on_receiving(mut client: Client, name: &str, progress: &Progress) -> Failure {
    let mut last: Option<u32> = None;
    loop {
        match client.frame_or_end(name).await {
            Ok(number) => {
                if last.is_some_and(|last| number != last + 1) {
                    progress.gaps.fetch_add(1, Ordering::Relaxed);
                }
                last = Some(number);
                progress.frames.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => return why,
        }
    }
}

//! An origin server for thousands of streams: it takes one publisher for each name, gives what that
//! one sends to its players, and remembers who asked for what.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use srs_proxy::codec::rtmp::amf0::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Result,
    peer::{Message, Peer},
};

/// How long a peer may take to ask for a stream.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How many frames a player may be behind.
const BACKLOG: usize = 64;
/// The type of a media message, and its payload.
type Frame = (u8, Bytes);

/// A listening origin, until it is dropped.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name, which is its server id.
    pub name: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    live: Mutex<HashMap<String, Live>>,
    asked: Mutex<HashMap<String, Asked>>,
}

struct Live {
    media: broadcast::Sender<Frame>,
    /// The first frame, which every player gets first, as origins do with codec headers.
    first: Option<Frame>,
}

/// Requests for one stream since the origin started, refused ones included.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// To publish.
    pub publish: u32,
    /// To play.
    pub play: u32,
}

impl Origin {
    /// Listens on a free port of `address`.
    pub async fn start(name: &str, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { address, name: name.to_owned(), state, task })
    }

    /// The heartbeat by which it registers.
    pub fn heartbeat(&self) -> String {
        crate::support::nginx::heartbeat(&self.name, "run1", 1, self.address)
    }

    /// Its id, as nodes know it.
    pub fn id(&self) -> String {
        format!("{}-run1-1", self.name)
    }

    /// Whether somebody publishes the stream now.
    pub fn has(&self, name: &str) -> bool {
        lock(&self.state.live).contains_key(name)
    }

    /// Who has asked for the stream so far, if anybody has.
    pub fn asked(&self, name: &str) -> Option<Asked> {
        lock(&self.state.asked).get(name).copied()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut peers = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let state = Arc::clone(&state);
                    peers.spawn(async move {
                        // A peer that goes away in the middle is not a mistake of this side.
                        let _ = session(stream, &state).await;
                    });
                } else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Some(_) = peers.join_next() => {}
        }
    }
}

async fn session(stream: TcpStream, state: &Arc<State>) -> Result<()> {
    let (peer, stream_id, publishes, name) = timeout(SETUP_TIMEOUT, greet(stream)).await??;
    {
        let mut asked = lock(&state.asked);
        let asked = asked.entry(name.clone()).or_default();
        if publishes { asked.publish += 1 } else { asked.play += 1 }
    }
    if publishes { publish(peer, stream_id, name, state).await } else { play(peer, stream_id, &name, state).await }
}

/// Answers up to the request for a stream.
async fn greet(stream: TcpStream) -> Result<(Peer, u32, bool, String)> {
    let mut peer = Peer::server(stream).await?;
    loop {
        let (stream_id, command) = peer.expect(&["connect", "createStream", "publish", "play"]).await?;
        let answer = match command.name.as_str() {
            "connect" => {
                let info = Value::object([
                    ("level", Value::string("status")),
                    ("code", Value::string("NetConnection.Connect.Success")),
                ]);
                [Value::object([]), info]
            }
            "createStream" => [Value::Null, Value::Number(1.0)],
            other => {
                let name = command.first_text().ok_or("no stream name")?;
                return Ok((peer, stream_id, other == "publish", name));
            }
        };
        peer.command(0, "_result", command.transaction, &answer);
        peer.flush().await?;
    }
}

async fn refuse(mut peer: Peer, stream_id: u32, code: &str, why: &str) -> Result<()> {
    peer.status(stream_id, "error", code, why);
    peer.flush().await
}

async fn publish(mut peer: Peer, stream_id: u32, name: String, state: &Arc<State>) -> Result<()> {
    let taken = {
        let mut live = lock(&state.live);
        let taken = live.contains_key(&name);
        if !taken {
            live.insert(name.clone(), Live { media: broadcast::channel(BACKLOG).0, first: None });
        }
        taken
    };
    if taken {
        return refuse(peer, stream_id, "NetStream.Publish.BadName", "somebody publishes it already").await;
    }
    let published = Published { state, name };
    peer.status(stream_id, "status", "NetStream.Publish.Start", "go on");
    peer.flush().await?;
    loop {
        let Message::Media(kind, payload) = peer.next().await? else { continue };
        if let Some(live) = lock(&state.live).get_mut(&published.name) {
            live.first.get_or_insert_with(|| (kind, payload.clone()));
            // Nobody may be there to take it.
            let _ = live.media.send((kind, payload));
        }
    }
}

/// A publisher's place, free again when this is dropped.
struct Published<'a> {
    state: &'a State,
    name: String,
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        lock(&self.state.live).remove(&self.name);
    }
}

async fn play(mut peer: Peer, stream_id: u32, name: &str, state: &Arc<State>) -> Result<()> {
    let found = lock(&state.live).get(name).map(|live| (live.media.subscribe(), live.first.clone()));
    let Some((mut media, first)) = found else {
        return refuse(peer, stream_id, "NetStream.Play.StreamNotFound", "nobody publishes it here").await;
    };
    peer.status(stream_id, "status", "NetStream.Play.Start", "go on");
    if let Some((kind, payload)) = first {
        peer.media(stream_id, kind, 0, &payload);
    }
    peer.flush().await?;
    loop {
        tokio::select! {
            frame = media.recv() => match frame {
                Ok((kind, payload)) => {
                    peer.media(stream_id, kind, 0, &payload);
                    peer.flush().await?;
                }
                Err(_) => return Ok(()),
            },
            // Players say little; what counts is that they leave.
            said = peer.next() => { said?; }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

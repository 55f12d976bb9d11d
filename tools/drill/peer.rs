//! One end of an RTMP connection, light enough for thousands in one process.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use srs_proxy::codec::rtmp::{
    amf0::Value,
    chunk::{Action, Inspect, Interest, MAX_WHOLE, Scanner},
    command::Command,
    edits::Edits,
    handshake::{self, BLOCK, C0C1, S0S1S2},
    message::{DEFAULT_CHUNK_SIZE, Header, kind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Result;

/// A message that matters here.
#[derive(Debug, Clone)]
pub enum Message {
    /// A command, on this message stream.
    Command(u32, Command),
    /// Audio or video.
    Media(u8, Bytes),
}

/// A connection behind its handshake.
pub struct Peer {
    stream: TcpStream,
    scanner: Scanner,
    received: Vec<u8>,
    edits: Edits,
    inbox: Inbox,
    out: Vec<u8>,
}

#[derive(Default)]
struct Inbox(VecDeque<Message>);

impl Inspect for Inbox {
    fn interest(&self, header: &Header) -> Interest {
        if header.length as usize <= MAX_WHOLE { Interest::Whole } else { Interest::Pass }
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        match header.kind {
            kind::AUDIO | kind::VIDEO => self.0.push_back(Message::Media(header.kind, Bytes::copy_from_slice(payload))),
            _ if header.is_command() => {
                let command = Command::parse(header.kind, payload).ok();
                self.0.extend(command.map(|command| Message::Command(header.stream_id, command)));
            }
            _ => {}
        }
        Action::Drop
    }
}

impl Peer {
    /// Shakes hands as a client.
    pub async fn client(mut stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u32;
        stream.write_all(&handshake::hello(now, |bytes| rand::fill(bytes))[..]).await?;
        let mut answer = Box::new([0; S0S1S2]);
        stream.read_exact(&mut answer[..]).await?;
        let mut peer = Self::new(stream);
        peer.out.extend(handshake::acknowledge(&answer)?);
        Ok(peer)
    }

    /// Shakes hands as a server.
    pub async fn server(mut stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let mut hello = Box::new([0; C0C1]);
        stream.read_exact(&mut hello[..]).await?;
        let (answer, _) = handshake::answer(&hello, 0, |bytes| rand::fill(bytes))?;
        stream.write_all(&answer[..]).await?;
        stream.read_exact(&mut [0; BLOCK]).await?;
        Ok(Self::new(stream))
    }

    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            scanner: Scanner::transparent(),
            received: Vec::new(),
            edits: Edits::default(),
            inbox: Inbox::default(),
            out: Vec::new(),
        }
    }

    /// Adds a command to what [`Self::flush`] sends.
    pub fn command(&mut self, stream_id: u32, name: &str, transaction: f64, values: &[Value]) {
        let mut payload = Vec::new();
        Value::string(name).encode(&mut payload);
        Value::Number(transaction).encode(&mut payload);
        values.iter().for_each(|value| value.encode(&mut payload));
        let header = if stream_id == 0 { Header::command() } else { Header::status(stream_id) };
        header.encode_message(&payload, DEFAULT_CHUNK_SIZE, &mut self.out);
    }

    /// Adds a status.
    pub fn status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        let info = Value::object([
            ("level", Value::string(level)),
            ("code", Value::string(code)),
            ("description", Value::string(description)),
        ]);
        self.command(stream_id, "onStatus", 0.0, &[Value::Null, info]);
    }

    /// Adds audio or video.
    pub fn media(&mut self, stream_id: u32, kind: u8, timestamp: u32, payload: &[u8]) {
        let header = Header { chunk_stream: 6, timestamp, length: 0, kind, stream_id };
        header.encode_message(payload, DEFAULT_CHUNK_SIZE, &mut self.out);
    }

    /// Sends what was added.
    pub async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The next message that matters. Loses nothing if it is given up before it is done.
    pub async fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.inbox.0.pop_front() {
                return Ok(message);
            }
            self.stream.readable().await?;
            let mut chunk = [0; 4096];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err("the connection was closed".into()),
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            let scan = self.scanner.scan(&mut self.received, &mut self.edits, &mut self.inbox)?;
            self.edits.clear();
            self.received.drain(..scan.consumed);
            if self.received.is_empty() {
                // Thousands of peers are quiet most of the time.
                self.received = Vec::new();
            }
        }
    }

    /// The next command of one of these names.
    pub async fn expect(&mut self, names: &[&str]) -> Result<(u32, Command)> {
        loop {
            if let Message::Command(stream_id, command) = self.next().await?
                && names.contains(&command.name.as_str())
            {
                return Ok((stream_id, command));
            }
        }
    }
}

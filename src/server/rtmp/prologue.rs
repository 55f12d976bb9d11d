//! What a client says before it publishes or plays, answered as SRS answers it, and kept, so that it
//! can be said to the origin again in the client's own bytes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    balancer::Intent,
    codec::rtmp::{
        chunk::{Action, Inspect, Interest, Scanner},
        command::{self, Command},
        edits::Edits,
        message::{self, Header},
    },
    error::{Error, Kind, Result, Side},
    stream::{StreamKey, Vhosts},
};

/// The most bytes that a client may send before it publishes or plays.
pub const MAX_PROLOGUE: usize = 64 * 1024;
/// The chunk size that clients are told at first, in bytes. Some cannot parse an answer to connect
/// that is cut into chunks of 128, so it must be raised; but ffmpeg writes in the size that it was
/// told last, and nginx-rtmp (1.2) overruns its buffer if that shrinks amid what it reads, so it must
/// not exceed nginx-rtmp's own default, which the client is told when the origin is known.
pub const CHUNK_SIZE: u32 = 4096;
/// The window and bandwidth that clients are told, as SRS tells them, in bytes.
const WINDOW: u32 = 2_500_000;

/// All that came before a stream was named, and the name.
#[derive(Debug)]
pub struct Prologue {
    /// What the client sent behind the handshake: up to publish or play, and what came with it.
    pub raw: Vec<u8>,
    /// Where in `raw` the last message ends that asks for something that publish or play needs:
    /// connect or createStream.
    pub requests_end: usize,
    /// Transaction ids of the calls that have been answered.
    pub answered: Vec<f64>,
    /// The transaction of connect.
    pub connect: f64,
    /// The transactions of createStream, and the message stream ids that were given.
    pub created: Vec<(f64, u32)>,
    /// The message stream on which the client publishes or plays.
    pub stream_id: u32,
    /// Which of the two.
    pub intent: Intent,
    /// The connect object's `tcUrl` and `app`, by which a second stream would be named.
    pub tc_url: String,
    /// See `tc_url`.
    pub app: String,
    /// The stream.
    pub stream: StreamKey,
}

/// Reads and answers what comes behind the handshake, until a stream is named.
pub async fn read(client: &mut TcpStream, vhosts: &Vhosts, received: &mut u64) -> Result<Prologue> {
    let mut raw = Vec::with_capacity(1024);
    let mut scanner = Scanner::transparent();
    let mut edits = Edits::default();
    let mut dialogue = CommandNegotiation::new(vhosts);
    let mut done = 0;
    loop {
        let room = MAX_PROLOGUE.saturating_sub(raw.len());
        if room == 0 {
            let text = format!("sent {MAX_PROLOGUE} bytes without publish or play");
            return Err(Error::client(Kind::Limit, text));
        }
        let read = (&mut *client)
            .take(room as u64)
            .read_buf(&mut raw)
            .await
            .map_err(|e| Error::io(Side::Client, "reading commands", e))?;
        if read == 0 {
            return Err(Error::client(Kind::Closed, "closed the connection before publish or play"));
        }
        *received += read as u64;

        loop {
            let scan = scanner
                .scan(&mut raw[done..], &mut edits, &mut dialogue)
                .map_err(|e| Error::client(Kind::Protocol, e.to_string()))?;
            edits.clear();
            done += scan.consumed;
            if let Some(error) = dialogue.failure.take() {
                send(client, &std::mem::take(&mut dialogue.answers)).await?;
                return Err(error);
            }
            if dialogue.request {
                dialogue.requests_end = done;
                dialogue.request = false;
            }
            if let Some((intent, stream_id, stream)) = dialogue.named.take() {
                send(client, &std::mem::take(&mut dialogue.answers)).await?;
                raw.shrink_to_fit();
                return Ok(Prologue {
                    raw,
                    requests_end: dialogue.requests_end,
                    answered: dialogue.answered,
                    connect: dialogue.connect.unwrap_or_default(),
                    created: dialogue.created,
                    stream_id,
                    intent,
                    tc_url: dialogue.tc_url,
                    app: dialogue.app,
                    stream,
                });
            }
            if !scan.stopped {
                break;
            }
        }
        send(client, &std::mem::take(&mut dialogue.answers)).await?;
    }
}

async fn send(client: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    client.write_all(bytes).await.map_err(|e| Error::io(Side::Client, "answering commands", e))
}

/// The commands so far and their answers.
struct CommandNegotiation<'a> {
    vhosts: &'a Vhosts,
    answers: Vec<u8>,
    answered: Vec<f64>,
    connect: Option<f64>,
    created: Vec<(f64, u32)>,
    tc_url: String,
    app: String,
    /// The message just read asks for something that publish or play needs.
    request: bool,
    requests_end: usize,
    named: Option<(Intent, u32, StreamKey)>,
    failure: Option<Error>,
}

impl<'a> CommandNegotiation<'a> {
    const fn new(vhosts: &'a Vhosts) -> Self {
        Self {
            vhosts,
            answers: Vec::new(),
            answered: Vec::new(),
            connect: None,
            created: Vec::new(),
            tc_url: String::new(),
            app: String::new(),
            request: false,
            requests_end: 0,
            named: None,
            failure: None,
        }
    }

    fn answer(&mut self, header: Header, payload: &[u8]) {
        header.encode_message(payload, CHUNK_SIZE, &mut self.answers);
    }

    fn result(&mut self, transaction: f64, payload: &[u8]) {
        self.answered.push(transaction);
        self.answer(Header::command(), payload);
    }

    /// Whether scanning is to stop behind the command.
    fn command(&mut self, header: &Header, command: &Command) -> bool {
        match command.name.as_str() {
            "connect" if self.connect.is_none() => self.connect(command),
            _ if self.connect.is_none() => {
                let text = format!("sent {:?} before connect", printable(&command.name));
                self.failure = Some(Error::client(Kind::Protocol, text));
            }
            "connect" => self.failure = Some(Error::client(Kind::Protocol, "sent connect twice")),
            "createStream" => {
                let id = self.created.len() as u32 + 1;
                self.created.push((command.transaction, id));
                self.result(command.transaction, &command::create_stream_result(command.transaction, id));
                self.request = true;
            }
            "publish" => self.name(Intent::Publish, header, command),
            "play" => self.name(Intent::Play, header, command),
            "releaseStream" | "FCPublish" => {
                self.result(command.transaction, &command::empty_result(command.transaction));
                return false;
            }
            // Encoders by Haivision wait for an answer to _checkbw before createStream; SRS answers
            // every call there.
            name if self.created.is_empty() && command.transaction != 0.0 && !is_notification(name) => {
                self.result(command.transaction, &command::empty_result(command.transaction));
                return false;
            }
            // Whatever else is said is for the origin to answer.
            _ => return false,
        }
        true
    }

    fn connect(&mut self, command: &Command) {
        self.connect = Some(command.transaction);
        self.tc_url = command.object_text("tcUrl").unwrap_or_default();
        self.app = command.object_text("app").unwrap_or_default();
        self.request = true;
        if self.tc_url.is_empty() && self.app.is_empty() {
            let text = "connect names neither tcUrl nor app";
            let refusal = command::error_result(command.transaction, "NetConnection.Connect.Rejected", text);
            self.answer(Header::command(), &refusal);
            self.failure = Some(Error::client(Kind::Protocol, text));
            return;
        }
        let encoding = command.values.first().and_then(|o| o.get("objectEncoding")?.as_number()).unwrap_or_default();
        message::window_ack_size(WINDOW, &mut self.answers);
        message::set_peer_bandwidth(WINDOW, &mut self.answers);
        message::set_chunk_size(CHUNK_SIZE, &mut self.answers);
        self.result(command.transaction, &command::connect_result(command.transaction, encoding));
        self.answer(Header::command(), &command::on_bw_done());
    }

    fn name(&mut self, intent: Intent, header: &Header, command: &Command) {
        let name = command.first_text().unwrap_or_default();
        match StreamKey::from_rtmp(&self.tc_url, &self.app, &name, self.vhosts) {
            Ok(stream) => self.named = Some((intent, header.stream_id, stream)),
            Err(error) => {
                let code = super::status_code(intent, Kind::Protocol);
                let refusal = command::on_status_error(code, &error.to_string());
                self.answer(Header::status(header.stream_id), &refusal);
                self.failure = Some(Error::client(Kind::Protocol, format!("{}: {error}", intent.as_str())));
            }
        }
    }
}

impl Inspect for CommandNegotiation<'_> {
    fn interest(&self, header: &Header) -> Interest {
        if header.is_command() { Interest::Whole } else { Interest::Pass }
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        let stop = match Command::parse(header.kind, payload) {
            Ok(command) => self.command(header, &command),
            Err(error) => {
                self.failure = Some(Error::client(Kind::Protocol, format!("a command cannot be read: {error}")));
                true
            }
        };
        if stop { Action::DropAndStop } else { Action::Drop }
    }
}

/// Calls that no server answers, whatever their transaction id.
fn is_notification(name: &str) -> bool {
    matches!(name, "getStreamLength" | "FCSubscribe" | "FCUnpublish" | "deleteStream" | "closeStream")
}

/// A name from the network, short and safe to print.
pub fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(32).collect()
}

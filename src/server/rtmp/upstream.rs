//! The origin's leg of a session: connect, shake hands, repeat the client's prologue.

use std::{net::IpAddr, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    Context,
    duplex::{Duplex, Joined, window_size},
    prologue::{CHUNK_SIZE, Prologue},
};
use crate::{
    codec::rtmp::{
        amf0::Value,
        chunk::{Action, Inspect, Interest},
        command::Command,
        edits::Edits,
        handshake,
        message::{Header, kind},
    },
    config::RealIp,
    error::{Error, Kind, Result, Side, Status},
    metrics::{OriginMetrics, label},
    origin::Origin,
    relay::tcp::{Opening, acknowledge_at_once},
    server::origin_probe::{connect, shake_hands, within},
    session::Session,
    stream::Vhosts,
};

/// The most that an origin may send before it has answered createStream, in bytes.
const MAX_ANSWERS: usize = 64 * 1024;

/// An origin that has answered the client's first commands and been sent publish or play.
pub struct OriginLeg<'a> {
    /// The connection.
    pub stream: TcpStream,
    /// Both directions.
    pub duplex: Duplex<'a>,
    /// What has been read and said on the way.
    pub opening: Opening,
}

/// What a leg needs to know of the client's side.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The session.
    pub session: &'a Session,
    /// What the client said.
    pub prologue: &'a Prologue,
    /// The vhosts that are told apart.
    pub vhosts: &'a Vhosts,
    /// Bytes received from it so far.
    pub received: u64,
}

/// Connects to `origin` and repeats the client's prologue to it, up to publish or play and what came
/// with it. An error that [`Error::is_retryable`] came before publish or play was sent.
pub async fn open<'a>(origin: &Origin, client: Client<'a>, context: &Context) -> Result<OriginLeg<'a>> {
    let (metrics, start) = (context.metrics.origins(label::Upstream::Rtmp), Instant::now());
    let leg = open_uncounted(origin, client, context, &metrics).await;
    metrics.answered(leg.as_ref().err().map(Error::kind), start.elapsed());
    leg
}

async fn open_uncounted<'a>(
    origin: &Origin,
    client: Client<'a>,
    context: &Context,
    metrics: &OriginMetrics,
) -> Result<OriginLeg<'a>> {
    let prologue = client.prologue;
    let mut duplex = Duplex::new(client.session, prologue, client.vhosts, client.received);
    let prefix = real_ip_prefix(origin, client.session.peer.ip(), context.rtmp.real_ip);

    let mut first = Vec::with_capacity(handshake::BLOCK + prologue.requests_end);
    let answer = context.upstream.answer_timeout;
    let start = Instant::now();
    let connected = async {
        let mut stream = connect(origin, &context.dialer, &context.upstream).await?;
        within(answer, "the handshake", shake_hands(&mut stream, prefix.as_ref(), &mut first)).await?;
        Ok(stream)
    }
    .await;
    metrics.connected(connected.as_ref().err().map(Error::kind), start.elapsed());
    let mut stream = connected?;

    // createStream must be answered before publish or play can name its message stream.
    duplex.repeat(&prologue.raw[..prologue.requests_end], &mut first)?;
    let mut answers = Answers::new(prologue);
    let asking = async {
        stream.write_all(&first).await.map_err(|e| Error::io(Side::Origin, "sending commands", e))?;
        answers.read(&mut stream, &mut duplex).await
    };
    let from_origin = within(answer, "connect and createStream", asking).await?;

    let joined = Joined { window: answers.window, received: (handshake::S0S1S2 + answers.received) as u64 };
    duplex.set_stream_ids(std::mem::take(&mut answers.stream_ids));
    let mut rest = Vec::new();
    let from_client = duplex.repeat(&prologue.raw[prologue.requests_end..], &mut rest)?;
    duplex.join(joined, answers.left);
    // From here on publish or play may have arrived, and no other origin must be asked as well.
    let failed = |why: String| Error::origin(Kind::Refused, format!("sending {}: {why}", prologue.intent.as_str()));
    match timeout(answer, stream.write_all(&rest)).await {
        Ok(sent) => sent.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("took no bytes for {answer:?}"))),
    }
    acknowledge_at_once(&stream);

    let mut to_client = Vec::new();
    let chunk_size = duplex.origin_scanner().chunk_size();
    if chunk_size != CHUNK_SIZE {
        // The client knows the size that we announced; from here on it hears the origin.
        Header::control(kind::SET_CHUNK_SIZE).encode_message(&chunk_size.to_be_bytes(), CHUNK_SIZE, &mut to_client);
    }
    for (header, payload) in &answers.passed {
        let header = Header { stream_id: duplex.client_stream_id(header.stream_id), ..*header };
        header.encode_message(payload, chunk_size, &mut to_client);
    }
    Ok(OriginLeg { stream, duplex, opening: Opening { to_client, from_client, from_origin } })
}

/// SRS takes IPv4 addresses only.
fn real_ip_prefix(origin: &Origin, client: IpAddr, real_ip: RealIp) -> Option<[u8; 7]> {
    let wanted = match real_ip {
        RealIp::On => true,
        RealIp::Auto => origin.is_srs(),
        RealIp::Off => false,
    };
    match client.to_canonical() {
        IpAddr::V4(address) if wanted => Some(handshake::real_ip_prefix(address)),
        _ => None,
    }
}

/// Reads an origin's answers to connect and createStream.
struct Answers<'a> {
    prologue: &'a Prologue,
    /// The calls that the client knows the answers to already, and the origin has not answered yet.
    left: Vec<f64>,
    connected: bool,
    stream_ids: Vec<(u32, u32)>,
    window: u32,
    received: usize,
    /// What the client has to hear all the same.
    passed: Vec<(Header, Vec<u8>)>,
    failure: Option<Error>,
}

impl<'a> Answers<'a> {
    fn new(prologue: &'a Prologue) -> Self {
        Self {
            prologue,
            left: prologue.answered.clone(),
            connected: false,
            stream_ids: Vec::new(),
            window: 0,
            received: 0,
            passed: Vec::new(),
            failure: None,
        }
    }

    fn complete(&self) -> bool {
        self.connected && self.stream_ids.len() == self.prologue.created.len()
    }

    /// Reads until all has been answered. Gives what was read beyond that.
    async fn read(&mut self, stream: &mut TcpStream, duplex: &mut Duplex<'_>) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(4096);
        let mut edits = Edits::default();
        loop {
            acknowledge_at_once(stream);
            let read = stream.read_buf(&mut bytes).await.map_err(|e| Error::io(Side::Origin, "reading answers", e))?;
            if read == 0 {
                return Err(Error::origin(Kind::Closed, "closed the connection before it answered connect"));
            }
            self.received += read;
            loop {
                let scan = duplex
                    .origin_scanner()
                    .scan(&mut bytes, &mut edits, self)
                    .map_err(|e| Error::origin(Kind::Protocol, e.to_string()))?;
                edits.clear();
                bytes.drain(..scan.consumed);
                if let Some(error) = self.failure.take() {
                    return Err(error);
                }
                if self.complete() {
                    self.received -= bytes.len();
                    return Ok(bytes);
                }
                if !scan.stopped {
                    break;
                }
            }
            if self.received > MAX_ANSWERS {
                let text = format!("sent {MAX_ANSWERS} bytes without an answer to createStream");
                return Err(Error::origin(Kind::Limit, text));
            }
        }
    }

    fn answer(&mut self, header: &Header, payload: &[u8], command: &Command) {
        let transaction = command.transaction;
        let ok = command.name == "_result";
        let refused = command.info_text("level").as_deref() == Some("error");
        if transaction == self.prologue.connect && !self.connected {
            self.connected = ok && !refused;
        } else if let Some((_, id)) = self.prologue.created.iter().find(|(t, _)| *t == transaction) {
            match command.values.get(1).and_then(Value::as_number) {
                #[expect(clippy::cast_sign_loss, reason = "a negative id becomes 0, which no stream has")]
                Some(origin_id) if ok => self.stream_ids.push((*id, origin_id as u32)),
                _ => self.connected = false,
            }
        } else {
            if !self.left.contains(&transaction) {
                self.passed.push((*header, payload.to_vec()));
            }
            self.forget(transaction);
            return;
        }
        self.forget(transaction);
        if !self.connected {
            let text = |key| command.info_text(key).unwrap_or_default();
            let status = Status { code: text("code"), description: text("description") };
            self.failure = Some(Error::refused(Side::Origin, status));
        }
    }

    fn forget(&mut self, transaction: f64) {
        if let Some(at) = self.left.iter().position(|t| *t == transaction) {
            self.left.swap_remove(at);
        }
    }
}

impl Inspect for Answers<'_> {
    fn interest(&self, _: &Header) -> Interest {
        Interest::Whole
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        match header.kind {
            kind::WINDOW_ACK_SIZE => self.window = window_size(payload).unwrap_or(self.window),
            // Between the two legs these are ours to say.
            kind::SET_CHUNK_SIZE | kind::ABORT | kind::ACKNOWLEDGEMENT | kind::SET_PEER_BANDWIDTH => {}
            _ if header.is_command() => match Command::parse(header.kind, payload) {
                Ok(command) if command.name == "_result" || command.name == "_error" => {
                    self.answer(header, payload, &command);
                    return Action::DropAndStop;
                }
                Ok(command) if command.name == "onBWDone" => {}
                _ => self.passed.push((*header, payload.to_vec())),
            },
            _ => self.passed.push((*header, payload.to_vec())),
        }
        Action::Drop
    }
}

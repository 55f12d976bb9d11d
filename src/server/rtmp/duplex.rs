//! What the relay knows of the bytes between a client and its origin, both ways.

use super::prologue::{Prologue, printable};
use crate::{
    balancer::Intent,
    codec::rtmp::{
        chunk::{Action, Inspect, Interest, MAX_HELD, Scanner},
        command::{self, Command},
        edits::Edits,
        headers::CodecHeaders,
        message::{Header, kind},
    },
    error::{Error, Kind, Result, Side},
    relay::tcp::Filter,
    session::Session,
    stream::{StreamKey, Vhosts},
};

/// The smallest acknowledgement window that is honoured, in bytes: smaller ones would ask for more
/// acknowledgements than data.
const MIN_WINDOW: u32 = 1024;

/// Both directions of an RTMP session, as a [`Filter`].
pub struct Duplex<'a> {
    session: &'a Session,
    up: Scanner,
    down: Scanner,
    from_client: FromClient<'a>,
    from_origin: FromOrigin,
    client_window: Window,
    origin_window: Window,
    /// Bytes that the session had received before the relay began.
    before: (u64, u64),
}

/// What an origin said to publish or play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The stream has started.
    Accepted,
    /// It was refused; the code and description are the origin's.
    Refused(String),
}

/// Message stream ids as the client and as the origin number them.
#[derive(Debug, Clone, Default)]
struct StreamIds(Vec<(u32, u32)>);

impl StreamIds {
    fn to_origin(&self, id: u32) -> u32 {
        self.0.iter().find(|(client, _)| *client == id).map_or(id, |(_, origin)| *origin)
    }

    fn to_client(&self, id: u32) -> u32 {
        self.0.iter().find(|(_, origin)| *origin == id).map_or(id, |(client, _)| *client)
    }

    fn differ(&self) -> bool {
        self.0.iter().any(|(client, origin)| client != origin)
    }
}

/// What one peer wants acknowledged, and what has been (5.4.3, 5.4.4).
#[derive(Debug, Default)]
struct Window {
    size: u32,
    received: u64,
    acknowledged: u64,
}

impl Window {
    /// The sequence number to acknowledge now, if any: after half a window, as SRS does, so that a
    /// peer that stops at a full window never does.
    fn due(&mut self) -> Option<u32> {
        let waiting = self.received - self.acknowledged;
        if self.size == 0 || waiting < u64::from(self.size.max(MIN_WINDOW) / 2) {
            return None;
        }
        self.acknowledged = self.received;
        // Sequence numbers wrap around.
        Some(self.received as u32)
    }
}

impl<'a> Duplex<'a> {
    /// For a client whose `prologue` will be repeated to an origin. `received` is what the client
    /// has sent so far, the handshake included.
    pub fn new(session: &'a Session, prologue: &'a Prologue, vhosts: &'a Vhosts, received: u64) -> Self {
        let answered = prologue.answered.clone();
        Self {
            session,
            up: Scanner::transparent(),
            down: Scanner::joining(),
            from_client: FromClient {
                prologue,
                vhosts,
                repeating: true,
                stream_ids: StreamIds::default(),
                window: None,
                refused: Vec::new(),
                headers: CodecHeaders::default(),
            },
            from_origin: FromOrigin {
                intent: prologue.intent,
                answered,
                stream_ids: StreamIds::default(),
                window: None,
                verdict: None,
                headers: CodecHeaders::default(),
            },
            client_window: Window { received, ..Window::default() },
            origin_window: Window::default(),
            before: (received, 0),
        }
    }

    /// The scanner of the origin's direction, for who reads its first answers.
    pub fn origin_scanner(&mut self) -> &mut Scanner {
        &mut self.down
    }

    /// Takes a part of the client's prologue and appends what the origin is to be sent. Gives the end
    /// of the part, if it is the beginning of a chunk whose rest has not come.
    pub fn repeat(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let mut edits = Edits::default();
        let consumed = scan(Side::Client, &mut self.up, &mut bytes, &mut edits, &mut self.from_client)?;
        edits.apply(&bytes[..consumed], out);
        self.client_window.size = self.from_client.window.unwrap_or(self.client_window.size);
        Ok(bytes.split_off(consumed))
    }

    /// The prologue has been repeated; what follows comes from the live connection. `answers_left`
    /// are the calls whose answers are still to be swallowed.
    pub fn join(&mut self, origin: Joined, answers_left: Vec<f64>) {
        self.from_client.repeating = false;
        self.from_origin.answered = answers_left;
        self.origin_window.size = origin.window;
        self.origin_window.received = origin.received;
        self.before.1 = origin.received;
    }

    /// How the two sides number the message streams.
    pub fn set_stream_ids(&mut self, ids: Vec<(u32, u32)>) {
        self.from_client.stream_ids = StreamIds(ids.clone());
        self.from_origin.stream_ids = StreamIds(ids);
    }

    /// The client's number of the origin's message stream `id`.
    pub fn client_stream_id(&self, id: u32) -> u32 {
        self.from_origin.stream_ids.to_client(id)
    }

    /// What the origin has said to publish or play so far.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.from_origin.verdict.as_ref()
    }

    /// Queues an error status for the client.
    pub fn queue_status(&mut self, code: &str, description: &str) {
        let stream_id = self.from_client.prologue.stream_id;
        self.down.queue(Header::status(stream_id), &command::on_status_error(code, description));
    }

    /// The metadata and codec headers of the stream, from whichever side sends it.
    pub fn headers(&self) -> &CodecHeaders {
        match self.from_origin.intent {
            Intent::Publish => &self.from_client.headers,
            Intent::Play => &self.from_origin.headers,
        }
    }
}

/// What is known of an origin's leg when it joins the session.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// The window that the origin wants acknowledged, in bytes; 0 if it has named none.
    pub window: u32,
    /// Bytes received from it so far, the handshake included.
    pub received: u64,
}

impl Filter for Duplex<'_> {
    fn filter(&mut self, from: Side, bytes: &mut [u8], fresh: usize, edits: &mut Edits) -> Result<usize> {
        if from == Side::Client {
            let consumed = scan(from, &mut self.up, bytes, edits, &mut self.from_client)?;
            self.client_window.received += fresh as u64;
            self.client_window.size = self.from_client.window.unwrap_or(self.client_window.size);
            if let Some(sequence) = self.client_window.due() {
                self.down.queue(Header::control(kind::ACKNOWLEDGEMENT), &sequence.to_be_bytes());
            }
            for (stream_id, intent) in self.from_client.refused.drain(..) {
                let text = "this connection already has another stream: open a connection for each";
                let code = super::status_code(intent, Kind::Refused);
                self.down.queue(Header::status(stream_id), &command::on_status_error(code, text));
            }
            Ok(consumed)
        } else {
            let consumed = scan(from, &mut self.down, bytes, edits, &mut self.from_origin)?;
            self.origin_window.received += fresh as u64;
            self.origin_window.size = self.from_origin.window.unwrap_or(self.origin_window.size);
            if let Some(sequence) = self.origin_window.due() {
                self.up.queue(Header::control(kind::ACKNOWLEDGEMENT), &sequence.to_be_bytes());
            }
            Ok(consumed)
        }
    }

    fn has_queued(&self, to: Side) -> bool {
        let scanner = if to == Side::Client { &self.down } else { &self.up };
        scanner.has_queued() && scanner.at_boundary()
    }

    fn progress(&mut self, from_client: u64, from_origin: u64) {
        self.session.set_bytes(self.before.0 + from_client, self.before.1 + from_origin);
    }
}

fn scan(
    from: Side,
    scanner: &mut Scanner,
    bytes: &mut [u8],
    edits: &mut Edits,
    inspect: &mut impl Inspect,
) -> Result<usize> {
    let scan = scanner.scan(bytes, edits, inspect).map_err(|e| Error::new(from, Kind::Protocol, e.to_string()))?;
    Ok(scan.consumed)
}

/// Looks at what the client sends.
struct FromClient<'a> {
    prologue: &'a Prologue,
    vhosts: &'a Vhosts,
    /// The prologue is being repeated, and has been looked at before.
    repeating: bool,
    stream_ids: StreamIds,
    window: Option<u32>,
    /// Second streams that were asked for: where, and what for.
    refused: Vec<(u32, Intent)>,
    headers: CodecHeaders,
}

impl FromClient<'_> {
    fn command(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        let name = Command::peek_name(header.kind, payload).unwrap_or_default();
        let intent = match name.as_str() {
            "publish" => Intent::Publish,
            "play" | "play2" => Intent::Play,
            "deleteStream" | "closeStream" if self.stream_ids.differ() => {
                let ids = &self.stream_ids;
                command::patch_stream_id_argument(header.kind, payload, |id| ids.to_origin(id));
                return Action::Pass;
            }
            _ => return Action::Pass,
        };
        let wanted = Command::parse(header.kind, payload).ok().and_then(|c| c.first_text());
        let Prologue { tc_url, app, stream, .. } = self.prologue;
        let again = wanted.is_some_and(|name| {
            StreamKey::from_rtmp(tc_url, app, &name, self.vhosts).is_ok_and(|wanted| wanted == *stream)
        });
        if again && intent == self.prologue.intent {
            return Action::Pass;
        }
        tracing::debug!(command = %printable(&name), "refused a second stream on one connection");
        self.refused.push((header.stream_id, intent));
        Action::Drop
    }
}

impl Inspect for FromClient<'_> {
    fn interest(&self, header: &Header) -> Interest {
        match header.kind {
            // Each side has its own window; ours are the acknowledgements that count.
            kind::ACKNOWLEDGEMENT | kind::WINDOW_ACK_SIZE => Interest::Whole,
            kind::USER_CONTROL if self.stream_ids.differ() => Interest::Whole,
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 if !self.repeating => Interest::Whole,
            _ if self.prologue.intent == Intent::Publish && CodecHeaders::wants(header) => Interest::Tap,
            _ => Interest::Pass,
        }
    }

    fn tap(&mut self, header: &Header, offset: usize, bytes: &[u8]) -> bool {
        self.headers.tap(header, offset, bytes)
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        match header.kind {
            kind::ACKNOWLEDGEMENT => return Action::Drop,
            kind::WINDOW_ACK_SIZE => self.window = window_size(payload).or(self.window),
            kind::USER_CONTROL => map_user_control(payload, |id| self.stream_ids.to_origin(id)),
            _ => return self.command(header, payload),
        }
        Action::Pass
    }

    fn map_stream_id(&self, id: u32) -> u32 {
        self.stream_ids.to_origin(id)
    }
}

/// Looks at what the origin sends.
struct FromOrigin {
    intent: Intent,
    answered: Vec<f64>,
    stream_ids: StreamIds,
    window: Option<u32>,
    verdict: Option<Verdict>,
    headers: CodecHeaders,
}

impl FromOrigin {
    fn command(&mut self, header: &Header, payload: &[u8]) -> Action {
        let Ok(command) = Command::parse(header.kind, payload) else { return Action::Pass };
        match command.name.as_str() {
            "_result" | "_error" => {
                let Some(at) = self.answered.iter().position(|t| *t == command.transaction) else {
                    return Action::Pass;
                };
                self.answered.swap_remove(at);
                Action::Drop
            }
            "onStatus" => {
                self.status(&command);
                Action::Pass
            }
            _ => Action::Pass,
        }
    }

    fn status(&mut self, command: &Command) {
        if self.verdict.is_some() {
            return;
        }
        let code = command.info_text("code").unwrap_or_default();
        if command.info_text("level").as_deref() == Some("error") {
            let description = command.info_text("description").unwrap_or_default();
            self.verdict = Some(Verdict::Refused(format!("{code} {description}")));
        } else if matches!(code.as_str(), "NetStream.Publish.Start" | "NetStream.Play.Start") {
            self.verdict = Some(Verdict::Accepted);
        }
    }
}

impl Inspect for FromOrigin {
    fn interest(&self, header: &Header) -> Interest {
        match header.kind {
            kind::ACKNOWLEDGEMENT | kind::WINDOW_ACK_SIZE => Interest::Whole,
            kind::USER_CONTROL if self.stream_ids.differ() => Interest::Whole,
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 if header.length as usize <= MAX_HELD => Interest::Whole,
            _ if self.intent == Intent::Play && CodecHeaders::wants(header) => Interest::Tap,
            _ => Interest::Pass,
        }
    }

    fn tap(&mut self, header: &Header, offset: usize, bytes: &[u8]) -> bool {
        self.headers.tap(header, offset, bytes)
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        match header.kind {
            kind::ACKNOWLEDGEMENT => return Action::Drop,
            kind::WINDOW_ACK_SIZE => self.window = window_size(payload).or(self.window),
            kind::USER_CONTROL => map_user_control(payload, |id| self.stream_ids.to_client(id)),
            _ => return self.command(header, payload),
        }
        Action::Pass
    }

    fn map_stream_id(&self, id: u32) -> u32 {
        self.stream_ids.to_client(id)
    }
}

/// The value of Window Acknowledgement Size.
pub fn window_size(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|size| u32::from_be_bytes(*size))
}

/// The events 0 to 4 carry a message stream id (6.2): stream begin, EOF, dry, buffer length,
/// recorded.
fn map_user_control(payload: &mut [u8], map: impl Fn(u32) -> u32) {
    if let [0, 0..=4, id @ ..] = payload
        && let Some(id) = id.first_chunk_mut::<4>()
    {
        *id = map(u32::from_be_bytes(*id)).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::rtmp::amf0::Value,
        session::{Delivery, Sessions},
    };

    fn prologue(intent: Intent) -> Prologue {
        Prologue {
            raw: Vec::new(),
            requests_end: 0,
            answered: vec![1.0],
            connect: 1.0,
            created: vec![(2.0, 1)],
            stream_id: 1,
            intent,
            tc_url: "rtmp://x/live".into(),
            app: "live".into(),
            stream: StreamKey::from_rtmp("rtmp://x/live", "live", "s", &Vhosts::any()).unwrap(),
        }
    }

    fn with_duplex(intent: Intent, test: impl FnOnce(&mut Duplex<'_>)) {
        let sessions = Sessions::default();
        let session = sessions.start(Delivery::Rtmp, ([127, 0, 0, 1], 1).into());
        let (prologue, vhosts) = (prologue(intent), Vhosts::any());
        let mut duplex = Duplex::new(&session, &prologue, &vhosts, 0);
        duplex.join(Joined { window: 0, received: 0 }, vec![1.0]);
        test(&mut duplex);
    }

    fn feed(duplex: &mut Duplex<'_>, from: Side, header: Header, payload: &[u8]) -> Vec<u8> {
        let (mut bytes, mut edits, mut out) = (Vec::new(), Edits::default(), Vec::new());
        header.encode_message(payload, 128, &mut bytes);
        let fresh = bytes.len();
        let consumed = duplex.filter(from, &mut bytes, fresh, &mut edits).unwrap();
        edits.apply(&bytes[..consumed], &mut out);
        out
    }

    fn media(message_kind: u8) -> Header {
        Header { chunk_stream: 6, kind: message_kind, stream_id: 1, ..Header::default() }
    }

    #[test]
    fn the_codec_headers_of_a_stream_are_kept_from_the_side_that_sends_it() {
        for (intent, from, other) in
            [(Intent::Publish, Side::Client, Side::Origin), (Intent::Play, Side::Origin, Side::Client)]
        {
            with_duplex(intent, |duplex| {
                feed(duplex, from, media(kind::VIDEO), b"\x17\0\0\0\0avcC");
                feed(duplex, from, media(kind::VIDEO), b"\x27\x01\0\0\0frame");
                feed(duplex, other, media(kind::AUDIO), b"\xaf\0\x12\x10");
                let kept: Vec<_> = duplex.headers().kept().map(|k| k.kind).collect();
                assert_eq!(kept, [kind::VIDEO], "{intent:?}");
            });
        }
    }

    #[test]
    fn an_answer_that_the_client_has_had_is_swallowed_once() {
        with_duplex(Intent::Play, |duplex| {
            let mut payload = Vec::new();
            for value in [Value::string("_result"), Value::Number(1.0), Value::Null] {
                value.encode(&mut payload);
            }
            assert!(feed(duplex, Side::Origin, Header::command(), &payload).is_empty());
            assert!(!feed(duplex, Side::Origin, Header::command(), &payload).is_empty());
        });
    }

    #[test]
    fn the_verdict_is_the_first_status_that_accepts_or_refuses() {
        let verdict = |codes: &[(&str, &str)]| {
            let mut got = None;
            with_duplex(Intent::Play, |duplex| {
                for (level, code) in codes {
                    let mut payload = Vec::new();
                    let info = Value::object([("level", Value::string(level)), ("code", Value::string(code))]);
                    for value in [Value::string("onStatus"), Value::Number(0.0), Value::Null, info] {
                        value.encode(&mut payload);
                    }
                    feed(duplex, Side::Origin, Header::status(1), &payload);
                }
                got = duplex.verdict().cloned();
            });
            got
        };
        assert_eq!(verdict(&[("status", "NetStream.Play.Reset")]), None);
        let start = ("status", "NetStream.Play.Start");
        assert_eq!(verdict(&[("status", "NetStream.Play.Reset"), start]), Some(Verdict::Accepted));
        let refusal = ("error", "NetStream.Play.StreamNotFound");
        assert_eq!(verdict(&[refusal]), Some(Verdict::Refused("NetStream.Play.StreamNotFound ".into())));
        assert_eq!(verdict(&[start, refusal]), Some(Verdict::Accepted));
    }

    #[test]
    fn a_window_is_acknowledged_by_halves_and_a_tiny_one_does_not_cost_more_than_the_data() {
        let mut window = Window { size: 1000, received: 100, acknowledged: 0 };
        assert_eq!(window.due(), None);
        window.received = 600;
        assert_eq!(window.due(), Some(600));
        assert_eq!(window.due(), None);
        window.size = 1;
        window.received += 100;
        assert_eq!(window.due(), None);
        window.received = u64::from(u32::MAX) + 11;
        assert_eq!(window.due(), Some(10), "sequence numbers wrap around");
        assert_eq!(Window { received: 1 << 40, ..Window::default() }.due(), None, "nobody asked");
    }
}

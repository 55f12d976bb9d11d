//! The scanner of one direction.

use std::collections::VecDeque;

use super::{
    super::{
        edits::Edits,
        message::{DEFAULT_CHUNK_SIZE, EXTENDED_TIMESTAMP, Header, kind},
    },
    Action, ChunkError, Inspect, Interest, MAX_CHUNK_STREAMS, MAX_HELD, MAX_WHOLE,
    header::RawHeader,
};

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Bytes that are done with. The rest is the beginning of a header or of a message that is
    /// wanted as a whole: it must be given again, with more behind it.
    pub consumed: usize,
    /// Whether an [`Action::DropAndStop`] ended the scan.
    pub stopped: bool,
}

/// Follows the chunks of one direction of a connection.
#[derive(Debug)]
pub struct Scanner {
    chunk_size: u32,
    streams: Vec<ChunkStream>,
    /// The chunk stream of the current chunk, and how much of its payload is still to come.
    current: usize,
    chunk_left: u32,
    /// What a chunk stream's receiver knows when its first message arrives.
    fresh: Sync,
    /// Bytes held in messages that are being collected.
    collected: usize,
    messages: u64,
    /// Messages of our own that wait for the end of a chunk.
    queued: VecDeque<(Header, Vec<u8>)>,
}

/// What the receiver knows of a chunk stream's earlier headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// The same as the sender thinks.
    Shared,
    /// Something else: only a full header will be understood.
    Unshared,
    /// All but the timestamp delta, after a full header of ours.
    AllButDelta,
}

#[derive(Debug)]
struct ChunkStream {
    header: Header,
    /// What a type 3 header that begins a message adds to the timestamp.
    delta: u32,
    /// The extended timestamp field of the last header that had one, if that was the last header.
    extended: Option<u32>,
    /// Payload of the current message still to come.
    left: u32,
    /// The current message goes out under a full header of ours.
    rewritten: bool,
    sync: Sync,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Pass,
    Tap,
    Collect(Vec<u8>),
}

/// A chunk header put together with what its chunk stream remembers.
#[derive(Clone, Copy)]
struct Next {
    raw: RawHeader,
    stream: Option<usize>,
    continues: bool,
    /// Bytes of the header, the extended timestamp included.
    len: usize,
    extended: Option<u32>,
    header: Header,
    delta: u32,
}

impl Scanner {
    /// For a receiver that sees the very bytes that are scanned, from the first chunk on.
    pub fn transparent() -> Self {
        Self::new(Sync::Shared)
    }

    /// For a receiver whose chunk streams so far carried other messages than the sender's.
    pub fn joining() -> Self {
        Self::new(Sync::Unshared)
    }

    const fn new(fresh: Sync) -> Self {
        Self {
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: Vec::new(),
            current: 0,
            chunk_left: 0,
            fresh,
            collected: 0,
            messages: 0,
            queued: VecDeque::new(),
        }
    }

    /// The sender's chunk size in bytes.
    pub const fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Messages that have begun so far.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether all that was scanned ends where a chunk ends.
    pub const fn at_boundary(&self) -> bool {
        self.chunk_left == 0
    }

    /// Whether messages of our own wait to be sent.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Queues a message of our own. It goes out at the next chunk boundary at which no message of
    /// the same chunk stream is under way; a scan of no bytes sends it if there is one right now.
    pub fn queue(&mut self, header: Header, payload: &[u8]) {
        self.queued.push_back((header, payload.to_vec()));
    }

    /// Scans `bytes`, which begin where the last scan's `consumed` ended. `edits` must be empty;
    /// they apply to the bytes up to `consumed`.
    pub fn scan(
        &mut self,
        bytes: &mut [u8],
        edits: &mut Edits,
        inspect: &mut impl Inspect,
    ) -> Result<Scan, ChunkError> {
        let mut at = 0;
        loop {
            let stop = if self.chunk_left > 0 {
                let take = (self.chunk_left as usize).min(bytes.len() - at);
                if take == 0 {
                    break;
                }
                let stop = self.payload(&bytes[at..at + take], at, edits, inspect)?;
                at += take;
                stop
            } else {
                self.insert_queued(at, edits);
                let Some(next) = self.next_header(&bytes[at..])? else { break };
                match self.begin_chunk(&next, bytes, at, edits, inspect)? {
                    Some((len, stop)) => {
                        at += len;
                        stop
                    }
                    None => break,
                }
            };
            if stop {
                return Ok(Scan { consumed: at, stopped: true });
            }
        }
        Ok(Scan { consumed: at, stopped: false })
    }

    fn find(&self, chunk_stream: u32) -> Option<usize> {
        self.streams.iter().position(|s| s.header.chunk_stream == chunk_stream)
    }

    fn insert_queued(&mut self, at: usize, edits: &mut Edits) {
        while let Some((header, _)) = self.queued.front() {
            let under_way = |s: &ChunkStream| s.left > 0 && !matches!(s.mode, Mode::Collect(_));
            if self.find(header.chunk_stream).is_some_and(|index| under_way(&self.streams[index])) {
                break;
            }
            self.unshare(header.chunk_stream);
            if let Some((header, payload)) = self.queued.pop_front() {
                edits.insert(at, |out| header.encode_message(&payload, self.chunk_size, out));
            }
        }
    }

    /// The receiver's state of a chunk stream is no longer what the sender thinks.
    fn unshare(&mut self, chunk_stream: u32) {
        if let Some(index) = self.find(chunk_stream) {
            self.streams[index].sync = Sync::Unshared;
        } else if self.fresh == Sync::Shared && self.streams.len() < MAX_CHUNK_STREAMS {
            let header = Header { chunk_stream, ..Header::default() };
            self.streams.push(ChunkStream { sync: Sync::Unshared, ..ChunkStream::new(header) });
        }
    }

    /// Reads the header of the next chunk and changes nothing. None: the bytes end inside it.
    fn next_header(&self, bytes: &[u8]) -> Result<Option<Next>, ChunkError> {
        let Some(raw) = RawHeader::parse(bytes) else { return Ok(None) };
        let stream = self.find(raw.chunk_stream);
        let known = stream.map(|index| &self.streams[index]);
        let continues = known.is_some_and(|s| s.left > 0);

        match (raw.format, known) {
            // Not type 1: rtmpdump opens chunk stream 2 with it, for a user control message.
            (2 | 3, None) => return Err(ChunkError::NoHeader(raw.chunk_stream, raw.format)),
            (0..=2, Some(_)) if continues => return Err(ChunkError::Interrupted(raw.chunk_stream)),
            (_, None) if self.streams.len() >= MAX_CHUNK_STREAMS => return Err(ChunkError::TooManyStreams),
            _ => {}
        }

        let mut len = raw.len;
        let mut extended = None;
        let announced = if raw.format == 3 { known.and_then(|s| s.extended) } else { None };
        if raw.is_extended() || announced.is_some() {
            let field = &bytes[raw.len..bytes.len().min(raw.len + 4)];
            // Some encoders leave the field out of type 3 headers inside a message.
            let left_out = continues && announced.is_some_and(|value| !value.to_be_bytes().starts_with(field));
            if !left_out {
                let Ok(field) = <[u8; 4]>::try_from(field) else { return Ok(None) };
                extended = Some(u32::from_be_bytes(field));
                len += 4;
            }
        }

        let mut header =
            known.map_or_else(|| Header { chunk_stream: raw.chunk_stream, ..Header::default() }, |s| s.header);
        let mut delta = known.map_or(0, |s| s.delta);
        if !continues {
            let time = extended.unwrap_or(raw.time);
            match raw.format {
                0 => {
                    header.timestamp = time;
                    delta = time;
                }
                1 | 2 => {
                    header.timestamp = header.timestamp.wrapping_add(time);
                    delta = time;
                }
                // An extended field repeats what the header before it said, which was a delta or,
                // behind a full header, the time itself.
                _ if extended.is_some_and(|t| t == header.timestamp) => {}
                _ => header.timestamp = header.timestamp.wrapping_add(delta),
            }
            if raw.format <= 1 {
                (header.length, header.kind) = (raw.length, raw.kind);
            }
            if raw.format == 0 {
                header.stream_id = raw.stream_id;
            }
        }
        Ok(Some(Next { raw, stream, continues, len, extended, header, delta }))
    }

    /// Takes the chunk whose header is `next`, at `at`. Gives the bytes taken, and whether to stop;
    /// none if the chunk must wait for more bytes.
    fn begin_chunk(
        &mut self,
        next: &Next,
        bytes: &mut [u8],
        at: usize,
        edits: &mut Edits,
        inspect: &mut impl Inspect,
    ) -> Result<Option<(usize, bool)>, ChunkError> {
        if next.continues {
            self.continue_message(next, at, edits);
            return Ok(Some((next.len, false)));
        }

        let Next { raw, len, header, .. } = *next;
        let interest = match header.kind {
            kind::SET_CHUNK_SIZE | kind::ABORT => Interest::Whole,
            _ => inspect.interest(&header),
        };
        let length = header.length as usize;
        if interest == Interest::Whole && length.saturating_add(self.collected) > MAX_WHOLE {
            return Err(ChunkError::TooLarge { kind: header.kind, length: header.length });
        }

        let held = interest == Interest::Whole && header.length <= self.chunk_size && length <= MAX_HELD;
        if held && bytes.len() < at + len + length {
            return Ok(None);
        }
        let index = self.commit(next);

        if held {
            let payload = &mut bytes[at + len..at + len + length];
            let action = judge(inspect, &header, payload);
            self.apply_control(&header, payload)?;
            if action == Action::Pass {
                self.forward_header(index, &raw, at..at + len, bytes, edits, inspect);
            } else {
                edits.remove(at..at + len + length);
                self.streams[index].sync = Sync::Unshared;
            }
            self.streams[index].left = 0;
            return Ok(Some((len + length, action == Action::DropAndStop)));
        }

        if interest == Interest::Whole {
            edits.remove(at..at + len);
            self.streams[index].mode = Mode::Collect(Vec::new());
        } else {
            self.forward_header(index, &raw, at..at + len, bytes, edits, inspect);
            self.streams[index].mode = if interest == Interest::Tap { Mode::Tap } else { Mode::Pass };
        }
        self.begin_payload(index);
        Ok(Some((len, false)))
    }

    /// Remembers the header of a new message.
    fn commit(&mut self, next: &Next) -> usize {
        self.messages += 1;
        let index = next.stream.unwrap_or_else(|| {
            self.streams.push(ChunkStream { sync: self.fresh, ..ChunkStream::new(next.header) });
            self.streams.len() - 1
        });
        let stream = &mut self.streams[index];
        stream.header = next.header;
        stream.delta = next.delta;
        stream.extended = next.extended;
        stream.left = next.header.length;
        stream.rewritten = false;
        stream.mode = Mode::Pass;
        index
    }

    /// Forwards the header of a new message: as it is, or in full if it would not be understood.
    fn forward_header(
        &mut self,
        index: usize,
        raw: &RawHeader,
        range: std::ops::Range<usize>,
        bytes: &mut [u8],
        edits: &mut Edits,
        inspect: &impl Inspect,
    ) {
        let stream = &mut self.streams[index];
        let stream_id = inspect.map_stream_id(stream.header.stream_id);
        let understood = match stream.sync {
            Sync::Shared => true,
            Sync::Unshared => raw.format == 0,
            Sync::AllButDelta => raw.format != 3,
        };
        if understood {
            stream.sync = Sync::Shared;
            if raw.format == 0 && stream_id != raw.stream_id {
                let at = range.start + raw.basic_len + 7;
                bytes[at..at + 4].copy_from_slice(&stream_id.to_le_bytes());
            }
        } else {
            stream.sync = Sync::AllButDelta;
            stream.rewritten = true;
            let header = Header { stream_id, ..stream.header };
            edits.replace(range, |out| header.encode_full(out));
        }
    }

    fn begin_payload(&mut self, index: usize) {
        self.current = index;
        self.chunk_left = self.streams[index].left.min(self.chunk_size);
    }

    fn continue_message(&mut self, next: &Next, at: usize, edits: &mut Edits) {
        let Some(index) = next.stream else { return };
        let stream = &self.streams[index];
        match stream.mode {
            Mode::Collect(_) => edits.remove(at..at + next.len),
            _ if stream.rewritten => {
                // Our full header carries the whole timestamp, which may need the extended field
                // where a delta did not.
                let timestamp = stream.header.timestamp;
                let ours = (timestamp >= EXTENDED_TIMESTAMP).then_some(timestamp);
                if ours != next.extended {
                    edits.replace(at + next.raw.len..at + next.len, |out| {
                        out.extend(ours.into_iter().flat_map(u32::to_be_bytes));
                    });
                }
            }
            _ => {}
        }
        self.begin_payload(index);
    }

    /// Takes a part of the current chunk's payload, which stands at `at`.
    fn payload(
        &mut self,
        part: &[u8],
        at: usize,
        edits: &mut Edits,
        inspect: &mut impl Inspect,
    ) -> Result<bool, ChunkError> {
        let len = part.len() as u32;
        self.chunk_left -= len;
        let stream = &mut self.streams[self.current];
        let offset = (stream.header.length - stream.left) as usize;
        stream.left -= len;
        match &mut stream.mode {
            Mode::Pass => {}
            Mode::Tap => {
                if !inspect.tap(&stream.header, offset, part) {
                    stream.mode = Mode::Pass;
                }
            }
            Mode::Collect(collected) => {
                collected.extend_from_slice(part);
                self.collected += part.len();
                edits.remove(at..at + part.len());
                if stream.left == 0 {
                    let mut payload = std::mem::take(collected);
                    stream.mode = Mode::Pass;
                    return self.finish_collected(&mut payload, at + part.len(), edits, inspect);
                }
            }
        }
        Ok(false)
    }

    /// A message that was collected is complete: it goes out in full, or not at all.
    fn finish_collected(
        &mut self,
        payload: &mut [u8],
        at: usize,
        edits: &mut Edits,
        inspect: &mut impl Inspect,
    ) -> Result<bool, ChunkError> {
        self.collected -= payload.len();
        let header = self.streams[self.current].header;
        let action = judge(inspect, &header, payload);
        if action == Action::Pass {
            let out_header = Header { stream_id: inspect.map_stream_id(header.stream_id), ..header };
            edits.insert(at, |out| out_header.encode_message(payload, self.chunk_size, out));
        }
        self.streams[self.current].sync = if action == Action::Pass { Sync::AllButDelta } else { Sync::Unshared };
        self.apply_control(&header, payload)?;
        Ok(action == Action::DropAndStop)
    }

    /// What Set Chunk Size and Abort Message change in the scanner itself.
    fn apply_control(&mut self, header: &Header, payload: &[u8]) -> Result<(), ChunkError> {
        if !matches!(header.kind, kind::SET_CHUNK_SIZE | kind::ABORT) {
            return Ok(());
        }
        let value =
            payload.first_chunk().map(|v| u32::from_be_bytes(*v)).ok_or(ChunkError::ShortControl(header.kind))?;
        if header.kind == kind::SET_CHUNK_SIZE {
            if value == 0 || value > i32::MAX as u32 {
                return Err(ChunkError::ChunkSize(value));
            }
            self.chunk_size = value;
        } else if let Some(index) = self.find(value) {
            let stream = &mut self.streams[index];
            stream.left = 0;
            if let Mode::Collect(collected) = &stream.mode {
                self.collected -= collected.len();
                stream.sync = Sync::Unshared;
                stream.mode = Mode::Pass;
            }
        }
        Ok(())
    }
}

impl ChunkStream {
    const fn new(header: Header) -> Self {
        Self { header, delta: 0, extended: None, left: 0, rewritten: false, sync: Sync::Shared, mode: Mode::Pass }
    }
}

/// Asks about a message that is there as a whole. Set Chunk Size and Abort Message are held for the
/// scanner's own sake, so the inspector may not have asked for them.
fn judge(inspect: &mut impl Inspect, header: &Header, payload: &mut [u8]) -> Action {
    if inspect.interest(header) == Interest::Whole { inspect.whole(header, payload) } else { Action::Pass }
}

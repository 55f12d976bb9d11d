//! Moves bytes between two TCP connections, both ways, in one task.
//!
//! An idle direction holds no buffer: one is borrowed when the source is readable and given back
//! when all of it has been written. A receiver that does not keep up stops the reading from its
//! sender; nothing is queued beyond the one buffer.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use super::buffer::{Buffer, Pool};
use crate::{
    codec::rtmp::edits::Edits,
    error::{Error, Kind, Side},
};

/// What an idle direction may keep for the beginnings of headers, in bytes.
const MAX_IDLE_HELD: usize = 256;

/// How many reads of a peer's last words are thrown away before its connection is reset after all.
const MAX_DISCARDED_READS: usize = 1024;

/// For how many bytes from an origin each read is acknowledged at once.
const PROMPT_BYTES: u64 = 64 * 1024;

/// Asks the system to acknowledge what has come, and what comes next, without delay. An origin that
/// sends its first answers in small writes under Nagle's algorithm waits for each acknowledgement,
/// 40 ms if it is delayed. The system returns to delaying by itself, so this has to be repeated.
pub fn acknowledge_at_once(stream: &TcpStream) {
    // It is only faster: a failure will show at the next read.
    #[cfg(target_os = "linux")]
    let _ = stream.set_quickack(true);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Knows what the bytes mean. Both directions go through one filter, since what one side says may
/// have to be answered to it.
pub trait Filter {
    /// Looks at bytes that came from `from` and notes in `edits` what is to be changed. Gives how
    /// many of them are done with; the rest comes again with more behind it, and is short.
    /// `fresh` of the bytes have not been seen before.
    fn filter(&mut self, from: Side, bytes: &mut [u8], fresh: usize, edits: &mut Edits) -> Result<usize, Error>;

    /// Whether something waits to be sent to `to` that a call of [`Self::filter`] with no bytes
    /// would give now.
    fn has_queued(&self, to: Side) -> bool;

    /// Bytes received from the client and from the origin by this relay so far.
    fn progress(&mut self, from_client: u64, from_origin: u64);
}

/// What had been read and said before a relay began.
#[derive(Debug, Default)]
pub struct Opening {
    /// What the client is to be sent first.
    pub to_client: Vec<u8>,
    /// Read from the client and not forwarded: the beginning of what the filter could not judge yet.
    pub from_client: Vec<u8>,
    /// Read from the origin and not filtered.
    pub from_origin: Vec<u8>,
}

/// How long a relay waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Without a byte from either side.
    pub idle: Duration,
    /// With bytes that one side does not take.
    pub send: Duration,
}

/// Ends a connection so that what was sent last arrives: says that no more will come, and reads what
/// the peer still sends, which would otherwise make the system reset the connection.
pub async fn close(mut stream: TcpStream, limit: Duration) {
    let _ = timeout(limit, async {
        stream.shutdown().await?;
        let mut scratch = [0; 1024];
        for _ in 0..MAX_DISCARDED_READS {
            if stream.read(&mut scratch).await? == 0 {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    })
    .await;
}

/// A relay between a client and an origin.
pub struct Relay<F> {
    client: TcpStream,
    origin: TcpStream,
    filter: F,
    up: Flow,
    down: Flow,
    pool: Pool,
    edits: Edits,
    watchdog: Watchdog,
}

/// One direction.
struct Flow {
    from: Side,
    /// What was read and is being written.
    buffer: Option<Buffer>,
    /// The part of the buffer, or of `edited`, that is still to be written.
    pending: std::ops::Range<usize>,
    /// The bytes to write where they differ from what was read; empty otherwise.
    edited: Vec<u8>,
    /// The part of the buffer that the filter wants to see again.
    tail: std::ops::Range<usize>,
    /// The tail, while there is no buffer.
    held: Vec<u8>,
    received: u64,
    sent: u64,
    ended: bool,
}

impl<F: Filter> Relay<F> {
    /// Joins two connections.
    pub fn new(
        client: TcpStream,
        origin: TcpStream,
        opening: Opening,
        filter: F,
        pool: Pool,
        limits: Limits,
    ) -> Result<Self, Error> {
        let mut relay = Self {
            client,
            origin,
            filter,
            up: Flow::new(Side::Client),
            down: Flow::new(Side::Origin),
            pool,
            edits: Edits::default(),
            watchdog: Watchdog::new(limits),
        };
        relay.up.held = opening.from_client;
        relay.down.edited = opening.to_client;
        relay.down.accept(opening.from_origin, &mut relay.filter, &mut relay.edits)?;
        Ok(relay)
    }

    /// Moves bytes until one side ends, fails or keeps the other waiting for too long. What a side
    /// sent before it ended in good order has then been delivered. The error names the side that
    /// ended; an orderly end is [`Kind::Closed`].
    pub async fn run(&mut self) -> Error {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The filter.
    pub fn filter(&mut self) -> &mut F {
        &mut self.filter
    }

    /// Sends the client what is queued for it, if that can be done within `limit` and without
    /// cutting a chunk of the origin's in two.
    pub async fn flush_client(&mut self, limit: Duration) {
        let flush = poll_fn(|cx| {
            loop {
                ready!(self.down.poll_write(cx, &mut self.client))?;
                if !self.down.take_queued(&mut self.filter, &mut self.edits)? {
                    return Poll::Ready(Ok::<(), Error>(()));
                }
            }
        });
        let _ = timeout(limit, flush).await;
    }

    /// Gives the connections back.
    pub fn into_parts(self) -> (TcpStream, TcpStream, F) {
        (self.client, self.origin, self.filter)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        // Twice at the most: what came down may have to be answered upwards.
        for _ in 0..2 {
            let Self { client, origin, filter, up, down, pool, edits, .. } = self;
            let before = up.received + down.received;
            let result = match up.poll(cx, client, origin, filter, pool, edits) {
                Poll::Ready(error) => Some(error),
                Poll::Pending => match down.poll(cx, origin, client, filter, pool, edits) {
                    Poll::Ready(error) => Some(error),
                    Poll::Pending => None,
                },
            };
            if up.received + down.received != before {
                filter.progress(up.received, down.received);
            }
            if let Some(error) = result {
                return Poll::Ready(error);
            }
            if !filter.has_queued(Side::Origin) {
                break;
            }
        }
        if let Poll::Ready(error) = self.watchdog.poll(cx, &self.up, &self.down) {
            return Poll::Ready(error);
        }
        Poll::Pending
    }
}

impl Flow {
    const fn new(from: Side) -> Self {
        Self {
            from,
            buffer: None,
            pending: 0..0,
            edited: Vec::new(),
            tail: 0..0,
            held: Vec::new(),
            received: 0,
            sent: 0,
            ended: false,
        }
    }

    const fn to(&self) -> Side {
        match self.from {
            Side::Client => Side::Origin,
            _ => Side::Client,
        }
    }

    /// Moves what can be moved now. Ready only when the direction has ended.
    fn poll<F: Filter>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        target: &mut TcpStream,
        filter: &mut F,
        pool: &Pool,
        edits: &mut Edits,
    ) -> Poll<Error> {
        loop {
            match ready!(self.poll_write(cx, target)) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(error),
            }
            match self.take_queued(filter, edits) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return Poll::Ready(error),
            }
            if self.ended {
                return Poll::Ready(Error::new(self.from, Kind::Closed, "closed the connection"));
            }
            if let Err(error) = ready!(self.poll_read(cx, source, filter, pool, edits)) {
                return Poll::Ready(error);
            }
        }
    }

    /// Reads once, into a borrowed buffer, behind what is held.
    fn poll_read<F: Filter>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        filter: &mut F,
        pool: &Pool,
        edits: &mut Edits,
    ) -> Poll<Result<(), Error>> {
        let failed = |error| Error::io(self.from, "reading", error);
        ready!(source.poll_read_ready(cx)).map_err(failed)?;

        let mut buffer = pool.take();
        let held = self.held.len();
        buffer[..held].copy_from_slice(&self.held);
        let mut read = ReadBuf::new(&mut buffer[held..]);
        ready!(Pin::new(&mut *source).poll_read(cx, &mut read)).map_err(failed)?;
        let fresh = read.filled().len();
        if self.from == Side::Origin && self.received < PROMPT_BYTES {
            acknowledge_at_once(source);
        }
        if fresh == 0 {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.held.clear();
        self.received += fresh as u64;

        let len = held + fresh;
        let done = filter.filter(self.from, &mut buffer[..len], fresh, edits)?;
        self.take_edits(&buffer[..done], edits);
        self.tail = done..len;
        self.buffer = Some(buffer);
        Poll::Ready(Ok(()))
    }

    /// Takes bytes that were read elsewhere; they go out behind those that are there.
    fn accept<F: Filter>(&mut self, mut bytes: Vec<u8>, filter: &mut F, edits: &mut Edits) -> Result<(), Error> {
        let fresh = bytes.len();
        self.received += fresh as u64;
        let done = filter.filter(self.from, &mut bytes, fresh, edits)?;
        edits.apply(&bytes[..done], &mut self.edited);
        edits.clear();
        self.pending = 0..self.edited.len();
        self.held.extend_from_slice(&bytes[done..]);
        Ok(())
    }

    /// What is to be written for `bytes`, which stand at the beginning of the buffer.
    fn take_edits(&mut self, bytes: &[u8], edits: &mut Edits) {
        self.pending = 0..bytes.len();
        if !edits.is_empty() {
            edits.apply(bytes, &mut self.edited);
            edits.clear();
            self.pending = 0..self.edited.len();
        }
    }

    /// Asks for messages that the filter itself has to send. True: there is something to write.
    fn take_queued<F: Filter>(&mut self, filter: &mut F, edits: &mut Edits) -> Result<bool, Error> {
        if !filter.has_queued(self.to()) {
            return Ok(false);
        }
        filter.filter(self.from, &mut [], 0, edits)?;
        self.take_edits(&[], edits);
        Ok(!self.pending.is_empty())
    }

    /// Writes all that is pending and then gives the buffer back.
    fn poll_write(&mut self, cx: &mut Context<'_>, target: &mut TcpStream) -> Poll<Result<(), Error>> {
        while !self.pending.is_empty() {
            let bytes = match &self.buffer {
                Some(buffer) if self.edited.is_empty() => &buffer[self.pending.clone()],
                _ => &self.edited[self.pending.clone()],
            };
            match ready!(Pin::new(&mut *target).poll_write(cx, bytes)) {
                Ok(0) => return Poll::Ready(Err(Error::new(self.to(), Kind::Closed, "takes no more bytes"))),
                Ok(n) => {
                    self.pending.start += n;
                    self.sent += n as u64;
                }
                Err(error) => return Poll::Ready(Err(Error::io(self.to(), "writing", error))),
            }
        }
        self.edited = Vec::new();
        if let Some(buffer) = self.buffer.take() {
            self.held.extend_from_slice(&buffer[self.tail.clone()]);
            self.tail = 0..0;
            if self.held.is_empty() && self.held.capacity() > MAX_IDLE_HELD {
                self.held = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Notices that nothing moves, without a clock on the path of the bytes.
struct Watchdog {
    limits: Limits,
    period: Duration,
    ticks: Interval,
    idle: Stall,
    up: Stall,
    down: Stall,
}

/// For how many ticks a counter has stood still.
#[derive(Default)]
struct Stall {
    last: u64,
    ticks: u32,
}

impl Stall {
    fn tick(&mut self, counter: u64, relevant: bool) -> u32 {
        if relevant && counter == self.last {
            self.ticks += 1;
        } else {
            self.last = counter;
            self.ticks = 0;
        }
        self.ticks
    }
}

impl Watchdog {
    fn new(limits: Limits) -> Self {
        let period = (limits.idle.min(limits.send) / 8).clamp(Duration::from_millis(10), Duration::from_secs(5));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        Self { limits, period, ticks, idle: Stall::default(), up: Stall::default(), down: Stall::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>, up: &Flow, down: &Flow) -> Poll<Error> {
        loop {
            ready!(self.ticks.poll_tick(cx));
            let received = up.received + down.received;
            if self.period * self.idle.tick(received, true) >= self.limits.idle {
                let text = format!("no byte from either side for {:?}", self.limits.idle);
                return Poll::Ready(Error::new(Side::Client, Kind::Timeout, text));
            }
            for (stall, flow) in [(&mut self.up, up), (&mut self.down, down)] {
                if self.period * stall.tick(flow.sent, !flow.pending.is_empty()) >= self.limits.send {
                    let text = format!("took no byte for {:?} while bytes were waiting", self.limits.send);
                    return Poll::Ready(Error::new(flow.to(), Kind::Timeout, text));
                }
            }
        }
    }
}

//! A connection whose reader gets the header of an answer and, until it asks for it, nothing behind it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Opens a [`Gated`] connection for what is behind the header. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Key(Arc<AtomicBool>);

impl Key {
    /// Whoever reads from the connection has to do so once more by itself: it is not woken for this.
    pub fn open(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it was opened.
    pub fn is_open(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A connection of which no byte behind the header of the first answer is given to the reader before
/// it is opened, so that until then the body can be read from the connection as it came.
#[derive(Debug)]
pub(super) struct Gated {
    stream: TcpStream,
    opened: Key,
    header: HeaderEnd,
    /// What was read with the header and is none of it.
    behind: Bytes,
}

impl Gated {
    /// A connection that stops at the end of the header.
    pub fn closed(stream: TcpStream) -> Self {
        Self { stream, opened: Key::default(), header: HeaderEnd::default(), behind: Bytes::new() }
    }

    /// A connection that never stops.
    pub fn open(stream: TcpStream) -> Self {
        let gated = Self::closed(stream);
        gated.opened.open();
        gated
    }

    /// What opens it.
    pub fn key(&self) -> Key {
        self.opened.clone()
    }

    /// What was read and not given to the reader, and the connection itself.
    pub fn into_parts(self) -> (Bytes, TcpStream) {
        (self.behind, self.stream)
    }
}

impl AsyncRead for Gated {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.opened.is_open() {
            if this.behind.is_empty() {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            let part = this.behind.len().min(buf.remaining());
            buf.put_slice(&this.behind[..part]);
            this.behind.advance(part);
            return Poll::Ready(Ok(()));
        }
        if this.header.ended {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Some(end) = this.header.find(&buf.filled()[before..]) {
            this.behind = Bytes::copy_from_slice(&buf.filled()[before + end..]);
            buf.set_filled(before + end);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Finds the end of a header (RFC 9112, section 2.1): the empty line behind its last one. Empty lines
/// before it, and interim answers (RFC 9110, section 15.2), come first.
#[derive(Debug, Default)]
struct HeaderEnd {
    /// Bytes of the status line so far, counted to where the first digit of the status is.
    status_line: usize,
    /// Whether this header is of an interim answer.
    interim: bool,
    /// Whether the line so far holds anything.
    in_line: bool,
    ended: bool,
}

/// Where a status line has the first digit of the status: `HTTP/1.1 200`.
const STATUS: usize = 9;

impl HeaderEnd {
    /// Where in `bytes`, which follow those of former calls, the body begins.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\r' => {}
                b'\n' if self.in_line => self.in_line = false,
                b'\n' if self.status_line == 0 => {}
                b'\n' if self.interim => *self = Self::default(),
                b'\n' => {
                    self.ended = true;
                    return Some(at + 1);
                }
                _ => {
                    self.in_line = true;
                    self.interim |= self.status_line == STATUS && byte == b'1';
                    self.status_line = (self.status_line + 1).min(STATUS + 1);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"\r\n\r\nbody";

    #[test]
    fn the_header_ends_where_it_ends_however_it_comes() {
        for header in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: 1\r\nB: \r\n\r\n",
            "HTTP/1.0 404\nA: 1\n\n",
            "\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\n\r\n",
        ] {
            let bytes = [header.as_bytes(), BODY].concat();
            assert_eq!(HeaderEnd::default().find(&bytes), Some(header.len()), "{header:?}");
            for cut in 0..header.len() {
                let mut end = HeaderEnd::default();
                assert_eq!(end.find(&bytes[..cut]), None, "{header:?} at {cut}");
                assert_eq!(end.find(&bytes[cut..]), Some(header.len() - cut), "{header:?} at {cut}");
            }
        }
    }
}
